"""Two models on one screen of text, and the same as HTML for a notebook."""

import textwrap
from collections.abc import Iterable, Sequence

from claw.one_model.side_by_side import Pair, comparison_rows
from claw.words import Html, html_table

WIDTH = 96
HEAD = ("", "before", "after", "change")


def aligned(lines: Sequence[Sequence[str]]) -> str:
    """Rows of cells in columns, the first to the left and the others to the right."""
    sizes = [max(len(line[place]) for line in lines) for place in range(len(lines[0]))]
    padded = [[line[0].ljust(sizes[0]), *map(str.rjust, line[1:], sizes[1:])] for line in lines]
    return "\n".join("  ".join(line).rstrip() for line in padded)


def in_two_columns(left: str, right: str, heads: tuple[str, str] = ("before", "after")) -> str:
    """Two texts in columns."""
    half = (WIDTH - 3) // 2
    columns = [[head, "-" * len(head), *_wrapped(text, half)] for head, text in zip(heads, (left, right), strict=True)]
    longest = max(map(len, columns))
    padded = [column + [""] * (longest - len(column)) for column in columns]
    return "\n".join(f"{one.ljust(half)} | {two}".rstrip() for one, two in zip(*padded, strict=True))


def _wrapped(text: str, width: int) -> list[str]:
    lines = [textwrap.wrap(line, width, break_on_hyphens=False) or [""] for line in text.splitlines()]
    return [part for line in lines for part in line]


def screen(title: str, pair: Pair, after: Iterable[str] = ()) -> str:
    """All of a comparison: title, table, both texts, and the lines that come `after`."""
    names = (pair.before.name, pair.after.name)
    named = [f"before: {names[0]}", f"after:  {names[1]}", ""] if title == "" else [title, ""]
    about = pair.before.loss
    measured = f"Loss on {about.tokens:,} tokens of {about.corpus}; speed of one text at a time, its change by turns."
    texts = f'What each writes after "{pair.prompt}", always the likeliest token:'
    body = [
        *named,
        aligned([HEAD, *comparison_rows(pair)]),
        measured,
        "",
        texts,
        "",
        in_two_columns(pair.before.text, pair.after.text),
    ]
    return "\n".join([*body, *(["", *after] if (after := list(after)) else [])])


def as_html(title: str, pair: Pair, after: Iterable[str] = ()) -> Html:
    """The same for a notebook."""
    texts = html_table([("", pair.before.text, pair.after.text)], ("", "before", "after"))
    lines = "".join(f"<p>{Html(line)}</p>" for line in html_lines(after))
    return Html(f"{html_table([(title, '')]) if title else ''}{html_table(comparison_rows(pair), HEAD)}{texts}{lines}")


def html_lines(lines: Iterable[str]) -> list[str]:
    """Lines of text, escaped."""
    import html

    return [html.escape(line) for line in lines]
