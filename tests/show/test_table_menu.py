"""The menu of tables: the newest run is open, the reference study beside it, and a choice is kept."""

import os
import shutil

import pytest

from claw.laws import simulate
from claw.laws.simulate import Design
from claw.show import explorer
from claw.show.table_menu import AGAIN, table_menu
from claw.specs.notebooks import ExplorerParameters, LawsParameters


def made(path, model):
    path.parent.mkdir(parents=True, exist_ok=True)
    table = simulate.simulated_table(Design(models=1, methods=("a",), ratios=(0.1, 0.3, 0.5, 0.7)), simulate.TRUTHS)
    table.assign(model=model).to_csv(path, index=False)


@pytest.fixture
def place(tmp_path, monkeypatch):
    """A project with a reference study, two runs and the measurements of many papers."""
    for name in ("notebooks", "params"):
        (tmp_path / name).mkdir()
    made(tmp_path / "results" / "reference.csv", "reference-model")
    (tmp_path / "results" / "published.csv").write_text("paper,model,method,ratio\n")
    for age, name in enumerate(("new", "old")):
        made(tmp_path / "runs" / name / "table.csv", f"{name}-model")
        os.utime(tmp_path / "runs" / name / "table.csv", (2e9 - age, 2e9 - age))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_the_newest_run_is_open_and_the_others_are_beside_it(place):
    menu = table_menu(LawsParameters())
    words = [text for text, _ in menu.choice.options]
    assert words == ["runs/new · the newest run", "runs/old", "results/reference.csv · the reference study"]
    assert menu.source == place / "runs" / "new" / "table.csv"
    assert set(menu.read().table["model"]) == {"new-model"}


def test_a_choice_is_kept_when_the_notebook_runs_again_and_says_what_to_run(place):
    menu = table_menu(LawsParameters())
    menu.choice.index = 2
    assert menu.hint.value == AGAIN
    again = table_menu(LawsParameters(draws=100))
    assert again is menu and set(again.read().table["model"]) == {"reference-model"} and not again.hint.value
    made(place / "runs" / "newer" / "table.csv", "newer-model")
    os.utime(place / "runs" / "newer" / "table.csv", (3e9, 3e9))
    assert table_menu(LawsParameters()).source.parent.name == "newer"  # a run that has ended since is another question


@pytest.mark.parametrize("named", ["runs/old", "runs/old/table.csv", "mine.csv"])
def test_a_table_that_is_named_is_open_and_what_is_said_of_it_is_said_of_no_other(place, named):
    if named == "mine.csv":
        shutil.copy(place / "runs" / "old" / "table.csv", place / named)
    menu = table_menu(LawsParameters(table=named, reading={"columns": {"loss": "loss"}}))
    assert menu.source.resolve() == (place / named / ("table.csv" if named == "runs/old" else "")).resolve()
    assert len(menu.choice.options) == 3 + (named == "mine.csv")
    menu.read()
    menu.choice.index = len(menu.choice.options) - 1
    assert set(menu.read().table["model"]) == {"reference-model"}


def test_the_explorers_page_follows_its_menu(place):
    choice, page = explorer.explorer_page(ExplorerParameters()).children
    assert "new-model" in page.children[1].value
    choice.index = 2
    assert "reference-model" in page.children[1].value and "new-model" not in page.children[1].value
