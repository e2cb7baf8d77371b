"""Figures and tables of a paper: all drawn from one table, legible in grey, embedded fonts, equal bytes, kind when data lack."""

import re
from pathlib import Path

import nbformat
import numpy as np
import pandas as pd
import papermill
import pytest
from matplotlib.collections import PolyCollection
from synthetic import METHODS, study_table

from claw import laws, records
from claw.advice import latex
from claw.errors import InputError
from claw.figures import paper_costs, paper_curves, paper_laws, style
from claw.laws import simulate
from claw.laws.simulate import Design
from claw.specs import methods

NOTEBOOK = Path(__file__).parents[2] / "notebooks" / "70_paper_figures.ipynb"
SHOWN = ("random", "wanda-sp+ridge", "claw")
FIGURES = {
    "loss": paper_curves.loss, "accuracy": paper_curves.accuracy, "recovery": paper_curves.recovery,
    "left_out": paper_laws.left_out, "forms": paper_laws.forms, "speed": paper_costs.speed, "radar": paper_costs.radar,
    "pareto": paper_costs.loss_against_time,
}  # fmt: skip


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A table with its laws beside it, as a study leaves them."""
    path = tmp_path_factory.mktemp("study")
    study_table(methods=SHOWN).to_csv(path / "table.csv", index=False)
    laws.fit(records.table(path / "table.csv"), draws=100).to_json(path / "laws.json")
    return path


@pytest.fixture(scope="module")
def table(folder) -> pd.DataFrame:
    return records.table(folder / "table.csv")


@pytest.fixture(scope="module")
def fitted(folder) -> laws.Laws:
    return laws.from_json(folder / "laws.json")


@pytest.fixture(scope="module")
def bare() -> laws.Laws:
    """One model, loss alone."""
    return laws.fit(study_table(("model-s",), ("random", "claw"), False, False, False).drop(columns="ratio_params"), draws=100)


@pytest.mark.parametrize("name", FIGURES)
def test_every_figure_is_drawn_with_its_numbers_embeds_its_fonts_and_is_equal_byte_by_byte(fitted, name, tmp_path):
    drawing = FIGURES[name](fitted)
    assert drawing.name == f"paper_{name}" and len(drawing.numbers) > 3
    assert drawing.figure.get_size_inches()[0] <= max(style.WIDTHS.values()) + 1e-9
    first = [path.read_bytes() for path in drawing.save(tmp_path / "first")]
    assert first == [path.read_bytes() for path in FIGURES[name](fitted).save(tmp_path / "again")]
    assert b"/FontFile2" in first[0] and b"/Type3" not in first[0]


@pytest.mark.parametrize("name", ["accuracy", "recovery", "speed", "radar", "pareto"])
def test_a_figure_without_data_says_what_to_run(bare, name):
    with pytest.raises(InputError, match=r"claw run|`claw") as raised:
        FIGURES[name](bare)
    assert len(str(raised.value)) < 350


def test_loss_alone_of_one_model_still_draws_what_it_can(bare):
    assert len(paper_curves.loss(bare).figure.axes) == 1  # no true ratio in this table
    assert paper_laws.left_out(bare).numbers["fold"].eq("").all()


def test_loss_shows_every_point_on_both_axes(fitted, table):
    numbers = paper_curves.loss(fitted).numbers
    cut = table[(table["method"] != "dense") & (table["recovery_tokens"] == 0)]
    for axis in ("ratio", "ratio_params"):
        shown = numbers[(numbers["axis"] == axis) & (numbers["kind"] == "measured")]
        assert sorted(shown["mean"]) == pytest.approx(sorted(cut["loss"]))
        assert sorted(shown["ratio"]) == pytest.approx(sorted(cut[axis]))


def test_a_band_wider_than_all_measurements_is_left_to_the_numbers():
    rows = study_table(models=("model-s",), methods=SHOWN, recovery=False)
    rows = rows[(rows["method"] != "claw") | rows["ratio"].isin([0.1, 0.5, 0.9])]  # a parabola through four points
    rows.loc[(rows["method"] == "claw") & (rows["ratio"] == 0.5), "loss"] += 3.0
    drawn = paper_curves.loss(laws.fit(rows, draws=100, compare=False))
    assert {"claw", "random"} <= set(drawn.numbers.loc[drawn.numbers["kind"] == "law", "method"])
    for panel in drawn.figure.axes[:2]:
        assert len([one for one in panel.collections if isinstance(one, PolyCollection)]) == len(SHOWN) - 1


def test_many_models_go_below_each_other():
    design = Design(models=6, methods=("a", "b"), ratios=(0.1, 0.3, 0.5, 0.7), tokens=(0, 1e6))
    many = laws.fit(simulate.simulated_table(design, {"loss": simulate.TRUTHS["loss"]}), draws=100, compare=False)
    shown = [panel for panel in paper_curves.loss(many).figure.axes if panel.get_visible()]
    assert len(shown) == 12 and len({panel.get_title() for panel in shown} - {""}) == 6
    assert len([panel for panel in paper_curves.recovery(many).figure.axes if panel.get_visible()]) == 6


def test_predictions_never_saw_their_model(fitted):
    numbers = paper_laws.left_out(fitted).numbers
    assert (numbers["fold"] == numbers["model"]).all()
    assert numbers["form"].iloc[0] in ("original", "unit-α")
    errors = (numbers["predicted"] / numbers["loss"] - 1).abs().groupby(numbers["form"]).mean()
    assert errors.min() < errors.iloc[list(errors.index).index(numbers["form"].iloc[0])]


def test_no_two_methods_differ_by_colour_alone():
    looks = {}
    for name in {*methods.METHODS, *METHODS} - {"dense"}:
        look = style.style_of(name)
        looks.setdefault((look["marker"], str(look["ls"]), look["mfc"] == "white"), []).append(name)
    assert max(map(len, looks.values())) == 1, looks


def test_the_radar_keeps_to_tasks_that_the_dense_model_can_do(fitted, table):
    kept = paper_costs.radar(fitted, 0.3).numbers
    assert set(kept["ratio"]) == {0.3}
    dense = table[(table["method"] == "dense") & (table["model"] == "model-s")].iloc[0]
    row = kept[(kept["model"] == "model-s") & (kept["method"] == "claw") & (kept["task"] == "piqa")].iloc[0]
    cut = table[(table["model"] == "model-s") & (table["method"] == "claw") & (table["ratio"] == 0.3)]
    cut = cut[cut["recovery_tokens"] == 0].iloc[0]
    assert row["kept"] == pytest.approx((cut["piqa_acc_norm"] - 0.5) / (dense["piqa_acc_norm"] - 0.5))
    assert "mmlu" not in set(kept.loc[kept["model"] == "model-s", "task"])  # 0.30 ± 0.03 where guessing gives 0.25


def test_the_frontier_is_what_nothing_beats(fitted):
    numbers = paper_costs.loss_against_time(fitted).numbers
    assert set(numbers["value"]) <= set(
        np.append(fitted.points.rows["bits_per_byte"], fitted.points.rows["bits_per_byte0"])
    ) or (numbers["value"].between(0, 10).all())
    for _, one in numbers.iterrows():
        beaten = ((numbers["milliseconds"] < one["milliseconds"]) & (numbers["value"] <= one["value"])).any()
        assert one["frontier"] != beaten


def test_ideal_speed_is_one_over_what_is_left(fitted):
    numbers = paper_costs.speed(fitted).numbers
    ideal = numbers[numbers["kind"] == "ideal"]
    np.testing.assert_allclose(ideal["ideal"], 1 / (1 - ideal["share"]))
    assert set(numbers["phase"]) == {"prefill", "decoding"}


def test_tables_are_booktabs_that_pdflatex_can_read(fitted, tmp_path):
    paths = latex.write_tables(fitted, tmp_path)
    written = [path.read_text() for path in paths if path.suffix == ".tex"]
    assert len(written) == 6
    for code in written:
        assert code.isascii() and "\\toprule" in code and "\\bottomrule" in code and "\\caption" in code
        opened, closed = re.findall(r"\\begin\{(\w+)\}", code), re.findall(r"\\end\{(\w+)\}", code)
        assert sorted(opened) == sorted(closed)
        assert not re.search(r"(?<!\\)_", re.sub(r"\\label\{[^}]*\}", "", code))
    again = [path.read_bytes() for path in latex.write_tables(fitted, tmp_path / "b")]
    assert again == [path.read_bytes() for path in paths]


def test_main_results_are_means_over_seeds(fitted, table):
    frame = latex.results(fitted, "loss")
    assert len(frame) == 3 * len(SHOWN)
    cell = frame[(frame["model"] == "model-m") & (frame["method"] == "random")]["0.5"].iloc[0]
    own = table[(table["model"] == "model-m") & (table["method"] == "random") & (table["ratio"] == 0.5)]["loss"]
    assert cell == f"{own.mean():.2f} ± {own.std():.2f}"
    assert frame.loc[(frame["model"] == "model-m") & (frame["method"] == "claw"), "0.9"].iloc[0].endswith("*")


def test_stored_laws_are_read_only_for_their_own_table(folder, table, tmp_path, monkeypatch):
    monkeypatch.setattr("claw.laws.fitting.fit", lambda *a, **k: "fitted anew")
    assert laws.fit_or_read(table, folder / "table.csv", draws=100).verdicts
    assert laws.fit_or_read(table, folder, draws=200) == "fitted anew"
    assert laws.fit_or_read(table.assign(loss=table["loss"] + 1), folder, draws=100) == "fitted anew"
    (tmp_path / "laws.json").write_text("{}")
    assert laws.fit_or_read(table, tmp_path, draws=100) == "fitted anew"


def test_laws_of_another_version_are_fitted_again(folder, table, monkeypatch):
    monkeypatch.setattr("claw.laws.fitting.fit", lambda *a, **k: "fitted anew")
    monkeypatch.setattr("claw.laws.fitting.code_hash", lambda room="": "changed")
    assert laws.fit_or_read(table, folder, draws=100) == "fitted anew"


def test_the_list_of_figures_is_complete():
    said = (NOTEBOOK.parents[1] / "figures" / "README.md").read_text()
    for name, draw in FIGURES.items():
        assert f"| `paper_{name}` |" in said and f"`{draw.__module__}.{draw.__name__}`" in said


def test_the_notebook_writes_all_files(folder, tmp_path):
    out = tmp_path / "out.ipynb"
    papermill.execute_notebook(
        NOTEBOOK, out, parameters={"table": str(folder / "table.csv"), "out": str(tmp_path), "draws": 100},
        kernel_name="python3", progress_bar=False, cwd=tmp_path,
    )  # fmt: skip
    names = {path.name for path in (tmp_path / "figures").iterdir()}
    assert {f"paper_{name}.{kind}" for name in FIGURES for kind in ("pdf", "png", "svg", "csv")} <= names
    assert sum(name.endswith(".tex") for name in names) == 6
    assert "Not with this table" not in str(nbformat.read(out, 4))
