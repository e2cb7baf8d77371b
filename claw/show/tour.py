"""The live lesson as a widget: choose a method, drag the ratio, and see what the small model writes, costs and has lost.

A move compresses when the slider is let go; points seen before come back at once. What does not belong to the chosen point
yet is grey until it does, and one bar says how far that is. While Python works, the browser holds the latest move and forgets
those between.
"""

import html
import io
import math
from collections.abc import Callable
from typing import Any

import ipywidgets
import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.ticker import MaxNLocator

from claw import words
from claw.errors import InputError
from claw.figures import style
from claw.figures.maps import BINS, kept_share
from claw.show.lesson import Lesson, Point
from claw.words import Html

STEPS = {"compressing": 5, "writing": 40, "timing": 80}
"""What is done for a point, and where the bar, of 100, stands when it begins."""
STALE, NARROW = "claw-stale", {"flex_flow": "row wrap", "max_width": "100%"}
LOOKS = f"""<style>
.{STALE} {{ opacity: .3; filter: grayscale(1); }}
.claw-tour {{ container-type: inline-size; }}
.claw-tour .noUi-handle {{ transform: scale(1.35); }}
.claw-tour .widget-image {{ background: #fff; }}
.claw-tour table {{ line-height: 1.4; max-width: 100%; }}
.claw-tour :is(th, td) {{ white-space: normal; padding: .15em .6em; text-align: right; }}
.claw-tour :is(th, td):first-child {{ text-align: left; }}
@container (max-width: 480px) {{
  .claw-tour table {{ font-size: 11px; }}
  .claw-tour :is(th, td) {{ padding: .15em .25em; overflow-wrap: anywhere; }}
}}
</style>"""
TEXT = "white-space: pre-wrap; border-left: 3px solid {colour}; padding: .3em .8em; margin: .4em 0; min-height: 4.5em"


class Tour(ipywidgets.VBox):
    """Menu, slider, texts, numbers and pictures of a lesson, for a notebook to show."""

    def __init__(self, lesson: Lesson) -> None:
        self.lesson = lesson
        self.method = ipywidgets.Dropdown(options=lesson.asked.methods, value=lesson.favourite, description="method")
        wide = {"width": "30rem", "max_width": "100%"}
        self.ratio = ipywidgets.SelectionSlider(
            options=[("nothing", 0.0)], description="removed", continuous_update=False, readout=False, layout=wide
        )
        self.share = ipywidgets.Label("")
        self.ratio.tooltip = "share of all parameters; in brackets the method's own ratio, of the part that it cuts"
        self.bar = ipywidgets.IntProgress(0, 0, 100, layout={"width": "9em", "max_width": "100%"})
        self.doing = ipywidgets.Label("")
        self.before, self.after = (ipywidgets.HTML(layout={"flex": "1 1 18rem", "max_width": "100%"}) for _ in range(2))
        self.numbers = ipywidgets.HTML()
        shared = {"min_width": "0", "max_width": "100%", "height": "auto", "object_fit": "contain"}
        self.image, self.curve = (
            ipywidgets.Image(format="png", layout=shared | {"flex": f"{part} 1 17rem"}) for part in (4, 5)
        )
        self.picture = _Picture()
        controls = ipywidgets.HBox([self.method, self.ratio, self.share, self.bar, self.doing], layout=NARROW)
        texts = ipywidgets.HBox([self.before, self.after], layout=NARROW)
        images = ipywidgets.HBox(
            [self.image, self.curve], layout=NARROW | {"align_items": "flex-start"}
        )  # one below the other on a phone
        super().__init__([ipywidgets.HTML(LOOKS), controls, texts, self.numbers, images], layout={"max_width": "100%"})
        self.add_class("claw-tour")
        self._write(self.before, "The dense model writes", lesson.look("dense", 0.0).text or "", style.BLACK)
        self.places, self.offering = {0.0: 0.0}, False
        self._offer(lambda ratio, _: abs(ratio - lesson.asked.ratio))
        self.method.observe(lambda _: self._method_changed(), "value")
        self.ratio.observe(lambda _: None if self.offering else self.show(), "value")
        self.show()

    def _method_changed(self) -> None:
        """Go on from the share that is removed now."""
        now = self.places[self.ratio.value]
        self._offer(lambda _, share: abs(share - now))
        self.show()

    def _offer(self, far: Callable[[float, float], float]) -> None:
        """What the method can remove as the places of the slider, at the one whose `far` of own ratio and share is least."""
        self.places = self.lesson.places(self.method.value)
        options = [(f"{share:.0%} (r = {ratio:.2f})" if ratio else "nothing", ratio) for ratio, share in self.places.items()]
        self.offering = True
        self.ratio.options = options
        self.ratio.value = min(self.places, key=lambda ratio: far(ratio, self.places[ratio]))
        self.offering = False

    def show(self) -> None:
        """Measure the chosen point if it is new, and show it; or say why it cannot be."""
        method, ratio, self.share.value = self.method.value, self.ratio.value, self.ratio.label
        self._stale(self.after, self.numbers, self.image, self.curve)

        def write(text: str) -> None:
            self._write(self.after, self._title(method, ratio), text, style.colour(method))
            self._fresh(self.after)
            self.bar.value = min(self.bar.value + 1, STEPS["timing"])

        try:
            point = self.lesson.look(method, ratio, self._tell, write)
        except InputError as error:
            self.bar.value, self.doing.value = 0, ""
            self.after.value, self.numbers.value = "", f"<p>{html.escape(str(error))}</p>"
            self._fresh(self.after, self.numbers)  # the pictures still show the point before
            return
        write(point.text or "")
        self.numbers.value = numbers(point, self.lesson.whole)
        self.image.value, self.curve.value = self.picture.pngs(point, self.lesson)
        self._fresh(self.numbers, self.image, self.curve)
        self.bar.value, self.doing.value = 0, f"took {point.seconds:.0f} s" if point.seconds else ""

    def _stale(self, *parts: ipywidgets.DOMWidget) -> None:
        """Grey out what still shows another point."""
        for part in parts:
            part.add_class(STALE)

    def _fresh(self, *parts: ipywidgets.DOMWidget) -> None:
        for part in parts:
            part.remove_class(STALE)

    def _title(self, method: str, ratio: float) -> str:
        """What was removed: the share of all parameters, the method's own ratio in brackets."""
        share = self.lesson.loss(method, ratio).report.ratio_params
        return f"With {share:.0%} of its parameters removed by {method} (r = {ratio:.2f}) it writes"

    def _tell(self, doing: str) -> None:
        self.bar.value, self.doing.value = STEPS[doing], f"{doing} …"

    def _write(self, where: ipywidgets.HTML, title: str, text: str, colour: str) -> None:
        prompt = self.lesson.asked.prompt
        shown = f"<b>{html.escape(prompt)}</b>{html.escape(text.removeprefix(prompt))}"
        where.value = f'<small>{html.escape(title)}</small><div style="{TEXT.format(colour=colour)}">{shown}</div>'


def numbers(point: Point, whole: Point) -> Html:
    """A point beside the dense model as an HTML table, and its loss in words."""
    report, loss, loss0 = point.report, point.loss.mean, whole.loss.mean
    unsure = [f"{words.quantity(math.exp(min(nats, 50)))} tokens" for nats in (loss0, loss)]
    millions = [f"{shape.parameters / 1e6:.1f}" for shape in (report.dense, report.small)]
    rows = [
        ("held-out loss, nats per token", f"{loss0:.3f}", f"{loss:.3f}", f"{loss - loss0:+.3f}"),
        ("perplexity: like choosing among", *unsure, ""),
        ("parameters, millions", *millions, f"−{report.ratio_params:.1%}"),
    ]
    if (decode := point.decode) is not None:
        took = (f"{1e3 * decode.seconds0:.0f}", f"{1e3 * decode.seconds:.0f}", f"{decode.speedup:.2f} × as fast")
        rows += [("milliseconds per token written", *took), ("speed that bytes read allow", "", "", f"{decode.ideal:.2f} ×")]
    return words.html_table(rows, ("", "dense", "small", "change"))


class _Picture:
    """What was kept where, and the points so far. The artists are made once and moved."""

    @style.paper()
    def __init__(self) -> None:
        figures = style.figure(4, 2.6), style.figure(5, 2.6)
        self.canvases = [FigureCanvasAgg(figure) for figure in figures]
        self.map, self.points = (figure.subplots() for figure in figures)
        look: dict[str, Any] = {"cmap": "Blues", "vmin": 0, "vmax": 1, "interpolation": "nearest"}
        self.kept = self.map.imshow(np.ones((2, BINS)), aspect="auto", origin="lower", **look)
        self.map.set(xticks=[], ylabel="layer")
        self.map.yaxis.set_major_locator(MaxNLocator(integer=True))
        self.map.grid(False)
        figures[0].colorbar(self.kept, ax=self.map, label="share kept", fraction=0.05)
        self.points.set(ylabel="held-out loss (nats/token)")
        self.lines: dict[str, Any] = {}
        self.mark = self.points.plot([], [], "o", ms=9, mfc="none", color=style.BLACK, zorder=4)[0]
        self.dense = self.points.axhline(0, color=style.BLACK, ls=":", lw=0.8)

    @style.paper()
    def pngs(self, point: Point, lesson: Lesson) -> list[bytes]:
        """What a point kept, and the point among the others."""
        share, table, dense = kept_share(point.report.to_dict()), lesson.table(), lesson.whole.loss.mean
        self.kept.set_data(share)
        self.kept.set_extent((0, 1, -0.5, len(share) - 0.5))
        self.map.set_xlabel(_axis(point))
        self.dense.set_ydata([dense, dense])
        for method, rows in table[table["method"] != "dense"].groupby("method"):
            if method not in self.lines:
                look = {"ls": style.line(method), "color": style.colour(method), "label": method}
                self.lines[method] = self.points.plot([], [], "o", **look)[0]
                self.points.legend(loc="upper left", bbox_to_anchor=(1.01, 1))
            self.lines[method].set_data([0, *rows["ratio_params"]], [dense, *rows["loss"]])
        self.mark.set_data([point.report.ratio_params], [point.loss.mean])
        style.removed_axis(self.points, "ratio_params", [0.5, *table["ratio_params"]])
        losses = table["loss"][np.isfinite(table["loss"])]
        margin = 0.08 * np.ptp(losses) or 0.1
        self.points.set_ylim(losses.min() - margin, losses.max() + margin)
        return [_png(canvas) for canvas in self.canvases]


def _png(canvas: FigureCanvasAgg) -> bytes:
    with io.BytesIO() as out:
        canvas.print_png(out)
        return out.getvalue()


def _axis(point: Point) -> str:
    """What the map's rows show."""
    small, dense = point.report.small, point.report.dense
    if small.hidden != dense.hidden:
        return f"hidden width {dense.hidden} → {small.hidden}: directions of every layer"
    if small.depth != dense.depth:
        return f"{dense.depth - small.depth} of {dense.depth} whole layers are gone"
    if small.groups != dense.groups:
        return f"key-value groups, {small.groups} of {dense.groups} stay in each layer"
    return f"FFN neurons in their order, {small.width:,} of {dense.width:,} stay in each layer"
