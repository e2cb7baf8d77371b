"""What a task says counts: its shots, filters and documents, and a chance level only where there is something to guess from."""

import json
import math

import numpy as np
import pytest
from conftest import tiny_model

from claw.errors import InputError
from claw.evaluate import offline_tasks, tasks
from claw.records.result_columns import RESULTS

ROWS = [
    {"question": "one plus one", "choices": [" two", " three", " four"], "labels": [1, 0, 0], "answer": 0},
    {
        "question": "two plus two",
        "choices": [" four", " five", " six", " seven", " eight"],
        "labels": [1, 1, 0, 0, 0],
        "answer": 0,
    },
]
SHARED = "dataset_path: json\ndataset_kwargs: {{data_files: {{test: {rows}, train: {rows}}}}}\n"
SHARED += "test_split: test\nfewshot_split: train\n"
KINDS = {
    "choices": """
output_type: multiple_choice
doc_to_text: "{{question}} is"
doc_to_choice: choices
doc_to_target: answer
metric_list: [{metric: acc}, {metric: acc_norm}]
""",
    "several_right": """
output_type: multiple_choice
doc_to_text: "{{question}} is"
doc_to_choice: choices
doc_to_target: answer
process_results: !function scoring.mass
metric_list: [{metric: acc}]
""",
    "last_word": """
output_type: loglikelihood
doc_to_text: "{{question}} is"
doc_to_target: "{{choices[0]}}"
metric_list: [{metric: perplexity, aggregation: perplexity}, {metric: acc}]
""",
    "written": """
output_type: generate_until
num_fewshot: 1
doc_to_text: "{{question}} is"
doc_to_target: "{{choices[0]}}"
generation_kwargs: {until: ["\\n"], max_gen_toks: 3, do_sample: false}
filter_list:
  - {name: strict, filter: [{function: take_first}]}
  - {name: flexible, filter: [{function: lowercase}, {function: take_first}]}
metric_list: [{metric: exact_match, aggregation: mean, higher_is_better: true}]
""",
}
SCORING = """
import math

def mass(doc, results):
    p = [math.exp(result[0]) for result in results]
    return {"acc": sum(q for q, label in zip(p, doc["labels"]) if label) / sum(p)}
"""


@pytest.fixture
def own_tasks(tmp_path, monkeypatch):
    """lm-eval tasks of every kind, read from a folder."""
    from lm_eval.tasks import TaskManager

    rows = tmp_path / "rows.json"
    rows.write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    (tmp_path / "scoring.py").write_text(SCORING)
    for name, text in KINDS.items():
        (tmp_path / f"{name}.yaml").write_text(f"task: {name}\n{SHARED.format(rows=rows)}{text}")
    manager = TaskManager(include_path=str(tmp_path), include_defaults=False)
    monkeypatch.setattr(tasks, "_manager", lambda hub: manager)
    monkeypatch.setattr(offline_tasks, "task_names", lambda: list(KINDS))
    tasks.built_tasks.cache_clear()
    yield
    tasks.built_tasks.cache_clear()


def score(names, tokenizer, **options):
    return tasks.score_tasks(tiny_model("llama"), tokenizer, names, cache=False, **options)


def test_chance_is_what_guessing_scores_or_missing(own_tasks, tokenizer):
    frame = score(list(KINDS), tokenizer).set_index(["task", "metric"])
    assert frame.loc[("choices", "acc"), "chance"] == pytest.approx((1 / 3 + 1 / 5) / 2)
    assert frame.loc[("choices", "acc_norm"), "chance"] == pytest.approx((1 / 3 + 1 / 5) / 2)
    assert frame.loc[("several_right", "acc"), "chance"] == pytest.approx((1 / 3 + 2 / 5) / 2)
    rest = frame[~frame.index.get_level_values("task").isin(["choices", "several_right"])]
    assert set(rest.index) >= {("last_word", "acc"), ("last_word", "perplexity")} and rest["chance"].isna().all()


def test_filters_belong_to_the_name_and_documents_are_counted_once(own_tasks, tokenizer):
    frame = score("written", tokenizer)
    assert list(frame["metric"]) == ["exact_match,strict", "exact_match,flexible"]
    assert set(frame["n"]) == {len(ROWS)}


@pytest.mark.parametrize(("asked", "shots"), [(None, 1), (0, 0), (1, 1)])
def test_no_number_of_examples_means_what_the_task_says(own_tasks, tokenizer, asked, shots):
    frame = score("written", tokenizer, num_fewshot=asked)
    assert set(frame["num_fewshot"]) == {shots}


def test_one_name_may_be_a_text(own_tasks, tokenizer):
    assert score("choices", tokenizer).equals(score(["choices"], tokenizer))


def test_tasks_without_chance_stay_out_of_the_mean(own_tasks, tokenizer):
    rows = json.loads(json.dumps(score(list(KINDS), tokenizer).to_dict("records")))
    columns = RESULTS["tasks"]({"rows": rows, "limit": None, "num_fewshot": None})
    assert columns["tasks"] == "choices+several_right"
    assert math.isfinite(columns["accuracy"]) and columns["chance"] == pytest.approx(np.mean([4 / 15, 11 / 30]))
    assert columns["num_fewshot"] == "choices:0 last_word:0 several_right:0 written:1"
    assert "written_exact_match,strict" in columns and columns["choices_n"] == 2


def test_code_in_a_strangers_task_is_named_before_it_runs(own_tasks, tmp_path):
    from claw.evaluate.lm_eval_command import check_task_code

    with pytest.raises(InputError, match=r"several_right\.yaml.*scoring\.mass.*confirm_run_unsafe_code"):
        check_task_code([str(tmp_path)])


@pytest.mark.skipif(
    not (offline_tasks.cache() / "archives" / offline_tasks.sources.task_archive().file).is_file(),
    reason="the task archive is not in the cache: claw fetch tasks",
)
def test_copying_is_generated_and_right_where_the_words_are_said_again(tokenizer, monkeypatch):
    from claw.evaluate.lm_eval_model import ClawLM

    asked = []

    def echo(self, requests, disable_tqdm=False):
        asked.extend(request.args for request in requests)
        lists = [request.args[0].rpartition("Words: ")[2].removesuffix("\nAgain:") for request in requests]
        return [f" {words}" if number % 2 else " nothing" for number, words in enumerate(lists)]

    monkeypatch.setattr(ClawLM, "generate_until", echo)
    frame = tasks.score_tasks(tiny_model("llama"), tokenizer, "copying", limit=10, cache=False)
    (row,) = frame.itertuples()
    assert (row.metric, row.value, row.n) == ("exact_match", 0.5, 10) and math.isnan(row.chance)
    assert asked[0][0].count("Words: ") == 4 and asked[0][1]["until"] == ["\n"]
