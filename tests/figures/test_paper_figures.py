"""Figures and tables of a paper: drawn from one table, legible in grey, fonts embedded, equal bytes, kind when data lack."""

import re
import subprocess
import sys
from functools import partial
from pathlib import Path

import nbformat
import numpy as np
import pandas as pd
import papermill
import pytest
from matplotlib.collections import PolyCollection
from synthetic import METHODS, study_table

from claw import figures, laws, records
from claw.advice import latex
from claw.errors import InputError
from claw.figures import style
from claw.laws import simulate
from claw.laws.simulate import Design
from claw.specs import methods

NOTEBOOK = Path(__file__).parents[2] / "notebooks" / "70_paper_figures.ipynb"
SHOWN = ("random", "wanda-sp+ridge", "claw")
FIGURES = {
    "loss": partial(figures.law_curves, response="loss", style="paper"),
    "accuracy": partial(figures.law_curves, response="accuracy", style="paper"),
    "recovery": partial(figures.recovery_gains),
    "left_out": partial(figures.leave_one_out),
    "forms": partial(figures.out_of_sample, style="paper"),
    "speed": partial(figures.speed_against_share),
    "radar": partial(figures.radar),
    "pareto": partial(figures.loss_against_time),
}


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
    assert len(FIGURES["loss"](bare).figure.axes) == 1  # no true ratio in this table
    assert figures.leave_one_out(bare).numbers["fold"].eq("").all()


def test_loss_shows_every_point_on_both_axes(fitted, table):
    numbers = FIGURES["loss"](fitted).numbers
    cut = table[(table["method"] != "dense") & (table["recovery_tokens"] == 0)]
    for axis in ("ratio", "ratio_params"):
        shown = numbers[(numbers["axis"] == axis) & (numbers["kind"] == "measured")]
        assert sorted(shown["mean"]) == pytest.approx(sorted(cut["loss"]))
        assert sorted(shown["ratio"]) == pytest.approx(sorted(cut[axis]))


def test_a_band_wider_than_all_measurements_is_left_to_the_numbers():
    rows = study_table(models=("model-s",), methods=SHOWN, recovery=False)
    rows = rows[(rows["method"] != "claw") | rows["ratio"].isin([0.1, 0.5, 0.9])]  # a parabola through four points
    rows.loc[(rows["method"] == "claw") & (rows["ratio"] == 0.5), "loss"] += 3.0
    drawn = figures.law_curves(laws.fit(rows, draws=100, compare=False), style="paper", form="quadratic")
    assert {"claw", "random"} <= set(drawn.numbers.loc[drawn.numbers["kind"] == "curve", "method"])
    for panel in drawn.figure.axes[:2]:
        assert len([band for band in panel.collections if isinstance(band, PolyCollection)]) == len(SHOWN) - 1


def test_many_models_go_below_each_other():
    design = Design(models=6, methods=("a", "b"), ratios=(0.1, 0.3, 0.5, 0.7), tokens=(0, 1e6))
    many = laws.fit(simulate.simulated_table(design, {"loss": simulate.TRUTHS["loss"]}), draws=100, compare=False)
    shown = [panel for panel in FIGURES["loss"](many).figure.axes if panel.get_visible()]
    assert len(shown) == 12 and len({panel.get_title() for panel in shown} - {""}) == 6
    assert len([panel for panel in figures.recovery_gains(many).figure.axes if panel.get_visible()]) == 24


def test_recovery_has_a_panel_per_ratio_that_was_recovered():
    design = Design(models=2, methods=("a", "b"), ratios=(0.1, 0.3, 0.5), tokens=(0, 1e6))
    rows = simulate.simulated_table(design, {"loss": simulate.TRUTHS["loss"]})
    left = min(rows["model"])
    rows = rows[(rows["model"] != left) | (rows["ratio"] != 0.1) | (rows["recovery_tokens"] == 0)]

    def panels(rows):
        drawn = figures.recovery_gains(laws.fit(rows, draws=100, compare=False)).figure
        return [panel for panel in drawn.axes if panel.get_visible()]

    shown = panels(rows)
    assert len(shown) == 5 and not any(panel.get_title() == f"{left}, r = 0.1" for panel in shown)
    assert len([panel for panel in shown if panel.get_ylabel()]) == 2  # the first that is there of each row
    alone = panels(rows[rows["method"] != "b"])  # one line per ratio, named at its end
    assert len(alone) == 2 and any(text.get_text() == "r = 0.5" for text in alone[0].texts)


def test_predictions_never_saw_their_model(fitted):
    numbers = figures.leave_one_out(fitted).numbers
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
    kept = figures.radar(fitted, 0.3).numbers
    assert set(kept["ratio"]) == {0.3}
    dense = table[(table["method"] == "dense") & (table["model"] == "model-s")].iloc[0]
    row = kept[(kept["model"] == "model-s") & (kept["method"] == "claw") & (kept["task"] == "piqa")].iloc[0]
    cut = table[(table["model"] == "model-s") & (table["method"] == "claw") & (table["ratio"] == 0.3)]
    cut = cut[cut["recovery_tokens"] == 0].iloc[0]
    assert row["kept"] == pytest.approx((cut["piqa_acc_norm"] - 0.5) / (dense["piqa_acc_norm"] - 0.5))
    assert "mmlu" not in set(kept.loc[kept["model"] == "model-s", "task"])  # 0.30 ± 0.03 where guessing gives 0.25


def test_the_frontier_is_what_nothing_beats(fitted):
    numbers = figures.loss_against_time(fitted).numbers
    assert set(numbers["value"]) <= set(
        np.append(fitted.points.rows["bits_per_byte"], fitted.points.rows["bits_per_byte0"])
    ) or (numbers["value"].between(0, 10).all())
    for point in numbers.itertuples():
        beaten = ((numbers["milliseconds"] < point.milliseconds) & (numbers["value"] <= point.value)).any()
        assert point.frontier != beaten


def test_ideal_speed_is_one_over_what_is_left(fitted):
    numbers = figures.speed_against_share(fitted).numbers
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
    frame = latex.results_table(fitted, "loss")
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


def test_screen_and_paper_show_the_same_curves(fitted):
    """On the screen the dense model and what lies beyond the fit are shown too."""
    screen, paper = (figures.law_curves(fitted, "loss", axis="ratio", style=style).numbers for style in ("screen", "paper"))
    for kind in ("measured", "curve"):
        shown, printed = (numbers[numbers["kind"] == kind] for numbers in (screen, paper))
        columns = ["model", "method", "ratio", "mean"]
        assert set(printed[columns].itertuples(index=False)) < set(shown[columns].itertuples(index=False))


@pytest.mark.parametrize(
    ("choice", "match"), [({"response": "lost"}, "did you mean 'loss'"), ({"axis": "share"}, "unknown axis")]
)
def test_curves_of_what_the_table_does_not_have_are_refused(fitted, choice, match):
    with pytest.raises(InputError, match=match):
        figures.law_curves(fitted, **choice)
    with pytest.raises(InputError, match="with 7 recovery tokens"):
        figures.law_curves(fitted, tokens=7)


def test_figures_of_measured_points_do_not_wait_for_the_statistics_of_laws():
    code = "import sys; from claw import figures; figures.loss_curve, figures.speedups; assert 'claw.laws' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_the_list_of_figures_is_complete():
    said = (NOTEBOOK.parents[1] / "figures" / "README.md").read_text()
    for name, draw in FIGURES.items():
        (row,) = (line for line in said.splitlines() if line.startswith(f"| `paper_{name}` |"))
        asked = "".join(f', {word}="{value}"' for word, value in draw.keywords.items())
        assert f"`claw.figures.{draw.func.__name__}(laws{asked})`" in row


def test_the_notebook_writes_all_files(folder, tmp_path):
    out = tmp_path / "out.ipynb"
    parameters = {"table": str(folder / "table.csv"), "out": str(tmp_path), "draws": 100}
    papermill.execute_notebook(NOTEBOOK, out, parameters, kernel_name="python3", progress_bar=False, cwd=tmp_path)
    names = {path.name for path in (tmp_path / "figures").iterdir()}
    assert {f"paper_{name}.{kind}" for name in FIGURES for kind in ("pdf", "png", "svg", "csv")} <= names
    assert sum(name.endswith(".tex") for name in names) == 6
    assert "Not with this table" not in str(nbformat.read(out, 4))
