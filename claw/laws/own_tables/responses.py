"""Losses and accuracies of a draft: logarithms of perplexities, means over tasks, the cells of a wide table."""

import numpy as np
import pandas as pd

from claw.errors import InputError, unknown
from claw.laws.own_tables.choices import LOSS_KINDS, listed, unclear
from claw.laws.own_tables.draft import Draft
from claw.laws.own_tables.headings import Meaning
from claw.laws.own_tables.layout import CELLS
from claw.laws.own_tables.shares import fractions
from claw.laws.tidy import not_a_loss

PER = {"token_perplexity": "token", "word_perplexity": "word", "bits_per_byte": "byte"}


def read_cells(draft: Draft) -> None:
    """What the cells of a wide table are: said, or told by the dense model."""
    if CELLS not in draft.frame:
        return
    values, signs = draft.numbers(CELLS)
    frame = draft.frame
    dense = frame["model"].map(values[frame["ratio"] == 0].groupby(frame["model"]).mean())
    cut = (frame["ratio"] != 0) & dense.notna() & values.notna()
    rises = float((values > dense)[cut].mean()) if cut.any() else np.nan
    kind = draft.choices.values
    ways = ('values="loss"', 'values="perplexity"', 'values="accuracy"')
    if kind is None:
        if (values.max() <= 1 and rises < 0.5) or (signs.any() and rises < 0.5):
            kind = "accuracy"
        elif rises >= 0.8 and dense.max() > 7:
            kind = "perplexity"
        elif rises <= 0.2 and dense.max() > 15 and values.max() <= 100:
            kind = "accuracy"
        else:
            raise unclear(f"What are the cells, such as {values.iloc[0]:g}?", *ways)
        draft.guesses.add(
            f"the cells, such as {values.iloc[0]:g}, are {'accuracies' if kind == 'accuracy' else 'perplexities'}",
            " or ".join(ways),
        )
    target = {"perplexity": "token_perplexity"}.get(kind, kind)
    draft.frame = frame.rename(columns={CELLS: target})
    draft.meanings[target] = Meaning(target)


BESIDE = ("0", "_stderr", "0_stderr", "_change", "_change_stderr")
"""Endings of the columns that tell more of a response: of the dense model, its error, what changed."""


def read_losses(draft: Draft) -> None:
    """Column loss in nats: as it is, or the logarithm of the perplexity that was said or is the only one."""
    said, kind = draft.choices.loss, None
    kinds = ("loss", "token_perplexity", "word_perplexity", "bits_per_byte")
    name = said if said in draft.frame else None
    if said is not None and name is None:
        if said not in LOSS_KINDS:
            raise unknown("loss", said, [*draft.of_kind(*kinds), *LOSS_KINDS], "Name a column, or what its losses are.")
        kind = {"perplexity": "token_perplexity"}.get(said, said)
        several = draft.of_kind(kind) if kind in PER else []
        if said == "perplexity":
            several = draft.of_kind("word_perplexity", "token_perplexity")
        name = draft.one_of(said, several or draft.of_kind("loss"), 'loss="{}"')
        kind = draft.meanings[name].kind if name in several else kind
        if name is None:
            raise InputError(
                f"loss={said!r} needs a column of that kind; the table's columns are {listed(draft.frame.columns, 20)}."
            )
    if name is None:
        losses = draft.of_kind("loss")
        name = draft.one_of("loss", losses or draft.of_kind(*kinds[1:3]) or draft.of_kind("bits_per_byte"), 'loss="{}"')
    if name is None:
        return
    if "loss0" in draft.frame:
        draft.frame = draft.frame.assign(loss0=draft.numbers("loss0")[0])
    meaning = draft.meanings.get(name, Meaning("loss"))
    kind = kind or (meaning.kind if meaning.kind in kinds else "loss")
    draft.meanings[name] = meaning
    values, _ = draft.numbers(name)
    before = pd.to_numeric(draft.frame["loss"], errors="coerce") if name != "loss" and "loss" in draft.frame else None
    per = PER.get(kind)
    others = [each for each in draft.of_kind(*kinds[1:3]) if each != name]
    if "perplexity" in kind:
        if (values < 1).any():
            raise unclear(
                f"{name} has {values.min():g}, and no perplexity is below 1. Is it a loss?", f'columns={{"{name}": "loss"}}'
            )
        if name != kind and kind not in draft.frame:
            draft.frame = draft.frame.rename(columns={name: kind})
        if name == "loss" and "loss_stderr" in draft.frame:
            draft.frame = draft.frame.assign(loss_stderr=draft.numbers("loss_stderr")[0] / values)
        if name == "loss" and "loss0" in draft.frame:
            draft.frame = draft.frame.assign(loss0=np.log(draft.frame["loss0"]))
        loss = np.log(values)
        if said is None:
            ways = [f'loss="{each}"' for each in others] or [f'columns={{"{name}": "loss"}}']
            draft.guesses.add(f"loss is the logarithm of {name!r}, in nats per {per}", " or ".join(ways))
    elif kind in ("bits", "bits_per_byte"):
        loss = values * np.log(2)
        if said is None:
            draft.guesses.add(f"loss is {name!r} times ln 2, in nats per byte", f'columns={{"{name}": "loss"}}')
    else:
        loss = values
        draft.rename(name, "loss")
        if (reason := not_a_loss(draft.frame.assign(loss=loss))) and said not in ("nats", name):
            raise unclear(reason, 'loss="perplexity"', 'loss="nats"')
    if before is not None and not np.allclose(before, loss, rtol=1e-6, equal_nan=True):
        stale = [*(f"loss{end}" for end in BESIDE), "excess_loss", "excess_loss_stderr"]  # of the column loss, not of this one
        draft.frame = draft.frame.drop(columns=[column for column in stale if column in draft.frame])
    draft.frame = draft.frame.assign(loss=loss)


def read_accuracies(draft: Draft) -> None:
    """Column accuracy from 0 to 1: the owner's own mean, else the mean over the tasks; each task beside it with its chance."""
    frame, said = draft.frame, draft.choices.accuracy
    tasks = draft.of_kind("task")
    if said is None:
        means = draft.of_kind("accuracy") or (draft.of_kind("mean") if tasks or "loss" not in frame else [])
        name = draft.one_of("accuracy", means, 'accuracy="{}"')
        parts = [name] if name else _primary(draft, tasks)
    else:
        parts = list(said)
        if strangers := [name for name in parts if name not in frame]:
            raise unknown("column", strangers[0], frame.columns, "accuracy= names the column, or the columns to average.")
    if not parts:
        return
    numbers = {name: draft.numbers(name) for name in dict.fromkeys([*parts, *tasks])}
    declared = {name: draft.meanings[name].percent if name in draft.meanings else False for name in numbers}
    shares = {name: fractions(draft, name, *numbers[name], declared[name], "accuracy") for name in numbers}
    units = {percent for name, (values, percent) in shares.items() if (values != 0).any() and values.notna().any()}
    if len(units) > 1:
        split = [[name for name in shares if shares[name][1] is percent] for percent in (True, False)]
        raise unclear(
            f"Accuracies in percent ({listed(split[0])}) and as fractions ({listed(split[1])}) stand side by side.",
            'percent={"accuracy": True} for all',
            "columns={…} to leave some out",
        )
    values = {name: share for name, (share, _) in shares.items()}
    new = {"accuracy": pd.DataFrame({name: values[name] for name in parts}).mean(axis=1, skipna=False)}
    if parts[0] in tasks and said is None:
        draft.guesses.add(f"accuracy is {'the mean of ' * (len(parts) > 1)}{listed(parts, 12)}", "accuracy=[…]")
    if len(parts) == 1 and parts[0] not in tasks:
        mean = pd.DataFrame({name: values[name] for name in tasks}).mean(axis=1, skipna=False) if tasks else None
        of = tasks if mean is not None and ((mean - new["accuracy"]).abs() < 2e-3).all() else []
        draft.rename(parts[0], "accuracy", f"column {parts[0]!r} is accuracy" + (", the mean over tasks" if tasks else ""))
    else:
        of = parts
    for name in tasks:
        meaning = draft.meanings[name]
        new[meaning.task] = values[name]
        draft.frame = draft.frame.rename(columns={name: meaning.task})
        chance = f"{meaning.task.rpartition('_acc')[0]}_chance"
        if meaning.chance is not None and chance not in frame:
            new[chance] = pd.Series(meaning.chance, frame.index).where(values[name].notna())
    chances = [draft.meanings[name].chance if name in draft.meanings else None for name in of]
    if of and None not in chances and "chance" not in frame:
        new["chance"] = pd.Series(float(np.mean([chance for chance in chances if chance is not None])), frame.index)
    if said is not None and parts != ["accuracy"]:  # what stands beside the column accuracy is of another metric
        stale = [f"accuracy{end}" for end in BESIDE if f"accuracy{end}" in draft.frame]
        own = {f"accuracy{end}": f"{parts[0]}{end}" for end in BESIDE if len(parts) == 1 and f"{parts[0]}{end}" in frame}
        new |= {name: draft.numbers(other)[0] for name, other in own.items()}
        draft.frame = draft.frame.drop(columns=stale)
    draft.frame = draft.frame.copy().assign(**new)  # the copy is in one piece, as a table of claw has many columns
    if True in units:
        beside = [name for name in ("accuracy0", "accuracy_stderr", "accuracy0_stderr", "chance") if name in frame]
        numeric = {name: draft.numbers(name)[0] for name in beside}
        draft.frame = draft.frame.assign(
            **{n: each / 100 if n != "chance" or (each > 1).any() else each for n, each in numeric.items()}
        )


def _primary(draft: Draft, tasks: list[str]) -> list[str]:
    """One column per task: acc_norm where there are several, as claw counts."""
    by_task: dict[str, str] = {}
    for name in sorted(tasks, key=lambda each: draft.meanings[each].task.endswith("_norm"), reverse=True):
        by_task.setdefault(draft.meanings[name].task.rpartition("_acc")[0], name)
    return [name for name in tasks if name in by_task.values()]
