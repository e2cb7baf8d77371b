"""The sentences that open the findings and end a run: each that names a model, a method and a number holds in the table."""

import re
from functools import cache
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from synthetic_laws import points_alone

from claw import laws
from claw.advice import answers, findings, judged_claims, unseen_models
from claw.errors import InputError
from claw.laws.claim import cannot_judge, judged

REFERENCE = Path(__file__).parents[2] / "results" / "reference.csv"
PERCENT = r"(\d+(?:\.\d)?) %"
FAR = re.compile(rf"{PERCENT}(?: \([^)]*\))? with (\S+?)(?: \(ratio ([\d.]+)[^)]*\))?(?:$|, as far|, between|; not told)")
ANSWERS = re.compile(rf"{PERCENT} \([^)]*\) instead of {PERCENT}")
CONTROL = re.compile(rf"(\S+) at {PERCENT} of (\S+)'s parameters has ([\d.]+) × the dense loss \(([\d.]+),")


@cache
def bare(seed: int | None) -> tuple[pd.DataFrame, laws.Laws]:
    """The reference table, or a made-up one, and laws that hold its points alone."""
    table = laws.read(REFERENCE).table if seed is None else made_up(seed)
    return table, points_alone(table)


def made_up(seed: int) -> pd.DataFrame:
    rng, rows = np.random.default_rng(seed), []
    for m in range(1 + seed % 3):
        place = {"model": f"model-{m}", "heldout_data": "one", "parameters0": 1e9, "chance": 0.25, "ratio_of": "ffn", "seed": 0}
        row = place | {"method": "dense", "ratio": 0.0, "ratio_params": 0.0, "loss": 3.0, "accuracy": 0.6}
        rows.append(row | {"recovery_tokens": 0})
        for method, bend in (("random", 4.0), ("flap", 0.8), ("taylor", 1.2), ("wanda-sp", rng.uniform(0.5, 2))):
            for r in (0.1, 0.3, 0.5, 0.7):
                loss = 3 * np.exp(bend * r ** rng.uniform(1, 2) + rng.normal(0, 0.01))
                row = place | {"method": method, "ratio": r, "ratio_params": 0.6 * r, "loss": loss, "recovery_tokens": 0}
                rows.append(row | {"accuracy": 0.6 - 0.3 * r, "speedup_decode": 1 / (1 - 0.5 * r)})
    return pd.DataFrame(rows).assign(loss_stderr=0.02, accuracy_stderr=0.02)


def curve_at(table: pd.DataFrame, model: str, method: str, share: float, tokens: float = 0) -> tuple[float, float]:
    """Lowest and highest measured loss of a curve beside a share, which sentences print to a per cent."""
    own = table[(table["model"] == model) & (table["method"].isin([method, "dense"]))]
    own = own[(own["recovery_tokens"] == tokens) | (own["method"] == "dense")]
    mean = np.exp(np.log(own["loss"]).groupby(own["ratio_params"].round(9)).mean()).sort_index()
    below, above = mean[mean.index <= share + 0.006], mean[mean.index >= share - 0.006]
    beside = pd.concat([below.tail(2), above.head(2)])
    return float(beside.min()), float(beside.max())


@pytest.mark.parametrize("seed", [None, *range(6)])
def test_every_number_of_the_first_screen_holds_in_the_table(seed):
    table, fitted = bare(seed)
    far, lines = answers.how_far_table(fitted).set_index("model"), answers.first_lines(fitted)
    assert len(lines) == 4
    cut = table[table["method"] != "dense"]
    assert set(far.index) == set(cut["model"])
    dense = table[(table["method"] == "dense") & (table["recovery_tokens"] == 0)].set_index("model")
    told = 0
    for model, row in far.iterrows():
        for name in [name for name in far.columns if "more loss" in name]:
            more = float(re.search(PERCENT, name)[1]) / 100
            if not (match := FAR.search(row[name])):
                assert row[name].startswith(("nothing", "–")), row[name]
                continue
            share, method = float(match[1]) / 100, match[2]
            low, high = curve_at(table, model, method, share)
            if "as far as was measured" not in row[name]:
                assert low - 0.01 <= (1 + more) * dense.loc[model, "loss"] <= high + 0.01, row[name]
            own = table[(table["model"] == model) & (table["method"] == method)]
            if match[3]:
                knots = pd.concat([pd.Series({0.0: 0.0}), own.groupby("ratio")["ratio_params"].mean()])
                assert np.interp(float(match[3]), knots.index, knots) == pytest.approx(share, abs=0.012)
            told += 1
        if match := ANSWERS.search(row["answers at 10 %"]):
            assert float(match[2]) == pytest.approx(100 * dense.loc[model, "accuracy"], abs=0.51)
    assert told >= 3
    assert seed is None or not (far == "–").any().any()
    for control, share, model, times, loss in CONTROL.findall("\n".join(lines)):
        low, high = curve_at(table, model, control, float(share) / 100)
        assert low - 0.006 <= float(loss) <= high + 0.006 and float(loss) / dense.loc[model, "loss"] == pytest.approx(
            float(times), abs=0.006
        )


def test_every_model_has_its_row_and_empty_columns_are_left_out():
    one = made_up(0).drop(columns=["speedup_decode", "accuracy", "accuracy_stderr", "chance"])
    many = pd.concat([one.assign(model=f"m{i}") for i in range(7)], ignore_index=True)
    far = answers.how_far_table(points_alone(many))
    assert sorted(far["model"]) == [f"m{i}" for i in range(7)] and list(far.columns)[1:] == [
        f"{share} % more loss" for share in (5, 10, 25)
    ]
    for columns in (["loss", "loss_stderr"], ["ratio_params", "parameters0"]):
        fitted = points_alone(made_up(0).drop(columns=columns))
        far = answers.how_far_table(fitted)
        assert far.empty == ("loss" in columns) and len(answers.first_lines(fitted)) == (1 if far.empty else 4)


def test_a_page_opens_with_the_figure_and_the_table_and_folds_the_statistics():
    table, fitted = bare(1)
    page = findings.findings_page(table, fitted, "mine.csv", figure="../figures/a.png")
    picture = "![Held-out loss against what was removed](../figures/a.png)"
    assert page.startswith(f"# Findings\n\n{picture}\n\n**How far?** The share")
    first = page.partition("\n## ")[0]
    assert first.count("\n|") == 4 and len(re.findall(r"^- ", first, re.M)) == 4 and "τ" not in first and "BIC" not in first
    assert page.count("<details>") == page.count("</details>") >= 2
    assert page.index("## What to do") < page.index("<details>")


def test_the_reference_pages_figure_is_there():
    path = findings.figure_of(REFERENCE, REFERENCE.parent)
    assert path == "../figures/readme.png" and (REFERENCE.parent / path).is_file()


def test_another_table_has_no_figure_of_ours(tmp_path):
    (tmp_path / "mine.csv").write_text("model,method,ratio,loss\n")
    assert findings.figure_of(tmp_path / "mine.csv", tmp_path / "mine-findings") == ""


def test_what_was_not_judged_is_one_line():
    verdicts = [cannot_judge("a is b", "one model"), cannot_judge("c is d", "one model"), cannot_judge("e is f", "no pairs")]
    line = judged_claims.not_judged_line([*verdicts, judged("g is h", "supported", "it is")])
    assert line == "Not judged here: a is b, c is d (one model); e is f (no pairs)." and "\n" not in line
    assert judged_claims.not_judged_line([judged("g is h", "supported", "it is")]) == ""


def test_a_model_that_nobody_measured_is_foretold_and_said_to_be():
    table, law = unseen_models.predict_unseen(7e9), unseen_models.read_new_models()
    assert table["share"].dropna().is_monotonic_decreasing and {"flap", "slicegpt"} <= set(table["method"])
    row = table.set_index("method").loc["flap"]
    assert row["low"] < row["share"] < row["high"]
    band = law.predict([row["share"]], "flap", 7e9).iloc[0]
    assert band["mean"] == pytest.approx(1.1, abs=0.005)
    said = unseen_models.unseen_sentences(7e9, table)
    assert "7 G" in said[0] and "not measured" in said[1]
    for wrong in (0.0, -1.0, np.nan):
        with pytest.raises(InputError, match="unseen"):
            unseen_models.predict_unseen(wrong, law=law)
    with pytest.raises(InputError, match="Llama-2"):
        unseen_models.predict_unseen(7e9, family="Llama-22")
    trained = unseen_models.predict_unseen(7e9, family="Llama-2", tokens=1e8).set_index("method").loc["flap"]
    assert trained["share"] > unseen_models.predict_unseen(7e9, family="Llama-2").set_index("method").loc["flap", "share"]
