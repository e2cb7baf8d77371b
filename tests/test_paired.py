"""Differences from the dense model: as computed by hand, and sharp where both models find the same text hard."""

import math

import numpy as np
import pytest
import written

from claw import paired, records
from claw.specs.experiment import Compression, Experiment

RNG = np.random.default_rng(0)


def loss(sums, counts=None, **change):
    """The result of a loss record over these blocks."""
    counts = counts or [100] * len(sums)
    about = {"mean": float(np.sum(sums) / np.sum(counts)), "stderr": paired.error_per_token(sums, counts)}
    return written.result("loss") | about | {"sums": [float(s) for s in sums], "counts": counts} | change


def scored(right, digits, documents="d"):
    """The result of a tasks record over these documents of piqa."""
    row = {"task": "piqa", "metric": "acc", "n": len(digits), "chance": 0.5, "stderr": 0.1}
    row |= {"value": float(np.mean([int(digit) for digit in digits]))}
    rows = [row, row | {"metric": "p_right", "chance": math.nan, "value": float(np.mean(right))}]
    scores = {"piqa": {"p_right": paired.pack(right), "documents": documents}}
    return {"rows": rows, "limit": None, "num_fewshot": 0, "answered": {"piqa": {"acc": digits}}, "scores": scores}


def test_scores_survive_packing_to_half_precision():
    values = RNG.random(1000)
    np.testing.assert_allclose(paired.unpack(paired.pack(values)), values, rtol=1e-3)
    assert np.isnan(paired.unpack(paired.pack([math.nan]))[0]) and not len(paired.unpack(""))
    with pytest.raises(ValueError):
        paired.unpack("what?")


def test_the_excess_is_that_of_the_means_and_its_error_that_of_the_differences():
    dense, counts = RNG.normal(300, 60, 40), RNG.integers(90, 101, 40).tolist()
    own = dense + 20 + RNG.normal(0, 3, 40)
    columns = paired.excess(loss(own, counts), loss(dense, counts))
    assert columns["excess_loss"] == pytest.approx((own - dense).sum() / sum(counts))
    assert columns["excess_loss_stderr"] == pytest.approx(paired.error_per_token(own - dense, counts))
    assert columns["excess_loss_stderr"] < 0.2 * paired.error_per_token(own, counts)


def test_the_error_covers_what_other_blocks_give():
    """Over many draws of 32 blocks the excess lies within two standard errors of its mean in 95 % of them."""
    inside = []
    for _ in range(400):
        dense, rise = RNG.normal(3, 0.5, 32), RNG.normal(0.2, 0.05, 32)
        columns = paired.excess(loss(100 * (dense + rise)), loss(100 * dense))
        inside.append(abs(columns["excess_loss"] - 0.2) <= 2.04 * columns["excess_loss_stderr"])
    assert 0.92 < np.mean(inside) < 0.98


def test_other_text_gives_nothing_and_an_older_record_no_error():
    new = loss([300.0, 310.0])
    assert paired.excess(new, loss([290.0, 300.0], data="other")) == {}
    older = {name: value for name, value in loss([290.0, 300.0]).items() if name not in ("sums", "counts")}
    columns = paired.excess(new, older)
    assert columns["excess_loss"] == pytest.approx(0.1) and math.isnan(columns["excess_loss_stderr"])
    assert paired.excess(new, new) == {"excess_loss": 0.0, "excess_loss_stderr": 0.0}


def test_changes_are_paired_by_document():
    right0 = RNG.random(60)
    right = right0 - 0.02 + RNG.normal(0, 0.01, 60)
    digits0 = "".join("01"[int(p > 0.5)] for p in right0)
    digits = "1" + digits0[1:]
    columns = paired.changes(scored(right, digits), scored(right0, digits0), {"piqa": "acc"})
    assert columns["accuracy_change"] == columns["piqa_acc_change"] == pytest.approx(int(digits0[0] == "0") / 60)
    assert columns["p_right_change"] == pytest.approx(-0.02, abs=0.01)
    assert columns["p_right_change_stderr"] == pytest.approx(paired.error_of_mean(right - right0), rel=0.01)
    assert columns["p_right_change_stderr"] < 0.1 * paired.error_of_mean(right)


def test_no_change_on_few_documents_is_not_known_without_error():
    """Two models that answer 40 documents alike may differ in one of the next 40."""
    right, digits = RNG.random(40), "01" * 20
    dense, same = scored(right, digits), scored(right + RNG.normal(0, 0.01, 40), digits)
    columns = paired.changes(same, dense, {"piqa": "acc"})
    assert columns["accuracy_change"] == 0 and columns["accuracy_change_stderr"] == pytest.approx(1 / 42)
    assert 0 < columns["p_right_change_stderr"] < 0.01
    assert paired.changes(dense, dense, {"piqa": "acc"})["accuracy_change_stderr"] == 0  # from itself it differs by nothing


def test_other_documents_are_not_paired():
    some, others = scored(RNG.random(9), "011" * 3), scored(RNG.random(9), "011" * 3, documents="other")
    assert paired.changes(some, others, {"piqa": "acc"}) == {}
    fewer = scored(RNG.random(6), "011" * 2)
    assert paired.changes(some, fewer, {"piqa": "acc"}) == {}


def test_pairs_are_made_whichever_record_came_first_and_whatever_job_made_it(tmp_path):
    dense = Experiment.of_dense("m")
    small = Experiment(compression=Compression(model="m", method="magnitude", ratio=0.5))
    values, right, digits = RNG.normal(300, 50, 16), RNG.random(30), "10" * 15
    for experiment, own in ((small, values + 40), (dense, values)):
        path = records.path_of(tmp_path, experiment.id, "loss", "w")
        records.write_record(path, written.record(experiment, "loss", loss(own), "w"))
        path = records.path_of(tmp_path, experiment.id, "tasks", "w")
        result = scored(right if experiment is dense else right / 2, digits)
        records.write_record(path, written.record(experiment, "tasks", result, "w"))
    table = records.table(tmp_path).set_index("method")
    assert table.loc["magnitude", "excess_loss"] == pytest.approx(0.4)
    assert table.loc["magnitude", "excess_loss_stderr"] == pytest.approx(0, abs=1e-9)
    assert table.loc["magnitude", "loss0_stderr"] == table.loc["dense", "loss_stderr"] > 0
    assert table.loc["magnitude", "p_right_change"] == pytest.approx(-right.mean() / 2)
    assert table.loc["magnitude", "p_right0"] == table.loc["dense", "p_right"] == pytest.approx(right.mean())
    assert table.loc["magnitude", ["accuracy_change", "accuracy_change_stderr"]].tolist() == [0, 1 / 32]
    assert table.loc["dense", ["excess_loss", "excess_loss_stderr", "p_right_change"]].tolist() == [0, 0, 0]
