"""Stages record every point at once, skip what is recorded, and leave nothing half done."""

import gc
import math
import weakref

import pytest
import torch
from conftest import tiny_model

from claw import records
from claw.errors import InputError
from claw.evaluate import held_out
from claw.models import load
from claw.prune import whole_model
from claw.specs.notebooks import CompressParameters, EvaluateParameters
from claw.stages import checkpoints, compress, evaluate, frames, measure


@pytest.fixture
def asked(folder_model, train_text, heldout_text, tmp_path, own_cache):
    texts = dict(calibration=train_text, calibration_tokens=512, calibration_length=64, heldout=heldout_text)
    point = dict(model=folder_model, method="wanda-sp+ridge", ratios=(0.0, 0.25, 0.5))
    return CompressParameters(**texts, **point, heldout_tokens=512, context=64, run=str(tmp_path / "run"), dtype="float32")


def run(asked):
    model, tokenizer = load.load(asked.model, dtype=asked.dtype)
    return compress.compress_curve(asked, model, tokenizer)


def test_a_curve_has_the_dense_model_first_and_true_ratios(asked):
    table = records.from_records(run(asked))
    assert list(table["ratio"]) == [0.0, 0.25, 0.5] and list(table["method"]) == ["dense", *["wanda-sp+ridge"] * 2]
    assert (table["loss0"] == table["loss"].iloc[0]).all() and (table["status"] == "done").all()
    assert (table["ratio_params"].diff().dropna() > 0).all() and (table["ratio_params"] <= table["ratio"]).all()
    assert table["loss_stderr"].gt(0).all() and table["heldout"].eq(asked.heldout).all()


def test_recorded_points_are_not_measured_again(asked, monkeypatch):
    first = run(asked)
    monkeypatch.setattr(held_out, "cross_entropy", lambda *_, **__: pytest.fail("measured again"))
    assert run(asked) == first


def test_a_checkpoint_is_the_model_whose_loss_was_recorded(asked):
    results = run(asked)
    table = records.from_records(results)
    place = frames.checkpoint_frame(results, asked.folder).set_index("ratio")["folder"][0.5]
    small, tokenizer = load.load(place, dtype="float32")
    again = held_out.cross_entropy(small, measure.heldout_blocks(asked.evaluation, tokenizer))
    assert again.mean == pytest.approx(table.set_index("ratio")["loss"][0.5], abs=1e-6)
    assert checkpoints.experiment_of(place).compression.ratio == 0.5


def test_evaluating_checkpoints_adds_what_is_missing(asked):
    results = run(asked)
    folders = list(frames.checkpoint_frame(results, asked.folder)["folder"])
    shared = {name: getattr(asked, name) for name in ("heldout", "heldout_tokens", "run", "dtype")}
    evaluated = evaluate.evaluate_checkpoints(EvaluateParameters(checkpoints=(asked.model, *folders), context=32, **shared))
    assert [record["result"]["context"] for record in evaluated if record["stage"] == "loss"] == [32] * 3
    with pytest.raises(InputError, match="different ways"):  # two contexts do not belong in one column
        records.table(asked.folder)
    assert len(records.table(asked.folder, asked.evaluation)) == 3


def test_nan_is_a_result(asked, tokenizer, tmp_path):
    model = tiny_model("llama")
    with torch.no_grad():
        model.model.norm.weight.fill_(math.nan)
    experiment = asked.curve.experiments[1]
    blocks = measure.heldout_blocks(asked.evaluation, tokenizer)
    measure.measure_loss(tmp_path, experiment, model, blocks, asked.evaluation)
    record = next(records.every(tmp_path))
    assert record["status"] == "nan" and records.has(tmp_path, experiment.id, "loss", asked.evaluation.loss.digest)


def test_a_failure_is_recorded_and_asked_for_again(asked, tmp_path):
    experiment = asked.curve.experiments[1]
    with pytest.raises(ZeroDivisionError), measure.recorded(tmp_path, experiment, "compress", tiny_model("llama")):
        1 / 0  # noqa: B018
    assert next(records.every(tmp_path))["error"].startswith("ZeroDivisionError")
    assert not records.has(tmp_path, experiment.id, "compress")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"model": "smollm2"}, "smollm2-135m"),
        ({"heldout": "nowhere.txt"}, "nowhere.txt"),
        ({"heldout": "wikipedia-train"}, "wikipedia-train"),
        ({"calibration": "wikipedia-heldout"}, "wikipedia-heldout"),
    ],
)
def test_wrong_input_is_refused_before_work(asked, change, message):
    with pytest.raises(InputError, match=message):
        compress.check_compress(asked.model_copy(update=change))
    assert not asked.folder.exists()


def test_a_ratio_that_the_model_cannot_reach_is_refused_before_any_point_is_computed(asked, monkeypatch):
    monkeypatch.setattr(compress, "calibrate", lambda *_, **__: pytest.fail("calibrated"))
    with pytest.raises(InputError, match=r"0\.999.*cannot be reached"):
        run(asked.model_copy(update={"ratios": (0.25, 0.999)}))
    assert not asked.folder.exists()


def test_heldout_text_must_not_be_the_calibration_text(asked):
    with pytest.raises(InputError, match=r"held-out|calibration"):
        compress.check_compress(asked.model_copy(update={"heldout": asked.calibration}))


def test_a_curve_without_the_dense_model_is_compared_with_it_all_the_same(asked, monkeypatch):
    asked = asked.model_copy(update={"ratios": (0.25, 0.5)})
    results, loaded = run(asked), load.load(asked.model, dtype=asked.dtype)
    assert records.from_records(results)["loss0"].isna().all()
    table = records.from_records([*compress.dense_records(asked, *loaded), *results])
    assert table["loss0"].notna().all() and sorted(table["ratio"]) == [0.0, 0.25, 0.5]
    monkeypatch.setattr(held_out, "cross_entropy", lambda *_, **__: pytest.fail("measured again"))
    assert compress.dense_records(asked, *loaded)
    assert compress.dense_records(asked.model_copy(update={"ratios": (0.0, 0.5)}), *loaded) == []  # it is on the curve


@pytest.fixture
def alone(monkeypatch):
    """Fails where one model that `compress`, `load` or a refit gave is still held when the next one is asked for."""

    def watch(owner, name):
        plain, given = getattr(owner, name), []

        def once(*args, **choices):
            gc.collect()
            assert not [ref for ref in given if ref() is not None], f"{name}: the model before is still there"
            made = plain(*args, **choices)
            given.append(weakref.ref(made[0] if isinstance(made, tuple) else made))
            return made

        monkeypatch.setattr(owner, name, once)

    return watch


def test_no_more_than_one_small_model_is_held_at_a_time(asked, alone):
    """Two beside the dense model are three times its weights, where two fit."""
    whole = asked.model_copy(update={"method": "claw", "ratios": (0.2, 0.4)})
    model, tokenizer = load.load(asked.model, dtype=asked.dtype)
    alone(whole_model, "fitted_shape")
    alone(compress.compress, "compress")
    results = compress.compress_curve(whole, model, tokenizer)
    folders = tuple(frames.checkpoint_frame(results, asked.folder)["folder"])
    assert len(folders) == 2
    shared = {name: getattr(asked, name) for name in ("heldout", "heldout_tokens", "run", "dtype")}
    alone(evaluate.load, "load")
    assert evaluate.evaluate_checkpoints(EvaluateParameters(checkpoints=folders, context=32, **shared))
