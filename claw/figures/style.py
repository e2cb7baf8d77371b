"""One style for every figure: print sizes, one colour per method, one marker per family, files that do not change on rerun.

Notable choices:
- Colour says the method and line style says whether it was compensated; the marker says the family, or, where a panel shows
  one model, the method. Nothing is told by colour alone.
- Fonts are embedded as Type 42; no dates and a fixed salt, so equal numbers give equal bytes.
- A figure carries the numbers it draws, and saves them as CSV beside pdf, png and svg.
"""

import io
import math
import zlib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import matplotlib
import pandas as pd
import seaborn
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import Locator, LogLocator, NullFormatter, PercentFormatter

from claw import files
from claw.csv_tables import table_text

Style = Literal["screen", "paper"]
"""Where a figure is read: a notebook, or a page on which curves must differ in grey too."""
WIDTHS = {"icml": 3.25, "icml-wide": 6.75, "neurips": 5.5, "iclr": 5.5}
"""Inches of a column, or of the page."""
_BLUE, _ORANGE, _GREEN, RED, _PURPLE, _BROWN, _PINK, GREY, _YELLOW, _SKY = seaborn.color_palette("colorblind").as_hex()
BLACK = "#222222"
SOLID, COMPENSATED, EXTRAPOLATED = "-", (0, (6, 1, 1, 1)), (0, (2, 2))
BROKEN = (":", (0, (6, 1.5)), (0, (3, 1, 1, 1, 1, 1)))  # lines of one method, or recipe, that are told apart
LOOKS: dict[str, tuple[str, str, Any]] = {
    "dense": (BLACK, "o", SOLID),
    "random": (GREY, "X", (0, (1, 1.2))),
    "magnitude": ("#5c5c5c", "P", (0, (4, 1.5))),  # controls are grey: what counts stands out
    "ppm": (_PINK, "*", (0, (2, 1))),
    "prunenet": (RED, "v", (0, (6, 1.2, 1, 1.2))),
    "prunenet-stochastic": ("#e69070", "1", (0, (2, 1, 5, 1))),
    "wanda-sp": (_SKY, "s", (0, (3, 1, 1, 1, 1, 1))),
    "flap": (_ORANGE, "D", (0, (8, 1.5))),
    "taylor": ("#b3a100", ">", (0, (5, 1, 2, 1))),
    "minitron": (_PURPLE, "<", (0, (2, 2))),
    "slicegpt": (_GREEN, "^", (0, (10, 1, 1, 1))),
    "slicegpt-perlayer": ("#7fc7ae", "d", SOLID),
    "shortgpt": ("#8c6bb1", "p", (0, (1, 2))),
    "blocks": ("#c2a5cf", "h", (0, (3, 3))),
    "claw": (_BLUE, "o", SOLID),
}
"""Colour, marker and dashes of a method; "+ridge" keeps the look of the method it compensates and is drawn open."""
COLOURS = {method: look[0] for method, look in LOOKS.items()}
MARKERS = {"llama": "o", "qwen2": "s", "qwen3": "D", "gemma3": "^", "mistral": "v", "unknown": "P"}
"""Marker of a family: the architecture's name in small letters."""
SPARE = ("X", "p", "h", "8", "<", ">", "*", "d")
LABELS = {"loss": "held-out loss (nats/token)", "accuracy": "accuracy"}
AXIS_LABELS = {"ratio": "the method's own ratio r", "ratio_params": "share of all parameters removed"}
"""Axis label of what was removed."""

_SETTINGS: dict[Any, dict[str, Any]] = {
    "figure": {"dpi": 150, "constrained_layout.use": True},
    "font": {"size": 8, "family": "DejaVu Sans"},
    "axes": {"titlesize": 8, "labelsize": 8, "linewidth": 0.6, "grid": True, "axisbelow": True},
    "axes.spines": {"top": False, "right": False},
    "grid": {"linewidth": 0.3, "color": "#dddddd"},
    "xtick": {"labelsize": 7},
    "ytick": {"labelsize": 7},
    "legend": {"fontsize": 7, "frameon": False},
    "lines": {"linewidth": 1.1, "markersize": 3.5},
    "savefig": {"dpi": 300},
    "pdf": {"fonttype": 42},
    "ps": {"fonttype": 42},
    "svg": {"fonttype": "none", "hashsalt": "claw"},
    "text": {"parse_math": False},  # a $ in the name of a model is a $
}
_UNDATED = {"pdf": {"CreationDate": None, "Producer": None, "Creator": None}, "png": {"Software": None}, "svg": {"Date": None}}
"""Kinds of file, and the metadata that would differ from run to run."""


def colour(method: str) -> str:
    """Colour of a method, compensated or not; an unknown one gets a steady colour of the palette from its name."""
    name = method.partition("+")[0]
    return COLOURS.get(name) or _steady((_BLUE, _ORANGE, _GREEN, RED, _PURPLE, _BROWN, _PINK, _YELLOW, _SKY), name)


def line(method: str) -> Any:
    """Line style of a method: solid, or dash-dot when compensated."""
    return COMPENSATED if "+" in method else SOLID


def marker(family: str) -> str:
    """Marker of a family; an unknown one gets a steady spare from its name."""
    return MARKERS.get(family.lower()) or _steady(SPARE, family)


def shades(count: int) -> list[str]:
    """So many colours that differ in lightness too, for things that are no methods."""
    return seaborn.color_palette("viridis", count).as_hex()


def _steady(choices: tuple[str, ...], name: str) -> str:
    return choices[zlib.crc32(name.encode()) % len(choices)]


def style_of(method: str) -> dict[str, Any]:
    """Colour, marker, face and dashes of a method in print, for `plot` and `errorbar`: no two methods by colour alone."""
    name, ink = method.split("+", 1)[0], colour(method)
    _, symbol, dashes = LOOKS.get(name) or (ink, _steady(SPARE, name), SOLID)
    return {"color": ink, "marker": symbol, "mfc": "white" if "+" in method else ink, "mec": ink, "ls": dashes, "mew": 0.8}


def leading_axis(table: pd.DataFrame) -> str:
    """The axis that a figure of a table leads with: the share of all parameters where every row that counts has it."""
    return "ratio_params" if "ratio_params" in table and table["ratio_params"].notna().any() else "ratio"


def removed_axis(panel: Axes, axis: str, removed: Iterable[float], *, narrow: bool = False) -> None:
    """Label an axis of what was removed, over the range of the data; shares are percentages. `narrow`: in two lines."""
    known = [value for value in removed if math.isfinite(value)]
    low, high = min([0.0, *known]), max([0.02, *known])
    panel.set_xlim(low - 0.03 * (high - low), high + 0.04 * (high - low))
    text = AXIS_LABELS[axis]
    panel.set_xlabel(text.replace(" parameters", "\nparameters") if narrow else text)
    if axis == "ratio_params":
        panel.xaxis.set_major_formatter(PercentFormatter(1, decimals=None))


def label(response: str) -> str:
    """Axis label of a response."""
    return LABELS.get(response) or f"{response.removeprefix('speedup').replace('_', ' ').strip()} speed-up over dense".strip()


@contextmanager
def paper() -> Iterator[None]:
    """Matplotlib settings of every figure, restored afterwards."""
    with matplotlib.rc_context():
        for group, values in _SETTINGS.items():
            matplotlib.rc(group, **values)
        yield


def figure(width: str | float = "icml-wide", height: float = 2.5) -> Figure:
    """An empty figure of print size. Draw inside `paper()`."""
    return Figure(figsize=(WIDTHS[width] if isinstance(width, str) else width, height))


def grid(
    count: int, columns: int = 0, *, width: str | float = "icml-wide", head: float = 0.0, each: float = 2.2, **options: Any
) -> tuple[Figure, list[Axes]]:
    """A figure with `count` panels, `columns` beside each other (0: all), and the panels in reading order.

    Its height is `head` + `each` × rows, in inches; `options` are those of `Figure.subplots`.
    """
    columns = min(columns or count, count)
    rows = math.ceil(count / columns)
    made = figure(width, head + each * rows)
    panels = made.subplots(rows, columns, squeeze=False, **options)
    for panel in panels.flat[count:]:
        panel.set_visible(False)
    return made, list(panels.flat[:count])


def plain_log(ticks: Locator | tuple[float, ...], *axes: Axis) -> None:
    """Ticks of logarithmic axes as plain numbers: where a locator puts them, or at these multiples of powers of ten."""
    for axis in axes:
        axis.set_major_locator(ticks if isinstance(ticks, Locator) else LogLocator(subs=ticks))
        axis.set_major_formatter("{x:g}")
        axis.set_minor_formatter(NullFormatter())


def handle(name: str, **look: Any) -> Line2D:
    """Legend entry of a line or marker."""
    return Line2D([], [], label=name, **look)


def method_handles(methods: Iterable[str], **changes: Any) -> list[Artist]:
    """Legend entries of methods in the look of print, by name; `ls=""` where points are not joined."""
    return [handle(name, ms=4, **style_of(name) | changes) for name in sorted(set(methods))]


@dataclass(frozen=True)
class Drawing:
    """A figure and the numbers it shows; displays itself in a notebook."""

    name: str
    figure: Figure
    numbers: pd.DataFrame

    def save(self, folder: str | Path) -> list[Path]:
        """Paths of pdf, png, svg and csv, written; equal drawings give equal bytes. InputError over files of others."""
        folder = Path(folder)
        paths = [folder / f"{self.name}.{kind}" for kind in (*_UNDATED, "csv")]
        with paper():
            for path, metadata in zip(paths, _UNDATED.values(), strict=False):
                with files.own_file(path) as scratch:
                    self.figure.savefig(scratch, metadata=metadata)
        files.write_own(paths[-1], table_text(self.numbers))
        return paths

    def _repr_png_(self) -> bytes:
        with paper(), io.BytesIO() as out:
            self.figure.savefig(out, format="png", dpi=150, metadata=_UNDATED["png"])
            return out.getvalue()
