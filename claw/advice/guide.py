"""Advice from laws: compress which model by how much with which method and recovery, or take a smaller model as it is.

An option's cost follows from what was removed; its worth is the law's prediction for a run of it. Among the options within the
budget the best of each curve compete: their predictive distributions give the probability that each is the best.

Notable choices:
- The advice is the option whose interval of a new run ends best, not the one with the best prediction: it can be counted on.
- Options beyond the measured ratios are left out: laws say little there, and advice should not rest on that.
- A model that fits as it is does not compete compressed: a law's noise at small ratios would make compression look like a gain.
- A run's prediction is Student's t around the law, with the variance of the law and of a run; a dense model was measured, so
  only the standard error of its measurement is unsure. Options are drawn independently of each other.
- Losses of models with different tokenizers compare in bits per byte, which is each model's own constant times its loss.
"""

import contextlib
import html
import json
import math
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd
from scipy import stats

from claw.errors import InputError, unknown
from claw.files import write_own
from claw.laws import Laws, Reading, conversion
from claw.laws.points import is_dense
from claw.laws.storage import plain_json
from claw.specs.budget import LIMITS, Budget
from claw.specs.methods import is_control
from claw.words import plural, quantity, tokens_text

GRID = 0.01
LIKELY, CLEAR = 0.8, 0.95
AS_IS = "as it is"
NEEDS = {
    "parameters": "the columns parameters0 and ratio_params",
    "memory": "the columns parameters0 and ratio_params",
    "flops": "the columns flops_per_token and ratio_flops",
    "milliseconds": "the measured milliseconds per token of each dense model (dense_milliseconds), and a speed law for "
    "compressed ones",
}
"""What a table must have so that an option can be held against a limit."""


@dataclass(frozen=True, kw_only=True)
class Advice:
    """What the laws advise. `options`: every option with its costs and prediction; `finalists`: the best of each curve within
    the budget, with the probability of being best, the one to count on first; `sentences`: the advice in words.
    """

    response: str
    unit: str
    budget: Budget
    options: pd.DataFrame
    finalists: pd.DataFrame
    level: float
    sentences: tuple[str, ...] = ()

    @property
    def best(self) -> pd.Series | None:
        """The finalist to count on first; None where nothing fits."""
        return self.finalists.iloc[0] if len(self.finalists) else None

    def pareto(self, cost: str = "parameters") -> pd.DataFrame:
        """Options that no other beats in cost and worth at once, cheapest first."""
        worth = self.options["value"] * (1 if self.response == "loss" else -1)
        rows = self.options.assign(worth=worth).dropna(subset=cost).sort_values([cost, "worth"])
        return rows[rows["worth"] < rows["worth"].cummin().shift(fill_value=math.inf)].drop(columns="worth")

    def _repr_html_(self) -> str:
        items = "".join(f"<li>{html.escape(sentence)}</li>" for sentence in self.sentences)
        formats = dict(ratio="{:.2f}", value="{:.3f}", low="{:.3f}", high="{:.3f}", probability="{:.0%}")
        table = self.finalists[["option"]].assign(**{name: self.finalists[name].map(f.format) for name, f in formats.items()})
        costs = self.finalists[list(LIMITS)].dropna(axis="columns", how="all").map(quantity, na_action="ignore").fillna("–")
        return f"<ul>{items}</ul>{table.join(costs.rename(columns=LIMITS)).to_html(index=False, border=0)}"


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
    """What to do within a budget for the least loss or the highest accuracy.

    `models` and `methods` narrow the choice (empty: all of the table, but a control only of a model that has nothing else);
    `most_recovery` is the most recovery tokens one can spend. InputError: unknown names, a limit that the table cannot judge,
    no law to rest on.
    """
    if response not in laws.points.responses:
        raise unknown("response", response, laws.points.responses, "The table has no other measured response.")
    for kind, asked in {"model": models, "method": methods}.items():
        have = set(laws.points.rows[kind])
        if missing := [name for name in asked if name not in have]:
            raise unknown(kind, missing[0], have)
    chosen = tuple(models) or tuple(sorted(set(laws.points.rows["model"])))
    unit, factors = _unit(laws, response, chosen)
    parts = [_dense_options(laws, chosen, response)]
    served = {one.curve.model for one in laws.readings(response) if not is_control(one.curve.method)}
    for one in laws.readings(response):
        model, method, _, tokens, _ = one.curve
        allowed = method in methods if methods else not (model in served and is_control(method))
        if allowed and model in chosen and (most_recovery is None or tokens <= most_recovery):
            parts.append(_curve_options(one))
    parts = [part for part in parts if len(part)]
    if not parts:
        raise InputError(
            f"There is nothing to advise on: no model of {', '.join(chosen)} has a dense {response} or a law of it. Measure "
            "the dense models (ratio 0) and at least three ratios of one method; laws.unfitted says why laws were not fitted."
        )
    options = pd.concat(parts, ignore_index=True)
    amounts = ["value", "low", "high", "scale"]
    options[amounts] = options[amounts].mul(options["model"].map(factors).astype(float), axis=0)
    options = _with_costs(laws, options, budget)
    frames = {"options": options, "finalists": _finalists(options, budget, response, draws, seed)}
    advice = Advice(response=response, unit=unit, budget=budget, level=laws.level, **frames)
    return replace(advice, sentences=tuple(_sentences(laws, advice)))


def _unit(laws: Laws, response: str, models: tuple[str, ...]) -> tuple[str, dict[str, float]]:
    """Unit in which models compare, and each model's factor to it."""
    if response != "loss" or laws.points.one_tokenizer or len(models) == 1:
        return "nats per token" if response == "loss" else "", dict.fromkeys(models, 1.0)
    dense = {model: laws.points.dense_row(model) for model in models}
    factors = {model: float(row.get("bits_per_byte0", math.nan)) / float(row["loss0"]) for model, row in dense.items()}
    gone = [model for model, value in factors.items() if not math.isfinite(value)]
    if gone:
        raise InputError(
            f"The models have different tokenizers, so their losses per token do not compare, and {', '.join(gone)} has no "
            "bits_per_byte beside its dense loss to compare by. Choose models of one tokenizer (models=), ask for accuracy, "
            "or add a column bits_per_byte."
        )
    return "bits per byte", factors


def _dense_options(laws: Laws, models: tuple[str, ...], response: str) -> pd.DataFrame:
    """Models as they are: measured, so only as unsure as the measurement."""
    rows = laws.points.of(response, dense=True, recovered=False)
    rows = rows[is_dense(rows) & rows["model"].isin(models)].drop_duplicates("model").reset_index(drop=True)
    error = rows.get(f"{response}_stderr", pd.Series(0.0, rows.index)).fillna(0.0).astype(float)
    value = rows[response].astype(float)
    frame = pd.DataFrame({"model": rows["model"], "method": AS_IS, "tokens": 0.0, "ratio": 0.0, "value": value})
    frame = frame.assign(low=value - 1.96 * error, high=value + 1.96 * error, scale=error, df=math.inf)
    return frame.assign(option=frame["model"] + f" {AS_IS}")


def _curve_options(one: Reading) -> pd.DataFrame:
    """A curve as it was measured, on a grid of ratios."""
    ratios = np.arange(1, math.floor(one.high / GRID + 1e-9) + 1) * GRID
    ratios = ratios[ratios >= one.low]
    band = one.predict(ratios)
    half = (band["run_high"] - band["run_low"]) / 2
    value, low, high = (band[name].to_numpy(float) for name in ("mean", "run_low", "run_high"))
    model, method, _, tokens, _ = one.curve
    recovery = f" and {tokens_text(tokens)} of recovery" if tokens else ""
    frame = pd.DataFrame({"model": model, "method": method, "tokens": float(tokens), "ratio": ratios, "value": value})
    frame = frame.assign(low=low, high=high, scale=half / one.quantile, df=one.df)
    return frame.assign(option=f"{model} with {method}{recovery}")


def _with_costs(laws: Laws, options: pd.DataFrame, budget: Budget) -> pd.DataFrame:
    """Costs of each option; NaN where the table does not tell. InputError if a limit needs what is not there."""
    times, axes = dict(budget.dense_milliseconds), conversion.axes(laws.points)
    options = options.assign(**dict.fromkeys(LIMITS, math.nan))
    for (model, method), index in options.groupby(["model", "method"]).groups.items():
        r = options.loc[index, "ratio"].to_numpy(float)
        rows = laws.points.rows[laws.points.rows["model"] == model]
        amounts = rows.reindex(columns=["parameters0", "parameters", "flops_per_token"]).astype(float)
        dense = amounts[is_dense(rows)].head(1)
        sizes = pd.concat([dense["parameters0"], dense["parameters"], amounts["parameters0"]]).dropna()
        size, work = (next(iter(known), math.nan) for known in (sizes, dense["flops_per_token"]))
        for cost, full, axis in (("parameters", size, "ratio_params"), ("flops", work, "ratio_flops")):
            if method == AS_IS:
                options.loc[index, cost] = full
            elif axis in axes:
                options.loc[index, cost] = full * (1 - conversion.share(laws.points, r, model, method, axis))
        if model in times and method == AS_IS:
            options.loc[index, "milliseconds"] = times[model]
        elif model in times:
            with contextlib.suppress(InputError):  # without a speed law the time is not known
                speedup = laws.predict(r, model, method, response="speedup_decode")["mean"].to_numpy()
                options.loc[index, "milliseconds"] = times[model] / speedup
    options["memory"] = options["parameters"] * budget.bytes_per_parameter / 1e9
    for name in budget.limits:
        if options[name].isna().all():
            raise InputError(f"A limit on {LIMITS[name]} needs {NEEDS[name]}, which this table lacks. Limit something else.")
    return options


def _finalists(options: pd.DataFrame, budget: Budget, response: str, draws: int, seed: int) -> pd.DataFrame:
    """The best option of each curve within the budget, with its probability of being the best of all.

    First comes the one whose interval of a new run ends best, so what one can count on decides and not a lucky prediction.
    """
    fits, whole = pd.Series(True, options.index), options["method"] == AS_IS
    for name, limit in budget.limits.items():
        fits &= options[name] <= limit * (1 + 1e-12)
    within = options[fits & (whole | ~options["model"].isin(options.loc[fits & whole, "model"]))]
    sign = 1 if response == "loss" else -1
    best = (sign * within["value"]).groupby([within["model"], within["method"], within["tokens"]]).idxmin()
    counted_on = "high" if response == "loss" else "low"  # a law that hardly knows its curve promises nothing
    finalists = within.loc[best].sort_values(counted_on, ascending=response == "loss", ignore_index=True)
    rng = np.random.default_rng(seed)
    noise = [rng.standard_normal(draws) if math.isinf(df) else rng.standard_t(df, draws) for df in finalists["df"]]
    value, scale = finalists[["value", "scale"]].to_numpy().T[..., None]
    winners = (sign * (value + scale * noise)).argmin(axis=0) if len(finalists) else np.empty(0, int)
    return finalists.assign(probability=np.bincount(winners, minlength=len(finalists)) / draws)


def _sentences(laws: Laws, advice: Advice) -> Iterator[str]:
    """The advice in words, generated from the numbers."""
    options, finalists, budget = advice.options, advice.finalists, advice.budget
    where = budget.text()
    if not len(finalists):
        name = next(iter(budget.limits))
        least = options.loc[options[name].idxmin()]
        yield (
            f"Nothing fits {where}. The least that was measured is {_name(least)} with {quantity(least[name])} {LIMITS[name]}: "
            "allow that much, measure larger ratios, or add a smaller model."
        )
        return
    best = finalists.iloc[0]
    value = f"{best['value']:.3f} {advice.unit}".rstrip()
    if best["method"] == AS_IS:
        advised = f"take {best['option']}: its {advice.response} was measured as {value}"
    else:
        runs = f"{advice.level:.0%} of runs between {best['low']:.3f} and {best['high']:.3f}"
        advised = f"compress {best['option']}, removing {best['ratio']:.0%}: {advice.response} {value} ({runs})"
    yield f"{where[0].upper()}{where[1:]}, {advised}."
    whole, cut = finalists[finalists["method"] == AS_IS], finalists[finalists["method"] != AS_IS]
    if len(whole) and len(cut):
        yield _duel(whole.iloc[0], cut.iloc[0], advice.response)
    elif not len(whole):
        yield "No model fits as it is, so the question is only which one to compress."
    elif not budget.limits:
        yield "Without a limit nothing needs compressing; set one to ask what to compress."
    else:
        yield "Every model that fits, fits as it is; of the others no compressed option fits, or none has a law."
    if len(finalists) > 1:
        second = finalists.iloc[1]
        sure = _by_probability(best["probability"], "clearly", "probably", "not safely")
        yield (
            f"It is {sure} the best of the {len(finalists)} that fit (probability {best['probability']:.0%}); "
            f"next is {_name(second)} ({second['probability']:.0%})."
        )
    if best["method"] != AS_IS and best["tokens"] == 0 and not (options["tokens"] > 0).any():
        yield "No law of recovered runs is among the options, so what fine-tuning would win back is not in this advice."
    models = laws.points.rows["model"].nunique()
    yield (
        f"The probabilities rest on {plural(len(laws.readings(advice.response)), 'curve')} of {plural(models, 'model')}: they "
        f"speak of these models and these methods{' only' if models < 3 else ', and less surely of others'}."
    )


def _by_probability(p: float, clear: str, likely: str, neither: str) -> str:
    return clear if p >= CLEAR else likely if p >= LIKELY else neither


def _name(option: pd.Series) -> str:
    return option["option"] if option["method"] == AS_IS else f"{option['option']} at r = {option['ratio']:.2f}"


def _duel(whole: pd.Series, cut: pd.Series, response: str) -> str:
    """The best model as it is against the best compressed one."""
    gap = cut["value"] - whole["value"] if response == "loss" else whole["value"] - cut["value"]
    spread = math.hypot(cut["scale"], whole["scale"])
    p = float(stats.t.sf(gap / spread, cut["df"])) if spread > 0 else float(gap < 0)
    better, p = ("compressing", p) if p >= 0.5 else ("the uncompressed model", 1 - p)
    verb = _by_probability(p, "is clearly", "is probably", "may be")
    undecided = "; on this table the two cannot be told apart" if p < LIKELY else ""
    return f"{_name(cut)} against {_name(whole)}: {better} {verb} better (probability {p:.0%}){undecided}."


def save_advice(advice: Advice, path: Path) -> Path:
    """Write the advice as JSON: budget, sentences, finalists, unrounded."""
    plain = {"budget": asdict(advice.budget)} | {
        name: getattr(advice, name) for name in "response unit level sentences".split()
    }
    plain["finalists"] = advice.finalists.to_dict("records")
    write_own(Path(path), json.dumps(plain_json(plain), indent=1, ensure_ascii=False, allow_nan=False) + "\n")
    return Path(path)
