"""One row per measured model, whatever the layout: wide tables made long, ratios taken out of names, dense rows called dense.

Everything here works on cells whose columns are known; what they hold is read in `claw.laws.own_tables.read`.
"""

import re

import numpy as np
import pandas as pd

from claw.errors import InputError, unknown
from claw.laws.own_tables import unnamed
from claw.laws.own_tables.choices import Choices, Guesses, listed, unclear
from claw.laws.own_tables.draft import Draft
from claw.laws.own_tables.headings import Marked, Meaning, marked_name, meaning_of, means_dense, size_in
from claw.laws.own_tables.own_files import BLANK, numbers_in
from claw.laws.tidy import DENSE
from claw.records import COLUMNS
from claw.words import plural, quantity

TARGETS = {*COLUMNS, "kept", "perplexity", "task", "ignore"}
"""What `columns=` can call a column."""
METRICS = ("loss", "token_perplexity", "word_perplexity", "bits_per_byte", "accuracy", "task", "mean")
"""Meanings of headings under which something measured stands."""
CELLS = "what the cells hold"
"""Heading of the column that a wide table's cells become."""


def understand(draft: Draft) -> None:
    """The meaning of every heading, as said or as guessed."""
    for name, target in draft.choices.columns.items():
        if name not in draft.frame:
            raise unknown("column", name, draft.frame.columns, "columns= maps names of the table to names of claw.")
        if target not in TARGETS:
            raise unknown("name of a column in claw", target, TARGETS)
    for name in draft.frame.columns:
        said = draft.choices.columns.get(name)
        if said == "ignore":
            draft.frame = draft.frame.drop(columns=name)
            continue
        guessed = meaning_of(name)
        percent = guessed.percent if guessed else "%" in name
        if said == "task":
            known = guessed if guessed and guessed.kind == "task" else None
            task = known or Meaning("task", percent, re.sub(r"\W+", "_", name.lower()).strip("_") + "_acc")
            draft.meanings[name] = task
        elif said:
            draft.meanings[name] = Meaning("token_perplexity" if said == "perplexity" else said, percent)
        elif guessed:
            draft.meanings[name] = guessed
    for target in draft.choices.columns.values():  # what was said leaves no rival
        rivals = [name for name in draft.of_kind(target) if name not in draft.choices.columns]
        for name in rivals:
            draft.meanings.pop(name)
        draft.frame = draft.frame.drop(columns=[name for name in rivals if name == target])


def spread_metrics(draft: Draft) -> None:
    """A column for each metric, where the table has one row per metric: columns `metric` (or `task`) and `value`."""
    heads = {name.strip().lower(): name for name in draft.frame if name not in draft.choices.columns}
    value = heads.get("value")
    by = [heads[name] for name in ("dataset", "task", "benchmark", "metric") if name in heads]
    if value is None or not by:
        return
    frame = draft.frame.assign(**{name: draft.frame[name].map(lambda cell: "" if cell is None else str(cell)) for name in by})
    rest = [name for name in frame if name not in (value, *by) and frame[name].notna().any()]
    metric = frame[by].astype(object).agg(" ".join, axis=1).str.strip()
    keys = frame[rest].astype(object).where(frame[rest].notna(), None).apply(tuple, axis=1)
    if (twice := pd.DataFrame({"key": keys, "metric": metric}).duplicated()).any():
        alike = f"{plural(int(twice.sum()), 'row')} with the same {', '.join([*rest, *by])} as another"
        raise InputError(f"The table has {alike}, each with its own {value}. Keep one, or add what tells them apart.")
    first = ~keys.duplicated()
    of = {name: metric == name for name in dict.fromkeys(metric)}
    wide = {name: dict(zip(keys[rows], frame.loc[rows, value], strict=True)) for name, rows in of.items()}
    columns = {name: pd.Series([cells.get(key) for key in keys[first]], dtype=object) for name, cells in wide.items()}
    draft.frame = frame.loc[first, rest].reset_index(drop=True).assign(**columns)
    draft.guesses.add(f"each {' and '.join(by)} is a column of its own, with its {value}", f'columns={{"{value}": "…"}}')


def turn_over(draft: Draft) -> None:
    """Make rows columns, where the first column names metrics (perplexity, MMLU, …) and the headings name models or methods."""
    first, *names = draft.frame
    cells = [str(cell or "").strip() for cell in draft.frame[first]]
    metrics = [meaning_of(cell) for cell in cells]
    several = len(names) > 1 and len(set(cells)) == len(cells) > 0
    if draft.choices.wide is False or not several or any(name in draft.choices.columns or meaning_of(name) for name in names):
        return
    if not all(metric and metric.kind in METRICS for metric in metrics):
        return
    said, kind = meaning_of(first), str(draft.choices.wide)
    if kind not in ("model", "method"):
        kind = said.kind if said and said.kind in ("model", "method") else _kind_of_names(names)
    columns: dict[str, list] = {kind: names} | {cell: list(draft.frame.iloc[row, 1:]) for row, cell in enumerate(cells)}
    draft.frame = pd.DataFrame(columns, dtype=object)
    draft.guesses.add(f"each row is a metric and each column a {kind}", f'wide="{"method" if kind == "model" else "model"}"')


def _kind_of_names(names: list[str]) -> str:
    """Whether headings are models or methods."""
    if any(size_in(name) for name in names):
        return "model"
    if any(means_dense(name) for name in names):
        return "method"
    raise unclear(f"Are {listed(names)} models or methods?", 'wide="model"', 'wide="method"', "columns={…}")


def lengthen(draft: Draft) -> None:
    """Make a wide table long: methods, models or ratios in its headings become a column, its cells another."""
    unnamed = [name for name in draft.frame if name not in draft.meanings and (re.search(r"\w", name) or name in BLANK)]
    numeric = [name for name in unnamed if _is_numeric(draft, name)]
    wide = _guess_wide(draft, numeric) if draft.choices.wide is None else draft.choices.wide
    if not wide or not numeric:
        return
    chosen = [name for name in numeric if _share_in(name) is not None] if wide == "ratio" else numeric
    ids = [name for name in draft.frame if name not in chosen]
    shown = listed(chosen, 4)
    draft.frame = draft.frame.melt(ids, chosen, var_name=wide, value_name=CELLS).astype({wide: object, CELLS: object})
    if wide == "ratio":
        draft.set_names(wide, map(_share_in, draft.frame[wide]))
    draft.meanings[wide] = Meaning(wide)
    draft.frame = draft.frame[~numbers_in(draft.frame[CELLS], draft.decimal)[0].isna()].reset_index(drop=True)
    for name in draft.of_kind("ratio", "kept") if wide == "method" else ():  # a column of dense values beside each ratio
        dense = pd.Series([means_dense(method) for method in draft.frame["method"]], index=draft.frame.index)
        keys = [each for each in ids if each != name]
        groups = draft.frame[dense].groupby([*keys, "method"], dropna=False)[CELLS]
        if dense.any() and (groups.nunique() == 1).all():
            draft.frame[name] = draft.frame[name].astype(object).mask(dense, None)
            draft.frame = draft.frame[~(dense & draft.frame.duplicated([*keys, "method", CELLS]))].reset_index(drop=True)
    if draft.choices.wide is None:
        others = " or ".join(f'wide="{each}"' for each in ("model", "method", "ratio") if each != wide)
        draft.guesses.add(f"the headings {shown} are {wide}s", f"{others} or wide=False")


def _is_numeric(draft: Draft, name: str) -> bool:
    values, _, wrong = numbers_in(draft.frame[name], draft.decimal)
    return bool(values.notna().sum() > wrong.sum())


def _share_in(heading: str) -> str | None:
    """The ratio that a heading is, as a cell would have it: 30%, 0.3, r=0.3, 30 pct; None for any other."""
    match = re.fullmatch(r"(?:[a-z]+\s*[=@:]?\s*)?(\d*[.,]?\d+)\s*(%|pct|percent)?", heading.strip(), re.IGNORECASE)
    return match and match[1].replace(",", ".") + "%" * bool(match[2])


def _guess_wide(draft: Draft, numeric: list[str]) -> str | None:
    has = {kind: bool(draft.of_kind(kind)) or getattr(draft.choices, kind) is not None for kind in ("model", "method")}
    if draft.of_kind(*METRICS):
        return None
    plain = [name for name in numeric if re.fullmatch(r"[\d.,]+\s*(%|pct)?", name.strip())]
    if len(plain) >= 2 and not draft.of_kind("ratio", "kept") and (draft.of_kind("model") or draft.of_kind("method")):
        return "ratio"
    if len(numeric) < 2 or all(has.values()):
        return None
    if has["model"] != has["method"]:
        return "method" if has["model"] else "model"
    return _kind_of_names(numeric)


def name_rows(draft: Draft) -> None:
    """Columns model and method, without an empty cell that could not be told; ratios at the end of names become a column."""
    choices, frame = draft.choices, draft.frame
    for kind in ("model", "method"):
        if name := draft.one_of(kind, draft.of_kind(kind)):
            if getattr(choices, kind) is not None:
                raise unclear(
                    f"The table has a column of {kind}s ({name}), so {kind}= is not needed.", f'columns={{"{name}": "ignore"}}'
                )
            draft.rename(name, kind)
            cells = draft.frame[kind].ffill() if choices.fill else draft.frame[kind]
            draft.set_names(kind, (None if pd.isna(cell) else str(cell) for cell in cells))
        elif getattr(choices, kind) is not None:
            draft.set_names(kind, [getattr(choices, kind)] * len(frame))
    for kind in ("method", "model"):
        if kind in draft.frame:
            _take_ratio_out(draft, kind)
    if "method" not in draft.frame and "model" in draft.frame:
        unnamed.name_only(draft, "method")
    frame = draft.frame
    missing = [kind for kind in ("model", "method") if kind not in frame]
    if "method" in missing or ("model" in missing and not unnamed.ratio_in(draft)):
        raise unclear(
            f"The table has no column for the {' and the '.join(missing)}; its columns are {listed(frame.columns, 20)}.",
            " and ".join(f'{kind}="…" for all rows' for kind in missing),
            " or ".join(f'columns={{"…": "{kind}"}}' for kind in missing),
        )
    if "model" in frame:
        _join_sizes(draft)
    if "model" in draft.frame and draft.frame["model"].isna().any():
        raise missing_names("model", draft.frame["model"].isna())


def _join_sizes(draft: Draft) -> None:
    """Models called LLaMA in rows of 7B and of 13B are two models: their sizes, in a column of their own, join their names."""
    models = draft.frame["model"]
    if any(size_in(str(model)) for model in models):
        return
    for name in draft.of_kind("other"):
        sizes = [str(cell or "") for cell in draft.frame[name]]
        told = all(re.fullmatch(r"\d+(\.\d+)?\s*[BbMm]", size) for size in sizes)
        if told and pd.Series(sizes).groupby(models.to_numpy()).nunique().max() > 1:
            draft.set_names("model", (f"{model}-{size}" for model, size in zip(models, sizes, strict=True)))
            draft.guesses.add(f"the sizes in {name!r} belong to the models' names", f'columns={{"{name}": "ignore"}}')
            return


def missing_names(kind: str, missing: pd.Series) -> InputError:
    """The error for rows without the name of a model or a method."""
    rows = list(missing.index[missing])
    where = f"{plural(len(rows), 'row')}: {listed(rows, 8)} (the first is 0)"
    return unclear(
        f"The name of the {kind} is missing in {where}. Fill it in.", "fill=True if an empty cell repeats the one above"
    )


def _take_ratio_out(draft: Draft, kind: str) -> None:
    """Strip ratios from the end of names where they are those of the ratio column, or become it."""
    names = draft.frame[kind]
    marks = {name: mark for name in set(names.dropna()) if (mark := marked_name(name))}
    if draft.choices.names is False or not marks:
        return
    bases = {mark.base for mark in marks.values()}
    for name in set(names.dropna()) - set(marks) if kind == "model" else ():  # LLaMA-7B (dense) beside LLaMA-7B (pruned 20%)
        if base := next((base for base in bases if name.startswith(base) and means_dense(name, base) and name != base), None):
            marks[name] = Marked(base, 0.0, False)
    marked = names.isin(set(marks))
    share = pd.Series([marks[name].share if name in marks else np.nan for name in names], index=names.index)
    kept = any(mark.kept for mark in marks.values())
    column = draft.one_of("ratio", draft.of_kind("ratio", "kept"))
    if column:
        values = numbers_in(draft.frame[column], draft.decimal)[0]
        agree = [np.isclose(each, share, atol=5e-3) for each in (values, values / 100, 1 - values, 1 - values / 100)]
        if not np.any(agree, axis=0)[marked].all() and draft.choices.names is None:
            raise unclear(
                f"Names such as {next(iter(marks))!r} end in a number that is not the row's {column}.",
                "names=True to take the number off",
                "names=False to keep the names as they are",
            )
    else:
        column = "kept" if kept else "ratio"
        draft.frame = draft.frame.assign(**{column: share})
        draft.meanings[column] = Meaning(column)
    draft.set_names(kind, (marks[name].base if name in marks else name for name in names))
    name, mark = next(iter(sorted(marks.items())))
    if draft.choices.names is None:
        draft.guesses.add(f"{kind}s end in a ratio: {name!r} is {mark.base!r} at {mark.share:g}", "names=False")


def find_dense(draft: Draft, ratio: pd.Series) -> pd.Series:
    """Which rows are dense models by their names; gives the model its name where only a dense row has it.

    `ratio`: fractions as the table has them, removed or kept, NaN where blank.
    """
    frame, choices = draft.frame, draft.choices
    whole = ratio.isna() | (ratio == 0) | (ratio == 1)
    method = frame["method"]
    if "model" not in frame:
        _name_model(draft, whole)
        frame = draft.frame
        method = frame["method"]
    if choices.dense is not None:
        wanted = {name.strip().lower() for name in choices.dense}
        lower = pd.Series(["" if name is None else name.lower() for name in method], index=method.index)
        if strangers := wanted - set(lower) - {DENSE}:
            raise unknown("method", strangers.pop(), sorted(set(lower)), "dense= names the uncompressed model's rows.")
        return lower.isin(wanted)
    pairs = zip(method, frame["model"], strict=True)
    dense = pd.Series([means_dense(name, model) for name, model in pairs], index=method.index)
    if "ratio" not in draft.frame:  # a method called NA beside one called Dense
        strong = dense & ~pd.Series([str(name or "").lower() in BLANK for name in method], index=method.index)
        dense &= strong | ~strong.groupby(frame["model"]).transform("any")
    cut = set(method[dense & ~whole]) - {DENSE}  # a method called `base` with ratios of its own is a method
    dense &= ~method.isin(cut)
    if "ratio" in draft.frame:
        alone = ratio.isna() & ~dense
        per_model = alone.groupby(frame["model"]).transform("sum")
        has_dense = (dense | (ratio == 0)).groupby(frame["model"]).transform("any")
        dense |= alone & (per_model == 1) & ~has_dense & (ratio.notna().groupby(frame["model"]).transform("any"))
    several = {name for _, own in method[dense & ratio.isna()].groupby(frame["model"]) if own.nunique() > 1 for name in own}
    if several:
        raise unclear(
            f"Which rows are the dense model: {listed(sorted(several))}?", *(f'dense="{name}"' for name in sorted(several))
        )
    names = sorted({name or "an empty cell" for name in method[dense]} - {DENSE})
    empty = bool((ratio.isna() & dense).any()) and "ratio" in draft.frame
    if names or empty:
        which = f"rows with method {listed(names or [DENSE])} are the dense model"
        draft.guesses.add(which + (", whose empty ratio is 0" if empty else ""), 'dense="…" or dense=[]')
    return dense


def _name_model(draft: Draft, whole: pd.Series) -> None:
    """The model's name from the method cell of the only dense row, in a table without models."""
    method = draft.frame["method"]
    elsewhere = set(method[~whole])
    names = [name for name in dict.fromkeys(method[whole]) if name and not means_dense(name) and name not in elsewhere]
    if (len(names) != 1 or not elsewhere) and unnamed.name_only(draft, "model"):
        return
    if len(names) != 1 or not elsewhere:
        raise unclear(
            f"The table has no column for the model; its columns are {listed(draft.frame.columns, 20)}.",
            'model="…" for all rows',
            'columns={"…": "model"}',
        )
    draft.guesses.add(f"the rows of the dense model are called {names[0]!r}: that is the model's name", 'model="…"')
    draft.set_names("model", names * len(draft.frame))


def add_sizes(frame: pd.DataFrame, choices: Choices, guesses: Guesses, counted: bool = False) -> pd.DataFrame:
    """Column parameters0, and family where missing, from the models' names, if all of them tell or the sizes were said.

    `counted`: parameters0 is from a column of the table that counts parameters, so only the families are missing.
    """
    own = not counted and {"parameters0", "parameters"} & set(frame)
    if choices.sizes is False or (own and not isinstance(choices.sizes, dict)):
        return frame
    models = sorted(set(frame["model"]))
    if isinstance(choices.sizes, dict):
        if strangers := set(choices.sizes) - set(models):
            raise unknown("model", strangers.pop(), models, "sizes= gives the number of parameters by model.")
        return frame.assign(parameters0=frame["model"].map(choices.sizes).astype(float))
    sizes = {name: size for name in models if (size := size_in(name))}
    if len(sizes) < len(models):
        return frame
    family = {} if "family" in frame else {"family": frame["model"].map({name: family for name, (family, _) in sizes.items()})}
    if counted:
        return frame.assign(**family)
    example = f"{models[0]}: {quantity(sizes[models[0]][1])}, family {sizes[models[0]][0]}"
    guesses.add(f"parameters are read off the models' names ({example})", "sizes={…} or sizes=False")
    return frame.assign(parameters0=frame["model"].map({name: size for name, (_, size) in sizes.items()}), **family)
