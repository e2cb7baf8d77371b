"""Sliders over fitted laws. A move repaints two artists of each panel over a kept background and sends one small image."""

import html
import io
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import ipywidgets
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.patches import Patch
from PIL import Image

from claw import words
from claw.errors import InputError
from claw.figures import style
from claw.figures.style import label
from claw.laws import KINDS, Critical, Laws, critical, fit, read, speed_law
from claw.laws.fitted import POOLED
from claw.laws.points import is_dense
from claw.show import start
from claw.specs.notebooks import ExplorerParameters

STEP = 0.01
GRID = np.arange(100) * STEP
OWN = "own"
BANDS = {"model": (0.1, "a run of a new model"), "run": (0.2, "a new run"), "confidence": (0.45, "confidence")}
"""Kind of band: opacity and name, widest first."""
INTERVALS = {"this curve, as measured": OWN, **{f"all models: {name}": name for name in KINDS}}
"""What an answer rests on: the measured points of one curve, or the law across models with one of its kinds of interval."""


class Choice(NamedTuple):
    """What the menus say."""

    model: str
    method: str
    tokens: float
    interval: str = OWN


@dataclass(frozen=True, kw_only=True)
class View:
    """One response of one choice on the grid of ratios: the answer, what was measured, how far one can go."""

    response: str
    dense: float
    band: pd.DataFrame  # what `Laws.predict` gives on GRID; its attrs["law"] says what answers
    measured: pd.DataFrame  # ratio, value
    bracket: pd.DataFrame | None = None  # ratio, value of the points that the band goes through, where it is read off them
    critical: Critical | None = None
    level: float

    def at(self, r: float) -> pd.Series:
        """The row of the band nearest to a ratio."""
        return self.band.iloc[min(round(r / STEP), len(self.band) - 1)]

    def sentence(self, r: float) -> str:
        """What is answered at one ratio, and between which measured points."""
        at = self.at(r)
        if math.isnan(at["mean"]):
            return f"{self.response} was not measured there, and no law goes so far"
        edges = f"{self.level:.0%} confidence {at['confidence_low']:.3g} to {at['confidence_high']:.3g}"
        if self.response.startswith("speedup"):
            phase = self.response.removeprefix("speedup").replace("_", " ").strip() or "it"
            return f"{phase} {at['mean']:.2f} times as fast as dense ({edges})"
        unit = " nats per token" if self.response == "loss" else ""
        text, notes = f"{self.response} {at['mean']:.3g}{unit}", [self.between(at)]
        if math.isfinite(at["confidence_low"]):
            notes.append(edges)
        if math.isfinite(at["run_low"]):
            notes.append(f"a new run falls between {at['run_low']:.3g} and {at['run_high']:.3g}")
        text += f" ({'; '.join(filter(None, notes))})" if any(notes) else ""
        return text + (f", {at['mean'] / self.dense:.2f} times the dense {self.dense:.3g}" if self.dense > 0 else "")

    def between(self, at: pd.Series) -> str:
        """The measured points on either side of an answer, in words; empty for a law."""
        if self.bracket is None or not math.isfinite(at["bracket_low"]):
            return ""
        if at["bracket_low"] == at["bracket_high"]:
            return "as measured"
        near = self.bracket[self.bracket["ratio"].isin([at["bracket_low"], at["bracket_high"]])]
        points = " and ".join(f"{row.value:.3g} at r = {row.ratio:.3g}" for row in near.itertuples())
        return f"between measured {points}"

    def reach(self) -> str:
        """How far one can go at the threshold, as a sentence; empty without a threshold."""
        if self.critical is None:
            return ""
        change = "more loss" if self.response == "loss" else "less accuracy"
        return f" With {abs(self.critical.threshold - 1):.0%} {change} allowed: {self.critical}."


def view_of(laws: Laws, choice: Choice, response: str, threshold: float | None = None) -> View:
    """What the laws say of one response of a choice. InputError where they say nothing.

    `threshold` is a share of the dense value (1.1 allows 10 % more loss; 0.9 keeps 90 % of the accuracy).
    """
    model, method, tokens, interval = choice
    speed, own = response.startswith("speedup"), interval == OWN
    kind, bracket = next(iter(KINDS)) if own else interval, None
    if speed:  # one law across models, of the cut alone
        band = laws.predict(GRID, model, method, response=response, interval=kind)
        rows, dense = laws.points.rows, 1.0
        shown = (rows["method"] == method) & rows[response].notna() & ~is_dense(rows)
    else:
        one = laws.reading(model, method, response, tokens) if own else None
        law, bracket = "auto" if own else POOLED[response], one.points if one else None
        band = laws.predict(GRID, model, method, tokens=tokens, response=response, law=law, interval=kind)
        rows, dense = laws.points.of(response, dense=True), float(laws.points.dense_row(model)[f"{response}0"])
        cut, whole = (rows["recovery_tokens"] == budget for budget in (tokens, 0))
        shown = ((rows["method"] == method) & cut) | (is_dense(rows) & whole)
    rows = rows[shown & (rows["model"] == model)]
    measured = pd.DataFrame({"ratio": rows["ratio"].astype(float), "value": rows[response].astype(float)})
    reach = None
    if threshold and own and not speed and math.isfinite(dense):
        reach = laws.critical_ratio(threshold, model, method, tokens, response)
    elif threshold and not speed and math.isfinite(dense):
        within = band[band["ratio"] <= measured["ratio"].max() + STEP / 2]
        reach = critical.ratio(within, threshold, dense, response, level=laws.level, title=model)
    known = {"dense": dense, "band": band, "measured": measured, "bracket": bracket}
    return View(response=response, **known, critical=reach, level=laws.level)


def answer_sentence(choice: Choice, views: Sequence[View], r: float) -> str:
    """What the laws say at one ratio, as one sentence, and how far one can go."""
    recovery = f" and {words.tokens_text(choice.tokens)} of recovery" if choice.tokens else ""
    said = "; ".join(view.sentence(r) for view in views)
    text = f"Removing {r:.0%} of {choice.model} with {choice.method}{recovery}: {said}." + "".join(map(View.reach, views))
    if any(view.at(r)["extrapolated"] for view in views):
        text += " This is beyond the measured range: the course of a law, a guess."
    return text


class _Panel:
    """Axes of one response and the artists that move."""

    def __init__(self, response: str, axes: Axes) -> None:
        self.response, self.axes = response, axes
        self.view: View | None = None
        axes.set(xlim=(0, 1), xlabel="fraction removed r", ylabel=label(response))
        self.points = axes.plot([], [], "o", color=style.BLACK, zorder=3)[0]
        self.inside = axes.plot([], [], color=style.COLOURS["claw"])[0]
        self.beyond = axes.plot([], [], color=style.COLOURS["claw"], ls=style.EXTRAPOLATED)[0]
        self.bands = {name: axes.fill_between(GRID, GRID, GRID, alpha=alpha, lw=0) for name, (alpha, _) in BANDS.items()}
        self.limit = axes.axvline(0, color=style.COLOURS["taylor"], lw=1.2)
        self.reach = axes.axvspan(0, 0, color=style.COLOURS["taylor"], alpha=0.2, lw=0)
        self.where = axes.axvline(0.3, color=style.BLACK, lw=0.8, animated=True)
        self.mark = axes.plot([], [], "D", color=style.COLOURS["prunenet"], ms=5, zorder=4, animated=True)[0]

    def choose(self, view: View | None, method: str, shown: Sequence[str]) -> None:
        """Show another view or other bands."""
        self.view = view
        self.axes.set_visible(view is not None)
        if view is None:
            return
        ink, mean, inside = style.colour(method), view.band["mean"].to_numpy(), ~view.band["extrapolated"].to_numpy()
        self.points.set_data(view.measured["ratio"], view.measured["value"])
        last = np.flatnonzero(inside)[-1] if inside.any() else 0
        for line, part in ((self.inside, slice(0, last + 1)), (self.beyond, slice(last, None))):
            line.set_data(GRID[part], mean[part])
            line.set_color(ink)
        edges = [*view.measured["value"], *mean[inside]]
        for name, fill in self.bands.items():
            low, high = (view.band[f"{name}_{edge}"].to_numpy() for edge in ("low", "high"))
            known = np.isfinite(low) & np.isfinite(high)
            visible = name in shown and bool(known.any())
            fill.set_visible(visible)
            fill.set_color(ink)
            if visible:
                fill.set_data(GRID[known], low[known], high[known])
                near = known & inside
                edges += [low[near].min(), high[near].max()] if name != "model" and near.any() else []
        edges = [edge for edge in edges if math.isfinite(edge)]
        margin = 0.05 * (max(edges) - min(edges)) or 0.1
        self.axes.set_ylim(min(edges) - margin, max(edges) + margin)
        reach = view.critical if view.critical and math.isfinite(view.critical.ratio) else None
        for artist in (self.limit, self.reach):
            artist.set_visible(reach is not None)
        if reach is not None:
            self.limit.set_xdata([reach.ratio] * 2)
            low, high = np.nan_to_num(reach.low, nan=0.0), np.nan_to_num(reach.high, nan=reach.limit)
            self.reach.set_x(low)
            self.reach.set_width(high - low)

    def slide(self, r: float) -> None:
        """Move along the curve."""
        if self.view is not None:
            self.where.set_xdata([r, r])
            self.mark.set_data([r], [self.view.at(r)["mean"]])
            for artist in (self.where, self.mark):
                self.axes.draw_artist(artist)


def explorer_page(asked: ExplorerParameters) -> ipywidgets.Widget:
    """The explorer of a table, or in words why there is none: a page for people who do not read tracebacks."""
    try:
        source = asked.source
        table = read(source, **asked.reading)
        explorer = Explorer(fit(table, level=asked.level, seed=asked.seed, draws=asked.draws, compare=False))
    except InputError as error:
        links = "" if asked.table else start.find_results()._repr_html_()
        return ipywidgets.HTML(f"<p>{html.escape(str(error))}</p>{links}")
    guessed = table._repr_html_() if table.guesses else ""
    note = f"<small><p>The points are those of {html.escape(str(source))}.</p>{guessed}</small>"
    return ipywidgets.VBox([explorer, ipywidgets.HTML(note)])


class Explorer(ipywidgets.VBox):
    """Sliders for ratio, model, method, recovery tokens, kind of interval and what is allowed, over points and laws.

    A notebook shows it. InputError for laws without a curve.
    """

    def __init__(self, laws: Laws) -> None:
        rows = laws.points.rows[~is_dense(laws.points.rows)]
        fitted = {law.response for law in laws.curves} | {law.response for law in laws.pooled}
        responses = [name for name in (*laws.points.responses, *speed_law.responses(laws.points)[:1]) if name in fitted]
        if not responses:
            raise InputError(
                "No law could be fitted to this table, so there is nothing to slide: measure at least three ratios of one "
                "model and method, r = 0 (the dense model) among them. laws.unfitted says why each law was not fitted."
            )
        self.laws = laws
        self.curves = sorted(set(zip(rows["model"], rows["method"], rows["recovery_tokens"].astype(float), strict=True)))
        with style.paper():
            self.figure = style.figure(3.3 * len(responses), 2.8)
            self.canvas = FigureCanvasAgg(self.figure)
            axes = self.figure.subplots(1, len(responses), squeeze=False)[0]
            self.panels = [_Panel(name, panel) for name, panel in zip(responses, axes, strict=True)]
            grey = style.COLOURS["random"]
            patches = [Patch(color=grey, alpha=alpha, lw=0, label=text) for alpha, text in reversed(BANDS.values())]
            patches.append(Patch(color=style.COLOURS["taylor"], alpha=0.4, lw=0, label="critical ratio"))
            self.figure.legend(handles=patches, loc="outside lower center", ncols=4 if len(responses) > 1 else 2)
        self.image, self.words = ipywidgets.Image(format="png"), ipywidgets.HTML()
        super().__init__([self._menus(), self.image, self.words])
        self._choose()

    def _menus(self) -> ipywidgets.Widget:
        models = sorted({model for model, _, _ in self.curves})
        self.model = ipywidgets.Dropdown(options=models, value=models[0], description="model")
        self.method = ipywidgets.Dropdown(description="method")
        self.tokens = ipywidgets.SelectionSlider(options=[("none", 0.0)], description="recovery")  # the measured budgets
        self.ratio = ipywidgets.FloatSlider(0.3, min=0, max=0.95, step=STEP, description="ratio r", readout_format=".2f")
        self.allowed = ipywidgets.FloatSlider(0.1, min=0.01, max=1, step=0.01, description="allowed", readout_format=".0%")
        self.allowed.tooltip = "how much worse than dense is still fine; the critical ratio follows"
        self.interval = ipywidgets.Dropdown(options=INTERVALS, value=OWN, description="interval")
        shown = [(text, name) for name, (_, text) in reversed(BANDS.items())]
        self.bands = ipywidgets.SelectMultiple(options=shown, value=("confidence", "run"), rows=3, description="bands")
        self._offer()
        for menu in (self.model, self.method):
            menu.observe(lambda *_: self._offer(), "value")
        for menu in (self.model, self.method, self.tokens, self.interval, self.bands, self.allowed):
            menu.observe(lambda *_: self._choose(), "value")
        self.ratio.observe(lambda *_: self._slide(), "value")
        left = ipywidgets.VBox([self.ratio, self.allowed, self.model, self.method])
        return ipywidgets.HBox([left, ipywidgets.VBox([self.tokens, self.interval, self.bands])])

    def _offer(self) -> None:
        """Offer the methods and budgets that the model has."""
        methods = sorted({method for model, method, _ in self.curves if model == self.model.value})
        _set_options(self.method, [(name, name) for name in methods])
        budgets = [tokens for *curve, tokens in self.curves if curve == [self.model.value, self.method.value]]
        _set_options(self.tokens, [(words.tokens_text(tokens) if tokens else "none", tokens) for tokens in budgets])

    @property
    def choice(self) -> Choice:
        """What the menus say."""
        return Choice(self.model.value, self.method.value, self.tokens.value, self.interval.value)

    def _choose(self) -> None:
        if self.choice[:3] not in self.curves:  # between two menus: the other one is about to change
            return
        self.missing = []
        for panel in self.panels:
            worse = self.allowed.value if panel.response == "loss" else -self.allowed.value
            view = None
            try:
                view = view_of(self.laws, self.choice, panel.response, max(0.01, 1 + worse))
            except InputError as error:
                self.missing.append(f"No law of {panel.response} here: {error}")
            panel.choose(view, self.choice.method, self.bands.value)
        with style.paper():
            self.canvas.draw()
        self.background = self.canvas.copy_from_bbox(self.figure.bbox)
        self._slide()

    def _slide(self) -> None:
        r = self.ratio.value
        self.canvas.restore_region(self.background)
        for panel in self.panels:
            panel.slide(r)
        views = [panel.view for panel in self.panels if panel.view is not None]
        said = [answer_sentence(self.choice, views, r)] if views else []
        self.words.value = "<br>".join(html.escape(line) for line in (*said, *self.missing))
        with io.BytesIO() as out:
            Image.fromarray(np.asarray(self.canvas.buffer_rgba())).save(out, "png", compress_level=1)
            self.image.value = out.getvalue()


def _set_options(menu: ipywidgets.Dropdown | ipywidgets.SelectionSlider, options: list[tuple[str, object]]) -> None:
    """Other options, the value kept where it still is one."""
    values, keep = [value for _, value in options], menu.value
    if list(menu.options) != options:
        menu.options = options
        menu.value = keep if keep in values else values[0]
