"""What a practitioner acts on, in plain sentences and one small table: how far, with what, what it then answers.

A table and sentences open the findings page (`how_far_table`, `first_lines`), sentences end a run (`closing`). Every number is
read off the measured points of one curve.
"""

import math
from dataclasses import replace

import numpy as np
import pandas as pd

from claw.advice import reach
from claw.advice.reach import Reach
from claw.advice.task_names import few_tasks
from claw.advice.true_shares import TRUE, complete_shares, percent, percents
from claw.laws import Laws
from claw.laws.points import is_dense
from claw.laws.recovered import text_gains
from claw.specs.methods import RIDGE, is_control
from claw.words import number, plural

THRESHOLDS = (1.05, 1.1, 1.25)
MAIN = 1.1
NAMED = 3
WIDE = 0.25  # between measured points: an answer that lies between such says so
SAID = 2  # models in the last lines of a run
SHARES = (0.05, 0.1, 0.2, 0.3, 0.5, 0.7)  # of which a small table shows two
ROWS = 4
FEWEST_SEEDS = 3


def shared_out(laws: Laws) -> Laws:
    """The laws over points whose shares of parameters are complete, as everything here reads them."""
    return replace(laws, points=complete_shares(laws.points)[0])


def models_of(laws: Laws) -> list[str]:
    """Models with a compressed point, the most measured first."""
    cut = laws.points.rows[~is_dense(laws.points.rows)]
    counts = cut.groupby("model").size()
    return sorted(counts.index, key=lambda name: (-counts[name], name))


def how_far_table(laws: Laws) -> pd.DataFrame:
    """One row a model: the share of its parameters that may go for so much more loss, and what that answers and how fast it is.

    The last columns are of what goes furthest for 10 % more loss. Columns without an entry are left out; empty without losses.
    """
    laws = shared_out(laws)
    if "loss" not in laws.points.responses:
        return pd.DataFrame()
    rows = []
    for model in models_of(laws):
        far = {threshold: _furthest(laws, threshold, model) for threshold in THRESHOLDS}
        if not any(far.values()):
            continue
        row = {"model": model} | {f"{percent(t - 1)} more loss": _how_far(own) for t, own in far.items()}
        best = far[MAIN][0] if far[MAIN] and far[MAIN][0].share > 0 else None
        then = {"answers": _answers(laws, best), "speed": _speeds(laws, best)} if best else {}
        rows.append(row | {f"{name} at {percent(MAIN - 1)}": text for name, text in then.items()})
    return pd.DataFrame(rows).replace("", np.nan).dropna(axis="columns", how="all").fillna("–")


def _furthest(laws: Laws, threshold: float, model: str) -> list[Reach]:
    """What goes furthest for so much more loss, the best first; controls where nothing else was measured."""
    return reach.reaches(laws, threshold, model) or reach.reaches(laws, threshold, model, controls=True)


def _how_far(own: list[Reach]) -> str:
    """How far one model goes, with which method, and which others cannot be told apart from it."""
    if not own:
        return ""
    best = own[0]
    if best.share <= 0:
        return "nothing: no measured curve stays within it"
    only = " (a control; nothing else was measured)" if is_control(best.curve.method) else ""
    end = ", as far as was measured" if best.all_of_it else _wide(best)
    alike = [one.curve.method for one in reach.tied(best, own)]
    more = f"; not told apart: {', '.join(alike[:NAMED])}{' …' if len(alike) > NAMED else ''}" if alike else ""
    return f"{best.brief}{only}{end}{more}"


def _wide(one: Reach) -> str:
    """Between which measured points an answer lies, where they are far from each other."""
    shares = [share for share, _ in one.beside]
    if len(shares) < 2 or shares[1] - shares[0] <= WIDE:
        return ""
    text = (lambda share: "the dense model" if share == 0 else percent(share)) if one.known else "r = {:.2g}".format
    return f", between {text(shares[0])} and {text(shares[1])}"


def first_lines(laws: Laws) -> list[str]:
    """What stands below `how_far_table`: lines of Markdown with the control, what training wins back, and what is unknown."""
    laws = shared_out(laws)
    if "loss" not in laws.points.responses:
        return ["**How far?** No loss was measured, so nothing is said of how far one can go; the accuracies are below."]
    best = {model: own[0] for model in models_of(laws) if (own := reach.reaches(laws, MAIN, model)) and own[0].share > 0}
    lines = [f"**A control:** {_controls(laws, best)}.", f"**Trained again:** {_recovered(laws, best)}."]
    unknown = unknowns(laws)
    return [*lines, f"**Unknown:** {'; '.join(what for what, _ in unknown)}.", f"**To find out:** {_to_do(unknown)}."]


def _to_do(unknown: list[tuple[str, str]]) -> str:
    return "; ".join(dict.fromkeys(how for _, how in unknown[:NAMED]))


def _answers(laws: Laws, one: Reach) -> str:
    """Accuracy there, beside the dense model's and guessing; empty where none was measured."""
    reading = reach.reading_like(laws, one.curve, "accuracy", one.axis)
    said = reach.quote(reading, one.share) if reading else None
    if not reading or not said or not math.isfinite(reading.dense):
        return ""
    chance = float(laws.points.dense_row(one.curve.model).get("chance", math.nan))
    guess = f" (guessing {percent(chance)})" if math.isfinite(chance) else ""
    span = percents(max(0.0, said.low), min(1.0, said.high))
    return f"{percent(said.value)} ({span}) instead of {percent(reading.dense)}{guess}"


def _speeds(laws: Laws, one: Reach) -> str:
    """Measured speed-ups there; empty where none was measured."""
    names = {"speedup_decode": "decode", "speedup_prefill": "prefill"}
    pairs = {name: reach.speedup(laws, one.curve, one.share, response) for response, name in names.items() if one.known}
    return ", ".join(f"{name} {pair[0]:.2f} ×" for name, pair in pairs.items() if pair)


def _controls(laws: Laws, best: dict[str, Reach]) -> str:
    """What the best control loses at the share where the best method loses 10 %."""
    told = []
    for model, one in best.items():
        if not one.known:
            continue
        pairs = [pair for pair in reach.best_at(laws, model, one.share) if is_control(pair[0].curve.method)]
        plain = [pair for pair in pairs if not pair[0].curve.method.endswith(RIDGE)] or pairs
        if plain and (dense := plain[0][0].dense) > 0:
            reading, said = plain[0]
            told.append(
                f"{reading.curve.method} at {percent(said.at)} of {model}'s parameters has {said.value / dense:.2f} × the "
                f"dense loss ({said.value:.2f}, {said.source}) where {one.curve.method} has {one.threshold:.2f} ×"
            )
    return "; ".join(told) or "none was measured, so nothing says how much of this is the method's merit"


def _recovered(laws: Laws, best: dict[str, Reach]) -> str:
    told, alone = [], text_gains(laws.points).set_index(["model", "recovery", "recovery_tokens"])["gain"].to_dict()
    for model, one in best.items():
        if trained := reach.reaches(laws, MAIN, model, recovered=True):
            after = trained[0]
            text = f"after {after.curve.training} one may remove {after.removed} instead of {percent(one.share)}"
            if gain := alone.get((model, after.curve.recovery, after.curve.tokens)):
                text += f" (the whole model, trained alike, changes its loss by {-gain:+.1%}: as much is the text, no recovery)"
            told.append(text)
    return "; ".join(told) or "no run was recovered by training, so what that wins back is not known"


def unknowns(laws: Laws) -> list[tuple[str, str]]:
    """What the table does not say, the most important first, each with what would tell."""
    rows, answers = laws.points.rows, list[tuple[str, str]]()
    cut = rows[~is_dense(rows)]
    models = sorted(set(rows["model"]))
    if TRUE not in laws.points.axes:
        answers.append(("which share of the parameters a ratio is", "add a column ratio_params"))
    if len(models) < 3:
        known = " and ".join(models)
        answers.append((f"other models than {known}", "add to `models` of the study"))
    if not (rows["recovery_tokens"] > 0).any():
        answers.append(("what training would win back", "add `recovery` to the study"))
    elif text_gains(laws.points).empty:
        answers.append(("how much of what training gains is the text", "add `{method: dense}` to `recovery_of`"))
    seeds = cut.groupby(["model", "method", "ratio", "recovery_tokens"])["seed"].nunique()
    if len(seeds) and (few := int((seeds < FEWEST_SEEDS).sum())):
        answers.append(
            (
                f"other seeds at {few} of {plural(len(seeds), 'point')} (fewer than {FEWEST_SEEDS} there)",
                "add `seeds` to the study",
            )
        )
    if not any(str(name).startswith("speedup") for name in rows.columns):
        answers.append(("how fast it is", "run notebooks/40_speed"))
    if "accuracy" not in laws.points.responses:
        answers.append(("what it still answers", "add `tasks` to the evaluation"))
    elif "accuracy_stderr" in rows and rows["accuracy_stderr"].notna().any():
        error = float(rows["accuracy_stderr"].median())
        answers.append((f"differences of accuracy below {percent(2 * error)}", "raise `limit` of the tasks"))
    sizes = rows["parameters0"].dropna() if "parameters0" in rows else pd.Series(dtype=float)
    if len(sizes) and sizes.max() < 7e9:
        answers.append(("models of 7 B and above", "ask notebooks/60_guide with `unseen` for what others published"))
    return answers or [("methods and models that are not in the table", "measure them")]


def two_shares(laws: Laws, model: str) -> tuple[float, ...]:
    """Two true shares that most curves of a model reach, for a small table: as near to 10 and 30 % as they go."""
    ends = [one.high for one in laws.readings("loss", TRUE) if one.curve.model == model and not one.curve.tokens]
    usable = [share for share in SHARES if ends and np.mean([share <= end + 0.005 for end in ends]) > 0.5]
    if len(usable) < 2:
        return tuple(usable)
    near = [share for share in usable if share <= 0.3]
    return (0.1, near[-1]) if len(near) > 1 and near[-1] > 0.1 else (usable[0], usable[1])


def small_table(laws: Laws, model: str) -> pd.DataFrame:
    """Methods of a model at two true shares: loss, whether measured (*) or between points, and accuracy where there is one."""
    shares, rows = two_shares(laws, model), list[tuple[float, dict[str, str]]]()
    for one in laws.readings("loss", TRUE):
        if one.curve.model != model or one.curve.tokens:
            continue
        quotes = [reach.quote(one, share) for share in shares]
        accuracy = reach.reading_like(laws, one.curve, "accuracy")
        right = [reach.quote(accuracy, share) if accuracy else None for share in shares]
        cells = {"method": one.curve.method}
        for share, loss, answered in zip(shares, quotes, right, strict=True):
            cells[f"loss ({percent(share)} removed)"] = f"{loss.value:.2f}{'*' * loss.measured}" if loss else "–"
            if accuracy:
                cells[f"answers ({percent(share)} removed)"] = (
                    f"{percent(answered.value)}{'*' * answered.measured}" if answered else "–"
                )
        last = next((said.value for said in quotes if said), math.inf)
        rows.append((last, cells))
    return pd.DataFrame([cells for _, cells in sorted(rows, key=lambda row: row[0])])


def closing(laws: Laws) -> tuple[list[str], list[str]]:
    """What a run found, for its last lines: three to five plain sentences, and the lines of a small table (may be none)."""
    laws = shared_out(laws)
    rows, models, loss = laws.points.rows, models_of(laws), "loss" in laws.points.responses
    cut, tasks = rows[~is_dense(rows)], few_tasks(rows) or "its tasks"
    answered = f"{', ' * loss}accuracy on {tasks}" if "accuracy" in laws.points.responses else ""
    who = models[0] if len(models) == 1 else plural(len(models), "model")
    counts = f"{plural(cut['method'].nunique(), 'method')}, {plural(cut['ratio'].nunique(), 'ratio')}"
    said = [f"Measured: {who}, {counts}; {'held-out loss' * loss}{answered}." if models else "Measured: dense models only."]
    for model in models[:SAID] if loss else ():
        if not (own := _furthest(laws, MAIN, model)):
            continue
        best = own[0]
        names = [one.curve.method for one in reach.tied(best, own)]
        alike = f"; not told apart: {', '.join(names[:2])}{' …' if len(names) > 2 else ''}" if names else ""
        start = "With 10 % more loss one can remove" if best.share > 0 else "Within 10 % more loss nothing was measured of"
        said.append(f"{start} {best.removed if best.share > 0 else model}{alike}.")
        reading = reach.reading_like(laws, best.curve, "accuracy", best.axis)
        there = reach.quote(reading, best.share) if reading and model == models[0] and best.share > 0 else None
        if reading and there:
            said.append(
                f"Then it answers {percent(there.value)} of {tasks} instead of {percent(reading.dense)} ({there.source})."
            )
    if loss and len(models) > SAID:
        said.append(f"The report has {plural(len(models) - SAID, 'more model')}.")
    unknown = unknowns(laws)[:2]
    said.append(f"Unknown: {'; '.join(what for what, _ in unknown)}. To find out: {_to_do(unknown)}.")
    table = small_table(laws, models[0]) if models and loss else pd.DataFrame()
    if table.empty:
        return said, []
    some = ROWS if len(models) == 1 else ROWS - 1
    more = f"; {len(table) - some} more in the report" if len(table) > some else ""
    dense = float(laws.points.dense_row(models[0])["loss0"])
    whose = f"{models[0]}, dense: loss {number(dense, 2)}; * measured, else between measured points{more}"
    return said, [*table.head(some).to_string(index=False).splitlines(), whose]
