"""Advice from measured points: compress which model by how much with which method and recovery, or take a smaller one as it is.

`claw.advice.options` says what each option costs and is worth, and which is best; here the answer is put in words. The true
share of parameters leads, and a value that was measured is said to be.

Notable choices:
- Options beyond the measured ratios are left out: advice should not rest on what nobody measured.
- A model that fits as it is does not compete compressed: noise at small ratios would make compression look like a gain.
- A run's worth is Student's t around what was read off, with the variance of points and of a run; a dense model was measured,
  so only the standard error of its measurement is unsure. Options are drawn independently of each other.
"""

import html
import json
import math
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import pandas as pd
from scipy import stats

from claw.advice import options as choice
from claw.advice.options import AS_IS
from claw.advice.true_shares import complete_shares, percent, removal
from claw.errors import InputError, unknown
from claw.files import write_own
from claw.laws import Laws
from claw.laws.storage import plain_json
from claw.specs.budget import LIMITS, Budget
from claw.specs.methods import is_control
from claw.words import plural, quantity

LIKELY, CLEAR = 0.8, 0.95
NAMED = 3  # options that are named where several cannot be told apart


@dataclass(frozen=True, kw_only=True)
class Advice:
    """What the laws advise. `options`: every option with its costs and worth; `finalists`: the best of each curve within the
    budget by group of models that compare, with the probability of being best there, the advised one first; `sentences`: the
    advice in words; `unjudged`: what could not be held against the budget, and which column would tell.
    """

    response: str
    unit: str
    budget: Budget
    options: pd.DataFrame
    finalists: pd.DataFrame
    level: float
    unjudged: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    sentences: tuple[str, ...] = ()

    @property
    def groups(self) -> list[pd.DataFrame]:
        """Finalists that compare with each other, the advised one first."""
        return [own for _, own in self.finalists.groupby("group", sort=True)]

    @property
    def best(self) -> pd.Series | None:
        """The advised finalist; None where nothing fits, or where finalists do not compare."""
        return self.finalists.iloc[0] if len(self.groups) == 1 else None

    @property
    def equals(self) -> list[str]:
        """Options that cannot be told apart from the advised one, itself first; a single one where it is likely the best."""
        return [_name(one) for _, one in _tied(self.groups[0]).iterrows()] if len(self.groups) == 1 else []

    def pareto(self, cost: str = "parameters") -> pd.DataFrame:
        """Options that no other beats in cost and worth at once, cheapest first. InputError where options do not compare."""
        if self.options["group"].nunique() > 1:
            raise InputError(f"There is no frontier: {self.notes[0]}. Choose models of one tokenizer (models=).")
        worth = self.options["value"] * (1 if self.response == "loss" else -1)
        rows = self.options.assign(worth=worth).dropna(subset=cost).sort_values([cost, "worth"])
        return rows[rows["worth"] < rows["worth"].cummin().shift(fill_value=math.inf)].drop(columns="worth")

    def frontier(self) -> pd.DataFrame:
        """The measured options of the frontier, for reading. InputError where options do not compare."""
        columns = ["option", "share", "ratio", "parameters", "value", "low", "high"]
        front = self.pareto()
        return front.loc[front["measured"], columns].reset_index(drop=True)

    def table(self) -> pd.DataFrame:
        """The finalists for reading: rank as measured beside rank as their laws predict, share, ratio, worth, costs."""
        rows = self.finalists
        whole = lambda value: "–" if math.isnan(value) else f"{value:.0f}"
        frame = rows[["option"]].assign(removed=rows["share"].map(percent), ratio=rows["ratio"].map("{:.2f}".format))
        frame[self.response] = rows["value"].map("{:.3f}".format)
        frame["new run"] = [f"{low:.3f} to {high:.3f}" for low, high in rows[["low", "high"]].to_numpy()]
        frame["from"] = [_source(one) for _, one in rows.iterrows()]
        frame["rank as measured"], frame["rank by its law"] = rows["rank"].map(whole), rows["predicted_rank"].map(whole)
        frame["best with probability"] = rows["probability"].map("{:.0%}".format)
        costs = rows[list(LIMITS)].dropna(axis="columns", how="all").map(quantity, na_action="ignore").fillna("–")
        groups = {"compares within": rows["group"]} if rows["group"].nunique() > 1 else {}
        return frame.assign(**groups).join(costs.rename(columns=LIMITS))

    def _repr_html_(self) -> str:
        items = "".join(f"<li>{html.escape(sentence)}</li>" for sentence in self.sentences)
        return f"<ul>{items}</ul>{self.table().to_html(index=False, border=0)}"


def half_of_largest(laws: Laws) -> Budget:
    """The budget that is asked about where none is: half of the parameters of the largest model; none if no size is known."""
    points, _ = complete_shares(laws.points)
    sizes = points.rows["parameters0"].dropna()
    return Budget(parameters=float(sizes.max()) / 2) if len(sizes) else Budget()


def advise(
    laws: Laws,
    budget: Budget,
    response: str = "loss",
    *,
    models: tuple[str, ...] = (),
    methods: tuple[str, ...] = (),
    most_recovery: float | None = None,
    draws: int = 20_000,
    seed: int = 0,
) -> Advice:
    """What to do within a budget for the least loss or the highest accuracy, read off measured points.

    `models` and `methods` narrow the choice (empty: all of the table, but a control only of a model that has nothing else);
    `most_recovery` is the most recovery tokens one can spend. Shares of parameters are derived where columns or names allow;
    what cannot be judged is in `Advice.unjudged`. InputError: unknown names, a limit that the table cannot judge at all,
    nothing measured.
    """
    if response not in laws.points.responses:
        raise unknown("response", response, laws.points.responses, "The table has no other measured response.")
    for kind, asked in {"model": models, "method": methods}.items():
        have = set(laws.points.rows[kind])
        if missing := [name for name in asked if name not in have]:
            raise unknown(kind, missing[0], have)
    points, derived = complete_shares(laws.points)
    laws = replace(laws, points=points)
    chosen = tuple(models) or tuple(sorted(set(points.rows["model"])))
    unit, factors, groups, rests = choice.groups_of(laws, response, chosen)
    parts = [choice.dense_options(laws, chosen, response, most_recovery)]
    served = {one.curve.model for one in laws.readings(response) if not is_control(one.curve.method)}
    for one in laws.readings(response):
        model, method, _, tokens, _ = one.curve
        allowed = method in methods if methods else not (model in served and is_control(method))
        if allowed and model in chosen and (most_recovery is None or tokens <= most_recovery):
            parts.append(choice.curve_options(laws, one))
    parts = [part for part in parts if len(part)]
    if not parts:
        raise InputError(
            f"There is nothing to advise on: no model of {', '.join(chosen)} has a dense {response} or a law of it. Measure "
            "the dense models (ratio 0) and at least three ratios of one method; laws.unfitted says why laws were not fitted."
        )
    frame = pd.concat(parts, ignore_index=True)
    amounts = ["value", "low", "high", "scale", "predicted"]
    frame[amounts] = frame[amounts].mul(frame["model"].map(factors).astype(float), axis=0)
    frame["group"] = frame["model"].map(groups)
    frame = choice.with_costs(laws, frame, budget)
    frames = {"options": frame, "finalists": choice.best_of_curves(frame, budget, response, draws, seed)}
    notes = tuple(note for note in (rests, *derived) if note)
    known: dict[str, Any] = {"unjudged": choice.unjudged(frame, budget), "notes": notes, "level": laws.level}
    advice = Advice(response=response, unit=unit, budget=budget, **known, **frames)
    return replace(advice, sentences=tuple(_sentences(laws, advice)))


def _sentences(laws: Laws, advice: Advice) -> Iterator[str]:
    """The advice in words, generated from the numbers."""
    options, groups = advice.options, advice.groups
    where = advice.budget.text()
    where = where[0].upper() + where[1:]
    if not groups:
        yield _nothing(options, advice)
        yield from advice.unjudged
        return
    apart = options["group"].nunique() > 1
    for own in groups:
        of = f" of the {own['group'].iloc[0]} models" * apart
        judged = ", of what can be judged" if advice.unjudged else ""
        yield f"{where}{judged}{of}, {_advised(own.iloc[0], advice)}."
        yield from _comparison(own, advice)
    for group in sorted(set(options["group"]) - set(advice.finalists["group"])):
        yield _nothing(options[options["group"] == group], advice, f" of the {group} models")
    yield from (f"{note[0].upper()}{note[1:]}.".replace("..", ".") for note in advice.notes)
    yield from advice.unjudged
    cut = advice.finalists[advice.finalists["method"] != AS_IS]
    if len(cut) and (cut["tokens"] == 0).all() and not (options["tokens"] > 0).any():
        yield "No recovered run was measured, so what fine-tuning would win back is not in this advice."
    models = laws.points.rows["model"].nunique()
    yield (
        f"The probabilities rest on {plural(len(laws.readings(advice.response)), 'curve')} of {plural(models, 'model')}: they "
        f"speak of these models and these methods{' only' if models < 3 else ', and less surely of others'}."
    )


def _nothing(options: pd.DataFrame, advice: Advice, of: str = "") -> str:
    """That no option fits, and what the least is that was measured."""
    name = next((name for name in advice.budget.limits if options[name].notna().any()), "")
    if not name:
        return f"Nothing{of} can be held against {advice.budget.text().removeprefix('within ')}."
    least = options.loc[options[name].idxmin()]
    worth = f", {advice.response} {least['value']:.3f}" * bool(of)
    return (
        f"Nothing{of} fits {advice.budget.text()}. The least that was measured is {_name(least)} with {quantity(least[name])} "
        f"{LIMITS[name]}{worth}: allow that much, measure larger ratios, or add a smaller model."
    )


def _advised(best: pd.Series, advice: Advice) -> str:
    """What to do, and what it is worth."""
    value = f"{best['value']:.3f} {advice.unit}".rstrip()
    if best["method"] == AS_IS:
        return f"take {best['option']}: its {advice.response} was measured as {value}"
    what = removal(best["share"], best["ratio"], best["method"], best["ratio_of"], f"{best['model']}'s")
    how = str(best["option"]).removeprefix(f"{best['model']} ")
    runs = f"{advice.level:.0%} of new runs between {best['low']:.3f} and {best['high']:.3f}"
    if not math.isfinite(best["share"]):
        return f"compress {best['option']}, {what}: {advice.response} {value} ({_source(best)}; {runs})"
    return f"remove {what} {how}: {advice.response} {value} ({_source(best)}; {runs})"


def _source(option: pd.Series) -> str:
    """measured, or the measured ratios between which it was read."""
    if option["measured"]:
        return "measured"
    low = "the dense model" if option["bracket_low"] == 0 else f"the measured r = {option['bracket_low']:.2g}"
    return f"between {low} and {'r = ' if option['bracket_low'] == 0 else ''}{option['bracket_high']:.2g}"


def _tied(own: pd.DataFrame) -> pd.DataFrame:
    """The advised option and those that may as well be the best: none where it is likely the best."""
    best = own.iloc[:1]
    others = own.iloc[1:]
    if not len(others) or best["probability"].iloc[0] >= LIKELY:
        return best
    return pd.concat([best, others[others["probability"] >= choice.LEAST]])


def _comparison(own: pd.DataFrame, advice: Advice) -> Iterator[str]:
    """The advised option beside the others that fit."""
    whole, cut = own[own["method"] == AS_IS], own[own["method"] != AS_IS]
    if len(whole) and len(cut):
        yield _duel(whole.iloc[0], cut.iloc[0], advice.response)
    elif not len(whole):
        yield "No model fits as it is, so the question is only which one to compress."
    elif not advice.budget.limits:
        yield "Without a limit nothing needs compressing; set one to ask what to compress."
    elif not advice.unjudged:
        yield "Every model that fits, fits as it is; of the others no compressed option that was measured fits."
    best = own.iloc[0]
    if len(own) < 2:
        return
    alike = _tied(own)
    if len(alike) > 1:
        names = [f"{_name(one)} ({one['probability']:.0%})" for _, one in alike.iterrows()]
        more = f" and {len(names) - NAMED} more" if len(names) > NAMED else ""
        yield f"Several cannot be told apart (probability of being best): {', '.join(names[:NAMED])}{more}."
    else:
        sure = "clearly" if best["probability"] >= CLEAR else "probably" if best["probability"] >= LIKELY else "perhaps"
        second = own.iloc[1]
        yield (
            f"It is {sure} the best of the {len(own)} that fit (probability {best['probability']:.0%}); next is "
            f"{_name(second)} ({second['probability']:.0%})."
        )
    if best["predicted_rank"] != best["rank"] and math.isfinite(best["predicted_rank"]):
        yield f"As measured it ranks {best['rank']:.0f} of {len(own)}, by the curves' laws {best['predicted_rank']:.0f}."


def _name(option: pd.Series) -> str:
    if option["method"] == AS_IS:
        return str(option["option"])
    share = option["share"]
    return f"{option['option']}, " + (f"{percent(share)} removed" if math.isfinite(share) else f"ratio {option['ratio']:.2f}")


def _duel(whole: pd.Series, cut: pd.Series, response: str) -> str:
    """The best model as it is against the best compressed one."""
    gap = cut["value"] - whole["value"] if response == "loss" else whole["value"] - cut["value"]
    spread = math.hypot(cut["scale"], whole["scale"])
    p = float(stats.t.sf(gap / spread, cut["df"])) if spread > 0 else float(gap < 0)
    better, p = ("compressing", p) if p >= 0.5 else ("the uncompressed model", 1 - p)
    verb = "is clearly" if p >= CLEAR else "is probably" if p >= LIKELY else "may be"
    undecided = "; on this table the two cannot be told apart" if p < LIKELY else ""
    return f"{_name(cut)} against {_name(whole)}: {better} {verb} better (probability {p:.0%}){undecided}."


def save_advice(advice: Advice, path: Path) -> Path:
    """Write the advice as JSON: budget, sentences, finalists, what was not judged, unrounded."""
    plain = {"budget": asdict(advice.budget)} | {
        name: getattr(advice, name) for name in "response unit level sentences unjudged".split()
    }
    plain["finalists"] = advice.finalists.to_dict("records")
    write_own(Path(path), json.dumps(plain_json(plain), indent=1, ensure_ascii=False, allow_nan=False) + "\n")
    return Path(path)
