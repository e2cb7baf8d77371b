"""What a practitioner acts on, in plain sentences and one small table: how far, with what, what it then answers.

The sentences open the findings page (`first_lines`) and end a run (`closing`). Every number is read off the measured points of
one curve, and is said to be measured, or between which measured points it lies.
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
from claw.words import number, plural, tokens_text

THRESHOLDS = (1.05, 1.1, 1.25)
MAIN = 1.1
MODELS = 3  # in one line
NAMED = 3
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


def how_far(laws: Laws, threshold: float, model: str) -> str:
    """How far one model goes for so much more loss, with which method, and which others cannot be told apart from it."""
    own = reach.reaches(laws, threshold, model) or reach.reaches(laws, threshold, model, controls=True)
    if not own:
        return ""
    best = own[0]
    only = " (a control; nothing else was measured)" if is_control(best.curve.method) else ""
    if best.share <= 0:
        return f"none of {model}: no measured curve stays within it"
    all_of_it = ", as far as was measured" if best.all_of_it else f", {_beside(best)}"
    alike = [one.curve.method for one in reach.tied(best, own)]
    more = f"; not told apart from it: {', '.join(alike[:NAMED])}{' …' if len(alike) > NAMED else ''}" if alike else ""
    return f"{best.removed}{only}{all_of_it}{more}"


def _beside(one: Reach) -> str:
    """Between which measured points an answer lies."""
    text = (lambda share: "the dense model" if share == 0 else percent(share)) if one.known else "r = {:.2g}".format
    points = [f"{text(share)} (loss {value:.2f})" for share, value in one.beside]
    return f"measured: {points[0]}" if len(points) == 1 else f"between {points[0]} and {points[1]}"


def first_lines(laws: Laws) -> list[str]:
    """Ten lines of Markdown that a practitioner acts on, generated from the measured points; fewer where less was measured."""
    laws = shared_out(laws)
    if "loss" not in laws.points.responses:
        return ["**How far?** No loss was measured, so nothing is said of how far one can go; the accuracies are below."]
    models = models_of(laws)
    lines = []
    for threshold in THRESHOLDS:
        told = [text for model in models[:MODELS] if (text := how_far(laws, threshold, model))]
        if told:
            lines.append(f"**For {percent(threshold - 1)} more loss remove** {'. '.join(told)}.")
    best = {model: own[0] for model in models[:MODELS] if (own := reach.reaches(laws, MAIN, model)) and own[0].share > 0}
    lines += [f"**Then it answers:** {text}." for text in [_answers(laws, list(best.values()))] if text]
    lines += [f"**Then it is as fast:** {text}." for text in [_speeds(laws, list(best.values()))] if text]
    lines += [f"**A control:** {text}." for text in [_controls(laws, best)] if text]
    lines += [f"**Trained again:** {text}." for text in [_recovered(laws, best)] if text]
    lines += [f"**Further:** {text}." for text in [_further(laws, models)] if text]
    unknown = unknowns(laws)
    return [*lines, f"**Unknown:** {'; '.join(what for what, _ in unknown)}.", f"**To find out:** {_to_do(unknown)}."]


def _to_do(unknown: list[tuple[str, str]]) -> str:
    return "; ".join(dict.fromkeys(how for _, how in unknown[:NAMED]))


def _answers(laws: Laws, best: list[Reach]) -> str:
    """Accuracy at what 10 % more loss allows, beside the dense model's and guessing."""
    told, tasks = [], few_tasks(laws.points.rows) or "its tasks"
    for one in best:
        reading = reach.reading_like(laws, one.curve, "accuracy", one.axis)
        said = reach.quote(reading, one.share) if reading else None
        if reading and said and math.isfinite(reading.dense):
            chance = float(laws.points.dense_row(one.curve.model).get("chance", math.nan))
            guess = f" (guessing gives {percent(chance)})" if math.isfinite(chance) else ""
            told.append(
                f"{one.curve.model} with {one.curve.method} {percent(said.value)} "
                f"({percents(max(0.0, said.low), min(1.0, said.high))}) of {tasks} instead of {percent(reading.dense)}, "
                f"{said.source}{guess}"
            )
    return "; ".join(told) or "no accuracy was measured there"


def _speeds(laws: Laws, best: list[Reach]) -> str:
    """Measured speed-ups at what 10 % more loss allows."""
    told, names = [], {"speedup_decode": "decoding", "speedup_prefill": "prefill"}
    for one in best:
        pairs = {name: reach.speedup(laws, one.curve, one.share, response) for response, name in names.items() if one.known}
        timed = {name: pair for name, pair in pairs.items() if pair}
        if timed:
            parts = [f"{name} {value:.2f} times as fast" for name, (value, _) in timed.items()]
            sources = " and ".join(dict.fromkeys(source for _, source in timed.values()))
            told.append(f"{one.curve.model} with {one.curve.method} {', '.join(parts)} ({sources})")
    return "; ".join(told) or "no speed was measured there"


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
            text = f"after {tokens_text(after.curve.tokens)} one may remove {after.removed} instead of {percent(one.share)}"
            if gain := alone.get((model, after.curve.recovery, after.curve.tokens)):
                text += f" (the whole model, trained alike, changes its loss by {-gain:+.1%}: as much is the text, no recovery)"
            told.append(text)
    return "; ".join(told) or "no run was recovered by training, so what that wins back is not known"


def _further(laws: Laws, models: list[str]) -> str:
    """The lowest measured loss at 30 and at 50 % of the parameters."""
    told = []
    for model in models[:MODELS]:
        for share in (0.3, 0.5):
            pairs = [pair for pair in reach.best_at(laws, model, share) if not is_control(pair[0].curve.method)]
            if pairs and (dense := pairs[0][0].dense) > 0:
                reading, said = pairs[0]
                if reach.wrecked(laws, reading.curve, said.at):
                    told.append(f"at {percent(said.at)} of {model} nothing that was measured still works")
                    continue
                told.append(
                    f"at {percent(said.at)} of {model} the lowest loss is {said.value:.2f} ({said.value / dense:.2f} × dense) "
                    f"with {reading.curve.method}, {said.source}"
                )
    return "; ".join(told)


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
    shares, rows = two_shares(laws, model), {}
    for one in laws.readings("loss", TRUE):
        if one.curve.model != model or one.curve.tokens:
            continue
        quotes = [reach.quote(one, share) for share in shares]
        accuracy = reach.reading_like(laws, one.curve, "accuracy")
        right = [reach.quote(accuracy, share) if accuracy else None for share in shares]
        cells = {}
        for share, loss, answered in zip(shares, quotes, right, strict=True):
            cells[f"loss ({percent(share)} removed)"] = f"{loss.value:.2f}{'*' * loss.measured}" if loss else "–"
            if accuracy:
                cells[f"answers ({percent(share)} removed)"] = (
                    f"{percent(answered.value)}{'*' * answered.measured}" if answered else "–"
                )
        last = next((said.value for said in quotes if said), math.inf)
        rows[one.curve.method] = (last, cells)
    ordered = sorted(rows, key=lambda name: rows[name][0])
    return pd.DataFrame([{"method": name} | rows[name][1] for name in ordered])


def closing(laws: Laws) -> tuple[list[str], list[str]]:
    """What a run found, for its last lines: three to five plain sentences, and the lines of a small table (may be none)."""
    laws = shared_out(laws)
    rows, models, loss = laws.points.rows, models_of(laws), "loss" in laws.points.responses
    cut, tasks = rows[~is_dense(rows)], few_tasks(rows) or "its tasks"
    answered = f"{', ' * loss}accuracy on {tasks}" if "accuracy" in laws.points.responses else ""
    who = models[0] if len(models) == 1 else plural(len(models), "model")
    counts = f"{plural(cut['method'].nunique(), 'method')}, {plural(cut['ratio'].nunique(), 'ratio')}"
    said = [f"Measured: {who}, {counts}; {'held-out loss' * loss}{answered}." if models else "Measured: dense models only."]
    for model in models[:2] if loss else ():
        own = reach.reaches(laws, MAIN, model) or reach.reaches(laws, MAIN, model, controls=True)
        if not own:
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
