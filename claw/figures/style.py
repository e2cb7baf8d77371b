"""One style for every figure: print sizes, one colour per method, one marker per family, files that do not change on rerun.

Notable choices:
- Colour says the method and line style says whether it was compensated; marker says the family. Nothing by colour alone.
- Fonts are embedded as Type 42; no dates and a fixed salt, so equal numbers give equal bytes.
- A figure carries the numbers it draws, and saves them as CSV beside pdf, png and svg.
"""

import io
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import matplotlib
import pandas as pd
import seaborn
from matplotlib.figure import Figure

WIDTHS = {"icml": 3.25, "icml-wide": 6.75, "neurips": 5.5, "iclr": 5.5}
"""Inches of a column, or of the page."""

_BLUE, _ORANGE, _GREEN, _RED, _PURPLE, _BROWN, _PINK, _GREY, _YELLOW, _SKY = seaborn.color_palette("colorblind").as_hex()
BLACK = "#222222"

COLOURS = {
    "dense": BLACK, "random": _GREY, "magnitude": _BROWN, "ppm": _PINK, "prunenet": _RED, "prunenet-stochastic": "#e69070", "wanda-sp": _SKY, "flap": _ORANGE,
    "taylor": "#b3a100", "minitron": _PURPLE, "slicegpt": _GREEN, "slicegpt-perlayer": "#7fc7ae", "shortgpt": "#8c6bb1",
    "blocks": "#c2a5cf", "claw": _BLUE,
}  # fmt: skip
"""Colour of a method; "+ridge" keeps the colour of the method it compensates and is drawn with another line."""

MARKERS = {"llama": "o", "qwen2": "s", "qwen3": "D", "gemma3": "^", "mistral": "v", "unknown": "P"}
"""Marker of a family: the architecture's name in small letters."""

SYMBOLS = {
    "dense": "o", "random": "X", "magnitude": "P", "ppm": "*", "prunenet": "v", "prunenet-stochastic": "1", "wanda-sp": "s", "flap": "D", "taylor": ">",
    "minitron": "<", "slicegpt": "^", "slicegpt-perlayer": "d", "shortgpt": "p", "blocks": "h", "claw": "o",
}  # fmt: skip
"""Marker of a method, where a panel shows one model: drawn open when compensated."""

DASHES = {
    "random": (0, (1, 1.2)), "magnitude": (0, (4, 1.5)), "ppm": (0, (2, 1)), "prunenet": (0, (6, 1.2, 1, 1.2)),
    "prunenet-stochastic": (0, (2, 1, 5, 1)), "wanda-sp": (0, (3, 1, 1, 1, 1, 1)), "flap": (0, (8, 1.5)), "taylor": (0, (5, 1, 2, 1)), "minitron": (0, (2, 2)),
    "slicegpt": (0, (10, 1, 1, 1)), "shortgpt": (0, (1, 2)), "blocks": (0, (3, 3)),
}  # fmt: skip
"""Dashes of a method in print, so that curves differ in grey too; solid for ours and for unknown ones."""

SPARE = ("X", "p", "h", "8", "<", ">", "*", "d")
SOLID, COMPENSATED, EXTRAPOLATED = "-", (0, (6, 1, 1, 1)), (0, (2, 2))

_RC = {
    "figure.dpi": 150, "savefig.dpi": 300, "font.size": 8, "axes.titlesize": 8, "axes.labelsize": 8, "xtick.labelsize": 7,
    "ytick.labelsize": 7, "legend.fontsize": 7, "legend.frameon": False, "axes.spines.top": False, "axes.spines.right": False,
    "axes.linewidth": 0.6, "lines.linewidth": 1.1, "lines.markersize": 3.5, "pdf.fonttype": 42, "ps.fonttype": 42,
    "svg.hashsalt": "claw", "svg.fonttype": "none", "font.family": "DejaVu Sans", "axes.grid": True, "grid.linewidth": 0.3,
    "grid.color": "#dddddd", "axes.axisbelow": True, "figure.constrained_layout.use": True,
}  # fmt: skip


def base(method: str) -> str:
    """Method without what is added to it: magnitude+ridge is drawn in the colour of magnitude."""
    return method.split("+", 1)[0]


def colour(method: str) -> str:
    """Colour of a method; an unknown one gets a steady colour of the palette from its name."""
    palette = (_BLUE, _ORANGE, _GREEN, _RED, _PURPLE, _BROWN, _PINK, _YELLOW, _SKY)
    return COLOURS.get(base(method)) or palette[zlib.crc32(base(method).encode()) % len(palette)]


def line(method: str) -> object:
    """Line style of a method: solid, or dash-dot when compensated."""
    return COMPENSATED if "+" in method else SOLID


def marker(family: str) -> str:
    """Marker of a family; an unknown one gets a steady spare from its name."""
    return MARKERS.get(family.lower()) or SPARE[zlib.crc32(family.encode()) % len(SPARE)]


def symbol(method: str) -> str:
    """Marker of a method in print; an unknown one gets a steady spare from its name."""
    return SYMBOLS.get(base(method)) or SPARE[zlib.crc32(base(method).encode()) % len(SPARE)]


def style_of(method: str) -> dict[str, object]:
    """Colour, marker, face and dashes of a method in print, for `plot` and `errorbar`: no two methods by colour alone."""
    ink = colour(method)
    face = "white" if "+" in method else ink
    return {"color": ink, "marker": symbol(method), "mfc": face, "mec": ink, "ls": DASHES.get(base(method), SOLID), "mew": 0.8}


@contextmanager
def paper() -> Iterator[None]:
    """Matplotlib settings of every figure, restored afterwards."""
    with matplotlib.rc_context(_RC):
        yield


def figure(width: str | float = "icml-wide", height: float = 2.5) -> Figure:
    """An empty figure of print size. Draw inside `paper()`."""
    return Figure(figsize=(WIDTHS[width] if isinstance(width, str) else width, height))


@dataclass(frozen=True)
class Drawing:
    """A figure and the numbers it shows; displays itself in a notebook."""

    name: str
    figure: Figure
    numbers: pd.DataFrame

    def save(self, folder: str | Path) -> list[Path]:
        """Paths of pdf, png, svg and csv, written; equal drawings give equal bytes."""
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        silent = {
            "pdf": {"CreationDate": None, "Producer": None, "Creator": None},
            "png": {"Software": None},
            "svg": {"Date": None},
        }
        paths = []
        with paper():
            for kind, metadata in silent.items():
                path = folder / f"{self.name}.{kind}"
                self.figure.savefig(path, metadata=metadata)
                paths.append(path)
        path = folder / f"{self.name}.csv"
        path.write_text(self.numbers.to_csv(index=False, lineterminator="\n"), encoding="utf-8")
        return [*paths, path]

    def _repr_png_(self) -> bytes:
        with paper(), io.BytesIO() as out:
            self.figure.savefig(out, format="png", dpi=150, metadata={"Software": None})
            return out.getvalue()
