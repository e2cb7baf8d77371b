"""Downstream accuracy through lm-eval: its tasks, prompts and metrics, untouched.

`score_tasks` gives a tidy frame. Tasks come from the pinned archive by default (`claw.offline_tasks`), or from the hub
where the caller says so; one never replaces the other silently.
"""

import functools
import logging
import math
from collections.abc import Iterable, Sequence
from contextlib import contextmanager

import pandas as pd

from claw import offline_tasks
from claw.errors import InputError, unknown

COLUMNS = ("task", "metric", "value", "stderr", "n", "chance", "num_fewshot", "version", "source")


def check_tasks(tasks: Iterable[str], *, hub: bool = False) -> None:
    """Raise InputError for a task that does not exist, or that needs the hub when `hub` is False."""
    for task in tasks:
        if not isinstance(task, str) or not task:
            raise InputError(f"a task is named by text such as 'piqa', not {task!r}.")
        if task in offline_tasks.names():
            continue
        known = _everything().all_tasks
        if task not in known:
            raise unknown(
                "task", task, offline_tasks.NAMES if not hub else known, "Any lm-eval task can be named with hub=True."
            )
        if not hub:
            raise offline_tasks.refuse_hub_only(task)


@functools.cache
def _everything():
    """lm-eval's index of all its own tasks; building it takes some seconds."""
    from lm_eval.tasks import TaskManager

    with quiet():
        return TaskManager()


@functools.cache
def _offline():
    from lm_eval.tasks import TaskManager

    with quiet():
        return TaskManager(include_path=str(offline_tasks.folder()), include_defaults=False)


@contextmanager
def quiet():
    """Keep lm-eval and datasets from logging and drawing bars of their own."""
    import datasets

    loggers = [logging.getLogger(name) for name in ("lm_eval", "datasets")]
    levels = [logger.level for logger in loggers]
    bars = datasets.is_progress_bar_enabled()
    datasets.disable_progress_bars()
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
        if bars:
            datasets.enable_progress_bars()


def score_tasks(
    model,
    tokenizer,
    tasks: Sequence[str],
    *,
    limit: int | None = None,
    num_fewshot: int = 0,
    hub: bool = False,
    seed: int = 1234,
) -> pd.DataFrame:
    """One row per task and metric: value, standard error, number of documents, chance level.

    `limit` takes the first so many documents of each task (of each subject for mmlu). Groups such as mmlu give one row
    for the group. Chance is the mean of 1/choices over the documents.
    """
    check_tasks(tasks, hub=hub)
    if limit is not None and limit < 1:
        raise InputError(f"limit must be at least 1 document per task, or None for all, not {limit!r}.")
    from lm_eval import simple_evaluate
    from lm_eval.models.huggingface import HFLM

    with quiet():
        out = simple_evaluate(
            model=HFLM(pretrained=model, tokenizer=tokenizer, batch_size=16),
            tasks=list(tasks), num_fewshot=num_fewshot, limit=limit, log_samples=True, bootstrap_iters=0,
            task_manager=_everything() if hub else _offline(), verbosity="ERROR", fewshot_random_seed=seed,
        )  # fmt: skip
    return tidy(out, tasks, num_fewshot, "hub" if hub else "archive")


def tidy(out: dict, tasks: Sequence[str], num_fewshot: int, source: str) -> pd.DataFrame:
    """The results of lm-eval for the named tasks, without its subtasks."""
    rows = []
    samples = out["samples"]
    children = out.get("group_subtasks", {})
    for task in tasks:
        result = out["results"].get(task) or out["groups"][task]
        leaves = _leaves(task, children)
        documents = [sample for leaf in leaves for sample in samples[leaf]]
        choices = [len(sample["arguments"]) for sample in documents]
        version = out["versions"].get(task)
        for key, value in result.items():
            metric, _, kind = key.partition(",")
            if kind and not metric.endswith("_stderr") and isinstance(value, (int, float)):
                stderr = result.get(f"{metric}_stderr,{kind}", math.nan)
                chance = sum(1 / n for n in choices) / len(choices) if metric.startswith("acc") else math.nan
                stderr = float(stderr) if isinstance(stderr, (int, float)) else math.nan
                rows.append((task, metric, float(value), stderr, len(documents), chance, num_fewshot, version, source))
    return pd.DataFrame(rows, columns=list(COLUMNS))


def _leaves(task: str, children: dict[str, list[str]]) -> list[str]:
    below = children.get(task)
    return [task] if not below else [leaf for child in below for leaf in _leaves(child, children)]
