"""Names are text everywhere: in tables, pages, sliders and figures, whatever they hold; and pages of others stay."""

import json
import re
import subprocess
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from claw import csv_tables, figures, laws, records, words
from claw.advice import findings, latex
from claw.cli import main
from claw.errors import InputError
from claw.figures.style import Drawing, figure, paper
from claw.show import report

HOSTILE = ["nan", "None", "none", "null", "NA", "007", "1e5", "True", "inf"]
HOSTILE += ["=cmd|' /C calc'!A0", "+1", "-x", "@sum", "'=quoted", "\t=x", "a,b;c\"d'e"]
HOSTILE += ["<script>alert(1)</script>", "</script><b>", "<!--<script>", "a|b", "`code`", r"$\frac{$", "$x$", "&amp;"]
HOSTILE += ["a\nb", "a\r\nb", "a\rb", "x" * 300, "[link](javascript:x)", "*bold*", "\\", "%s {0}", "ü\u2028ü"]
text = st.sampled_from(HOSTILE) | st.text(st.characters(exclude_categories=["Cs", "Cc"]), min_size=1, max_size=12)
QUICK = settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck))


def table_of(models: tuple[str, str], method: str) -> pd.DataFrame:
    r = np.array([0, 0.1, 0.3, 0.5, 0.7])
    parts = [
        pd.DataFrame({"model": name, "method": method, "ratio": r, "loss": 3 + slope * r**2 + 0.01 * np.cos(20 * r)})
        for name, slope in zip(models, (2, 3), strict=True)
    ]
    table = pd.concat(parts, ignore_index=True)
    return table.assign(family="llama", parameters0=1e6, ratio_params=0.6 * table["ratio"], recovery_tokens=0)


@QUICK
@given(names=st.lists(text, min_size=1, max_size=6), numbers=st.lists(st.floats(width=32), min_size=6, max_size=6))
def test_a_table_is_read_back_as_it_was_written(names, numbers, tmp_path_factory):
    path = tmp_path_factory.mktemp("csv") / "t.csv"
    frame = pd.DataFrame({"model": names, "method": names[::-1], "loss": numbers[: len(names)], "ratio": 0.5})
    records.save_csv(frame, path)
    again = records.table(path)
    assert again["model"].tolist() == names and again["method"].tolist() == names[::-1]
    assert again["loss"].dtype.kind == "f" and np.array_equal(again["loss"], frame["loss"], equal_nan=True)
    records.save_csv(again, path)  # claw's own file, which claw may write again
    assert csv_tables.table_text(again) == csv_tables.table_text(frame) == path.read_bytes().decode()
    cells = pd.read_csv(path, dtype=str, keep_default_na=False)[["model", "method"]].to_numpy().flatten()
    assert not any(re.match(r"[=+\-@\t\r]", cell) for cell in cells)


def test_an_empty_cell_is_missing_and_ids_of_digits_stay_text(tmp_path):
    (tmp_path / "t.csv").write_text("experiment,model,loss,limit\n0012e4,,nan,5\n123,NA,,\n")
    table = csv_tables.read_table(tmp_path / "t.csv")
    assert table["experiment"].tolist() == ["0012e4", "123"] and table["loss"].isna().all()
    assert table["model"].isna().tolist() == [True, False] and table["limit"].tolist()[0] == 5


class Tags(HTMLParser):
    """Every tag and the text of the slider's data."""

    def __init__(self, page):
        super().__init__()
        self.tags, self.data, self.inside = [], "", False
        self.feed(page)
        self.close()

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.inside = ("class", "data") in attrs

    def handle_data(self, data):
        self.data += data if self.inside else ""

    def handle_endtag(self, tag):
        self.inside = False


@settings(max_examples=5, deadline=None, suppress_health_check=list(HealthCheck))
@given(models=st.lists(text, min_size=2, max_size=2, unique=True), method=text.filter(lambda name: name != "dense"))
def test_the_slider_and_the_report_hold_names_as_text(models, method, tmp_path_factory):
    fitted = laws.fit(table_of(tuple(models), method), draws=100, compare=False)
    plain = laws.fit(table_of(("one", "two"), "cut"), draws=100, compare=False)
    page, usual = (Tags(report.slider(each)) for each in (fitted, plain))
    assert page.tags == usual.tags and "<" not in page.data
    assert {law["model"] for law in json.loads(page.data)} == set(models)
    path = report.write_report(tmp_path_factory.mktemp("page") / "r.html", models[0], fitted, table_of(tuple(models), method))
    assert Tags(path.read_text()).tags.count("script") == 7  # one in the head, and data and a script of each of three parts


@settings(max_examples=1, deadline=None, suppress_health_check=list(HealthCheck))
@given(names=st.lists(text, min_size=3, max_size=3))
def test_figures_show_any_name(names, tmp_path_factory):
    with paper():
        drawn = figure(3.0, 2.0)
        panel = drawn.subplots()
        for name in (*HOSTILE, *names):
            panel.plot([0, 1], [0, 1], label=name)
            panel.text(0.5, 0.5, name)
        panel.set(title=names[0], xlabel=names[1], ylabel=names[2])
        panel.legend(loc="upper left")
    drawing = Drawing("one", drawn, pd.DataFrame({"model": names}))
    paths = drawing.save(tmp_path_factory.mktemp("figure"))
    assert r"$\frac{$" in paths[2].read_text() and "<script>" not in paths[2].read_text()
    assert csv_tables.read_table(paths[-1])["model"].tolist() == names


def test_figures_of_a_table_show_any_name(tmp_path):
    table = table_of((r"$\frac{$", "a\nb"), "<script>").assign(loss_stderr=0.1, loss0=3.0)
    assert all(path.is_file() for path in figures.loss_curve(table[table["model"] != "a\nb"]).save(tmp_path))


def rendered(page: str) -> str:
    """Markdown without code spans: what may hold markup."""
    return re.sub(r"(?<!`)(`+)(?!`).+?(?<!`)\1(?!`)", "", page)


@pytest.mark.parametrize("hostile", ["<script>|`x", "a\nb\n# c|$\\frac{$"])
def test_findings_show_names_as_text(hostile, tmp_path):
    names = (hostile, f"{hostile} 2")
    table_of(names, f"{hostile}+ridge").to_csv(tmp_path / "mine.csv", index=False)
    written = findings.write_findings(tmp_path / "mine.csv")
    assert {law.curve.model for law in laws.from_json(written[0]).curves} == set(names)  # data keeps the names
    for path in written[1:]:
        page = rendered(path.read_text())
        assert "<script" not in page and "\n# c" not in page and "\\frac" not in page
        for block in re.findall(r"(?:^\|.*\n)+", page, re.M):
            assert len({len(re.findall(r"(?<!\\)\|", line)) for line in block.splitlines()}) == 1, block


@given(st.text(), st.text())
def test_a_name_in_markdown_holds_no_markup(name, other):
    for shown in (words.markdown_text(name), words.markdown(pd.DataFrame({"a": [words.markdown_text(name)], "b": [1]}))):
        assert not re.search(r"[<>`*$\[\]~]", shown)
    assert len(words.markdown(pd.DataFrame({name + "1": [name], other + "2": [other]})).splitlines()) == 3
    code = words.code_span(name)
    assert len(code.splitlines()) == 1 and code[0] == code[-1] == "`"


def test_latex_tables_are_saved_over_none_of_others(tmp_path):
    fitted = laws.fit(table_of(("=m", "-n"), "cut"), draws=100, compare=False)
    mine = tmp_path / "paper_table_loss.tex"
    mine.write_text("my own words")
    with pytest.raises(InputError, match=r"paper_table_loss\.tex is there and was not written by claw"):
        latex.write_tables(fitted, tmp_path)
    mine.unlink()
    first = latex.write_tables(fitted, tmp_path)
    assert latex.write_tables(fitted, tmp_path) == first
    assert csv_tables.read_table(first[1])["model"].tolist() == ["-n", "=m"]


def test_findings_and_tables_are_written_over_nothing_of_others(tmp_path, capsys, monkeypatch):
    table_of(("one", "two"), "cut").to_csv(tmp_path / "mine.csv", index=False)
    (tmp_path / "README.md").write_text("my project")
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "README.md").write_text("mine, too")
    monkeypatch.setattr("claw.laws.fitting.fit_or_read", lambda *a, **k: pytest.fail("fitted"))
    assert main(["findings", str(tmp_path / "mine.csv"), "--out", str(tmp_path / "out")]) == 2
    said = capsys.readouterr().err
    assert "README.md is there and was not written by claw" in said and said.count("\n") == 1
    monkeypatch.undo()
    assert main(["findings", str(tmp_path / "mine.csv")]) == 0
    assert (tmp_path / "README.md").read_text() == "my project" and (tmp_path / "out" / "README.md").read_text() == "mine, too"
    assert sorted(p.name for p in (tmp_path / "mine-findings").glob("[!.]*")) == ["README.md", "findings.md", "laws.json"]
    page = tmp_path / "mine-findings" / "findings.md"
    page.write_text(page.read_text() + "\nmy remark\n")
    with pytest.raises(InputError, match="was changed since claw wrote it"):
        findings.write_findings(tmp_path / "mine.csv")


def test_a_committed_page_of_the_project_may_be_written_again():
    """Stamps of results/ and figures/ are those of the files; where not: delete the files named and make them again."""
    root = Path(__file__).parents[2]
    tracked = subprocess.run(["git", "ls-files", "results", "figures"], cwd=root, capture_output=True, text=True).stdout.split()
    if not tracked:
        pytest.skip("no repository")
    from claw import files

    own = [
        root / name for name in tracked if name.endswith(("findings.md", "laws.json", "results/README.md")) or "/paper_" in name
    ]
    assert not [path for path in own if files.STAMPS not in path.parts and not files.is_own(path)]
