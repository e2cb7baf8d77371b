"""Findings are generated: verdicts, laws, advice and limits follow from the table, and equal tables give equal pages."""

import re

import numpy as np
import pandas as pd
import pytest
from synthetic import study_table

from claw import laws, records
from claw.advice import datasheet, findings, judged_claims, recommend
from claw.cli import main
from claw.errors import InputError
from claw.specs import study

SHOWN = ("wanda-sp+ridge", "slicegpt")
STUDY = """name: made-up
models: [model-s, model-l]
methods: [random, wanda-sp+ridge, slicegpt]
ratios: [0, 0.1, 0.5]
evaluation: {tokens: 4096, context: 512}
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A table, its laws, published numbers and a study, and the pages made of them."""
    path = tmp_path_factory.mktemp("results")
    table = study_table(methods=SHOWN, speed=False)
    table.loc[3, ["loss", "status"]] = np.nan, "failed"
    table.to_csv(path / "reference.csv", index=False)
    laws.fit(records.table(path / "reference.csv")).to_json(path / "laws.json")
    row = {"model": "model-s", "task": "piqa", "metric": "acc_norm", "value": 0.7, "shots": 0, "source": "a | card"}
    pd.DataFrame([row, row | {"task": "lambada"}]).to_csv(path / "published_dense.csv", index=False)
    (path / "study.yaml").write_text(STUDY)
    assert main(["findings", str(path / "reference.csv"), "--out", str(path)]) == 0
    return path


@pytest.fixture(scope="module")
def table(folder):
    return records.table(folder / "reference.csv")


@pytest.fixture(scope="module")
def fitted(folder):
    return laws.from_json(folder / "laws.json")


@pytest.fixture(scope="module")
def text(folder):
    return (folder / "findings.md").read_text()


def test_every_claim_has_its_verdict_on_both_axes(text, fitted):
    section = text.partition("## Claims of the original paper")[2].partition("\n## ")[0]
    lines = [line for line in section.splitlines() if line.startswith("| ")][2:]
    claims = [verdict for verdict in fitted.verdicts if "of ours" not in verdict.claim]
    (untold,) = [line for line in section.splitlines() if line.startswith("Not judged here: ")]
    for verdict in claims:
        if verdict.claim in untold:
            assert verdict.verdict == judged_claims.NOT_JUDGED and f"({verdict.evidence['reason']})" in untold
            continue
        (line,) = (line for line in lines if line.startswith(f"| {verdict.claim} |"))
        cells = line.split(" | ")
        assert cells[1].startswith(f"**{judged_claims.WORDS[verdict.verdict]}**") and cells[2].startswith(("**", "–"))
    assert "**not reproduced**" in section


def test_numbers_of_the_verdicts_are_those_of_the_laws(text, fitted):
    for verdict in fitted.verdicts:
        numbers = verdict.sentence.partition(f" is {verdict.verdict}: ")[2]
        assert numbers and (numbers in text or (verdict.verdict == judged_claims.NOT_JUDGED and f"({numbers[:-1]})" in text))


def test_tables_are_rectangular(text, folder):
    for page in (text, (folder / "README.md").read_text()):
        for block in re.findall(r"(?:^\|.*\n)+", page, re.M):
            widths = {len(re.findall(r"(?<!\\)\|", line)) for line in block.splitlines()}
            assert len(widths) == 1, block


def test_the_same_table_gives_the_same_pages(folder, text):
    before = (folder / "README.md").read_text()
    findings.write_findings(folder / "reference.csv", out=folder)
    assert (folder / "findings.md").read_text() == text and (folder / "README.md").read_text() == before


def test_a_true_ratio_reorders_methods_that_count_differently(fitted):
    """slicegpt removes more of the model per unit of its ratio, so at equal shares it moves up."""
    orders = recommend.method_orders(fitted)
    moved = orders[orders["at an equal share of parameters"] != "the same"]
    assert len(moved)
    last = moved.iloc[-1]
    before, after = (
        last[f"at an equal {kind}"].split(" < ").index("slicegpt") for kind in ("nominal ratio", "share of parameters")
    )
    assert after < before and float(last["Kendall's τ"]) < 1


def test_advice_never_goes_beyond_what_was_measured(fitted, table):
    advice = recommend.advice_table(fitted)
    assert list(advice["remove"].unique()) == ["10 %", "30 %", "50 %", "70 %", "90 %"]
    most = table.groupby("model")["ratio_params"].max()
    for _, row in advice.iterrows():
        possible = float(row["remove"].rstrip(" %")) / 100 <= most[row["model"]] + 0.01
        assert ("nothing that was measured" in row["do"]) == (not possible)


def test_a_control_is_not_advice():
    table = study_table(models=("model-s",), methods=("random",), recovery=False, tasks=False, speed=False)
    advice = recommend.advice_table(laws.fit(table, draws=100, compare=False)).iloc[0]
    assert advice["do"].startswith("only a control was measured: random") and advice["best with probability"] == "–"


def test_what_the_data_cannot_say_follows_them(fitted, table):
    words = " ".join(findings.limitations(fitted, table))
    assert "3 models of 3 families" in words and "**No speed**" in words and "400k tokens" in words
    alone = study_table(("model-s",), SHOWN, recovery=False, tasks=False, speed=False)
    words = " ".join(findings.limitations(laws.fit(alone, draws=100, compare=False), alone))
    assert "1 model of 1 family" in words and "**No recovery**" in words and "Accuracy" not in words


def test_speed_laws_say_what_half_gives(text):
    assert "## How much faster" not in text  # nothing was timed
    timed = laws.fit(study_table(methods=SHOWN, recovery=False, tasks=False))
    shown = findings.speed_table(timed).set_index(["of", "law"])["half of it removed"]
    assert len(shown) and set(shown.index.get_level_values("of")) <= {"prefill", "decode"}
    for (of, form), words in shown.items():
        response = f"speedup_{of}"
        law = timed.law(form, response, axis=laws.speed_law.speed_axis(timed.points, response), group="speed")
        assert (words == "–") == (form == "speed-power")  # which differs by size
        if form == "speed-power-one-size":
            value, *edges = map(float, re.findall(r"[\d.]+", words))
            assert value == pytest.approx(2 ** law.coefficients[0], abs=0.006)
            assert bool(edges) == bool(law.df[0] >= 3)  # two methods are too few for an interval


def test_published_numbers_stand_beside_ours(text, table):
    line = next(line for line in text.splitlines() if "a &#124; card" in line)
    dense = table[(table["method"] == "dense") & (table["model"] == "model-s")].iloc[0]
    assert f"{dense['piqa_acc_norm']:.3f} ± 0.030" in line
    assert f"{(dense['piqa_acc_norm'] - 0.7) / 0.03:+.1f}" in line
    assert "lambada" not in text


def test_counts_add_up(folder, table):
    said = (folder / "README.md").read_text()
    assert f"{len(table)} experiments" in said and "the experiment failed" in said
    counts = datasheet.experiment_counts(table).set_index("method")
    assert sum(int(n) for n in counts.loc["all"]) == len(table)
    assert counts.loc["wanda-sp+ridge", "model-m"] == "6 (+4)"


def test_completeness_compares_with_the_plan(folder, table, fitted):
    plan = datasheet.planned(folder / "study.yaml")
    assert len(plan) == len(study.load_study(folder / "study.yaml").experiments) == 14
    some = table.assign(experiment=[*list(plan)[:5], *(f"other-{i}" for i in range(len(table) - 5))], loss=1.0)
    frame = datasheet.completeness(some, plan)
    assert frame["planned"].sum() == 14 and frame["run"].sum() == 5 and frame["with loss"].sum() == 5
    said = datasheet.datasheet_page(some, fitted, "t.csv", folder / "study.yaml", plan)
    assert "5 of 14 planned" in said and f"{len(table) - 5} rows are of experiments that the study does not plan" in said


def test_a_wrong_study_stops_before_the_fit(folder, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("claw.laws.fitting.fit_or_read", lambda *a, **k: pytest.fail("fitted"))
    assert main(["findings", str(folder / "reference.csv"), "--study", str(tmp_path / "none.yaml")]) == 2
    with pytest.raises(InputError, match="no table"):
        findings.write_findings(tmp_path / "none.csv")


def test_anybodys_table_will_do(tmp_path):
    """Four columns are enough for pages that say what they rest on."""
    r = np.array([0, 0.1, 0.3, 0.5, 0.7])
    rows = [
        pd.DataFrame({"model": m, "method": "cut", "ratio": r, "loss": 3 + k * r**2 + 0.01 * np.cos(20 * r)})
        for m, k in (("a", 2), ("b", 3))
    ]
    pd.concat(rows).assign(accuracy=0.5 - 0.2 * np.tile(r, 2)).to_csv(tmp_path / "mine.csv", index=False)
    findings.write_findings(tmp_path / "mine.csv")
    folder = tmp_path / "mine-findings"
    said = (folder / "findings.md").read_text()
    assert "Not judged here: " in said and said.index("% more loss |") < said.index("<details>")
    assert "the table does not say which share of the parameters" in said  # there is no column that tells
    assert "no standard errors of accuracy" in said and "10 experiments in `../mine.csv`" in (folder / "README.md").read_text()
