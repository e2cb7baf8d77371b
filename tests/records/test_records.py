"""Records are atomic, checked and never invent a value; the table has one row per experiment."""

import json
import math
import os

import pandas as pd
import pytest
import written

from claw import files, project, records
from claw.errors import InputError
from claw.files import writing
from claw.records.result_columns import RESULTS
from claw.specs import on_disk
from claw.specs.experiment import Calibration, Compression, Evaluation, Experiment

EVALUATION = Evaluation(tasks=("piqa", "winogrande"), limit=10)


def record(experiment, stage, values, measured="", status="done"):
    return written.record(experiment, stage, values, measured, status)


def loss(mean):
    return written.result("loss", mean)


def task(name, metric, value):
    return {"task": name, "metric": metric, "value": value, "stderr": 0.1, "n": 10, "chance": 0.5}


def point(method="magnitude", ratio=0.5, model="m"):
    return Experiment(compression=Compression(model=model, method=method, ratio=ratio))


@pytest.fixture
def run(tmp_path):
    """A dense and a compressed point; the compressed one lacks its tasks."""
    dense, small = point(ratio=0.0), point()
    measured = {"loss": EVALUATION.loss.digest, "tasks": EVALUATION.accuracy.digest}
    rows = [task("piqa", "acc", 0.6), task("piqa", "acc_norm", 0.7), task("winogrande", "acc", 0.5)]
    for experiment, mean in ((dense, 3.0), (small, 4.0)):
        result = written.result("compress")
        records.write_record(records.path_of(tmp_path, experiment.id, "compress"), record(experiment, "compress", result))
        path = records.path_of(tmp_path, experiment.id, "loss", measured["loss"])
        records.write_record(path, record(experiment, "loss", loss(mean), measured["loss"]))
    path = records.path_of(tmp_path, dense.id, "tasks", measured["tasks"])
    result = {"rows": rows, "num_fewshot": 0, "limit": 10}
    records.write_record(path, record(dense, "tasks", result, measured["tasks"]))
    return tmp_path


def test_one_row_per_experiment_with_dense_beside_it(run):
    table = records.table(run)
    assert list(table["method"]) == ["dense", "magnitude"]
    assert list(table["loss0"]) == [3.0, 3.0] and table["loss"][1] == 4.0
    assert set(records.COLUMNS) <= set(table.columns)


def test_accuracy_takes_acc_norm_where_there_is_one(run):
    row = records.table(run).iloc[0]
    assert row["accuracy"] == pytest.approx((0.7 + 0.5) / 2)
    assert row["accuracy_stderr"] == pytest.approx(math.sqrt(0.02) / 2)
    assert row["piqa_acc"] == 0.6 and row["piqa_acc_norm"] == 0.7


def test_what_was_not_measured_is_missing(run):
    row = records.table(run).iloc[1]
    assert math.isnan(row["accuracy"]) and math.isnan(row["piqa_acc"]) and row["accuracy0"] == pytest.approx(0.6)


def test_a_truncated_record_is_named_and_counts_as_missing(run):
    path = next((run / "records").glob("*.compress.json"))
    whole = path.read_text()
    for cut in (0, 1, len(whole) // 2, len(whole) - 1):
        path.write_text(whole[:cut])
        with pytest.warns(UserWarning, match=r"damaged.*measured again"):
            assert records.read_record(path) is None


def test_a_changed_value_breaks_the_checksum(run):
    path = next((run / "records").glob("*.loss-*.json"))
    path.write_text(path.read_text().replace('"mean": 3.0', '"mean": 2.0').replace('"mean": 4.0', '"mean": 2.0'))
    with pytest.warns(UserWarning, match="checksum"):
        assert records.read_record(path) is None


def test_nan_is_a_result(tmp_path):
    experiment = point()
    path = records.path_of(tmp_path, experiment.id, "loss", "w")
    records.write_record(path, record(experiment, "loss", loss(1.0) | {"mean": math.nan}, "w", "nan"))
    row = records.table(tmp_path).iloc[0]
    assert math.isnan(row["loss"]) and row["status"] == "nan"


def test_a_failed_record_is_not_usable(tmp_path):
    experiment = point()
    records.write_record(
        records.path_of(tmp_path, experiment.id, "compress"), record(experiment, "compress", {}, status="failed")
    )
    assert not records.has(tmp_path, experiment.id, "compress")


def test_two_ways_of_measuring_are_not_mixed(run):
    other = Evaluation(tokens=99)
    experiment = point()
    path = records.path_of(run, experiment.id, "loss", other.loss.digest)
    records.write_record(path, record(experiment, "loss", loss(9.0), other.loss.digest))
    with pytest.raises(InputError, match="2 different ways"):
        records.table(run)
    assert records.table(run, EVALUATION)["loss"].max() == 4.0


def test_no_part_file_is_left_and_writing_is_atomic(run, monkeypatch):
    path = next((run / "records").glob("*.compress.json"))
    before = path.read_text()
    monkeypatch.setattr(writing.os, "replace", lambda *a: (_ for _ in ()).throw(OSError(28, "No space left on device")))
    with pytest.raises(InputError, match=r"No space left.*recorded before is safe"):
        records.write_record(path, {"a": 1})
    assert path.read_text() == before and not list(path.parent.glob("*.part"))


def test_csv_round_trip(run, tmp_path):
    table = records.table(run)
    records.save_csv(table, tmp_path / "t.csv")
    again = records.table(tmp_path / "t.csv")
    pd.testing.assert_frame_equal(table[["experiment", "loss", "ratio"]], again[["experiment", "loss", "ratio"]])
    first = (tmp_path / "t.csv").read_bytes()
    records.save_csv(records.table(run), tmp_path / "t.csv")
    assert (tmp_path / "t.csv").read_bytes() == first


def test_a_folder_without_records_is_explained(tmp_path):
    with pytest.raises(InputError, match="holds no records"):
        records.table(tmp_path)
    with pytest.raises(InputError, match="claw table"):
        records.table(tmp_path / "t.csv")


def test_records_are_plain_json(run):
    for path in (run / "records").glob("*.json"):
        assert json.loads(path.read_text())["schema"] == on_disk.SCHEMA


def test_milliseconds_are_those_of_the_smallest_batch(run):
    usual = written.result("speed")
    timing = usual["timings"][0]
    timings = [timing, timing | {"batch": 8, "seconds": 9.0}]
    path = records.path_of(run, point().id, "speed", "how")
    records.write_record(path, record(point(), "speed", usual | {"timings": timings}, "how"))
    row = records.table(run).iloc[1]
    assert (row["speedup_decode"], row["milliseconds_decode"], row["milliseconds0_decode"]) == (2.0, 10.0, 20.0)


def test_a_row_says_what_it_was_calibrated_on_and_where_it_was_timed(run):
    text = Calibration(corpus="c", tokens=128, length=32)
    small = Experiment(compression=Compression(model="m", method="flap", ratio=0.5, calibration=text))
    compressed = record(small, "compress", written.result("compress"))
    records.write_record(records.path_of(run, small.id, "compress"), compressed)
    timed = record(small, "speed", written.result("speed"), "how")
    timed["environment"] = timed["environment"] | {"device": "a GPU", "threads": 8}
    records.write_record(records.path_of(run, small.id, "speed", "how"), timed)
    rows = records.table(run).set_index("method")
    columns = ["calibration", "calibration_tokens", "calibration_length", "speed_setting"]
    assert list(rows.loc["flap", columns]) == ["c", 128, 32, "a GPU, prompt 256, 32 generated"]
    assert rows.loc[["dense", "magnitude"], columns].isna().all(axis=None)


def test_the_newest_run_is_opened_before_the_reference_study(tmp_path):
    with pytest.raises(InputError, match="make demo"):
        project.default_table(tmp_path)
    files.write_text(tmp_path / project.REFERENCE, "model\n")
    assert project.default_table(tmp_path) == tmp_path / "results" / "reference.csv"
    for age, name in enumerate(("new", "old")):
        path = tmp_path / "runs" / name / "table.csv"
        files.write_text(path, "model\n")
        os.utime(path, (1e9 - age, 1e9 - age))
    assert project.default_table(tmp_path).parent.name == "new"


def test_a_group_without_a_standard_error_gets_the_binomial_one(run):
    rows = [
        task("mmlu", "acc", 0.25) | {"stderr": math.nan, "n": 57},
        task("piqa", "acc", 0.6),
        task("odd", "acc", 1.0) | {"stderr": None, "n": 1},
    ]
    path = records.path_of(run, point().id, "tasks", EVALUATION.accuracy.digest)
    records.write_record(
        path, record(point(), "tasks", {"rows": rows[:2], "num_fewshot": 0, "limit": 1}, EVALUATION.accuracy.digest)
    )
    row = records.table(run).set_index("method").loc["magnitude"]
    own = math.sqrt(0.25 * 0.75 / 56)
    assert row["mmlu_acc_stderr"] == pytest.approx(own)
    assert row["accuracy_stderr"] == pytest.approx(math.hypot(own, 0.1) / 2)
    of_one = RESULTS["tasks"]({"rows": rows[2:], "num_fewshot": 0, "limit": 1})
    assert math.isnan(of_one["odd_acc_stderr"])
