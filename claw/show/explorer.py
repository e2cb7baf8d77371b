"""Sliders over fitted laws. A move repaints two artists of each panel over a kept background and sends one small image."""

import html
import io
import math
from dataclasses import dataclass, field
from typing import NamedTuple

import ipywidgets
import numpy as np
import pandas as pd
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.patches import Patch
from PIL import Image

from claw import records, words
from claw.errors import InputError
from claw.figures import style
from claw.figures.style import label
from claw.laws import KINDS, Critical, Laws, critical, fit, speed_law
from claw.laws.fitted import POOLED
from claw.laws.points import is_dense
from claw.show import start
from claw.specs.notebooks import ExplorerParameters

STEP = 0.01
GRID = np.arange(100) * STEP
OWN = "own"
BANDS = {"model": (0.1, "a run of a new model"), "run": (0.2, "a new run"), "confidence": (0.45, "the law's confidence")}
"""Kind of band: opacity and name, widest first."""
INTERVALS = {"this curve alone": OWN, **{f"all models: {name}": name for name in KINDS}}
"""What an interval rests on: the regression of one curve, or the law across models with one of its kinds."""


class Choice(NamedTuple):
    """What the menus say."""

    model: str
    method: str
    tokens: float
    interval: str = OWN


@dataclass
class View:
    """One response of one choice on the grid of ratios: the law's answer, what was measured, how far one can go."""

    response: str
    dense: float
    band: pd.DataFrame
    measured: pd.DataFrame
    critical: Critical | None
    level: float
    law: str

    def words(self, r: float) -> str:
        """What the law says at one ratio."""
        at = self.band.iloc[min(round(r / STEP), len(self.band) - 1)]
        edges = f"{self.level:.0%} confidence {at['confidence_low']:.3g} to {at['confidence_high']:.3g}"
        if self.response.startswith("speedup"):
            return f"{name_of(self.response)} {at['mean']:.2f} times as fast as dense ({edges})"
        unit = " nats per token" if self.response == "loss" else ""
        text = f"{self.response} {at['mean']:.3g}{unit} ({edges}"
        if math.isfinite(at["run_low"]):
            text += f"; a new run falls between {at['run_low']:.3g} and {at['run_high']:.3g}"
        return text + ")" + (f", {at['mean'] / self.dense:.2f} times the dense {self.dense:.3g}" if self.dense > 0 else "")


def name_of(response: str) -> str:
    """A response for people: speedup_decode is decode."""
    return response.removeprefix("speedup").replace("_", " ").strip() or "it"


def view_of(laws: Laws, choice: Choice, response: str, threshold: float | None = None) -> View:
    """What the laws say of one response of a choice. InputError where they say nothing.

    `threshold` is a share of the dense value (1.1 allows 10 % more loss; 0.9 keeps 90 % of the accuracy).
    """
    rows = laws.points.rows
    rows = rows[rows["model"] == choice.model]
    if response.startswith("speedup"):
        kind = next(iter(KINDS)) if choice.interval == OWN else choice.interval
        band = laws.predict(GRID, choice.model, choice.method, response=response, interval=kind)
        cut = rows[(rows["method"] == choice.method) & rows[response].notna() & ~is_dense(rows)]
        measured = pd.DataFrame({"ratio": cut["ratio"].astype(float), "value": cut[response].astype(float)})
        return View(response, 1.0, band, measured, None, laws.level, band.attrs["law"])
    own = {"law": "curve"} if choice.interval == OWN else {"law": POOLED[response], "interval": choice.interval}
    band = laws.predict(GRID, choice.model, choice.method, choice.tokens, response, **own)
    points = laws.points.of(response, dense=True)
    points = points[points["model"] == choice.model]
    points = points[
        ((points["method"] == choice.method) & (points["recovery_tokens"] == choice.tokens))
        | (is_dense(points) & (points["recovery_tokens"] == 0))
    ]
    measured = pd.DataFrame({"ratio": points["ratio"].astype(float), "value": points[response].astype(float)})
    dense = float(rows[f"{response}0"].iloc[0])
    found = None
    if threshold is not None and math.isfinite(dense):
        within = band[band["ratio"] <= measured["ratio"].max() + STEP / 2]
        found = critical.ratio(within, threshold, dense, response, level=laws.level, title=choice.model)
    return View(response, dense, band, measured, found, laws.level, band.attrs["law"])


def answer_sentence(choice: Choice, views: list[View], r: float) -> str:
    """What the laws say at one ratio, as one sentence, and how far one can go."""
    recovery = f" and {words.tokens_text(choice.tokens)} of recovery" if choice.tokens else ""
    said = "; ".join(view.words(r) for view in views)
    text = f"Removing {r:.0%} of {choice.model} with {choice.method}{recovery}: {said}."
    for view in views:
        if view.critical is not None:
            worse = abs(view.critical.threshold - 1)
            change = f"{worse:.0%} more loss" if view.response == "loss" else f"{worse:.0%} less accuracy"
            text += f" With {change} allowed: {view.critical}."
    if any(view.band["extrapolated"].iloc[min(round(r / STEP), len(GRID) - 1)] for view in views):
        text += " This is beyond the measured range: a guess."
    return text


@dataclass
class _Panel:
    """Axes of one response and the artists that move."""

    response: str
    axes: object
    view: View | None = field(default=None)

    def __post_init__(self) -> None:
        self.axes.set_xlim(0, 1)
        self.axes.set_xlabel("fraction removed r")
        self.axes.set_ylabel(label(self.response))
        self.points = self.axes.plot([], [], "o", color=style.BLACK, zorder=3)[0]
        self.inside = self.axes.plot([], [], color=style.COLOURS["claw"])[0]
        self.beyond = self.axes.plot([], [], color=style.COLOURS["claw"], ls=style.EXTRAPOLATED)[0]
        self.bands = {name: self.axes.fill_between(GRID, GRID, GRID, alpha=alpha, lw=0) for name, (alpha, _) in BANDS.items()}
        self.limit = self.axes.axvline(0, color=style.COLOURS["taylor"], lw=1.2)
        self.reach = self.axes.axvspan(0, 0, color=style.COLOURS["taylor"], alpha=0.2, lw=0)
        self.where = self.axes.axvline(0.3, color=style.BLACK, lw=0.8, animated=True)
        self.mark = self.axes.plot([], [], "D", color=style.COLOURS["prunenet"], ms=5, zorder=4, animated=True)[0]

    def choose(self, view: View | None, method: str, shown: tuple[str, ...]) -> None:
        """Show another view or other bands."""
        self.view = view
        self.axes.set_visible(view is not None)
        if view is None:
            return
        band, ink, measured = view.band, style.colour(method), view.measured
        self.points.set_data(measured["ratio"], measured["value"])
        inside = ~band["extrapolated"].to_numpy()
        last = np.flatnonzero(inside)[-1] if inside.any() else 0
        for artist, part in ((self.inside, slice(0, last + 1)), (self.beyond, slice(last, None))):
            artist.set_data(GRID[part], band["mean"].to_numpy()[part])
            artist.set_color(ink)
        edges = [*measured["value"], *band["mean"].to_numpy()[inside]]
        for name, artist in self.bands.items():
            low, high = (band[f"{name}_{edge}"].to_numpy() for edge in ("low", "high"))
            visible = name in shown and bool(np.isfinite([low, high]).all())
            artist.set_visible(visible)
            artist.set_color(ink)
            if visible:
                artist.set_data(GRID, low, high)
                edges += [low[inside].min(), high[inside].max()] if name != "model" and inside.any() else []
        edges = [edge for edge in edges if math.isfinite(edge)]
        margin = 0.05 * (max(edges) - min(edges)) or 0.1
        self.axes.set_ylim(min(edges) - margin, max(edges) + margin)
        found = view.critical
        known = found is not None and math.isfinite(found.ratio)
        for artist in (self.limit, self.reach):
            artist.set_visible(known)
        if known:
            self.limit.set_xdata([found.ratio] * 2)
            low, high = np.nan_to_num(found.low, nan=0.0), np.nan_to_num(found.high, nan=found.limit)
            self.reach.set_x(low)
            self.reach.set_width(high - low)

    def slide(self, r: float) -> None:
        """Move along the curve."""
        self.where.set_xdata([r, r])
        self.mark.set_data([r], [self.view.band["mean"].iloc[round(r / STEP)]])
        for artist in (self.where, self.mark):
            self.axes.draw_artist(artist)


def explorer(laws: Laws) -> ipywidgets.Widget:
    """Sliders for ratio, model, method, recovery tokens, kind of interval and what is allowed, over points and laws."""
    return Explorer(laws).widget


def explorer_page(asked: ExplorerParameters) -> ipywidgets.Widget:
    """The explorer of a table, or in words why there is none: a page for people who do not read tracebacks."""
    try:
        source = asked.source
        points = records.table(source)
        shown = explorer(fit(points, level=asked.level, seed=asked.seed, draws=asked.draws, compare=False))
    except InputError as error:
        links = "" if asked.table else start.find_results()._repr_html_()
        return ipywidgets.HTML(f"<p>{html.escape(str(error))}</p>{links}")
    return ipywidgets.VBox(
        [shown, ipywidgets.HTML(f"<p><small>The points are those of {html.escape(str(source))}.</small></p>")]
    )


class Explorer:
    """The explorer's menus, panels and words; `widget` is what a notebook shows."""

    def __init__(self, laws: Laws) -> None:
        rows = laws.points.rows[~is_dense(laws.points.rows)]
        fitted = {law.response for law in laws.curves} | {law.response for law in laws.pooled}
        responses = [name for name in (*laws.points.responses, *speed_law.responses(laws.points)[:1]) if name in fitted]
        if not responses:
            raise InputError(
                "No law could be fitted to this table, so there is nothing to slide: measure at least three ratios of one model "
                "and method, r = 0 (the dense model) among them. laws.unfitted says why each law was not fitted."
            )
        self.laws = laws
        self.curves = sorted(set(zip(rows["model"], rows["method"], rows["recovery_tokens"].astype(float), strict=True)))
        with style.paper():
            self.figure = style.figure(3.3 * len(responses), 2.8)
            self.canvas = FigureCanvasAgg(self.figure)
            axes = self.figure.subplots(1, len(responses), squeeze=False)[0]
            self.panels = [_Panel(name, one) for name, one in zip(responses, axes, strict=True)]
            grey = style.COLOURS["random"]
            patches = [Patch(color=grey, alpha=alpha, lw=0, label=text) for alpha, text in reversed(BANDS.values())]
            patches.append(Patch(color=style.COLOURS["taylor"], alpha=0.4, lw=0, label="critical ratio"))
            self.figure.legend(handles=patches, loc="outside lower center", ncols=4 if len(responses) > 1 else 2)
        self.image, self.words = ipywidgets.Image(format="png"), ipywidgets.HTML()
        self._menus()
        self._choose()

    def _menus(self) -> None:
        models = sorted({model for model, _, _ in self.curves})
        self.model = ipywidgets.Dropdown(options=models, value=models[0], description="model")
        self.method = ipywidgets.Dropdown(description="method")
        self.tokens = ipywidgets.SelectionSlider(options=[("none", 0.0)], description="recovery")  # the measured budgets
        self.ratio = ipywidgets.FloatSlider(0.3, min=0, max=0.95, step=STEP, description="ratio r", readout_format=".2f")
        self.allowed = ipywidgets.FloatSlider(
            0.1, min=0.01, max=1, step=0.01, description="allowed", readout_format=".0%",
            tooltip="how much worse than dense is still fine; the critical ratio follows",
        )  # fmt: skip
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
        right = ipywidgets.VBox([self.tokens, self.interval, self.bands])
        self.widget = ipywidgets.VBox([ipywidgets.HBox([left, right]), self.image, self.words])

    def _offer(self) -> None:
        """Offer the methods and budgets that the model has."""
        methods = sorted({method for model, method, _ in self.curves if model == self.model.value})
        _offer(self.method, [(name, name) for name in methods])
        mine = (self.model.value, self.method.value)
        budgets = sorted({tokens for model, method, tokens in self.curves if (model, method) == mine})
        _offer(self.tokens, [(words.tokens_text(d) if d else "none", d) for d in budgets])

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
            try:
                view = view_of(self.laws, self.choice, panel.response, max(0.01, 1 + worse))
            except InputError as error:
                view = None
                self.missing.append(f"No law of {panel.response} here: {error}")
            panel.choose(view, self.choice.method, self.bands.value)
        with style.paper():
            self.canvas.draw()
        self.background = self.canvas.copy_from_bbox(self.figure.bbox)
        self._slide()

    def _slide(self) -> None:
        self.canvas.restore_region(self.background)
        shown = [panel for panel in self.panels if panel.view is not None]
        for panel in shown:
            panel.slide(self.ratio.value)
        said = [answer_sentence(self.choice, [panel.view for panel in shown], self.ratio.value)] if shown else []
        self.words.value = "<br>".join(html.escape(line) for line in (*said, *self.missing))
        with io.BytesIO() as out:
            Image.fromarray(np.asarray(self.canvas.buffer_rgba())).save(out, "png", compress_level=1)
            self.image.value = out.getvalue()


def _offer(menu: ipywidgets.Dropdown | ipywidgets.SelectionSlider, options: list[tuple[str, object]]) -> None:
    """Other options, the value kept where it still is one."""
    values, keep = [value for _, value in options], menu.value
    if list(menu.options) != options:
        menu.options = options
        menu.value = keep if keep in values else values[0]
