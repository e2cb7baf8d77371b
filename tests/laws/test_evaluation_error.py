"""The error of the evaluation is the paired one where a table has it, and bands of readings are as narrow as it says."""

import numpy as np
import pandas as pd
import pytest

from claw import laws
from claw.laws.evaluation_error import evaluation_errors
from claw.laws.points import read_points

RNG = np.random.default_rng(0)
BLOCKS, DRAWS = 32, 2000


def table(paired=True):
    """One curve whose losses are means over blocks of very different difficulty, as the records give them."""
    hard = RNG.normal(3, 0.8, BLOCKS)
    rows = []
    for r in (0.0, 0.1, 0.2, 0.3, 0.4, 0.5):
        loss = hard * (1 + r**2) + RNG.normal(0, 0.01, BLOCKS) * (r > 0)
        row = {
            "model": "m",
            "method": "flap" if r else "dense",
            "ratio": r,
            "loss": loss.mean(),
            "loss_stderr": loss.std(ddof=1),
        }
        row |= {"loss0": hard.mean(), "loss0_stderr": hard.std(ddof=1)}
        row |= {"excess_loss": (loss - hard).mean(), "excess_loss_stderr": (loss - hard).std(ddof=1)}
        rows.append({name: value / BLOCKS**0.5 if "stderr" in name else value for name, value in row.items()})
    frame = pd.DataFrame(rows)
    return frame if paired else frame.drop(columns=["excess_loss", "excess_loss_stderr", "loss0_stderr"])


def test_the_error_is_that_of_the_ratio_to_the_dense_loss():
    """Against the spread of log(L/L0) over many draws of the text."""
    hard = RNG.normal(3, 0.8, (DRAWS, BLOCKS))
    loss = 1.5 * hard + RNG.normal(0, 0.3, (DRAWS, BLOCKS))
    spread = np.log(loss.mean(axis=1) / hard.mean(axis=1)).std()
    errors = lambda values: values.std(axis=1, ddof=1) / BLOCKS**0.5
    columns = {"loss": loss.mean(axis=1), "loss0": hard.mean(axis=1), "excess_loss": (loss - hard).mean(axis=1)}
    columns |= {"loss_stderr": errors(loss), "loss0_stderr": errors(hard), "excess_loss_stderr": errors(loss - hard)}
    rows = pd.DataFrame(columns).assign(model="m", method="flap", ratio=0.5)
    relative = evaluation_errors(rows, "loss") / rows["loss"]
    assert relative.mean() == pytest.approx(spread, rel=0.05)
    assert (rows["loss_stderr"] / rows["loss"]).mean() > 2 * spread


def test_tables_without_pairs_have_the_error_they_had_and_the_dense_model_none_with_them():
    old, new = table(paired=False), table()
    assert evaluation_errors(old, "loss").tolist() == old["loss_stderr"].tolist()
    assert evaluation_errors(new, "loss")[0] == 0
    assert np.isnan(evaluation_errors(old.drop(columns="loss_stderr"), "loss")).all()


def test_differences_in_another_unit_than_the_losses_are_not_taken():
    rows = table()
    bits = rows.assign(**{name: rows[name] / 4 for name in ("loss", "loss0", "loss_stderr")})
    assert evaluation_errors(bits, "loss").tolist() == bits["loss_stderr"].tolist()


def test_an_accuracy_whose_answers_all_stayed_has_the_smallest_error_seen():
    rows = pd.DataFrame({"accuracy": [0.5, 0.5, 0.4], "accuracy0": 0.5, "accuracy_stderr": 0.05, "ratio": [0, 0.1, 0.5]})
    rows = rows.assign(model="m", method=["dense", "flap", "flap"], accuracy_change=rows["accuracy"] - 0.5)
    rows = rows.assign(accuracy_change_stderr=[0.0, 0.0, 0.02])
    assert evaluation_errors(rows, "accuracy").tolist() == [0, 0.02, 0.02]


def test_readings_are_sharper_with_pairs_and_answer_the_same():
    RNG.bit_generator.state = np.random.default_rng(1).bit_generator.state
    rows = table()
    old = rows.drop(columns=["excess_loss", "excess_loss_stderr"])
    sharp, wide = (laws.fit(frame, compare=False).critical_ratio(1.1, "m", "flap") for frame in (rows, old))
    assert sharp.ratio == pytest.approx(wide.ratio)
    assert sharp.high - sharp.low < 0.5 * (wide.high - wide.low)


def test_old_tables_read_as_before():
    points = read_points(table(paired=False))
    assert "excess_loss" not in points.rows and "accuracy_change" not in points.rows


def test_another_metric_read_as_accuracy_brings_its_own_dense_value_and_errors():
    rows = table().assign(accuracy=0.5, accuracy0=0.6, accuracy_stderr=0.02, accuracy_change=-0.1, chance=0.25)
    rows = rows.assign(p_right=0.4, p_right0=0.45, p_right_stderr=0.01, p_right_change=-0.05, p_right_change_stderr=0.004)
    read = laws.read(rows, accuracy="p_right").table
    assert read["accuracy"].eq(0.4).all() and read["accuracy0"].eq(0.45).all() and read["chance"].eq(0.25).all()
    assert read["accuracy_change_stderr"].eq(0.004).all() and read["accuracy_stderr"].eq(0.01).all()
    without = laws.read(rows.drop(columns=["p_right0", "p_right_change"]), accuracy="p_right").table
    assert "accuracy0" not in without and "accuracy_change" not in without


def test_another_loss_leaves_the_dense_value_and_errors_of_the_first_behind():
    rows = table().assign(bits_per_byte=lambda frame: frame["loss"] / 4, token_perplexity=lambda frame: np.exp(frame["loss"]))
    read = laws.read(rows, loss="bits_per_byte").table
    assert read["loss"].tolist() == pytest.approx((rows["loss"] / 4 * np.log(2)).tolist())
    assert not {"loss0", "loss_stderr", "excess_loss", "excess_loss_stderr"} & set(read)
    assert "excess_loss" in laws.read(rows, loss="token_perplexity").table  # the same loss in another dress
