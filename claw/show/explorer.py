"""Sliders over fitted laws. A move repaints two artists of each panel over a kept background and sends small images."""

import html
import io
import math
from collections.abc import Sequence
from typing import Any

import ipywidgets
import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.ticker import PercentFormatter
from PIL import Image

from claw import words
from claw.errors import InputError
from claw.figures import style
from claw.figures.style import label
from claw.laws import KINDS, CurveKey, Laws, curves, fit, speed_law
from claw.laws.points import AXES, is_dense
from claw.show import how_far, start, unseen
from claw.show.page_parts import framed, shared
from claw.show.table_menu import TableMenu
from claw.show.views import GRID, OWN, STEP, Choice, View, answer_sentence, view_of
from claw.specs.notebooks import ExplorerParameters

WIDE = {"description_width": "5.5em"}
BANDS = {"model": (0.08, "a run of a new model"), "run": (0.15, "a new run"), "confidence": (0.35, "confidence")}
"""Kind of band: opacity and name, widest first."""
WRAPPED = {"flex_flow": "row wrap", "max_width": "100%"}
LEGEND = (
    "<small>○ measured; the line goes through the points, dashed beyond them. Bands from dark to light: how sure the curve is, "
    "where a new run may fall, where a run of another model may fall. Yellow: how far one can go with what is allowed; dotted: "
    "the dense model.</small>"
)
INTERVALS = {"this curve, as measured": OWN, **{f"all models: {name}": name for name in KINDS}}
"""What an answer rests on: the measured points of one curve, or the law across models with one of its kinds of interval."""


class _Panel:
    """The picture of one response, and the artists that move in it."""

    def __init__(self, response: str, axis: str) -> None:
        self.response, self.figure = response, style.figure(3.6, 2.9)
        self.canvas = FigureCanvasAgg(self.figure)
        self.image = ipywidgets.Image(format="png", layout={"max_width": "100%", "object_fit": "contain"})
        self.axes = axes = self.figure.subplots()
        self.view: View | None = None
        axes.set(xlabel=AXES[axis], title=label(response))
        if axis != "ratio":
            axes.xaxis.set_major_formatter(PercentFormatter(1, decimals=0))
        self.points = axes.plot([], [], "o", color=style.BLACK, zorder=3)[0]
        self.inside = axes.plot([], [], color=style.COLOURS["claw"])[0]
        self.beyond = axes.plot([], [], color=style.COLOURS["claw"], ls=style.EXTRAPOLATED)[0]
        self.bands = {name: axes.fill_between(GRID, GRID, GRID, alpha=alpha, lw=0) for name, (alpha, _) in BANDS.items()}
        self.limit = axes.axvline(0, color=style.COLOURS["taylor"], lw=1.2)
        self.reach = axes.axvspan(0, 0, color=style.COLOURS["taylor"], alpha=0.2, lw=0)
        self.dense = axes.axhline(0, color=style.BLACK, ls=":", lw=0.8)
        self.where = axes.axvline(0.3, color=style.BLACK, lw=0.8, animated=True)
        self.mark = axes.plot([], [], "D", color=style.COLOURS["prunenet"], ms=5, zorder=4, animated=True)[0]

    def choose(self, view: View | None, method: str, shown: Sequence[str]) -> None:
        """Show another view or other bands."""
        self.view = view
        self.image.layout.display = "none" if view is None else ""
        if view is None:
            return
        self.axes.set_xlim(0, view.end)
        self.dense.set_ydata([view.dense] * 2)
        ink, mean, inside = style.colour(method), view.band["mean"].to_numpy(), ~view.band["extrapolated"].to_numpy()
        self.points.set_data(view.measured["ratio"], view.measured["value"])
        last = np.flatnonzero(inside)[-1] if inside.any() else 0
        for line, part in ((self.inside, slice(0, last + 1)), (self.beyond, slice(last, None))):
            line.set_data(GRID[part], mean[part])
            line.set_color(ink)
        edges = [*view.measured["value"], *mean[inside if inside.any() else view.end >= GRID]]
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
        edges += [view.dense]
        edges = [edge for edge in edges if math.isfinite(edge)]
        margin = 0.05 * (max(edges) - min(edges)) or 0.1
        self.axes.set_ylim(min(edges) - margin, max(edges) + margin)
        reach = view.critical if view.critical and math.isfinite(view.critical.ratio) else None
        self.limit.set_visible(reach is not None)
        self.reach.set_visible(reach is not None and reach.banded)
        if reach is not None:
            self.limit.set_xdata([reach.ratio] * 2)
            low, high = np.nan_to_num(reach.low, nan=0.0), np.nan_to_num(reach.high, nan=reach.limit)
            self.reach.set_x(low)
            self.reach.set_width(high - low)
        with style.paper():
            self.canvas.draw()
        self.background = self.canvas.copy_from_bbox(self.figure.bbox)

    def slide(self, r: float) -> None:
        """Move along the curve."""
        if self.view is None:
            return
        self.canvas.restore_region(self.background)
        self.where.set_xdata([r, r])
        self.mark.set_data([r], [self.view.at(r)["mean"]])
        for artist in (self.where, self.mark):
            self.axes.draw_artist(artist)
        with io.BytesIO() as out:
            Image.fromarray(np.asarray(self.canvas.buffer_rgba())).save(out, "png", compress_level=1)
            self.image.value = out.getvalue()


def explorer_page(asked: ExplorerParameters) -> ipywidgets.Widget:
    """The page of a table, or in words why there is none, for people who do not read tracebacks.

    A menu has the project's other tables. How far one can go comes first; sliders for everything else are behind "more".
    """
    try:
        menu = TableMenu(asked.source, asked.reading)
    except InputError as error:
        there = "" if asked.table else f"<pre>{html.escape(str(start.find_results()))}</pre>"  # links would not open here
        return ipywidgets.HTML(f"<p>{html.escape(str(error))}</p>{there}")
    page = ipywidgets.VBox(layout={"max_width": "100%"})

    def show(*_: Any) -> None:
        page.children = [ipywidgets.HTML(f"<p>Reading {html.escape(str(menu.source))} …</p>")]
        page.children = _page_of(menu, asked)

    menu.choice.observe(show, "value")
    show()
    choose = [menu.choice] if len(menu.choice.options) > 1 else []
    return ipywidgets.VBox([*choose, page], layout={"max_width": "100%"})


def _page_of(menu: TableMenu, asked: ExplorerParameters) -> list[ipywidgets.Widget]:
    """What the page says of the chosen table."""
    try:
        table = menu.read()
        fitted = fit(table, level=asked.level, seed=asked.seed, draws=asked.draws, compare=False)
        body = how_far.how_far_page(fitted) + unseen.unseen_fold()
        question = ipywidgets.HTML(framed(body, "How far can I go?"), layout={"width": "100%"})
    except InputError as error:
        return [ipywidgets.HTML(f"<p>{html.escape(str(error))}</p>")]
    try:
        more: ipywidgets.Widget = Explorer(fitted)
    except InputError as error:
        more = ipywidgets.HTML(f"<p>{html.escape(str(error))}</p>")
    folded = ipywidgets.Accordion([more], titles=("More: any share, accuracy and speed, other intervals",), selected_index=None)
    guessed = table._repr_html_() if table.guesses else ""
    note = f"<small><p>The points are those of {html.escape(str(menu.source))}.</p>{guessed}</small>"
    look = ipywidgets.HTML(f"<style>{shared('voila.css')}</style>")
    return [look, question, folded, ipywidgets.HTML(note)]


class Explorer(ipywidgets.VBox):
    """Sliders for ratio, model, method, recovery tokens, kind of interval and what is allowed, over points and laws.

    A notebook shows it. InputError for laws without a curve.
    """

    def __init__(self, laws: Laws) -> None:
        rows = laws.points.rows[~is_dense(laws.points.rows)]
        fitted = {law.response for law in laws.curves} | {law.response for law in laws.pooled}
        self.axis = laws.points.leading_axis
        timed = [
            name for name in speed_law.responses(laws.points) if self.axis in ("ratio", speed_law.speed_axis(laws.points, name))
        ]
        responses = [name for name in (*laws.points.responses, *timed[-1:]) if name in fitted]
        if not responses:
            raise InputError(
                "No law could be fitted to this table, so there is nothing to slide: measure at least three ratios of one "
                "model and method, r = 0 (the dense model) among them. laws.unfitted says why each law was not fitted."
            )
        self.laws = laws
        named = rows[list(curves.KEY)].astype({"recovery_tokens": int}).itertuples(index=False, name=None)
        self.curves = sorted({CurveKey(*key) for key in named})
        with style.paper():
            self.panels = [_Panel(name, self.axis) for name in responses]
        self.words = ipywidgets.HTML()
        images = ipywidgets.HBox([panel.image for panel in self.panels], layout=WRAPPED)
        super().__init__([self._menus(), self.words, images, ipywidgets.HTML(LEGEND)], layout={"max_width": "100%"})
        self._choose()

    def _menus(self) -> ipywidgets.Widget:
        models = sorted({key.model for key in self.curves})
        self.model = ipywidgets.Dropdown(options=models, value=models[0], description="model")
        self.method = ipywidgets.Dropdown(description="method")
        self.ratio_of = ipywidgets.Dropdown(description="ratio of")
        self.tokens = ipywidgets.SelectionSlider(options=[("none", 0)], description="recovery")  # the measured budgets
        self.recovery = ipywidgets.Dropdown(description="recipe")
        share: dict[str, Any] = {"description": "removed", "readout_format": ".1%"} if self.axis != "ratio" else {}
        wide: dict[str, Any] = {"layout": {"width": "100%"}, "style": WIDE}
        self.ratio = ipywidgets.FloatSlider(0.1, min=0, max=0.95, step=STEP, **({"description": "ratio r"} | share), **wide)
        self.allowed = ipywidgets.FloatSlider(
            0.1, min=0.01, max=1, step=0.01, description="allowed", readout_format=".0%", **wide
        )
        self.allowed.tooltip = "how much worse than dense is still fine; the yellow line follows"
        self.interval = ipywidgets.Dropdown(options=INTERVALS, value=OWN, description="interval")
        shown = [(text, name) for name, (_, text) in reversed(BANDS.items())]
        self.bands = ipywidgets.SelectMultiple(options=shown, value=("confidence", "run"), rows=3, description="bands")
        self._offer()
        curve = [self.model, self.method, self.ratio_of, self.tokens, self.recovery]
        for menu in curve:
            menu.observe(lambda *_: self._offer(), "value")
        for menu in (*curve, self.interval, self.bands, self.allowed):
            menu.observe(lambda *_: self._choose(), "value")
        self.ratio.observe(lambda *_: self._slide(), "value")
        choices = [*curve, self.interval, self.bands]
        return ipywidgets.VBox([self.ratio, self.allowed, ipywidgets.HBox(choices, layout=WRAPPED)])

    def _offer(self) -> None:
        """Offer what was measured of the model, then of its method, and so on; a menu of one entry only where all have it."""
        have = [key for key in self.curves if key.model == self.model.value]
        for name in ("method", "ratio_of", "tokens", "recovery"):
            menu, values = getattr(self, name), sorted({getattr(key, name) for key in have})
            label = (lambda count: words.tokens_text(count) if count else "none") if name == "tokens" else str
            _set_options(menu, [(label(value), value) for value in values])
            have = [key for key in have if getattr(key, name) == menu.value]
            if name in ("ratio_of", "recovery"):
                menu.layout.display = None if len(values) > 1 else "none"

    @property
    def choice(self) -> Choice:
        """What the menus say."""
        return Choice(CurveKey(*(getattr(self, name).value for name in CurveKey._fields)), self.interval.value)

    def _choose(self) -> None:
        if self.choice.curve not in self.curves:  # between two menus: the other one is about to change
            return
        self.missing = []
        for panel in self.panels:
            worse = self.allowed.value if panel.response == "loss" else -self.allowed.value
            view = None
            try:
                view = view_of(self.laws, self.choice, panel.response, max(0.01, 1 + worse))
            except InputError as error:
                self.missing.append(f"No law of {panel.response} here: {error}")
            panel.choose(view, self.choice.curve.method, self.bands.value)
        ends = [panel.view.end for panel in self.panels if panel.view is not None]
        self.ratio.max = min(max(ends, default=GRID[-1]), GRID[-1])
        self._slide()

    def _slide(self) -> None:
        r = self.ratio.value
        for panel in self.panels:
            panel.slide(r)
        views = [panel.view for panel in self.panels if panel.view is not None]
        said = [answer_sentence(self.choice, views, r)] if views else []
        self.words.value = "<br>".join(html.escape(line) for line in (*said, *self.missing))


def _set_options(menu: ipywidgets.Dropdown | ipywidgets.SelectionSlider, options: list[tuple[str, object]]) -> None:
    """Other options, the value kept where it still is one."""
    values, keep = [value for _, value in options], menu.value
    if list(menu.options) != options:
        menu.options = options
        menu.value = keep if keep in values else values[0]
