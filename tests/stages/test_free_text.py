"""What a model writes freely is recorded with its tasks, a column each for what repeats and what differs, and shown."""

import pandas as pd
import pytest
from conftest import tiny_model

from claw import records, stages
from claw.evaluate import generation, tasks
from claw.evaluate.generation import distinct, repetition
from claw.specs.experiment import Evaluation, Experiment
from claw.stages import measure
from claw.texts import token_blocks


@pytest.fixture
def recorded_tasks(folder_model, tokenizer, heldout_text, tmp_path, monkeypatch):
    scores = dict(
        task="made", metric="acc", value=0.5, stderr=0.1, n=4, chance=0.25, num_fewshot=0, version=1, source="archive"
    )
    samples = pd.DataFrame(columns=list(tasks.SAMPLE_COLUMNS))
    monkeypatch.setattr(tasks, "score_tasks", lambda *values, **choices: (pd.DataFrame([scores]), samples))
    evaluation = Evaluation(heldout=heldout_text, tokens=512, context=64, tasks=("piqa",), limit=4)
    experiment = Experiment.of_dense(folder_model)
    measure.measure_tasks(tmp_path, experiment, tiny_model("llama"), tokenizer, evaluation)
    return records.read_stages(tmp_path, experiment.id, {"tasks": evaluation.accuracy.digest})


def test_free_text_is_recorded_tabled_and_shown(recorded_tasks):
    table, shown = records.from_records(recorded_tasks), stages.text_frame(recorded_tasks)
    free = recorded_tasks[0]["result"]["free"]
    assert 0 <= table["repetition"][0] <= 1 and 0 < table["distinct"][0] <= 1
    assert shown["text"][0] == free["texts"][0] and len(free["texts"]) == generation.PROMPTS


def test_records_of_before_have_no_free_text(recorded_tasks):
    del recorded_tasks[0]["result"]["free"]
    table = records.from_records(recorded_tasks)
    assert table["accuracy"][0] == 0.5 and table["repetition"].isna().all() and stages.text_frame(recorded_tasks).empty


def test_what_repeats_and_what_differs():
    assert repetition([1, 2, 3, 4, 5]) == 0 and repetition([]) == 0
    assert repetition([7] * 10) == pytest.approx(6 / 7)  # seven 4-grams, one of them new
    assert distinct([[1, 2, 3], [1, 2, 3]]) == 0.5 and distinct([]) == 0


def test_a_model_that_generates_by_itself_writes_the_same(tokenizer, heldout_text, monkeypatch):
    model = tiny_model("qwen3")
    heldout = token_blocks.blocks(tokenizer, heldout_text, length=64, count=4, purpose="heldout")
    fast = generation.free_text(model, tokenizer, heldout)
    monkeypatch.setattr(generation.generating, "why_not_greedy", lambda *values: "because")
    assert generation.free_text(model, tokenizer, heldout) == fast
