"""Numbers, quantities and tables in words: for a terminal, a notebook or a page."""

import html
import math
import re
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pandas as pd


SURROGATE = re.compile("[\ud800-\udfff]")
"""Half of a pair of UTF-16, which is no character: no file in UTF-8 can hold it."""


def number(value: float | None, digits: int = 3) -> str:
    """A number for reading; a dash for a missing one, ∞ for an infinite one."""
    if value is None or math.isnan(value):
        return "–"
    return "∞" if value == math.inf else "-∞" if value == -math.inf else f"{value:.{digits}f}"


def setting_text(value: object) -> str:
    """A setting as text: 65536 for 65536.0, which is what a table with empty cells makes of it."""
    return f"{value:.0f}" if isinstance(value, float) and value.is_integer() else str(value)


def with_interval(value: float, interval: Sequence[float], digits: int = 3) -> str:
    """1.234 [1.111, 1.357]."""
    low, high = interval
    if math.isnan(low) or math.isnan(high):
        return number(value, digits)
    return f"{number(value, digits)} [{number(low, digits)}, {number(high, digits)}]"


def _scaled(value: float) -> tuple[float, str]:
    """1.5e9 as 1.5 and G, 999,936 as 1 and M: rounded to three digits first, which can take it to the next unit."""
    value = float(f"{value:.3g}") if math.isfinite(value) else value
    return next(((value / size, unit) for size, unit in ((1e9, "G"), (1e6, "M"), (1e3, "k")) if value >= size), (value, ""))


def training_text(tokens: float, recipe: str) -> str:
    """1M tokens of lora; of recovery where no recipe is named."""
    return f"{tokens_text(tokens)} of {'recovery' if recipe in ('', 'none') else recipe}"


def tokens_text(tokens: float) -> str:
    """1000000 as 1M tokens."""
    value, unit = _scaled(tokens)
    return f"{value:.3g}{unit} tokens" if unit else f"{tokens:g} tokens"


def quantity(value: float) -> str:
    """1.5e9 as 1.5 G."""
    scaled, unit = _scaled(value)
    return f"{scaled:.3g} {unit}".rstrip()


_MARKUP = str.maketrans({sign: f"&#{ord(sign)};" for sign in "&<>|`*$[]\\~"} | dict.fromkeys("\n\r\t\v\f\x85\u2028\u2029", " "))
"""What a name may hold that Markdown would take for more than text, as HTML writes it; line breaks become spaces."""


def markdown_text(name: str) -> str:
    """A name so that Markdown shows it as it is, in a sentence, a heading or a cell."""
    return name.translate(_MARKUP)


def code_span(text: str) -> str:
    """A text as code in Markdown, whatever it holds."""
    line = " ".join(text.split())
    fence = "`" * (max(map(len, re.findall("`+", line)), default=0) + 1)
    return f"{fence}{line}{fence}" if len(fence) == 1 else f"{fence} {line} {fence}"


def markdown(frame: "pd.DataFrame") -> str:
    """A frame as a Markdown table; bars are escaped, line breaks become spaces."""
    cells = frame.astype(object).where(frame.notna(), "–").astype(str)
    rows = [
        [" ".join(cell.splitlines()).replace("|", "\\|") for cell in row]
        for row in [list(map(str, frame.columns)), *cells.to_numpy()]
    ]
    return "\n".join(f"| {' | '.join(row)} |" for row in [rows[0], ["---"] * frame.shape[1], *rows[1:]])


def plural(count: int, noun: str, several: str = "") -> str:
    """1 model, 2 models; `several` where the plural is irregular."""
    return f"{count:,} {noun if count == 1 else several or noun + 's'}"


def in_words(names: Sequence[str]) -> str:
    """a, b and c."""
    *others, last = names or [""]
    return f"{', '.join(others)} and {last}" if others else last


class Html(str):
    """Text that is HTML already: `html_table` does not escape it, and a notebook shows it."""

    def _repr_html_(self) -> str:
        return self


def html_table(rows: Iterable[Sequence[object]], head: Sequence[object] = ()) -> Html:
    """A small HTML table for a notebook. Cells are escaped unless they are `Html`; the first cell of each row is its name."""
    text = lambda cell: cell if isinstance(cell, Html) else html.escape(str(cell))
    lines = [f"<tr>{''.join(f'<th>{text(cell)}</th>' for cell in head)}</tr>"] if head else []
    for name, *cells in rows:
        lines.append(f"<tr><th>{text(name)}</th>{''.join(f'<td>{text(cell)}</td>' for cell in cells)}</tr>")
    return Html(f"<table>{''.join(lines)}</table>")
