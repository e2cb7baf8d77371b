"""Tasks: names are checked before anything runs, results are tidy, requests are built once, and accuracy is lm-eval's own."""

import copy
import json
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest
import torch
from conftest import tiny_model

from claw import project
from claw.errors import InputError
from claw.evaluate import offline_tasks, tasks
from claw.models import load, sources

HERE = (project.cache() / "archives" / sources.task_archive().file).is_file()
needs_archive = pytest.mark.skipif(not HERE, reason="the task archive is not in the cache: claw fetch tasks")
LIMIT = 6


def lm_eval_results(model, tokenizer, names, limit, num_fewshot):
    """What lm-eval itself finds with its Hugging Face class, for the same tasks."""
    from lm_eval import evaluate
    from lm_eval.models.huggingface import HFLM

    prompting = tasks.Prompting(num_fewshot)
    loaded = tasks.built_tasks(tuple(names), limit, prompting)
    language_model = HFLM(pretrained=model, tokenizer=copy.deepcopy(tokenizer), batch_size=4)
    with tasks.quiet():
        out = evaluate(language_model, loaded, limit=limit, log_samples=True, bootstrap_iters=tasks.BOOTSTRAP)
    return tasks.tidy(out, loaded["tasks"], names), tasks.tidy_samples(out, loaded["tasks"], names)


def test_an_unknown_task_lists_near_names():
    with pytest.raises(InputError, match=r"did you mean.*arc_easy|arc_easy"):
        tasks.check_tasks(["arc_esay"])


def test_a_task_of_the_hub_says_what_it_needs_and_what_is_there():
    with pytest.raises(InputError, match="hub=True") as raised:
        tasks.check_tasks(["lambada_openai"])
    assert all(name in str(raised.value) for name in offline_tasks.NAMES)
    tasks.check_tasks(["lambada_openai"], hub=True)


@pytest.mark.parametrize("task", [None, "", 3])
def test_what_is_no_name_is_refused(task):
    with pytest.raises(InputError, match="named by text"):
        tasks.check_tasks([task])


def test_each_task_may_have_its_own_limit(tokenizer):
    model = tiny_model("llama")
    frame, samples = tasks.score_tasks(
        model, tokenizer, ["piqa", "mmlu", "arc_easy"], limit={"mmlu": 1, "piqa": 3, "arc_easy": 3}, samples=True, cache=False
    )
    assert frame.groupby("task")["n"].first().to_dict() == {"piqa": 3, "mmlu": 57, "arc_easy": 3}
    alone = tasks.score_tasks(model, tokenizer, ["piqa"], limit=3, cache=False)
    pd.testing.assert_frame_equal(frame[frame["task"] == "piqa"].reset_index(drop=True), alone, check_dtype=False)
    assert set(tasks.answered(samples)) == {"piqa", "mmlu", "arc_easy"}


def test_a_limit_of_a_task_that_is_not_asked_for_is_refused(tokenizer):
    with pytest.raises(InputError, match="boolq, which is not among the tasks: piqa"):
        tasks.score_tasks(tiny_model("llama"), tokenizer, ["piqa"], limit={"boolq": 1})


def test_a_limit_below_one_is_refused(tokenizer):
    with pytest.raises(InputError, match="at least 1 document"):
        tasks.score_tasks(tiny_model("llama"), tokenizer, ["piqa"], limit=0)


def test_answered_tells_documents_in_their_order():
    rows = [("t", "t", document, choice, -1.0, False, 0, document % 2, 1.0) for document in range(4) for choice in range(2)]
    rows += [("group", leaf, 0, 0, -1.0, False, 0, float(leaf == "b"), np.nan) for leaf in "ab"]
    samples = pd.DataFrame(rows, columns=list(tasks.SAMPLE_COLUMNS[:9]))
    assert tasks.answered(samples) == {"t": {"acc": "0101", "acc_norm": "1111"}, "group": {"acc": "01"}}


@needs_archive
@pytest.mark.parametrize("num_fewshot", [0, 2])
def test_equal_to_lm_eval_on_every_document(family, num_fewshot, tokenizer):
    """Bytes as tokens and a window of 256 of them: few-shot prompts are cut from the left."""
    names = ["arc_easy", "piqa", "winogrande", "mmlu_virology"]
    model = tiny_model(family)
    frame, samples = tasks.score_tasks(model, tokenizer, names, limit=LIMIT, num_fewshot=num_fewshot, samples=True, cache=False)
    expected, expected_samples = lm_eval_results(model, tokenizer, names, LIMIT, num_fewshot)
    pd.testing.assert_frame_equal(frame, expected, check_exact=True)
    np.testing.assert_allclose(samples["loglikelihood"], expected_samples["loglikelihood"], atol=1e-4, rtol=0)
    assert samples.drop(columns="loglikelihood").equals(expected_samples.drop(columns="loglikelihood"))


@needs_archive
def test_frames_are_tidy_and_a_group_is_one_row_per_metric(tokenizer):
    frame, samples = tasks.score_tasks(
        tiny_model("llama"), tokenizer, ["mmlu", "arc_challenge"], limit=1, samples=True, cache=False
    )
    assert list(frame.columns) == list(tasks.COLUMNS) and list(samples.columns) == list(tasks.SAMPLE_COLUMNS)
    rows = frame.set_index(["task", "metric"])
    assert rows.loc[("mmlu", "acc"), "n"] == 57 and rows.loc[("mmlu", "acc"), "chance"] == pytest.approx(0.25)
    assert set(frame.loc[frame["task"] == "arc_challenge", "metric"]) == {"acc", "acc_norm"}
    documents = samples[samples["task"] == "mmlu"].drop_duplicates(["subtask", "document"])
    assert documents["acc"].mean() == pytest.approx(rows.loc[("mmlu", "acc"), "value"])


@needs_archive
def test_requests_are_built_once_and_each_model_gets_its_own_answers(tokenizer):
    tasks.built_tasks.cache_clear()
    results = []
    for seed in (0, 1, 0):
        results.append(
            tasks.score_tasks(tiny_model("qwen2", seed), tokenizer, ["piqa"], limit=LIMIT, samples=True, cache=False)[1]
        )
    assert tasks.built_tasks.cache_info().misses == 1
    assert results[0].equals(results[2]) and not results[0].equals(results[1])


@needs_archive
def test_nothing_is_printed_but_the_bar(tokenizer, capfd):
    tasks.built_tasks.cache_clear()
    tasks.score_tasks(tiny_model("llama"), tokenizer, ["piqa"], limit=2, cache=False)
    said = capfd.readouterr()
    assert said.out == "" and said.err == ""


@needs_archive
def test_nobody_is_told_which_files_are_scored(tokenizer, monkeypatch):
    """datasets counts loads on a server, of files on this disk too."""
    asked = []
    monkeypatch.setattr("datasets.config.HF_HUB_OFFLINE", False)
    monkeypatch.setattr("datasets.load.get_session", lambda: asked.append("a session"))
    tasks.built_tasks.cache_clear()
    tasks.score_tasks(tiny_model("llama"), tokenizer, ["piqa", "arc_easy"], limit=2, cache=False)
    assert not asked


@needs_archive
@pytest.mark.real
def test_equal_to_lm_eval_on_a_real_model():
    model, tokenizer = load.load("smollm2-135m", dtype="float32")
    threads = torch.get_num_threads()
    names = ["arc_challenge", "mmlu_virology"]
    frame, samples = tasks.score_tasks(model, tokenizer, names, limit=2, num_fewshot=1, samples=True, cache=False)
    expected, expected_samples = lm_eval_results(model, tokenizer, names, 2, 1)
    assert torch.get_num_threads() == threads
    assert frame.equals(expected)
    np.testing.assert_allclose(samples["loglikelihood"], expected_samples["loglikelihood"], atol=1e-4, rtol=0)


@needs_archive
def test_lm_evals_own_command_line_knows_the_class(folder_model, tmp_path):
    """A process of its own, as a user starts it; the tasks' folder makes it work offline."""
    options = (
        f"--model claw --tasks piqa --limit 2 --device cpu --model_args pretrained={folder_model},dtype=float32,cache=False"
    )
    folders = ["--include_path", str(offline_tasks.folder()), "--output_path", str(tmp_path / "out")]
    program = "from claw.evaluate.lm_eval_command import main; raise SystemExit(main())"
    command = [sys.executable, "-c", program, *options.split(), *folders]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=tmp_path)
    assert done.returncode == 0, done.stderr[-2000:]
    (path,) = (tmp_path / "out").rglob("results*.json")
    assert 0 <= json.loads(path.read_text())["results"]["piqa"]["acc,none"] <= 1
