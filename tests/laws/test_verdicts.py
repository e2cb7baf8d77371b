"""What a verdict says is true of its table; tests have their size; what cannot be judged is one line."""

import math
import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from synthetic_laws import crossed_table

from claw import laws
from claw.laws import adequacy, claims, outside, recovered, verdicts, wald
from claw.laws.claim import NOT_JUDGED, not_judged

TABLE = Path(__file__).parents[2] / "results" / "reference.csv"


@pytest.fixture(scope="module")
def reference() -> pd.DataFrame:
    return pd.read_csv(TABLE)


@pytest.fixture(scope="module")
def judged(reference) -> list[laws.Verdict]:
    points = laws.read_points(reference)
    comparisons = {"loss|ratio|method": outside.compare(points, "loss", "ratio")}
    return verdicts.judge(points, comparisons, wald.ask_all(points))


def about(judged: list[laws.Verdict], claim: str) -> laws.Verdict:
    return next(one for one in judged if claim in one.claim)


def pairs(changes: np.ndarray, noise: float, rng: np.random.Generator, budgets: int = 2) -> pd.DataFrame:
    """One model, one experiment per change of log loss, each recovered with some budgets."""
    rows = [("dense", 0.0, 0, 3.0)]
    for i, change in enumerate(changes):
        place = (f"method-{i % 2}", round(0.1 + 0.8 * i / len(changes), 6))
        rows.append((*place, 0, 5 * math.exp(rng.normal(0, noise))))
        rows += [(*place, (k + 1) * 1_000_000, 5 * math.exp(change + rng.normal(0, noise))) for k in range(budgets)]
    return pd.DataFrame(rows, columns=["method", "ratio", "recovery_tokens", "loss"]).assign(model="m", seed=0)


def test_recovery_is_supported_where_nearly_every_pair_improves(judged, reference):
    verdict = about(judged, "recovery lowers loss")
    every = ((reference["recovery_tokens"] > 0) & (reference["method"] != "dense")).sum()
    better = (recovered.gains(laws.read_points(reference))["gain"] > 0).sum()
    assert every - 1 <= better <= every  # one of claw at 70 % of SmolLM2-135M gains nothing
    assert verdict.verdict == "supported" and f"{better} of {every} recovered runs" in verdict.sentence
    assert verdict.evidence["p"] < 0.05
    tests = wald.ask_all(laws.read_points(reference)).set_index("name")
    assert tests.loc["recovery", "p"] == verdict.evidence["p"]


@pytest.mark.parametrize("budgets", [1, 2])
def test_the_test_of_recovery_has_its_size(budgets):
    rng, rejected = np.random.default_rng(0), []
    for _ in range(150):
        frame = pairs(np.zeros(8), 0.05, rng, budgets)
        rejected.append(recovered.p_exchanged(_points(frame))[0] < 0.05)
    assert np.mean(rejected) <= 0.09  # 150 draws know it to 0.018
    small = [recovered.p_exchanged(_points(pairs(np.full(8, -0.1), 0.02, rng, budgets)))[0] for _ in range(5)]
    assert max(small) < 0.05


def _points(frame: pd.DataFrame) -> laws.Points:
    rows = frame.assign(use_loss=True, ratio_of="own", recovery=np.where(frame["recovery_tokens"] > 0, "lora", "none"))
    return laws.Points(rows=rows, excluded=pd.DataFrame(), notes=(), given=len(rows))


def test_two_pairs_are_too_few_for_a_verdict():
    frame = pairs(np.full(2, -0.3), 0.01, np.random.default_rng(0), budgets=1)
    verdict = claims.recovery_verdicts(laws.read_points(frame), 0.95)[0]
    assert verdict.verdict == NOT_JUDGED and "2 recovered experiments: too few" in verdict.sentence


def test_what_cannot_be_judged_is_one_line(reference):
    one = reference[(reference["model"] == "smollm2-135m") & reference["method"].isin(("dense", "minitron"))]
    one = one.drop(columns=[name for name in one if "speedup" in name or "accuracy" in name])
    judged = verdicts.judge(laws.read_points(one), {}, pd.DataFrame(columns=wald.COLUMNS))
    lines = not_judged(judged)
    assert sum("(one model)" in line for line in lines) == 1
    assert all(line.startswith("Not judged here (") for line in lines) and len(lines) == 2  # and no recovery
    assert all(sum(one.claim in line for line in lines) == (one.verdict == NOT_JUDGED) for one in judged)


def test_a_form_is_not_judged_on_two_models_by_one_standard_error():
    table, _ = crossed_table(0, methods=2, models=2)
    points = laws.read_points(table)
    comparisons = {"loss|model|method": outside.compare(points, "loss", "model")}
    verdict = about(verdicts.judge(points, comparisons, wald.ask_all(points)), "one law")
    assert verdict.verdict == NOT_JUDGED and "2 models to leave out" in verdict.sentence


def test_not_adequate_needs_a_margin_beyond_noise():
    """The truth is capacity, which the others miss by less than the noise of a measurement: nothing is contradicted."""
    rng, rows = np.random.default_rng(0), []
    for model in "abcde":
        for method in ("x", "y"):
            for r in np.arange(1, 10) / 10:
                rows.append((model, method, r, 3 * (1 + 0.8 * r + 0.6 * r**2) * math.exp(rng.normal(0, 0.03))))
    frame = pd.DataFrame(rows, columns=["model", "method", "ratio", "loss"]).assign(loss0=3.0, loss_stderr=0.1)
    shapes = adequacy.shapes(laws.read_points(frame), "loss")
    assert 0.01 < shapes.margin < 0.05
    judged = {one.claim: one for one in verdicts.shape_verdicts(laws.read_points(frame), "loss", 0.95)}
    assert judged["a quadratic describes loss in the ratio well enough"].verdict == "supported"
    assert judged["loss rises faster than in proportion to the ratio"].verdict == "supported"


def test_accuracy_kept_compares_equal_ranges():
    """The curve that stops at 20 % has lost nothing yet; it does not make the others look better."""
    rows = [("m", f"x{i}", r, 0.6 * (1 - r)) for i in range(5) for r in (0.1, 0.2, 0.3, 0.4)]
    rows += [("m", "short", r, 0.6) for r in (0.1, 0.2)]
    frame = pd.DataFrame(rows, columns=["model", "method", "ratio", "accuracy"]).assign(accuracy0=0.6)
    kept, low, high = claims.kept_accuracy(laws.read_points(frame), recovered=False)
    assert (low, high) == (0.1, 0.4) and "short" not in set(kept["method"])
    np.testing.assert_allclose(kept["kept"], 0.75)
    sentence = claims.kept_verdict(laws.read_points(frame), False, 0.95).sentence
    assert "on average from r = 0.1 to 0.4 they keep 75.0%" in sentence


def test_sentences_are_true_of_the_committed_table(judged, reference):
    """Every model, method, ratio and percentage that a sentence names is looked up among the measured rows."""
    cut = reference[reference["method"] != "dense"]
    names = set(reference["model"]) | set(reference["method"])
    checked = 0
    for verdict in judged:
        for where in re.findall(r"\(([^()]*)\)", verdict.sentence):
            parts = where.split(", ")
            if parts[0] in names:
                assert parts[1] in set(cut.loc[cut["model"] == parts[0], "method"]), verdict.sentence
                checked += 1
    assert checked >= 3
    largest = about(judged, "up to 55 %").sentence
    model, method, r, tokens = re.search(r"\((\S+), (\S+), r = (\S+), (\d+)k tokens\)", largest).groups()
    place = cut[(cut["model"] == model) & (cut["method"] == method) & np.isclose(cut["ratio"], float(r))]
    after = place[(place["recovery_tokens"] / 1000 - float(tokens)).abs() < 1]["loss"].iloc[0]
    gain = 1 - after / place.loc[place["recovery_tokens"] == 0, "loss"].mean()
    assert f"{gain:.1%}" in largest
    for phase in ("prefill", "decode"):
        verdict = about(judged, f"at 90 % {phase} is at most 35 %")
        near = cut[cut["ratio"].between(0.85, 0.95)]
        assert f"{near[f'speedup_{phase}'].max() - 1:+.0%}" in verdict.sentence
    lowers = about(judged, "recovery lowers loss").sentence
    changes = recovered.gains(laws.read_points(reference))["gain"]
    assert f"{(changes > 0).sum()} of {len(changes)} recovered runs" in lowers and f"{-changes.max():+.1%}" in lowers
    bent = about(judged, "faster than in proportion")
    above, count = map(int, re.search(r"b > 1 on (\d+) of (\d+) curves", bent.sentence).groups())
    assert above <= count <= cut.groupby(["model", "method"]).ngroups
    assert f"over {count} curves" in bent.sentence


def test_an_interval_never_stands_on_fewer_than_three_degrees_of_freedom(judged):
    for verdict in judged:
        for df in re.findall(r"\], (\d+\.\d) degrees of freedom|\] over [^()]*\((\d+\.\d) degrees", verdict.sentence):
            assert float(next(filter(None, df))) >= 3, verdict.sentence
    assert "[nan" not in " ".join(one.sentence for one in judged)


def test_print_shows_a_dozen_lines_in_plain_words(reference):
    few = reference[reference["method"].isin(("dense", "flap", "random", "wanda-sp+ridge"))]
    fitted = laws.fit(few, draws=100)
    for shown in (str(fitted), str(fitted.law("anchored")), str(fitted.points)):
        assert 3 <= len(shown.splitlines()) <= 14
        assert "PooledLaw(" not in shown and "array(" not in shown and "DataFrame" not in shown
    assert "Loss" in str(fitted) and "between methods" in str(fitted)
