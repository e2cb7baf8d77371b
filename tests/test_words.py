"""Numbers and tables in words: what stands in a cell is shown as it is, and nothing in it is taken for markup."""

import math
from html.parser import HTMLParser

import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from claw import words


class Cells(HTMLParser):
    """The text of each cell of a table, and every tag in it."""

    def __init__(self, page):
        super().__init__()
        self.texts, self.tags = [], set()
        self.feed(page)
        self.close()

    def handle_starttag(self, tag, attrs):
        self.tags.add(tag)
        if tag in ("th", "td"):
            self.texts.append("")

    def handle_data(self, data):
        self.texts[-1] += data


texts = st.text(st.characters(exclude_categories=["Cs", "Cc"]), max_size=20)


@given(st.lists(st.lists(texts, min_size=1, max_size=3), min_size=1, max_size=4), st.lists(texts, max_size=3))
def test_a_tables_cells_are_escaped_and_come_back_as_they_were(rows, head):
    cells = Cells(words.html_table(rows, head))
    assert cells.texts == [*head, *(cell for row in rows for cell in row)]
    assert cells.tags <= {"table", "tr", "th", "td"}


def test_html_in_a_cell_stays_html_and_a_table_fits_into_a_table():
    table = words.html_table([("a<b", words.Html("<b>bold</b>"), 3)], ["name", "what", "n & more"])
    assert table == (
        "<table><tr><th>name</th><th>what</th><th>n &amp; more</th></tr>"
        "<tr><th>a&lt;b</th><td><b>bold</b></td><td>3</td></tr></table>"
    )
    assert f"<td>{table}</td>" in words.html_table([("outer", table)])


@pytest.mark.parametrize(
    "value, shown",
    [(1.23456, "1.235"), (None, "–"), (math.nan, "–"), (math.inf, "∞"), (-math.inf, "-∞"), (0, "0.000"), (-0.5, "-0.500")],
)
def test_numbers_and_what_is_none(value, shown):
    assert words.number(value) == shown


def test_an_interval_is_left_out_where_there_is_none():
    assert words.with_interval(1.2345, (1.1, math.inf), 2) == "1.23 [1.10, ∞]"
    assert words.with_interval(1.2345, (math.nan, 1.3), 2) == "1.23"


@pytest.mark.parametrize(
    "value, short, tokens",
    [
        (0, "0", "0 tokens"),
        (999, "999", "999 tokens"),
        (1000, "1 k", "1k tokens"),
        (999_936, "1 M", "1M tokens"),
        (1_500_000, "1.5 M", "1.5M tokens"),
        (2.5e10, "25 G", "25G tokens"),
    ],
)
def test_quantities_have_their_unit(value, short, tokens):
    assert words.quantity(value) == short and words.tokens_text(value) == tokens


def test_one_of_a_kind_is_no_plural():
    assert [words.plural(n, "model") for n in (0, 1, 2000)] == ["0 models", "1 model", "2,000 models"]
    assert words.plural(2, "query", "queries") == "2 queries"


def test_a_markdown_table_escapes_bars_and_shows_what_is_missing():
    frame = pd.DataFrame({"a|b": ["x|y", None], "n": [1.5, math.nan]})
    assert words.markdown(frame) == "| a\\|b | n |\n| --- | --- |\n| x\\|y | 1.5 |\n| – | – |"


def test_names_are_listed_as_one_says_them():
    assert [words.in_words(names) for names in ([], ["a"], ["a", "b"], ["a", "b", "c"])] == ["", "a", "a and b", "a, b and c"]
