"""The stages that recover and time checkpoints: records, resuming, broken runs, and their place in a study's plan."""

import math

import pytest
from conftest import byte_tokenizer, tiny_model

from claw import records
from claw.errors import InputError
from claw.recovery.recipes import Student
from claw.specs import notebooks
from claw.specs import study as studies
from claw.stages import checkpoints, compress, evaluate, frames, speed
from claw.stages import recover as stage
from claw.sweep import plan


@pytest.fixture
def shared(heldout_text, tmp_path):
    """What every stage of the run in tmp_path / "run" is asked for."""
    return dict(heldout=heldout_text, heldout_tokens=512, context=64, run=str(tmp_path / "run"), dtype="float32")


@pytest.fixture
def compressed(folder_model, shared, tmp_path):
    """Folder of one compressed checkpoint of a run in tmp_path / "run"."""
    import claw

    asked = notebooks.CompressParameters(model=folder_model, method="magnitude", ratios=(0.5,), **shared)
    model, tokenizer = claw.load(folder_model, dtype="float32")
    compress.compress_curve(asked, model, tokenizer)
    (folder,) = (tmp_path / "run" / "checkpoints").iterdir()
    return str(folder)


@pytest.fixture
def asked(compressed, train_text, shared):
    series = dict(recipe="full", tokens=(600, 1300), corpus=train_text, length=64, batch=4, learning_rate=3e-3)
    return notebooks.RecoverParameters(checkpoints=(compressed,), **series, **shared)


def test_milestones_are_recorded_and_not_repeated(asked, monkeypatch):
    results = stage.recover_checkpoints(asked)
    table = records.from_records(results, asked.evaluation)
    assert table["recovery_tokens"].tolist() == [0, 576, 1280]
    assert table["loss"].is_monotonic_decreasing
    assert table["ratio_params"].nunique() == 1 and table["ratio_of"].nunique() == 1
    runs = table["recovery_run"].dropna()
    assert len(runs) == 2 and runs.nunique() == 1
    frame = frames.checkpoint_frame(results, asked.folder)
    assert len(frame) == 2 and checkpoints.experiment_of(frame["folder"][0]).recovery.tokens == 600
    assert len(frames.recovery_frame(results)) == 2 and set(frames.moment_frame(results)["budget"]) == {600, 1300}
    monkeypatch.setattr(stage, "_recover", None)
    again = stage.recover_checkpoints(asked)
    assert [r["checksum"] for r in again] == [r["checksum"] for r in results]
    with pytest.raises(InputError, match="recovered already"):
        stage.check_recover(asked.model_copy(update={"checkpoints": (frame["folder"][0],)}))


def test_a_broken_run_is_a_result(asked, monkeypatch):
    plain = Student.loss
    monkeypatch.setattr(Student, "loss", lambda self, ids, scored: plain(self, ids, scored) * math.nan)
    results = stage.recover_checkpoints(asked)
    broken = [r for r in results if r["stage"] == "recover"]
    assert all(r["status"] == "nan" and r["result"]["nan_step"] == 1 for r in broken)
    table = records.from_records(results, asked.evaluation)
    assert (table["status"] == "nan").sum() == 2 and table.loc[table["recovery"] == "full", "loss"].isna().all()
    gone = str(asked.folder / "checkpoints" / broken[0]["experiment"])
    tasks = notebooks.EvaluateParameters(
        checkpoints=(gone, *asked.checkpoints), heldout=asked.heldout, heldout_tokens=512, context=64, run=asked.run
    )
    evaluate.check_evaluate(tasks)  # what broke is no mistake of whoever asks
    assert {r["experiment"] for r in evaluate.evaluate_checkpoints(tasks)} == {
        checkpoints.experiment_of(asked.checkpoints[0]).id
    }


def test_distillation_refuses_another_tokenizer(asked, compressed):
    tokenizer = byte_tokenizer()
    tokenizer.add_tokens(["word"])
    about = checkpoints.experiment_of(compressed)
    dense = tiny_model("llama")
    dense.resize_token_embeddings(260)
    dense.save_pretrained(about.compression.model)
    tokenizer.save_pretrained(about.compression.model)
    with pytest.raises(InputError, match="different tokenizers"):
        stage.recover_checkpoints(asked.model_copy(update={"recipe": "distill"}))
    timed = notebooks.SpeedParameters(checkpoints=(compressed,), run=asked.run, dtype="float32")
    with pytest.raises(InputError, match="different tokenizers"):
        speed.time_checkpoints(timed)


def test_a_distilled_checkpoint_is_named_by_its_choices(asked, own_cache):
    choices = {"recipe": "distill", "top_k": 8, "divergence": "skew", "tokens": (600,)}
    table = records.from_records(stage.recover_checkpoints(asked.model_copy(update=choices)), asked.evaluation)
    assert table["recovery"].tolist()[1].startswith("distill (batch 4") and "divergence skew" in table["recovery"].tolist()[1]
    assert table["loss"].is_monotonic_decreasing and list(own_cache.glob("teachers/*/*.safetensors"))


def test_speed_is_recorded_and_said(compressed, tmp_path, folder_model):
    asked = notebooks.SpeedParameters(
        checkpoints=(compressed,), prompt=8, generate=2, batches=(1, 2), rounds=3, run=str(tmp_path / "run"), dtype="float32"
    )
    results = speed.time_checkpoints(asked)
    assert [r["checksum"] for r in speed.time_checkpoints(asked)] == [r["checksum"] for r in results]
    frame = frames.timing_frame(results)
    assert len(frame) == 4 and (frame["ideal"] > 1).all()
    assert frames.timing_sentences(results).count("dense") == 4
    row = records.from_records(results).iloc[0]
    assert row["speedup_decode_low"] <= row["speedup_decode"] <= row["speedup_decode_high"] and row["ideal_prefill"] > 1
    with pytest.raises(InputError, match="dense model"):
        speed.check_speed(asked.model_copy(update={"checkpoints": (folder_model,)}))
    with pytest.raises(InputError, match="no checkpoint folder"):
        speed.check_speed(asked.model_copy(update={"checkpoints": ("nowhere",)}))


def test_a_study_plans_recovery_between_compressing_and_evaluating(tmp_path):
    grid = dict(models=["smollm2-135m"], methods=["magnitude", "slicegpt-perlayer"], ratios=[0.0, 0.5])
    distilled = {"recipe": "distill", "tokens": [1000], "divergence": "skew", "top_k": 64, "trains": "lora", "decay": 1.0}
    recovery = [{"tokens": [1000, 2000]}, distilled]
    values = dict(name="x", **grid, recovery=recovery, speed={"rounds": 3}, evaluation={"tasks": ["piqa"]})
    study = studies.parse_study(values, {}, "x")
    planned = plan.make(study, tmp_path)
    names = [job.notebook for job in planned.jobs]
    control = ["20_recover", "20_recover", "30_evaluate"]  # the whole model trained alike, last of all
    curves = ["10_compress", "20_recover", "20_recover", "30_evaluate", "40_speed", "10_compress"]
    assert names == ["30_evaluate", *curves, *control]
    assert len(study.experiments) == (1 + 3) + (1 + 3) + 1  # dense and a point with recoveries; one without checkpoint
    made = [name for job in planned.jobs for name in job.makes]
    assert sorted(made) == sorted(planned.wanted) and len(set(made)) == len(made)
    recover = planned.jobs[2].parameters
    asked = notebooks.RecoverParameters(**recover)
    assert asked.series == study.recovery[0]
    assert notebooks.RecoverParameters(**planned.jobs[3].parameters).series == study.recovery[1]
    assert notebooks.SpeedParameters(**planned.jobs[5].parameters).speed == study.speed
