"""Probability of the right choice and bits per byte of the right answer, against their definitions."""

import math

import numpy as np
import pandas as pd
import pytest
from conftest import tiny_model

from claw import paired, project
from claw.evaluate import continuous, tasks
from claw.models import sources
from claw.specs.experiment import Evaluation, Experiment
from claw.stages import measure

HERE = (project.cache() / "archives" / sources.task_archive().file).is_file()
needs_archive = pytest.mark.skipif(not HERE, reason="the task archive is not in the cache: claw fetch tasks")


def samples_of(documents):
    """Rows of samples of one task; of each document log-likelihoods, right choices and bytes of its choices."""
    rows = [
        ("t", "t", number, choice, logs[choice], False, 0, 1.0, 1.0, choice in right, sizes[choice], f"hash{number}")
        for number, (logs, right, sizes) in enumerate(documents)
        for choice in range(len(logs))
    ]
    return pd.DataFrame(rows, columns=list(tasks.SAMPLE_COLUMNS))


def test_the_definitions():
    logs = np.log([0.2, 0.1, 0.1])
    samples = samples_of([(logs, {0}, [4, 5, 6]), (logs, {1, 2}, [4, 5, 6])])
    scores = continuous.document_scores(samples)
    assert scores["p_right"].tolist() == pytest.approx([0.5, 0.5])
    assert scores["answer_bpb"].tolist() == pytest.approx([-math.log2(0.2) / 4, -math.log2(0.1) / 6])


def test_shifting_all_choices_changes_no_probability_and_extremes_do_not_overflow():
    logs = np.array([-2.0, -3.0])
    scores = continuous.document_scores(samples_of([(logs, {0}, [1, 1]), (logs - 5000, {0}, [1, 1])]))
    assert scores["p_right"][0] == pytest.approx(scores["p_right"][1]) and scores["p_right"][0] == pytest.approx(
        1 / (1 + 1 / math.e)
    )


def test_a_choice_scored_without_the_question_is_none_and_nan_stays_nan():
    scores = continuous.document_scores(
        samples_of([([-1.0, -1.0, -9.0, -9.0], {1}, [3, 3, 0, 0]), ([math.nan, -1.0], {0}, [1, 1])])
    )
    assert scores["p_right"][0] == pytest.approx(0.5) and scores.loc[1, list(paired.CONTINUOUS)].isna().all()


def test_documents_without_a_known_right_choice_have_no_scores():
    samples = samples_of([([-1.0, -2.0], set(), [3, 3])])
    assert continuous.document_scores(samples).empty and continuous.packed_scores(samples) == {}
    assert continuous.document_scores(samples.assign(bytes=0)).empty


@needs_archive
def test_every_offline_task_has_both_and_accuracy_is_as_before(tokenizer):
    """The largest probability is the choice that `acc` counts, so acc follows from the same rows."""
    names = ["arc_easy", "hellaswag", "piqa", "winogrande", "mmlu"]
    limit = {name: 1 if name == "mmlu" else 6 for name in names}
    frame, samples = tasks.score_tasks(tiny_model("llama"), tokenizer, names, limit=limit, samples=True, cache=False)
    rows = continuous.continuous_rows(frame, samples)
    both = {name: list(paired.CONTINUOUS) for name in names} | {"mmlu": ["p_right"]}  # its answers are letters
    assert rows.groupby("task")["metric"].apply(list).to_dict() == both
    assert list(rows.columns) == list(frame.columns) and rows["num_fewshot"].notna().all()
    best = samples.loc[samples.groupby(continuous.DOCUMENT, sort=False)["loglikelihood"].idxmax()]
    answered = best.groupby("task")["right"].mean()
    acc = frame[frame["metric"] == "acc"].set_index("task")["value"]
    assert answered[acc.index].tolist() == pytest.approx(acc.tolist())
    assert rows.set_index(["task", "metric"])["n"]["mmlu", "p_right"] == 57


@needs_archive
def test_a_record_keeps_what_pairs_are_made_of(tokenizer, tmp_path):
    """Two models in two jobs: the change in the table is that of their documents."""
    evaluation = Evaluation(tasks=("piqa", "mmlu_virology"), limit=5)
    from claw import records
    from claw.specs.experiment import Compression

    dense = Experiment.of_dense("m")
    small = Experiment(compression=Compression(model="m", method="magnitude", ratio=0.5))
    for experiment, seed in ((small, 1), (dense, 0)):
        measure.measure_tasks(tmp_path, experiment, tiny_model("llama", seed), tokenizer, evaluation)
    table = records.table(tmp_path).set_index("method")
    own, other = (
        continuous.document_scores(
            tasks.score_tasks(tiny_model("llama", seed), tokenizer, evaluation.tasks, limit=5, samples=True, cache=False)[1]
        ).set_index(["task", "document"])["p_right"]
        for seed in (1, 0)
    )
    difference = (own - other).groupby("task")
    assert table.loc["magnitude", "p_right_change"] == pytest.approx(difference.mean().mean(), abs=1e-6)
    assert table.loc["magnitude", "p_right_change_stderr"] == pytest.approx(
        math.sqrt((difference.sem() ** 2).sum()) / 2, rel=1e-2
    )
    assert table.loc["magnitude", "accuracy_change"] == pytest.approx(
        table["accuracy"]["magnitude"] - table["accuracy"]["dense"]
    )
