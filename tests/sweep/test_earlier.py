"""A study goes on from a committed table: its rows are not measured again, and the table of the whole is as if all had been."""

import pandas as pd
import pytest
from written import result, write

from claw import records
from claw.errors import InputError
from claw.sweep import checks, earlier, ending, plan, status, study_run

EVALUATION = {"heldout": "c", "context": 32, "tokens": 128}  # as the records of `written` say; predicted: 4 × 31 of them


@pytest.fixture
def alike(study):
    """The tiny study, measured as the records of `written` are."""
    return study.model_copy(update={"evaluation": study.evaluation.model_copy(update=EVALUATION)})


def measure(folder, made, names=None):
    """Write records, every experiment with a loss of its own."""
    for name in made.wanted if names is None else names:
        stage, experiment = made.wanted[name]
        values = result(stage, mean=3 + experiment.compression.ratio + 0.1 * (experiment.compression.method == "random"))
        write(folder, made, name, values=values | ({"tokens": 124} if stage == "loss" else {}))


def part_of(study, methods):
    return study.model_copy(update={"methods": methods})


@pytest.fixture
def committed(alike, tmp_path):
    """The study, going on from a table of its first method; and what its table would be, had all been measured at once."""
    first = part_of(alike, alike.methods[:1])
    measure(tmp_path / "before", plan.make(first, tmp_path / "before"))
    records.save_csv(records.table(tmp_path / "before"), tmp_path / "before.csv")
    measure(tmp_path / "whole", plan.make(alike, tmp_path / "whole"))
    whole = records.table(tmp_path / "whole")
    return alike.model_copy(update={"goes_on_from": str(tmp_path / "before.csv")}), whole


def test_only_what_the_table_lacks_is_measured_and_the_dense_model_beside_it(committed, tmp_path):
    study, whole = committed
    made = plan.make(study, tmp_path / "run")
    assert [(job.notebook, job.title.split()[1]) for job in made.jobs] == [
        ("30_evaluate", "dense"),
        ("10_compress", study.methods[1]),
    ]
    assert made.missing() == len(made.wanted) - len(made.spared) == sum(len(job.makes) for job in made.jobs)
    states = status.Watcher(made).frame()["status"].value_counts().to_dict()
    assert states == {"done": len(made.spared), "planned": made.missing()}
    measure(tmp_path / "run", made, [name for job in made.jobs for name in job.makes])
    again = plan.make(study, tmp_path / "run")
    assert not again.jobs and not again.missing() and again.done == set(again.wanted)
    pd.testing.assert_frame_equal(earlier.table_of(study, tmp_path / "run"), whole, check_dtype=False)


def test_a_control_that_the_table_has_is_not_trained_again(alike, tmp_path):
    more = {"recovery": [{"tokens": [128], "length": 64}], "recovery_of": [{"method": "dense"}]}
    study = type(alike).model_validate(alike.model_dump(exclude_unset=True) | more)
    first = plan.make(part_of(study, study.methods[:1]), tmp_path / "before")
    assert [job.notebook for job in first.jobs][-1] == "20_recover"
    measure(tmp_path / "before", first)
    records.save_csv(records.table(tmp_path / "before"), tmp_path / "before.csv")
    made = plan.make(study.model_copy(update={"goes_on_from": str(tmp_path / "before.csv")}), tmp_path / "run")
    assert [(job.notebook, job.title.split()[1]) for job in made.jobs] == [
        ("30_evaluate", "dense"),
        ("10_compress", study.methods[1]),
    ]


def test_a_whole_table_leaves_nothing_to_run_and_is_the_table(committed, tmp_path):
    study, whole = committed
    records.save_csv(whole, tmp_path / "whole.csv")
    study = study.model_copy(update={"goes_on_from": str(tmp_path / "whole.csv")})
    made = plan.make(study, tmp_path / "run")
    assert not made.jobs and not made.missing() and not ending.is_finished(made)  # its pages are still to be written
    pd.testing.assert_frame_equal(earlier.table_of(study, tmp_path / "run"), whole, check_dtype=False)


def test_a_row_without_a_loss_is_measured_and_a_measured_nan_is_not(committed, tmp_path):
    study, whole = committed
    whole = whole.astype({"loss": float})
    cut = whole.index[whole["method"] != "dense"]
    whole.loc[cut[:2], "loss"] = float("nan")
    whole.loc[cut[0], "status"] = "nan"
    whole.loc[cut[2], "status"] = "failed"
    records.save_csv(whole, tmp_path / "holes.csv")
    made = plan.make(study.model_copy(update={"goes_on_from": str(tmp_path / "holes.csv")}), tmp_path / "run")
    asked = {ratio for job in made.jobs for ratio in job.parameters.get("ratios", ())}
    assert asked == set(whole.loc[cut[1:3], "ratio"])


def test_a_plan_says_what_it_goes_on_from(committed, tmp_path, capsys):
    study, _ = committed
    study = study.model_copy(update={"evaluation": study.evaluation.model_copy(update={"heldout": "wikipedia-heldout"})})
    table = pd.read_csv(study.goes_on_from).assign(heldout="wikipedia-heldout")
    table.to_csv(study.goes_on_from, index=False)
    study_run.rehearse(study, tmp_path / "run")
    assert "before.csv has 4 experiments already: 6 records need not be made." in capsys.readouterr().out


def test_a_damaged_record_whose_row_the_table_has_is_not_measured_again(committed, tmp_path):
    study, _ = committed
    study = study.model_copy(update={"evaluation": study.evaluation.model_copy(update={"heldout": "wikipedia-heldout"})})
    pd.read_csv(study.goes_on_from).assign(heldout="wikipedia-heldout").to_csv(study.goes_on_from, index=False)
    spared, missing = plan.make(study, tmp_path / "run").spared, plan.make(study, tmp_path / "run").missing()
    victim = tmp_path / "run" / "records" / min(spared)
    victim.parent.mkdir(parents=True)
    victim.write_text("{")
    made = plan.make(study, tmp_path / "run")
    assert made.spared == spared and made.missing() == missing
    assert any(victim.name in note and "before.csv stands for it" in note for note in checks.check_plan(made))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"heldout": "another"}, "heldout another, and the study asks for c"),
        ({"context": 64}, "context 64, and the study asks for 32"),
        ({"loss_tokens": 62}, "loss_tokens 62, and the study asks for 124"),
        ({"experiment": "alike"}, "names an experiment twice"),
    ],
)
def test_what_was_measured_otherwise_is_refused(committed, tmp_path, change, message):
    study, _ = committed
    pd.read_csv(study.goes_on_from).assign(**change).to_csv(study.goes_on_from, index=False)
    with pytest.raises(InputError, match=message):
        plan.make(study, tmp_path / "run")


def test_tasks_of_other_documents_are_refused(committed, tmp_path):
    study, _ = committed
    asked = study.evaluation.model_copy(update={"tasks": ("piqa",), "limit": 40})
    study = study.model_copy(update={"evaluation": asked})
    table = pd.read_csv(study.goes_on_from).assign(tasks="piqa", piqa_n=10, accuracy=0.5, limit=10.0)
    table.to_csv(study.goes_on_from, index=False)
    with pytest.raises(InputError, match="limit 10, and the study asks for 40"):
        plan.make(study, tmp_path / "run")
    table.assign(limit=40.0).to_csv(study.goes_on_from, index=False)
    assert plan.make(study, tmp_path / "run").spared


@pytest.mark.parametrize("name", ["nowhere.csv", "."])
def test_a_table_that_is_none_is_refused(alike, tmp_path, name):
    with pytest.raises(InputError, match="is no table"):
        plan.make(alike.model_copy(update={"goes_on_from": name}), tmp_path / "run")


def test_another_table_than_claws_is_refused(alike, tmp_path):
    (tmp_path / "own.csv").write_text("model,method,ratio,loss\na,b,0.1,3\n")
    with pytest.raises(InputError, match="no column experiment"):
        plan.make(alike.model_copy(update={"goes_on_from": str(tmp_path / "own.csv")}), tmp_path / "run")


def test_a_dense_model_that_comes_out_otherwise_is_said(committed, tmp_path):
    study, _ = committed
    made = plan.make(study, tmp_path / "run")
    measure(tmp_path / "run", made, [name for job in made.jobs for name in job.makes])
    table = pd.read_csv(study.goes_on_from)
    table.assign(loss=table["loss"] + 0.01).to_csv(study.goes_on_from, index=False)
    with pytest.warns(UserWarning, match="the dense model's loss is 3.00000 here and 3.01000"):
        earlier.table_of(study, tmp_path / "run")
    table.assign(heldout_data="e").to_csv(study.goes_on_from, index=False)
    with pytest.raises(InputError, match="other tokens"):
        earlier.table_of(study, tmp_path / "run")


def test_the_number_type_of_the_table_is_kept(committed, tmp_path):
    study = committed[0].model_copy(update={"dtype": "auto"})
    table = pd.read_csv(study.goes_on_from).assign(dtype="bfloat16")
    table.to_csv(study.goes_on_from, index=False)
    made = plan.make(study, tmp_path / "run")
    assert all(job.parameters["dtype"] == "bfloat16" for job in made.jobs)
    with pytest.raises(InputError, match="asks for float32"):
        plan_of = plan.make(study.model_copy(update={"dtype": "float32"}), tmp_path / "run")
        [*checks._check_records(plan_of)]


def test_a_curve_is_not_gone_on_with_on_other_calibration_text(committed, tmp_path):
    study, _ = committed
    method = study.methods[0]
    table = pd.read_csv(study.goes_on_from)
    mine = table["method"] == method
    table.loc[mine, "calibration_tokens"] = study.calibration.tokens * 2.0
    table.to_csv(study.goes_on_from, index=False)
    with pytest.raises(InputError, match=f"calibration_tokens {study.calibration.tokens * 2}, and the study asks for"):
        plan.make(study, tmp_path / "run")
    plan.make(study.model_copy(update={"methods": tuple(set(study.methods) - {method})}), tmp_path / "run")


def test_a_study_whose_calibration_was_changed_has_no_old_points_in_its_curves(alike, tmp_path):
    text = alike.calibration
    less = alike.model_copy(update={"calibration": text.model_copy(update={"tokens": text.tokens // 2})})
    for study in (less, alike):
        measure(tmp_path / "run", plan.make(study, tmp_path / "run"))
    assert len(records.table(tmp_path / "run")) > len(alike.experiments)
    with pytest.warns(UserWarning, match="calibrated on other text than the study asks for now"):
        table = earlier.table_of(alike, tmp_path / "run")
    assert set(table["experiment"]) == {experiment.id for experiment in alike.experiments}
