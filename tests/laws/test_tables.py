"""Fifteen published tables as their owners write them give the figures that they should, or a question with its answers.

Where nothing else is said, a table holds the seven rows of Llama-3.2-1B of github.com/peremartra/llama-glu-expansion-pruning.
"""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import statsmodels.formula.api as smf

from claw import laws, specs
from claw.cli import main
from claw.errors import InputError
from claw.laws import OwnTable
from claw.laws.own_tables.choices import Choices
from claw.show.explorer import explorer_page

FOLDER = Path(__file__).parents[1] / "data" / "tables"
SEVEN = {  # table → what the guesses must name
    "column_ppl": ["'sparsity' is the ratio", "logarithm of 'ppl', in nats per token"],
    "column_token_perplexity": ["logarithm of 'token_perplexity'"],
    "ratio_in_percent": ["ratio is in percent"],
    "accuracy_in_percent": ["accuracy is in percent"],
    "dense_called_none": ["'none' are the dense model"],
    "dense_ratio_blank": ["'baseline' are the dense model, whose empty ratio is 0"],
    "ratio_is_what_is_kept": ["ratios are what is kept"],
    "ratio_in_model_name": ["'Llama-3.2-1B-pruned-10%' is 'Llama-3.2-1B' at 0.1"],
}


def read(name: str, **said) -> OwnTable:
    return laws.read(FOLDER / f"{name}.csv", **said)


def check_figures(table: pd.DataFrame) -> None:
    """The known figures of Llama-3.2-1B: quadratic of the loss, and the exponent of (1 + r)."""
    rows = table[table["model"] == "Llama-3.2-1B"]
    assert len(rows) == 7
    fitted = smf.ols("loss ~ ratio + I(ratio**2)", rows).fit()
    figures = [fitted.rsquared, fitted.params.iloc[2], *fitted.conf_int().iloc[2]]
    assert f"{figures[0]:.3f}" == "0.991"
    assert [f"{figure:.2f}" for figure in figures[1:]] == ["5.67", "1.68", "9.66"]
    power = rows.assign(y=np.log(rows["loss"] / rows["loss"].iloc[0]), x=np.log1p(rows["ratio"]))
    fitted = smf.ols("y ~ 0 + x", power).fit()
    assert [f"{figure:.2f}" for figure in (*fitted.params, *fitted.conf_int().iloc[0])] == ["1.66", "1.52", "1.80"]


@pytest.mark.parametrize("name", SEVEN)
def test_seven_rows_give_the_known_figures(name):
    reading = read(name)
    check_figures(reading.table)
    for words in SEVEN[name]:
        assert any(words in line for line in reading.guesses), reading.guesses
    assert all("; otherwise " in line and "\n" not in line for line in reading.guesses)
    law = laws.fit(reading, draws=100, compare=False).curve("Llama-3.2-1B", "MAW", form="quadratic")
    assert f"{law.quality['r2']:.3f}" == "0.991"


def test_accuracy_in_percent():
    table = read("accuracy_in_percent").table
    fitted = smf.ols("accuracy ~ ratio", table).fit()
    assert (f"{fitted.params.iloc[1]:.2f}", f"{fitted.rsquared:.3f}") == ("-0.33", "0.994")


def test_a_perplexity_called_loss_is_refused_by_name():
    with pytest.raises(InputError, match=r'is this perplexity\? Say loss="perplexity"'):
        read("perplexity_in_loss_column")
    with pytest.raises(InputError, match="is this perplexity"):
        laws.fit(pd.read_csv(FOLDER / "perplexity_in_loss_column.csv"))
    check_figures(read("perplexity_in_loss_column", loss="perplexity").table)
    assert read("perplexity_in_loss_column", loss="nats").table["loss"].max() > 300


def test_a_table_of_what_is_kept_is_never_fitted_as_it_stands():
    with pytest.raises(InputError, match='ratio="kept"'):
        laws.fit(pd.read_csv(FOLDER / "ratio_is_what_is_kept.csv"))


def test_word_perplexity_of_the_corpus_asked_for():
    with pytest.raises(InputError, match=r'loss="lambada_ppl" or loss="wikitext_word_ppl"'):
        read("wide_percent_word_perplexity")
    for said in ("wikitext_word_ppl", "word_perplexity"):
        table = read("wide_percent_word_perplexity", loss=said).table
        check_figures(table)
    first = table.iloc[0]
    tasks = ["arc_challenge", "boolq", "hellaswag", "mmlu", "piqa", "winogrande"]
    assert first["accuracy"] == pytest.approx(np.mean([first[f"{task}_acc"] for task in tasks]))
    assert first["accuracy"] == pytest.approx(0.5481, abs=1e-4)
    assert first["chance"] == pytest.approx((0.25 * 3 + 0.5 * 3) / 6)


def test_dense_called_dash_with_two_perplexities():
    with pytest.raises(InputError, match=r'loss="ppl" or loss="ppl_paper"'):
        read("dense_called_dash")
    reading = read("dense_called_dash", loss="ppl")
    fitted = laws.fit(reading, draws=100, compare=False)
    assert {(law.curve.model, law.curve.method) for law in fitted.curves} == {
        (model, method) for model in ("Llama-7B", "Llama3.1-8B") for method in ("FLAP", "Wanda-sp")
    }
    assert reading.table["ratio"].value_counts().to_dict() == {0.2: 4, 0.3: 4, 0.5: 4, 0.0: 2}
    assert fitted.points.dense_row("Llama-7B")["loss0"] == pytest.approx(np.log(12.62))


def test_no_model_column_and_percent_signs():
    reading = read("no_model_column_percent_signs")
    assert set(reading.table["model"]) == {"LLaMA3.2-1.2B"}
    assert list(reading.table["ratio"]) == [0, 0.2, 0.3, 0.4]
    assert list(reading.table["method"]) == ["dense", "SDMPrune", "SDMPrune", "SDMPrune"]
    assert list(reading.table["accuracy"]) == [0.5147, 0.4894, 0.4640, 0.4421]
    assert reading.table["loss"].iloc[0] == pytest.approx(np.log(12.98))
    assert any("that is the model's name" in line and 'model="…"' in line for line in reading.guesses)
    named = read("no_model_column_percent_signs", model="llama").table
    assert set(named["model"]) == {"llama"}


def test_percent_signs_and_slash_for_dense():
    reading = read("percent_signs_slash_for_dense")
    table = reading.table
    assert (table["method"] == "dense").sum() == 4 and (table.loc[table["method"] == "dense", "ratio"] == 0).all()
    assert sorted(set(table["ratio"])) == [0, 0.09, 0.1, 0.2]
    assert table["accuracy"].iloc[0] == 0.6767
    assert len(laws.read_points(reading).rows) == 18


def test_models_in_rows_methods_in_columns():
    reading = read("models_in_rows_methods_in_columns")
    assert len(reading.table) == 54 and reading.table["model"].nunique() == 18
    assert reading.table["method"].value_counts().to_dict() == {"dense": 18, "Magnitude": 18, "Wanda": 18}
    assert any("ratio=0.5" in line for line in reading.guesses)
    with pytest.raises(InputError, match="have no ratio"):
        laws.fit(reading)
    fitted = laws.fit(read("models_in_rows_methods_in_columns", ratio=0.5), draws=100, compare=False)
    assert not [law for law in fitted.curves if law.form == "quadratic"]
    assert fitted.unfitted["why"].str.contains("cannot carry|at least").any()


def test_methods_in_rows_models_in_columns():
    reading = read("methods_in_rows_models_in_columns")
    points = laws.read_points(reading)
    cut = points.of("loss")
    assert len(cut) == 40 and points.rows["model"].nunique() == 10 and set(cut["method"]) == {"SliceGPT"}
    assert sorted(set(cut["ratio"])) == [0.1, 0.2, 0.25, 0.3]
    logs = cut.assign(y=np.log(cut["loss"]), l0=np.log(cut["loss0"]), x=np.log1p(cut["ratio"]), n=np.log10(cut["parameters0"]))
    assert f"{smf.ols('y ~ l0 + x', logs).fit().params['l0']:.2f}" == "0.84"
    size = smf.ols("I(y - l0) ~ 0 + x + x:n", logs[logs["family"] == "OPT"]).fit().params["x:n"]
    assert f"{size:.3f}" == "-0.133"


def test_claws_own_table_passes_without_a_guess():
    path = Path(__file__).parents[2] / "results" / "reference.csv"
    reading, plain = laws.read(path), pd.read_csv(path)
    assert not reading.guesses
    pd.testing.assert_frame_equal(reading.table, plain, check_dtype=False)
    assert laws.read_points(reading).digest == laws.read_points(plain).digest
    some = plain[plain["method"].isin(["dense", "flap"]) & (plain["model"] == "smollm2-135m")]
    settings = {"draws": 100, "compare": False}
    assert laws.fit(laws.read(some), **settings).to_json() == laws.fit(some, **settings).to_json()


@pytest.mark.parametrize(
    ("frame", "said", "column", "value"),
    [
        ({"mine": [0, 0.1, 0.3]}, {"columns": {"mine": "ratio"}}, "ratio", [0, 0.1, 0.3]),
        ({"mine": [1, 0.9, 0.7]}, {"columns": {"mine": "kept"}}, "ratio", [0, 0.1, 0.3]),
        ({"ratio": [0, 1, 2]}, {"percent": True}, "ratio", [0, 0.01, 0.02]),
        ({"ratio": [0, 0.5, 20]}, {"percent": {"ratio": True}}, "ratio", [0, 0.005, 0.2]),
        ({"ratio": [1, 0.9, 0.7]}, {"ratio": "kept"}, "ratio", [0, 0.1, 0.3]),
        ({"ratio": [0, 0.1, 0.3], "method": ["ours", "m", "m"]}, {"dense": "ours"}, "method", ["dense", "m", "m"]),
        ({"ratio": [0, 0.1, 0.3], "method": ["m-1%", "m-1%", "m-1%"]}, {"names": False}, "method", ["m-1%", "m-1%", "m-1%"]),
        ({"ratio": [0, 0.1, 0.3]}, {"sizes": {"a": 5e9}}, "parameters0", [5e9, 5e9, 5e9]),
        ({"ratio": [0, 0.1, 0.3], "model": ["a", None, None]}, {"fill": True}, "model", ["a", "a", "a"]),
        ({"ratio": [0, 0.1, 0.3], "loss": [1.0, 1.1, 1.2]}, {"loss": "bits"}, "loss", [0.693147, 0.762462, 0.831777]),
        ({"ratio": [0, 0.1, 0.3], "x": [0.4, 0.3, 0.2]}, {"accuracy": "x"}, "accuracy", [0.4, 0.3, 0.2]),
        (
            {"ratio": [0, 0.1, 0.3], "x": [4, 3, 2], "piqa": [6, 5, 4]},
            {"accuracy": ["x", "piqa"]},
            "accuracy",
            [0.05, 0.04, 0.03],
        ),
        ({"ratio": ["0", "0,1", "0,3"]}, {"decimal": ","}, "ratio", [0, 0.1, 0.3]),
        ({"ratio": [0, 0.1, 0.3], "x": [30, 20, 10]}, {"columns": {"x": "task"}}, "accuracy", [0.3, 0.2, 0.1]),
    ],
)
def test_what_is_said_is_taken(frame, said, column, value):
    whole = {"model": "a", "method": ["dense", "m", "m"], "loss": [3.0, 3.2, 3.5]} | frame
    table = laws.read(pd.DataFrame(whole), **said).table
    assert list(table[column]) == pytest.approx(value) if not isinstance(value[0], str) else list(table[column]) == value


def test_every_guess_names_an_argument_that_read_has():
    said = {
        "wide_percent_word_perplexity": "word_perplexity",
        "dense_called_dash": "ppl",
        "perplexity_in_loss_column": "perplexity",
    }
    for path in FOLDER.glob("*.csv"):
        for line in read(path.stem, **({"loss": said[path.stem]} if path.stem in said else {})).guesses:
            assert line.partition("; otherwise ")[2].partition("=")[0] in Choices.model_fields, line
    assert str(read("column_ppl")).count("\n") == len(read("column_ppl").guesses) - 1


def test_the_table_of_the_docs_is_read_with_the_guesses_that_they_print(tmp_path):
    said = (Path(__file__).parents[2] / "docs" / "own-data.md").read_text(encoding="utf-8")
    blocks = said.partition("## Results")[2].split("```")
    (tmp_path / "mine.csv").write_text(blocks[1].strip("\n"), encoding="utf-8")
    printed = blocks[3].partition('read("mine.csv")\n')[2].strip("\n")
    assert repr(laws.read(tmp_path / "mine.csv")) == printed


def test_findings_and_the_explorer_read_what_was_said(tmp_path, capsys):
    path = tmp_path / "t.csv"
    path.write_bytes((FOLDER / "wide_percent_word_perplexity.csv").read_bytes())
    assert main(["findings", str(path)]) == 2
    assert 'loss="wikitext_word_ppl"' in capsys.readouterr().err
    assert main(["findings", str(path), "--say", "loss"]) == 2
    assert main(["findings", str(path), "--say", "loss=wikitext_word_ppl", "--say", 'columns={"mmlu": "ignore"}']) == 0
    said = capsys.readouterr()
    assert "'pruning_pct' is the ratio" in said.err
    assert "'pruning_pct' is the ratio" in (tmp_path / "t-findings" / "findings.md").read_text(encoding="utf-8")
    asked = specs.ExplorerParameters(table=str(path), reading={"loss": "word_perplexity"})
    assert "The table was read with" in said_by(explorer_page(asked))
    assert "loss=" in said_by(explorer_page(specs.ExplorerParameters(table=str(path))))


def said_by(widget):
    """All text of a page of widgets."""
    return str(getattr(widget, "value", "")) + "".join(map(said_by, getattr(widget, "children", ())))
