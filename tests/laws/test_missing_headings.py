"""Tables whose headings leave something out: which column has the methods, the only method or model, shares given as counts."""

import math

import pandas as pd
import pytest

from claw import laws
from claw.errors import InputError


def read(tmp_path, text: str, **said):
    path = tmp_path / "t.csv"
    path.write_text(text.replace(" | ", ","), encoding="utf-8")
    return laws.read(path, **said)


def rows_of(heading: str, cells) -> str:
    """A dense model and two compressed ones, with these cells under a heading."""
    dense, first, second = cells
    return f"model | method | {heading} | loss\nm | dense | {dense} | 2\nm | a | {first} | 3\nm | a | {second} | 4\n"


ONE_METHOD = "model | keep_ratio | perplexity\nm | 1.0 | 5.47\nm | 0.9 | 6.1\nm | 0.7 | 12\n"


def test_a_table_of_one_method_needs_no_column_for_it(tmp_path):
    own = read(tmp_path, ONE_METHOD)
    assert list(own.table["method"].unique()) == ["unnamed"] and list(own.table["ratio"].round(3)) == [0, 0.1, 0.3]
    assert any("all rows are of one, called 'unnamed'; otherwise method=" in line for line in own.guesses)
    assert list(read(tmp_path, ONE_METHOD, method="SLEB").table["method"].unique()) == ["SLEB"]
    laws.fit(own, draws=100, compare=False)


def test_ratios_in_the_names_of_models_do_for_one_method(tmp_path):
    own = read(tmp_path, "model | loss\nLlama-3.2-1B | 2.4\nLlama-3.2-1B-pruned-10% | 2.8\nLlama-3.2-1B-pruned-30% | 3.6\n")
    assert set(own.table["model"]) == {"Llama-3.2-1B"} and sorted(own.table["ratio"]) == [0, 0.1, 0.3]


def test_a_table_of_one_model_needs_no_column_for_it(tmp_path):
    own = read(tmp_path, "method | 0% | 10% | 20%\nWanda | 5.4 | 6.3 | 8.9\nFLAP | 5.4 | 6.1 | 7.9\n", values="perplexity")
    assert list(own.table["model"].unique()) == ["unnamed"] and set(own.table["method"]) == {"Wanda", "FLAP"}


@pytest.mark.parametrize(
    "text",
    [
        ONE_METHOD + "m | 0.7 | 13\n",  # what tells the last two rows apart?
        ONE_METHOD.replace("perplexity", "perplexity | how").replace("\nm", "\nm", 1).replace("12\n", "12 | greedy\n"),
    ],
)
def test_rows_that_something_else_tells_apart_are_not_one_method(tmp_path, text):
    with pytest.raises(InputError, match=r"no column for the method.*method=\"…\" for all rows"):
        read(tmp_path, text)


@pytest.mark.parametrize("heading", ["compression", "Pruning", "how", "variant"])
def test_methods_are_told_by_a_dense_word_beside_other_words(tmp_path, heading):
    own = read(tmp_path, f"model | {heading} | sparsity | ppl\nm | dense | 0 | 5.4\nm | slice | 20 | 7\nm | slice | 30 | 9\n")
    assert list(own.table["method"]) == ["dense", "slice", "slice"]
    assert any(heading in line and "method" in line for line in own.guesses)


def test_two_columns_that_may_be_the_methods_are_asked_about(tmp_path):
    with pytest.raises(InputError, match="no column for the method"):
        read(tmp_path, "model | how | tuned | ratio | ppl\nm | dense | base | 0 | 5\nm | a | lora | 0.2 | 7\n")


@pytest.mark.parametrize(
    ("heading", "cells"),
    [
        ("remaining_params", ("494M", "444M", "296M")),
        ("Params (B)", ("6.74", "6.06", "4.04")),
        ("#Params", ("6,740,000,000", "6,060,000,000", "4,040,000,000")),
        ("params_m", ("125", "112.5", "75")),
    ],
)
def test_counts_of_parameters_give_the_share_that_was_removed(tmp_path, heading, cells):
    own = read(tmp_path, rows_of(heading, [f'"{cell}"' for cell in cells]))
    assert own.table["ratio"].to_numpy() == pytest.approx([0, 0.1, 0.4], abs=0.003)
    assert own.table["ratio_params"].equals(own.table["ratio"]) and own.table["parameters0"].nunique() == 1
    assert any(heading in line and "share of parameters removed" in line for line in own.guesses)


def test_counts_beside_a_ratio_are_the_true_share(tmp_path):
    text = "model | method | Params (B) | FFN ratio | ppl\nLlama-2-7B | dense | 6.74 | 0 | 5\nLlama-2-7B | a | 4.7 | 0.5 | 9\n"
    own = read(tmp_path, text, columns={"FFN ratio": "ratio"})
    assert list(own.table["ratio"]) == [0, 0.5]
    assert own.table["ratio_params"].iloc[1] == pytest.approx(1 - 4.7 / 6.74)
    assert set(own.table["parameters0"]) == {6.74e9} and set(own.table["family"]) == {"Llama-2"}


@pytest.mark.parametrize("cells", [("1.0", "0.9", "0.7"), ("100", "90", "70"), ("100%", "90%", "70%")])
def test_a_share_of_parameters_is_no_count(tmp_path, cells):
    own = read(tmp_path, rows_of("remaining_params", cells))
    assert own.table["ratio"].to_numpy() == pytest.approx([0, 0.1, 0.3])


def test_counts_without_a_dense_row_say_nothing_of_shares(tmp_path):
    with pytest.raises(InputError, match="no column for the ratio"):
        read(tmp_path, "model | method | params | loss\nm | a | 400M | 3\nm | a | 300M | 4\n")


def test_layers_of_layers_are_a_ratio(tmp_path):
    own = read(tmp_path, "model | method | removed | acc\nm | dense | 0/26 | 61\nm | a | 4/26 | 55\nm | a | 8 of 26 | 44\n")
    assert own.table["ratio"].to_numpy() == pytest.approx([0, 4 / 26, 8 / 26])


def test_what_claw_wrote_is_taken_as_it_is():
    table = pd.read_csv("results/reference.csv")
    own = laws.read("results/reference.csv")
    assert not own.guesses and math.isclose(own.table["ratio_params"].sum(), table["ratio_params"].sum())


def test_metrics_in_rows_are_turned_over(tmp_path):
    own = read(tmp_path, ",Llama-3.1-8B (0%),Llama-3.1-8B (25%)\nPerplexity (WikiText2),6.24,9.8\nMMLU,65.2,50.1\n")
    assert set(own.table["model"]) == {"Llama-3.1-8B"} and list(own.table["ratio"]) == [0, 0.25]
    assert list(own.table["mmlu_acc"]) == [0.652, 0.501] and list(own.table["token_perplexity"]) == [6.24, 9.8]
    own = read(tmp_path, "Metric,Dense,Wanda 50%\nWikiText2 PPL,5.5,7.3\nPIQA,77,75\n")
    assert list(own.table["method"]) == ["dense", "Wanda"] and list(own.table["ratio"]) == [0, 0.5]
    with pytest.raises(InputError, match="models or methods"):
        read(tmp_path, "Benchmark,A,B\nPPL,5.5,7.3\nPIQA,77,75\n")


def test_a_first_column_of_names_needs_no_heading(tmp_path):
    own = read(tmp_path, ",Dense,Wanda\nOPT-125M,27.6,39\nOPT-350M,22,36\n", ratio=0.5)
    assert set(own.table["model"]) == {"OPT-125M", "OPT-350M"} and set(own.table["method"]) == {"dense", "Wanda"}
    own = read(tmp_path, ",sparsity,ppl\nDense,0,5.5\nWanda,20,6.6\n")
    assert list(own.table["method"]) == ["dense", "Wanda"]
    assert any("first column" in line for line in own.guesses)


def test_row_numbers_without_a_heading_are_left_out(tmp_path):
    own = read(tmp_path, ",model,method,ratio,loss\n0,m,dense,0,2\n1,m,a,0.2,3\n")
    assert list(own.table) == ["model", "method", "ratio", "loss"] and not own.guesses


def test_what_could_not_be_measured_is_missing(tmp_path):
    own = read(
        tmp_path,
        "model | method | ratio | loss | acc\nm | dense | 0 | 2 | 60\nm | a | 0.1 | 3 | OOM\nm | a | 0.2 | failed | 40\n",
    )
    assert own.table["loss"].isna().tolist() == [False, False, True] and own.table["accuracy"].isna().tolist() == [
        False,
        True,
        False,
    ]
    assert any("'failed' means that nothing was measured" in line for line in own.guesses)
    with pytest.raises(InputError, match="abc"):
        read(tmp_path, "model | method | ratio | loss\nm | dense | 0 | 2\nm | a | 0.1 | abc\n")
