"""The start page: what results there are, and what to run where there are none."""

import pandas as pd
import pytest

from claw import project
from claw.errors import InputError
from claw.laws import simulate
from claw.laws.simulate import Design
from claw.show import start
from claw.specs import notebooks


@pytest.fixture
def place(tmp_path, monkeypatch):
    for name in ("notebooks", "params", "runs"):
        (tmp_path / name).mkdir()
    monkeypatch.chdir(tmp_path)
    return tmp_path


def run(place, name, **changes):
    folder = place / "runs" / name
    folder.mkdir()
    simulate.simulated_table(Design(models=1, methods=("a", "b")), simulate.TRUTHS).assign(**changes).to_csv(
        folder / "table.csv", index=False
    )
    return folder


def test_without_results_it_says_what_to_run(place):
    seen = start.find_results()
    assert not seen.entries
    assert "make demo" in seen._repr_html_() and "href='00_tour.ipynb'" in seen._repr_html_() and "make demo" in str(seen)


def test_a_run_is_listed_with_what_was_measured_and_links(place):
    folder = run(place, "study", speedup_decode=1.5)
    (folder / "report.html").touch()
    (entry,) = start.find_results().entries
    assert (entry.models, entry.methods) == (("model-0",), ("a", "b"))
    assert {"loss", "speed"} <= set(entry.measured)
    shown = start.find_results()._repr_html_()
    assert '"../runs/study/table.csv"' in shown and '"../runs/study/report.html"' in shown
    assert project.tables() == ["runs/study/table.csv"]


def test_records_without_a_table_are_counted(place):
    records = place / "runs" / "explore" / "records"
    records.mkdir(parents=True)
    for name in ("1.compress.json", "1.loss-0.json", "2.compress.json"):
        (records / name).touch()
    (entry,) = start.find_results().entries
    assert entry.experiments == 2 and entry.measured == ("2 compress", "1 loss")


def test_files_that_are_no_tidy_table_are_left_out(place):
    pd.DataFrame({"x": [1]}).to_csv(place / "runs" / "other.csv")
    (place / "runs" / "broken.csv").write_text('"')
    assert not start.find_results().entries


def test_names_are_escaped(place):
    run(place, "study", model="<script>")
    assert "<script>" not in start.find_results()._repr_html_()


def test_the_newest_table_is_explored_and_a_missing_one_names_those_that_are_there(place):
    with pytest.raises(InputError, match="make demo"):
        _ = notebooks.ExplorerParameters().source
    folder = run(place, "study")
    assert notebooks.ExplorerParameters().source == folder / "table.csv"
    with pytest.raises(InputError, match=r"make demo.*runs/study/table\.csv"):
        _ = notebooks.LawsParameters(table="runs/nothing.csv").source
