"""Sliders over fitted laws. A move repaints two artists over a kept background and sends one small image."""

import io
import math
from dataclasses import dataclass

import ipywidgets
import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.patches import Patch
from PIL import Image

from claw.errors import InputError
from claw.figures import style
from claw.figures.laws import LABELS
from claw.laws import CurveLaw, Laws, curves

GRID = np.linspace(0, 0.99, 100)
STEP = 0.01
BANDS = {"model": (0.1, "a new model"), "run": (0.2, "a new run"), "confidence": (0.45, "the law's confidence")}
"""Kind of band: opacity and name, widest first."""


def sentence(laws: Laws, law: CurveLaw, r: float) -> str:
    """What a law says at one ratio, in words."""
    at = laws.predict(r, law.curve.model, law.curve.method, law.curve.tokens, law.response, law.axis).iloc[0]
    unit = " nats per token" if law.response == "loss" else ""
    text = (
        f"{law.curve.title}: at r = {r:.2f} the {law.response} is {at['mean']:.3f}{unit} "
        f"({law.level:.0%} confidence {at['confidence_low']:.3f} to {at['confidence_high']:.3f}; a new run falls between "
        f"{at['run_low']:.3f} and {at['run_high']:.3f})"
    )
    if math.isfinite(law.dense):
        text += f", {at['mean'] / law.dense:.2f} times the dense {law.dense:.3f}"
    if at["extrapolated"]:
        text += f". This is beyond the fitted range (to {law.high:.2g}): a guess"
    return text + "."


@dataclass
class _Panel:
    """Axes of one response and the artists that move."""

    response: str
    axes: object
    laws: Laws

    def __post_init__(self) -> None:
        self.axes.set_xlim(0, 1)
        self.axes.set_xlabel("fraction removed r")
        self.axes.set_ylabel(LABELS[self.response])
        self.points = self.axes.plot([], [], "o", color=style.BLACK, zorder=3)[0]
        self.inside = self.axes.plot([], [], color=style.COLOURS["claw"])[0]
        self.beyond = self.axes.plot([], [], color=style.COLOURS["claw"], ls=style.EXTRAPOLATED)[0]
        self.bands = {name: self.axes.fill_between(GRID, GRID, GRID, alpha=alpha, lw=0) for name, (alpha, _) in BANDS.items()}
        self.where = self.axes.axvline(0.3, color=style.BLACK, lw=0.8, animated=True)
        self.mark = self.axes.plot([], [], "D", color=style.COLOURS["prunenet"], ms=5, zorder=4, animated=True)[0]
        patches = [Patch(color=style.COLOURS["random"], alpha=alpha, lw=0, label=label) for alpha, label in BANDS.values()]
        self.axes.legend(handles=patches[::-1], loc="best")

    def choose(self, law: CurveLaw, shown: tuple[str, ...]) -> None:
        """Move to another curve or another set of bands."""
        self.law = law
        band = self.laws.predict(GRID, law.curve.model, law.curve.method, law.curve.tokens, law.response, law.axis)
        ink, measured = style.colour(law.curve.method), self.laws.measured(law)
        self.points.set_data(measured["ratio"], measured["value"])
        inside = (band["ratio"] <= law.high).to_numpy()
        for artist, mask in ((self.inside, inside), (self.beyond, ~inside)):
            artist.set_data(GRID[mask], band["mean"][mask])
            artist.set_color(ink)
        edges = [measured["value"].min(), measured["value"].max()]
        for name, artist in self.bands.items():
            low, high = band[f"{name}_low"].to_numpy(), band[f"{name}_high"].to_numpy()
            visible = name in shown and bool(np.isfinite(low).all())
            artist.set_visible(visible)
            artist.set_color(ink)
            if visible:
                artist.set_data(GRID, low, high)
                edges += [low[inside].min(), high[inside].max()]
        margin = 0.05 * (max(edges) - min(edges))
        self.axes.set_ylim(min(edges) - margin, max(edges) + margin)

    def slide(self, r: float) -> str:
        """Move along the curve; the sentence for this ratio."""
        at = float(self.law.predict(r)["mean"].iloc[0])
        self.where.set_xdata([r, r])
        self.mark.set_data([r], [at])
        for artist in (self.where, self.mark):
            self.axes.draw_artist(artist)
        return sentence(self.laws, self.law, r)


def explorer(laws: Laws, axis: str = "ratio") -> ipywidgets.Widget:
    """Sliders for ratio, model, method, recovery tokens and bands, over measured points and laws."""
    found = [law for law in laws.curves if law.axis == axis and law.form == curves.DEFAULT[law.response]]
    if not found:
        raise InputError(
            "No curve of this table has enough points for a law, so there is nothing to slide. laws.unfitted says why."
        )
    responses = sorted({law.response for law in found}, key=list(LABELS).index)
    by_curve = {response: {law.curve: law for law in found if law.response == response} for response in responses}
    every = sorted({law.curve for law in found})

    with style.paper():
        figure = style.figure(3.4 * len(responses), 2.6)
        canvas = FigureCanvasAgg(figure)
        panels = [
            _Panel(r, axes, laws)
            for r, axes in zip(responses, figure.subplots(1, len(responses), squeeze=False)[0], strict=True)
        ]

    models = sorted({c.model for c in every})
    model = ipywidgets.Dropdown(options=models, value=models[0], description="model")
    method = ipywidgets.Dropdown(description="method")
    tokens = ipywidgets.Dropdown(description="recovery")
    ratio = ipywidgets.FloatSlider(0.3, min=0, max=0.95, step=STEP, description="ratio r", readout_format=".2f")
    bands = ipywidgets.SelectMultiple(
        options=[(label, name) for name, (_, label) in reversed(BANDS.items())], value=("confidence", "run"), rows=3,
        description="bands",
    )  # fmt: skip
    image = ipywidgets.Image(format="png")
    words = ipywidgets.HTML()

    kept = {}

    def slide(*_) -> None:
        canvas.restore_region(kept["background"])
        words.value = "<br>".join(panel.slide(ratio.value) for panel in panels if panel.axes.get_visible())
        with io.BytesIO() as out:
            Image.fromarray(np.asarray(canvas.buffer_rgba())).save(out, "png", compress_level=1)
            image.value = out.getvalue()

    def choose(*_) -> None:
        wanted = (model.value, method.value, tokens.value)
        curve = next((c for c in every if (c.model, c.method, (c.recovery, c.tokens)) == wanted), None)
        if curve is None:  # between two menus: the other one is about to change
            return
        for panel in panels:
            law = by_curve[panel.response].get(curve)
            panel.axes.set_visible(law is not None)
            if law is not None:
                panel.choose(law, bands.value)
        with style.paper():
            canvas.draw()
        kept["background"] = canvas.copy_from_bbox(figure.bbox)
        slide()

    def offer_tokens(*_) -> None:
        budgets = sorted({(c.tokens, c.recovery) for c in every if (c.model, c.method) == (model.value, method.value)})
        keep, offered = tokens.value, [(recipe, d) for d, recipe in budgets]
        tokens.options = [(f"{recipe} {curves.tokens_text(d)}" if d else "none", (recipe, d)) for recipe, d in offered]
        if offered:
            tokens.value = keep if keep in offered else offered[0]

    def offer_methods(*_) -> None:
        keep, methods = method.value, sorted({c.method for c in every if c.model == model.value})
        method.options = methods
        method.value = keep if keep in methods else methods[0]

    offer_methods()
    offer_tokens()
    choose()
    model.observe(offer_methods, "value")
    for widget in (model, method):
        widget.observe(offer_tokens, "value")
    for widget in (model, method, tokens, bands):
        widget.observe(choose, "value")
    ratio.observe(slide, "value")
    controls = ipywidgets.HBox([ipywidgets.VBox([ratio, model, method, tokens]), bands])
    return ipywidgets.VBox([controls, image, words])
