"""Numbers, quantities and tables in words: for a terminal, a notebook or a page."""

import math

import pandas as pd


def number(value: float, digits: int = 3) -> str:
    """A number for reading; infinite and missing ones in words."""
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return "–"
    return "∞" if value == math.inf else "-∞" if value == -math.inf else f"{value:.{digits}f}"


def with_interval(value: float, interval, digits: int = 3) -> str:
    """1.234 [1.111, 1.357]."""
    low, high = interval
    if math.isnan(low) or math.isnan(high):
        return number(value, digits)
    return f"{number(value, digits)} [{number(low, digits)}, {number(high, digits)}]"


def tokens_text(tokens: float) -> str:
    """1000000 as 1M tokens."""
    for size, unit in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if tokens >= size:
            return f"{tokens / size:.3g}{unit} tokens"
    return f"{tokens:g} tokens"


def quantity(value: float) -> str:
    """1.5e9 as 1.5 G."""
    for size, letter in ((1e9, " G"), (1e6, " M"), (1e3, " k")):
        if value >= size:
            return f"{value / size:.3g}{letter}"
    return f"{value:.3g}"


def markdown(frame: pd.DataFrame) -> str:
    """A frame as a Markdown table; bars in names are escaped."""
    cells = frame.astype(object).where(frame.notna(), "–").astype(str)
    rows = [[cell.replace("|", "\\|") for cell in row] for row in [list(map(str, frame.columns)), *cells.to_numpy()]]
    return "\n".join(f"| {' | '.join(row)} |" for row in [rows[0], ["---"] * frame.shape[1], *rows[1:]])
