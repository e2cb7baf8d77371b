"""Everything about a plan that can be known to be wrong before its first job; `claw run` and its dry run call the same check.

What is not on this machine yet (a hub model, a text to be fetched) is not downloaded to look at it: the jobs will say.
"""

import contextlib
import functools
import json
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from claw import files
from claw.errors import InputError
from claw.evaluate import tasks
from claw.models import load, planned, pretrained, sources
from claw.project import cache, inside_project
from claw.prune import slicegpt
from claw.prune.compress import target_shape
from claw.recovery import schedule
from claw.specs import methods
from claw.specs.study import Study
from claw.sweep import machine, origin
from claw.sweep.plan import Plan
from claw.texts import token_blocks
from claw.texts.conversations import Conversation, encode_conversation
from claw.words import plural

PIECE = 100_000  # characters that are turned into tokens at once where they are only counted


def check_plan(plan: Plan, *, workers: int = 0, scheduler: str | None = None) -> list[str]:
    """Sentences on what a plan will do that its author may not expect. InputError for what cannot work.

    Jobs run one after the other, on `workers` of this machine, or on a cluster, whose workers are asked when it is there.
    """
    study = plan.study
    _check_names(study)
    notes = [*_check_records(plan), *origin.compare_origin(study, plan.folder)[0]]
    for model in study.models:
        if (config := planned.planned_config(model)) is not None:
            _check_windows(study, model, config)
            notes += _check_cuts(study, model, config)
        _check_texts(study, model)
    if not scheduler:
        load.pick_device(study.device)
        offers = [machine.offer(max(1, workers), study.resources.asked)]
        whose = f"each of {plural(workers, 'worker')} on this machine" if workers else "this machine"
        machine.check_resources(study.resources, offers, whose)
    return notes


def _check_names(study: Study) -> None:
    """Models, texts, tasks and the amount of recovery."""
    for model in study.models:
        load.check_name(model)
    places: dict[Path, str] = {}
    for model in study.models:
        place = inside_project(model)
        if model not in sources.models() and place.exists() and (other := places.setdefault(place.resolve(), model)) != model:
            raise InputError(f"models names the same model twice, as {other!r} and as {model!r}. Name it once.")
    heldout, calibration = study.evaluation.heldout, study.calibration.corpus
    token_blocks.check_purpose(heldout, "heldout")
    if any(map(methods.needs_statistics, study.methods)) or calibration not in sources.corpora():  # used, or named all the same
        token_blocks.check_purpose(calibration, "calibration")
        token_blocks.check_disjoint(calibration, heldout)
    for series in study.recovery:
        token_blocks.check_purpose(series.corpus, "recovery")
        token_blocks.check_disjoint(series.corpus, heldout)
        schedule.milestones(series.tokens, series.length, series.batch)
    tasks.check_tasks(study.evaluation.tasks, hub=study.evaluation.tasks_from == "hub")


def _check_records(plan: Plan) -> Iterator[str]:
    """Records that are there already: none may be written over that another claw can read, nor be of another number type."""
    records = plan.folder / "records"
    for name, problem in plan.unusable.items():
        if problem.precious:
            raise InputError(f"{records / name} stands where this study writes, and {problem}.")
        instead = f"the row in {plan.earlier.source} stands for it" if name in plan.spared else "it is measured again"
        yield f"{records / name} is damaged ({problem}); {instead}."
    others = sorted(plan.dtypes - {plan.study.dtype})
    if others and plan.study.dtype != "auto":
        raise InputError(
            f"The study asks for {plan.study.dtype}, and the records in {plan.folder} were measured in {' and '.join(others)}, "
            "so new results would not belong with the old ones. Ask for the type of before, give the study another name, or "
            "delete that folder to measure all again."
        )
    if plan.spared:
        yield plan.earlier.note(len(plan.spared))
    if len(plan.dtypes) > 1:
        yield f"The records in {plan.folder} are of several number types: {', '.join(sorted(plan.dtypes))}."
    elif others:
        yield f"The records in {plan.folder} were measured in {others[0]}, and so will the rest be."


def _check_windows(study: Study, model: str, config: Any) -> None:
    """Blocks that are longer than what a model was made for."""
    planned.check_window(config, study.evaluation.context, f"{model}: the evaluation's context")
    if any(map(methods.needs_statistics, study.methods)):
        planned.check_window(config, study.calibration.length, f"{model}: calibration's length")
    for series in study.recovery:
        planned.check_window(config, series.length, f"{model}: recovery's length")


def _check_cuts(study: Study, model: str, config: Any) -> Iterator[str]:
    """Ratios that a model cannot reach; and those that come to the same cut, or to none."""
    cuts: dict[str, list[float]] = {}
    for curve in study.curves:
        if curve.model == model:
            cuts[curve.method] = sorted({*cuts.get(curve.method, ()), *curve.ratios} - {0})
    if not any(cuts.values()):
        return
    try:
        parts = planned.planned_anatomy(config)
    except InputError as error:
        raise InputError(f"{model}: {error}") from error
    for method, ratios in cuts.items():
        alike = defaultdict(list)
        for ratio in ratios:
            try:
                if methods.axis_of(method, study.ratio_of) == "hidden":
                    slicegpt.check_rotatable(parts)
                alike[target_shape(parts.shape, method, ratio, study.ratio_of)].append(f"{ratio:g}")
            except InputError as error:
                raise InputError(f"{model}, {method}: {error}") from error
        alike.pop(None, None)  # where what is measured decides
        nothing = alike.pop(parts.shape, [])
        if nothing:
            yield f"{model}, {method}: ratio {' and '.join(nothing)} is too small to remove anything and gives the dense model."
        for same in alike.values():
            if len(same) > 1:
                yield f"{model}, {method}: ratios {' and '.join(same)} give the same cut, as sizes are rounded."


def _check_texts(study: Study, model: str) -> None:
    """Files of text that are too short for what is asked of them."""
    evaluation, calibration = study.evaluation, study.calibration
    asked = [(evaluation.heldout, "heldout", evaluation.context, max(1, evaluation.tokens // evaluation.context))]
    if any(map(methods.needs_statistics, study.methods)):
        count = max(1, calibration.tokens // calibration.length)
        asked.append((calibration.corpus, "calibration", calibration.length, count))
    asked += [(series.corpus, "recovery", series.length, max(series.tokens) // series.length) for series in study.recovery]
    folder = planned.local_folder(model)
    if folder is None or not (folder / "tokenizer.json").is_file():
        return
    own = lambda text, count: token_blocks.mixed_counts(text, count).items()  # of each text of a mix
    parts = [(name, purpose, length, part) for text, purpose, length, count in asked for name, part in own(text, count)]
    for corpus, purpose, length, count in parts:
        if corpus not in sources.corpora() and inside_project(corpus).is_file():
            there = _tokens(folder, origin.fingerprint(model), corpus, purpose, length * count)
            if there < length * count:
                raise InputError(
                    f"{corpus} has only {there:,} tokens for {purpose} with the tokenizer of {model}, but {count:,} blocks of "
                    f"{length:,} need {length * count:,}. Ask for fewer tokens, or use a longer text."
                )


def _tokens(folder: Path, model: str, corpus: str, purpose: str, enough: int) -> int:
    """How many tokens of a text a purpose can use, at most about `enough`; counted once for each state of text and model."""
    kept = cache() / "counts" / files.digest(model, origin.fingerprint(corpus), purpose, str(enough))
    try:
        return int(kept.read_text())
    except (OSError, ValueError):
        count = _count(_tokenizer(folder), corpus, purpose, enough)
        with contextlib.suppress(InputError):  # a cache that one may only read
            files.write_text(kept, json.dumps(count))
        return count


@functools.lru_cache(maxsize=4)
def _tokenizer(folder: Path) -> Any:
    try:
        return pretrained.tokenizer_in(folder, local_files_only=True)
    except Exception as error:  # a damaged file makes its readers fail in any way
        raise InputError(
            f"The tokenizer in {folder} cannot be loaded: {(str(error) or repr(error)).splitlines()[0]}."
        ) from error


def _count(tokenizer: Any, corpus: str, purpose: str, enough: int) -> int:
    """Tokens of documents and the blank lines between them; a block's token that marks its beginning counts for one of text."""
    count = 0
    for text in token_blocks.documents_for(corpus, purpose):
        if isinstance(text, Conversation):
            count += len(encode_conversation(tokenizer, text)[1])
            whole = ""
        else:
            whole = text if text.endswith(token_blocks.SEPARATOR) else text + token_blocks.SEPARATOR
        for start in range(0, len(whole), PIECE):
            count += len(tokenizer(whole[start : start + PIECE], add_special_tokens=False, verbose=False)["input_ids"])
        if count >= enough:
            break
    return count
