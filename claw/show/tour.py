"""The live lesson as a widget: choose a method, drag the ratio, and see what the small model writes, costs and has lost.

A move compresses when the slider is let go; points seen before come back at once. While Python works, the browser holds the
latest move and forgets those between.
"""

import html
import io
import math

import ipywidgets
import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from claw.errors import InputError
from claw.figures import style
from claw.figures.maps import BINS, kept_share
from claw.show.lesson import Lesson, Point

STEPS = ("compressing", "writing", "timing")
STEP = 0.05
TEXT = "white-space: pre-wrap; border-left: 3px solid {colour}; padding: .3em .8em; margin: .4em 0; min-height: 4.5em"


def tour(lesson: Lesson) -> ipywidgets.Widget:
    """Menu, slider, texts, numbers and pictures of a lesson."""
    return Tour(lesson).widget


class Tour:
    """The tour's controls and what they change; `widget` is what a notebook shows."""

    def __init__(self, lesson: Lesson) -> None:
        self.lesson = lesson
        asked = lesson.asked
        self.method = ipywidgets.Dropdown(options=asked.methods, value=asked.methods[-1], description="method")
        if "wanda-sp+ridge" in asked.methods:
            self.method.value = "wanda-sp+ridge"
        self.ratio = ipywidgets.FloatSlider(
            round(round(asked.ratio / STEP) * STEP, 2), min=0, max=0.9, step=STEP, description="ratio r", readout_format=".2f",
            continuous_update=False,
        )  # fmt: skip
        self.bar = ipywidgets.IntProgress(0, 0, len(STEPS), layout={"width": "12em"})
        self.doing = ipywidgets.Label("")
        self.before, self.after, self.numbers = ipywidgets.HTML(), ipywidgets.HTML(), ipywidgets.HTML()
        self.image = ipywidgets.Image(format="png")
        self.picture = _Picture()
        for control in (self.method, self.ratio):
            control.observe(lambda *_: self.show(), "value")
        half = ipywidgets.Layout(width="48%")
        self.before.layout = self.after.layout = half
        controls = ipywidgets.HBox([self.method, self.ratio, self.bar, self.doing])
        texts = ipywidgets.HBox([self.before, self.after], layout={"justify_content": "space-between"})
        self.widget = ipywidgets.VBox([controls, texts, self.numbers, self.image])
        self._text(self.before, "The dense model writes", lesson.look("dense", 0.0).text, style.BLACK)
        self.show()

    def show(self) -> None:
        """Measure the chosen point if it is new, and show it; or say why it cannot be."""
        method, ratio = self.method.value, round(self.ratio.value, 2)
        try:
            self._show(method, ratio)
        except InputError as error:
            self.bar.value, self.doing.value = 0, ""
            self.after.value, self.numbers.value = "", f"<p>{html.escape(str(error))}</p>"

    def _show(self, method: str, ratio: float) -> None:
        title = f"With {ratio:.0%} removed by {method} it writes"
        write = lambda text: self._text(self.after, title, text, style.colour(method))
        point = self.lesson.look(method, ratio, self._tell, write)
        self.bar.value, self.doing.value = 0, f"took {point.seconds:.0f} s" if point.seconds else ""
        write(point.text)
        self.numbers.value = numbers(point, self.lesson.whole)
        self.image.value = self.picture.png(point, self.lesson)

    def _tell(self, doing: str) -> None:
        self.bar.value, self.doing.value = STEPS.index(doing) + 1, f"{doing} …"

    def _text(self, where: ipywidgets.HTML, title: str, text: str, colour: str) -> None:
        prompt = self.lesson.asked.prompt
        shown = f"<b>{html.escape(prompt)}</b>{html.escape(text.removeprefix(prompt))}"
        where.value = f'<small>{html.escape(title)}</small><div style="{TEXT.format(colour=colour)}">{shown}</div>'


def numbers(point: Point, whole: Point) -> str:
    """A point beside the dense model as an HTML table, and what it says in words."""
    report, loss = point.report, point.loss.mean
    rows = [
        ("held-out loss, nats per token", f"{whole.loss.mean:.3f}", f"{loss:.3f}", f"{loss - whole.loss.mean:+.3f}"),
        ("the model hesitates between", *(f"{_among(one.loss.mean)} tokens" for one in (whole, point)), ""),
        ("parameters, millions", f"{report.dense.parameters / 1e6:.1f}", f"{report.small.parameters / 1e6:.1f}",
         f"−{report.ratio_params:.1%}"),
    ]  # fmt: skip
    if (decode := point.decode) is not None:
        rows.append((
            "milliseconds per token written", f"{1e3 * decode.seconds0:.0f}", f"{1e3 * decode.seconds:.0f}",
            f"{decode.speedup:.2f} times as fast; bytes read allow {decode.ideal:.2f}",
        ))  # fmt: skip
    body = "".join(f"<tr><th>{name}</th>{''.join(f'<td>{cell}</td>' for cell in cells)}</tr>" for name, *cells in rows)
    head = "<tr><th></th><th>dense</th><th>compressed</th><th>change</th></tr>"
    return f'<table class="rendered_html" style="border-spacing: 1.2em .1em">{head}{body}</table>'


def _among(loss: float) -> str:
    """Perplexity for people: as many equally likely tokens as this loss stands for."""
    value = math.exp(min(loss, 50)) if math.isfinite(loss) else math.inf
    return f"{value:,.0f}" if value < 1e6 else f"{value:.0e}"


class _Picture:
    """What was kept where, and the points so far. The artists are made once and moved."""

    def __init__(self) -> None:
        with style.paper():
            self.figure: Figure = style.figure(9, 2.6)
            self.canvas = FigureCanvasAgg(self.figure)
            self.map, self.points = self.figure.subplots(1, 2, width_ratios=(1, 1.25))
            self.kept = self.map.imshow(
                np.ones((2, BINS)), cmap="Blues", vmin=0, vmax=1, aspect="auto", interpolation="nearest", origin="lower"
            )
            self.map.set(xticks=[], ylabel="layer")
            self.map.yaxis.set_major_locator(MaxNLocator(integer=True))
            self.map.grid(False)
            self.figure.colorbar(self.kept, ax=self.map, label="share kept", fraction=0.05)
            self.points.set(xlim=(0, 0.95), xlabel="fraction removed r", ylabel="held-out loss (nats/token)")
            self.lines = {}
            self.mark = self.points.plot([], [], "o", ms=9, mfc="none", color=style.BLACK, zorder=4)[0]
            self.dense = self.points.axhline(0, color=style.BLACK, ls=":", lw=0.8)

    def png(self, point: Point, lesson: Lesson) -> bytes:
        """The picture of a point among the others."""
        share = kept_share(point.report.to_dict())
        with style.paper():
            self.kept.set_data(share)
            self.kept.set_extent((0, 1, -0.5, len(share) - 0.5))
            self.map.set_xlabel(_axis(point))
            self._move(point, lesson)
            with io.BytesIO() as out:
                self.canvas.print_png(out)
                return out.getvalue()

    def _move(self, point: Point, lesson: Lesson) -> None:
        table, dense = lesson.table(), lesson.whole.loss.mean
        self.dense.set_ydata([dense, dense])
        for method, rows in table[table["method"] != "dense"].groupby("method"):
            if method not in self.lines:
                ink, dashes = style.colour(method), style.line(method)
                self.lines[method] = self.points.plot([], [], "o", ls=dashes, color=ink, label=method)[0]
                self.points.legend(loc="upper left", bbox_to_anchor=(1.01, 1))
            self.lines[method].set_data([0, *rows["ratio"]], [dense, *rows["loss"]])
        self.mark.set_data([point.ratio], [point.loss.mean])
        losses = table["loss"].to_numpy()
        losses = losses[np.isfinite(losses)]
        margin = 0.08 * np.ptp(losses) or 0.1
        self.points.set_ylim(losses.min() - margin, losses.max() + margin)


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
