"""Downstream accuracy through lm-eval: its tasks, prompts and metrics, untouched, on claw's engine.

`score_tasks` gives a tidy frame. Tasks come from the pinned archive by default (`claw.evaluate.offline_tasks`), or from the hub
where the caller says so; one never replaces the other silently. The requests of a task are built once per process, and
the next model with the same tokenizer starts computing at once.
"""

import functools
import logging
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any
from unittest import mock

import pandas as pd

from claw.errors import InputError, unknown
from claw.evaluate import offline_tasks
from claw.models.undisturbed import leaves_as_before
from claw.specs.experiment import check_limits

COLUMNS = ("task", "metric", "value", "stderr", "n", "chance", "num_fewshot", "version", "source")
CORRECT = ("acc", "acc_norm")  # metrics that say of one document whether it was answered rightly
SAMPLE_COLUMNS = (
    *("task", "subtask", "document", "choice", "loglikelihood", "greedy", "target", *CORRECT),
    *("right", "bytes", "asked"),
)
BOOTSTRAP = 1000  # draws for metrics without a closed form of the standard error; accuracy has one


@dataclass(frozen=True)
class Prompting:
    """How documents become requests: few-shot examples (None for what each task says) and their seed; whether from the hub."""

    num_fewshot: int | None = None
    hub: bool = False
    seed: int = 1234


def check_tasks(tasks: Iterable[str], *, hub: bool = False) -> None:
    """Raise InputError for a task that does not exist, or that needs the hub when `hub` is False."""
    for task in tasks:
        if not isinstance(task, str) or not task:
            raise InputError(f"a task is named by text such as 'piqa', not {task!r}.")
        if task in offline_tasks.task_names():
            continue
        known = _manager(hub=True).all_tasks
        if task not in known:
            raise unknown("task", task, known if hub else offline_tasks.NAMES, "Any lm-eval task can be named with hub=True.")
        if not hub:
            raise InputError(
                f"task {task!r} reads its data from the Hugging Face hub. Offline are {', '.join(offline_tasks.NAMES)} and the "
                "single subjects mmlu_<subject>; with a network say hub=True (tasks_from: hub in a study)."
            )


@functools.cache
def _manager(*, hub: bool) -> Any:
    """lm-eval's index of the offline tasks, or of all its own, which takes some seconds to build."""
    from lm_eval.tasks import TaskManager

    with quiet():
        return TaskManager() if hub else TaskManager(include_path=str(offline_tasks.folder()), include_defaults=False)


@contextmanager
def quiet() -> Iterator[None]:
    """Keep lm-eval and datasets from logging and drawing bars of their own, and datasets from reporting what it loads."""
    import datasets
    import datasets.config
    import lm_eval.api.task

    with ExitStack() as stack:
        for logger in (logging.getLogger("lm_eval"), logging.getLogger("datasets")):
            stack.callback(logger.setLevel, logger.level)
            logger.setLevel(logging.ERROR)
        if datasets.is_progress_bar_enabled():
            datasets.disable_progress_bars()
            stack.callback(datasets.enable_progress_bars)
        stack.enter_context(mock.patch.object(lm_eval.api.task, "tqdm", lambda items, **_: items))
        # datasets reports each load to a server, even of local files, and waits up to three seconds for its answer
        stack.enter_context(mock.patch.object(datasets.config, "HF_UPDATE_DOWNLOAD_COUNTS", False, create=True))
        yield


@functools.lru_cache(maxsize=4)
def built_tasks(tasks: tuple[str, ...], limit: int | None, prompting: Prompting) -> dict:
    """lm-eval's task objects with all requests built, for `lm_eval.evaluate`; built once per process."""
    manager = _manager(hub=prompting.hub)
    with quiet():
        try:
            loaded = manager.load(list(tasks))
        except Exception as error:  # data sets, the hub client and task files each raise their own kinds
            reason, names = (str(error) or repr(error)).splitlines()[0], ", ".join(tasks)
            raise InputError(
                f"The data of {names} cannot be loaded: {reason}. Tasks from the hub need the network (and some an account); "
                f"offline there are {', '.join(offline_tasks.NAMES)}."
            ) from error
        for task in loaded["tasks"].values():
            own = task.get_config("num_fewshot")  # a task that fixes zero examples keeps them, as in lm-eval
            asked = prompting.num_fewshot if own != 0 and prompting.num_fewshot is not None else own
            task.set_config(key="num_fewshot", value=asked or 0)
            task.set_fewshot_seed(seed=prompting.seed)
            task.build_all_requests(limit=limit)
            task.build_all_requests = functools.partial(_forget_answers, task)  # what evaluate calls for every model
    return loaded


def _forget_answers(task, **_) -> None:
    """Make a task's requests new again: without the answers of the model before."""
    for instance in task.instances:
        instance.resps, instance.filtered_resps = [], {}


@leaves_as_before
def score_tasks(
    model: Any,
    tokenizer: Any,
    tasks: Sequence[str] | str,
    *,
    limit: int | Mapping[str, int] | None = None,
    num_fewshot: int | None = None,
    hub: bool = False,
    seed: int = 1234,
    samples: bool = False,
    cache: bool = True,
) -> pd.DataFrame | tuple[pd.DataFrame, pd.DataFrame]:
    """One row per task and metric: value, standard error, number of documents, chance level.

    `tasks` is one name or several. `limit` takes the first so many documents of each task (of each subject for mmlu): one
    number for all tasks, or one by task, where tasks that are not named are taken whole. `num_fewshot` None takes what each
    task says. Groups such as mmlu give one row for the group. A metric behind a filter is named metric,filter, as in lm-eval.
    Chance is what guessing scores, for metrics of multiple choice that begin with acc; NaN for others. With `samples` there is
    a second frame, one row per document and choice, with its log-likelihood in nats. With `cache`, an interrupted evaluation
    continues where it stopped.
    """
    tasks = (tasks,) if isinstance(tasks, str) else tuple(tasks)
    check_tasks(tasks, hub=hub)
    limits = dict(limit) if isinstance(limit, Mapping) else dict.fromkeys(tasks, limit)
    check_limits(limits, tasks)
    if any(count is not None and count < 1 for count in limits.values()):
        raise InputError(f"limit must be at least 1 document per task, or None for all, not {limit!r}.")
    from lm_eval import evaluate

    from claw.evaluate.lm_eval_model import ClawLM

    language_model = ClawLM(model, tokenizer, cache=cache)
    prompting = Prompting(num_fewshot, hub, seed)
    frames, documents = [], []
    for count in dict.fromkeys(map(limits.get, tasks)):  # lm-eval takes one limit per call
        names = tuple(task for task in tasks if limits.get(task) == count)
        loaded = built_tasks(names, count, prompting)
        with quiet():
            out = evaluate(language_model, loaded, limit=count, log_samples=True, bootstrap_iters=BOOTSTRAP)
        frames.append(tidy(out, loaded["tasks"], names, hub=hub))
        documents.append(tidy_samples(out, loaded["tasks"], names))
    frame = pd.concat(frames, ignore_index=True)
    return (frame, pd.concat(documents, ignore_index=True)) if samples else frame


def tidy(out: dict, loaded: Mapping[str, Any], tasks: Sequence[str], *, hub: bool = False) -> pd.DataFrame:
    """The results of lm-eval for the named tasks, without their subtasks. `loaded` has the task objects by name."""
    rows = []
    for task in tasks:
        result, leaves = out["results"].get(task) or out["groups"][task], _leaves(task, out)
        documents = {leaf: {sample["doc_id"]: sample for sample in out["samples"][leaf]} for leaf in leaves}
        count = sum(map(len, documents.values()))
        shots = {out["n-shot"].get(leaf) for leaf in leaves}
        asked = (shots.pop() if len(shots) == 1 else None, out["versions"].get(task), "hub" if hub else "archive")
        for key, value in result.items():
            metric, _, kind = key.partition(",")
            if kind and not metric.endswith("_stderr") and isinstance(value, (int, float)):
                stderr = result.get(f"{metric}_stderr,{kind}")
                stderr = float(stderr) if isinstance(stderr, (int, float)) else math.nan
                guesses = [_chance(loaded[leaf], sample, metric) for leaf in leaves for sample in documents[leaf].values()]
                chance = sum(guesses) / count if count else math.nan
                name = metric if kind == "none" else key
                rows.append((task, name, float(value), stderr, count, chance, *asked))
    return pd.DataFrame(rows, columns=list(COLUMNS))


def _chance(task: Any, sample: Mapping[str, Any], metric: str) -> float:
    """What guessing scores on one document of a multiple-choice task; NaN where there is nothing to guess from.

    One right choice of n gives 1/n. Where a task scores its documents by code of its own, or has several right choices, its
    score is averaged over a hair's breadth of lead for each choice in turn.
    """
    if task.OUTPUT_TYPE != "multiple_choice" or not metric.startswith("acc"):
        return math.nan
    count = len(sample["arguments"])
    if "acc_mutual_info" in task._metric_fn_list:  # every choice is scored a second time, without the question
        return math.nan if metric == "acc_mutual_info" else 1 / (count // 2)
    if task.config.process_results is None and not isinstance(sample["target"], list):
        return 1 / count
    try:
        leads = [[(1e-9 * (choice == lead), False) for choice in range(count)] for lead in range(count)]
        return sum(float(task.process_results(sample["doc"], lead)[metric]) for lead in leads) / count
    except Exception:  # code of the task's author
        return math.nan


def tidy_samples(out: dict, loaded: Mapping[str, Any], tasks: Sequence[str]) -> pd.DataFrame:
    """One row per document and choice of the named tasks, as far as they are scored by log-likelihood.

    `subtask` is a group's own task (a subject of mmlu), else the task. `target` is the right choice's number where the task
    has one; `acc` and `acc_norm` are the document's own, NaN where the task has no such metric. `right`: whether this is a
    right choice; `bytes`: UTF-8 bytes of what is scored, 0 for what is no choice; `asked`: a hash of document and prompt.
    """
    rows = []
    for task, subtask in ((name, leaf) for name in tasks for leaf in _leaves(name, out)):
        for sample in out["samples"][subtask]:
            metrics = [sample.get(name, math.nan) for name in CORRECT]
            if sample["filter"] != out["samples"][subtask][0]["filter"]:
                continue  # the same answers behind another filter
            right, sizes = _choices(loaded[subtask], sample)
            asked = sample["doc_hash"][:8] + sample["prompt_hash"][:8]
            for choice, response in enumerate(sample["filtered_resps"]):
                loglikelihood, greedy = response if isinstance(response, tuple) else (response, math.nan)
                if isinstance(loglikelihood, float):
                    own = (choice, loglikelihood, greedy, sample["target"], *metrics)
                    rows.append((task, subtask, sample["doc_id"], *own, choice in right, sizes.get(choice, 0), asked))
    return pd.DataFrame(rows, columns=list(SAMPLE_COLUMNS))


def _choices(task: Any, sample: Mapping[str, Any]) -> tuple[set[int], dict[int, int]]:
    """The right choices of a document, and bytes of each choice; none where the task has no choices or judges them itself."""
    try:
        if task.OUTPUT_TYPE != "multiple_choice" or task.config.process_results is not None:
            return set(), {}
        texts = task.doc_to_choice(sample["doc"])
        gold = task.doc_to_text(sample["doc"]) if task.multiple_input else task.doc_to_target(sample["doc"])
        each = [texts.index(one) if isinstance(one, str) else int(one) for one in (gold if isinstance(gold, list) else [gold])]
        continuations = [arguments[1] for arguments in sample["arguments"][: len(texts)]]  # beyond them, without the question
    except Exception:  # code of the task's author
        return set(), {}
    return set(each), {choice: len(text.encode("utf-8")) for choice, text in enumerate(continuations)}


def answered(samples: pd.DataFrame) -> dict[str, dict[str, str]]:
    """By task and metric a text with 1 for each document answered rightly and 0 for each other, in the task's order."""
    documents = samples.drop_duplicates(["task", "subtask", "document"])
    digits = lambda values: "".join(str(int(value)) for value in values)
    return {
        task: {metric: digits(rows[metric]) for metric in CORRECT if rows[metric].isin((0, 1)).all()}
        for task, rows in documents.groupby("task", sort=False)
    }


def _leaves(task: str, out: dict) -> list[str]:
    """The tasks of a group, of its groups and so on, or the task itself."""
    below = out.get("group_subtasks", {}).get(task)
    return [leaf for child in below for leaf in _leaves(child, out)] if below else [task]
