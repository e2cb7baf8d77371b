"""Advice from laws: compress which model by how much with which method and recovery, or take a smaller model as it is.

Every option is a model at a ratio with a method and a recovery budget, or a model as it is. What it costs follows from what
was removed (parameters, memory of weights, FLOPs per token, milliseconds per token); what it is worth is the law's prediction
for a run of it. Among the options within the budget the best of each curve compete: from their predictive distributions come
the probability that each is the best.

Notable choices:
- Advised is the option whose interval of a new run ends best, not the one with the best prediction: what one can count on decides.
- Options beyond the measured ratios are left out: laws say little there, and advice should not rest on that.
- A model that fits as it is does not compete compressed: a law's noise at small ratios would make compression look like a gain.
- A run's prediction is Student's t around the law, with the variance of the law and of a run; a dense model was measured, so
  only the standard error of its measurement is unsure. Options are drawn independently of each other.
- Losses of models with different tokenizers compare in bits per byte, which is each model's own constant times its loss.
"""

import html
import json
import math
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from scipy import stats

from claw.errors import InputError, unknown
from claw.files import write_text
from claw.laws import Laws, conversion, curves
from claw.laws.points import is_dense
from claw.laws.storage import plain_json
from claw.specs.budget import LIMITS, Budget
from claw.specs.methods import is_control
from claw.words import quantity, tokens_text

GRID = 0.01
LIKELY, CLEAR = 0.8, 0.95
AS_IS = "as it is"


@dataclass(frozen=True)
class Advice:
    """What the laws advise. `options`: every option with its costs and prediction; `finalists`: the best of each curve within
    the budget, with the probability of being best, the one to count on first; `sentences`: the advice in words.
    """

    response: str
    unit: str
    budget: Budget
    options: pd.DataFrame
    finalists: pd.DataFrame
    sentences: tuple[str, ...]
    level: float

    @property
    def best(self) -> pd.Series | None:
        """The finalist with the best prediction; None where nothing fits."""
        return self.finalists.iloc[0] if len(self.finalists) else None

    def pareto(self, cost: str = "parameters") -> pd.DataFrame:
        """Options that no other beats in cost and worth at once, cheapest first."""
        sign = 1 if self.response == "loss" else -1
        rows = self.options[self.options[cost].notna()].assign(worth=lambda frame: sign * frame["value"])
        rows = rows.sort_values([cost, "worth"])
        return rows[rows["worth"] < rows["worth"].cummin().shift(fill_value=math.inf)].drop(columns="worth")

    def _repr_html_(self) -> str:
        items = "".join(f"<li>{html.escape(sentence)}</li>" for sentence in self.sentences)
        return f"<ul>{items}</ul>{shown(self.finalists).to_html(index=False, border=0)}"


def shown(finalists: pd.DataFrame) -> pd.DataFrame:
    """Finalists for reading."""
    found = finalists[["option", "ratio", "value", "low", "high", "probability"]].copy()
    for name in ("parameters", "memory", "flops", "milliseconds"):
        if finalists[name].notna().any():
            found[LIMITS[name]] = finalists[name].map(lambda v: "–" if pd.isna(v) else quantity(v))
    for name in ("value", "low", "high"):
        found[name] = found[name].map("{:.3f}".format)
    return found.assign(probability=found["probability"].map("{:.0%}".format), ratio=found["ratio"].map("{:.2f}".format))


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
    rows = laws.points.rows
    for kind, asked, have in (("model", models, set(rows["model"])), ("method", methods, set(rows["method"]))):
        for name in asked:
            if name not in have:
                raise unknown(kind, name, have)
    chosen = tuple(models) or tuple(sorted(set(rows["model"])))
    unit, factors = _unit(laws, response, chosen)
    parts = [_dense_options(laws, chosen, response)]
    served = {law.curve.model for law in laws.curves_of(response) if not is_control(law.curve.method)}
    for law in laws.curves_of(response):
        needless = law.curve.model in served and is_control(law.curve.method)
        allowed = law.curve.model in chosen and (law.curve.method in methods if methods else not needless)
        if allowed and (most_recovery is None or law.curve.tokens <= most_recovery):
            parts.append(_curve_options(laws, law))
    options = pd.concat([part for part in parts if len(part)], ignore_index=True) if any(map(len, parts)) else pd.DataFrame()
    if not len(options):
        raise InputError(
            f"There is nothing to advise on: no model of {', '.join(chosen)} has a dense {response} or a law of it. Measure the "
            "dense models (ratio 0) and at least three ratios of one method; laws.unfitted says why laws were not fitted."
        )
    factor = options["model"].map(factors).to_numpy(float)
    for name in ("value", "low", "high", "scale"):
        options[name] = options[name] * factor
    options = _with_costs(laws, options, budget)
    finalists = _finalists(options, budget, response, draws, seed)
    words = _sentences(laws, options, finalists, budget, response, unit)
    return Advice(response, unit, budget, options, finalists, tuple(words), laws.level)


def _unit(laws: Laws, response: str, models: tuple[str, ...]) -> tuple[str, dict[str, float]]:
    """Unit in which models compare, and each model's factor to it."""
    if response != "loss":
        return "", dict.fromkeys(models, 1.0)
    if laws.points.one_tokenizer or len(models) == 1:
        return "nats per token", dict.fromkeys(models, 1.0)
    dense = laws.points.rows.drop_duplicates("model").set_index("model")
    factors = {}
    for model in models:
        own = dense.loc[model]
        factors[model] = float(own.get("bits_per_byte0", math.nan)) / float(own["loss0"])
    gone = [model for model, value in factors.items() if not math.isfinite(value)]
    if gone:
        raise InputError(
            f"The models have different tokenizers, so their losses per token do not compare, and {', '.join(gone)} has no "
            "bits_per_byte beside its dense loss to compare by. Choose models of one tokenizer (models=), care for accuracy, or "
            "add a column bits_per_byte."
        )
    return "bits per byte", factors


def _dense_options(laws: Laws, models: tuple[str, ...], response: str) -> pd.DataFrame:
    """Models as they are: measured, so only as unsure as the measurement."""
    points = laws.points.of(response, dense=True)
    points = points[is_dense(points) & (points["recovery_tokens"] == 0) & points["model"].isin(models)]
    points = points.drop_duplicates("model")
    error = points.get(f"{response}_stderr", pd.Series(0.0, points.index)).fillna(0.0).to_numpy(float)
    value = points[response].to_numpy(float)
    frame = pd.DataFrame({"model": points["model"].to_numpy(), "method": AS_IS, "tokens": 0.0, "ratio": 0.0, "value": value})
    frame = frame.assign(low=value - 1.96 * error, high=value + 1.96 * error, scale=error, df=math.inf)
    return frame.assign(option=[f"{name} {AS_IS}" for name in frame["model"]])


def _curve_options(laws: Laws, law: curves.CurveLaw) -> pd.DataFrame:
    """A curve on a grid of ratios, no further than it was measured."""
    ratios = np.arange(1, math.floor(law.high / GRID + 1e-9) + 1) * GRID
    ratios = ratios[ratios >= law.low]
    band = law.predict(ratios)
    half = (band["run_high"] - band["run_low"]) / 2
    value, low, high = (band[name].to_numpy(float) for name in ("mean", "run_low", "run_high"))
    # a parabola may dip below what it starts from, but a cut alone betters nothing
    if law.curve.tokens == 0 and math.isfinite(law.dense):
        value = np.maximum(value, law.dense) if law.response == "loss" else np.minimum(value, law.dense)
        low, high = np.minimum(low, value), np.maximum(high, value)
    recovery = f" and {tokens_text(law.curve.tokens)} of recovery" if law.curve.tokens else ""
    frame = pd.DataFrame({
        "model": law.curve.model, "method": law.curve.method, "tokens": float(law.curve.tokens), "ratio": ratios,
        "value": value, "low": low, "high": high, "scale": half / law.quantile, "df": law.df,
    })  # fmt: skip
    return frame.assign(option=f"{law.curve.model} with {law.curve.method}{recovery}")


def _with_costs(laws: Laws, options: pd.DataFrame, budget: Budget) -> pd.DataFrame:
    """Costs of each option; NaN where the table does not tell. InputError if a limit needs what is not there."""
    dense = laws.points.rows[is_dense(laws.points.rows)].drop_duplicates("model").set_index("model")
    times = dict(budget.dense_milliseconds)
    options = options.assign(parameters=math.nan, memory=math.nan, flops=math.nan, milliseconds=math.nan)
    have = conversion.axes(laws.points)
    for (model, method), index in options.groupby(["model", "method"]).groups.items():
        r = options.loc[index, "ratio"].to_numpy(float)
        size = _known(laws, dense, model, "parameters0", "parameters")
        work = _known(laws, dense, model, "flops_per_token", None)
        share = {axis: np.zeros(len(r)) if method == AS_IS else conversion.share(laws.points, r, model, method, axis)
                 for axis in have}  # fmt: skip
        if "ratio_params" in share or method == AS_IS:
            options.loc[index, "parameters"] = size * (1 - share.get("ratio_params", np.zeros(len(r))))
        if "ratio_flops" in share or method == AS_IS:
            options.loc[index, "flops"] = work * (1 - share.get("ratio_flops", np.zeros(len(r))))
        if model in times:
            options.loc[index, "milliseconds"] = times[model] / _speedup(laws, r, model, method)
    options["memory"] = options["parameters"] * budget.bytes_per_parameter / 1e9
    for name in budget.limits:
        if options[name].notna().any():
            continue
        needs = {
            "parameters": "the columns parameters0 and ratio_params", "memory": "the columns parameters0 and ratio_params",
            "flops": "the columns flops_per_token and ratio_flops",
            "milliseconds": "the measured milliseconds per token of each dense model (dense_milliseconds), and a speed law for "
            "compressed ones",
        }  # fmt: skip
        raise InputError(
            f"A limit on {LIMITS[name]} needs {needs[name]}, which this table does not have. Limit something else."
        )
    return options


def _known(laws: Laws, dense: pd.DataFrame, model: str, column: str, other: str | None) -> float:
    """A number of the dense model; NaN where it is not in the table."""
    for name in (column, other):
        if name in dense and model in dense.index and np.isfinite(dense.loc[model, name]):
            return float(dense.loc[model, name])
    rows = laws.points.rows[laws.points.rows["model"] == model]
    return float(rows[column].mean()) if column in rows and column.endswith("0") else math.nan


def _speedup(laws: Laws, r: np.ndarray, model: str, method: str) -> np.ndarray:
    """Decoding speed-up by its law; 1 for a dense model, NaN without a law."""
    if method == AS_IS:
        return np.ones(len(r))
    try:
        return laws.predict(r, model, method, response="speedup_decode")["mean"].to_numpy()
    except InputError:
        return np.full(len(r), math.nan)


def _finalists(options: pd.DataFrame, budget: Budget, response: str, draws: int, seed: int) -> pd.DataFrame:
    """The best option of each curve within the budget, with its probability of being the best of all.

    First comes the one whose interval of a new run ends best, so what one can count on decides and not a lucky prediction.
    """
    fits = np.ones(len(options), bool)
    for name, limit in budget.limits.items():
        fits &= (options[name] <= limit * (1 + 1e-12)).to_numpy()
    whole = set(options.loc[fits & (options["method"] == AS_IS).to_numpy(), "model"])
    within = options[fits & ((options["method"] == AS_IS) | ~options["model"].isin(whole)).to_numpy()]
    sign = 1 if response == "loss" else -1
    best = (sign * within["value"]).groupby([within["model"], within["method"], within["tokens"]]).idxmin()
    counted_on = "high" if response == "loss" else "low"  # a law that hardly knows its curve promises nothing
    found = within.loc[best].sort_values(counted_on, ascending=response == "loss", ignore_index=True)
    rng = np.random.default_rng(seed)
    drawn = np.empty((draws, len(found)))
    for i, one in found.iterrows():
        noise = rng.standard_normal(draws) if math.isinf(one["df"]) else rng.standard_t(one["df"], draws)
        drawn[:, i] = sign * (one["value"] + one["scale"] * noise)
    wins = np.bincount(drawn.argmin(axis=1), minlength=len(found)) / draws if len(found) else []
    return found.assign(probability=wins)


def _sentences(
    laws: Laws, options: pd.DataFrame, finalists: pd.DataFrame, budget: Budget, response: str, unit: str
) -> list[str]:
    """The advice in words, generated from the numbers."""
    where = budget.text()
    if not len(finalists):
        name = next(iter(budget.limits))
        least = options.loc[options[name].idxmin()]
        return [
            f"Nothing fits {where}. The least that was measured is {_what(least)} with {quantity(least[name])} {LIMITS[name]}: "
            "allow that much, measure larger ratios, or add a smaller model."
        ]
    best = finalists.iloc[0]
    words = [f"{where[0].upper()}{where[1:]}, {_take(best)}: {_worth(best, response, unit, laws.level)}."]
    whole, cut = finalists[finalists["method"] == AS_IS], finalists[finalists["method"] != AS_IS]
    if len(whole) and len(cut):
        words.append(_duel(whole.iloc[0], cut.iloc[0], finalists, response))
    elif not len(whole):
        words.append("No model fits as it is, so the question is only which one to compress.")
    elif not budget.limits:
        words.append("Without a limit nothing needs compressing; set one to ask what to compress.")
    else:
        words.append("Every model that fits, fits as it is; of the others no compressed option fits, or none has a law.")
    if len(finalists) > 1:
        second = finalists.iloc[1]
        p = best["probability"]
        sure = "clearly" if p >= CLEAR else "probably" if p >= LIKELY else "not safely"
        words.append(
            f"It is {sure} the best of the {len(finalists)} that fit (probability {p:.0%}); next is {_what(second)} "
            f"({second['probability']:.0%})."
        )
    if best["method"] != AS_IS and best["tokens"] == 0 and not (options["tokens"] > 0).any():
        words.append("No law of recovered runs is among the options, so what fine-tuning would win back is not in this advice.")
    models = laws.points.rows["model"].nunique()
    words.append(
        f"The probabilities rest on {len(laws.curves_of(response))} curve{'s' if len(laws.curves_of(response)) != 1 else ''} of "
        f"{models} model{'s' if models != 1 else ''}: they speak of these models and these methods"
        + (" only." if models < 3 else ", and less surely of others.")
    )
    return words


def _what(option: pd.Series) -> str:
    return option["option"] if option["method"] == AS_IS else f"{option['option']} at r = {option['ratio']:.2f}"


def _take(option: pd.Series) -> str:
    if option["method"] == AS_IS:
        return f"take {option['option']}"
    return f"compress {option['option']}, removing {option['ratio']:.0%}"


def _worth(option: pd.Series, response: str, unit: str, level: float) -> str:
    unit = f" {unit}" if unit else ""
    if option["method"] == AS_IS:
        return f"its {response} was measured as {option['value']:.3f}{unit}"
    return f"{response} {option['value']:.3f}{unit} ({level:.0%} of runs between {option['low']:.3f} and {option['high']:.3f})"


def _duel(whole: pd.Series, cut: pd.Series, finalists: pd.DataFrame, response: str) -> str:
    """The best model as it is against the best compressed one."""
    gap = cut["value"] - whole["value"] if response == "loss" else whole["value"] - cut["value"]
    spread = math.hypot(cut["scale"], whole["scale"])
    df = cut["df"] if math.isfinite(cut["df"]) else 1e6
    p = float(stats.t.sf(gap / spread, df)) if spread > 0 else float(gap < 0)
    better, other = ("compressing", p) if p >= 0.5 else ("the uncompressed model", 1 - p)
    how = "is clearly" if other >= CLEAR else "is probably" if other >= LIKELY else "may be"
    return f"{_what(cut)} against {_what(whole)}: {better} {how} better (probability {other:.0%})" + (
        "; on this table the two cannot be told apart." if other < LIKELY else "."
    )


def save_advice(advice: Advice, path: Path) -> Path:
    """Write the advice as JSON: budget, sentences, finalists, unrounded."""
    plain = {
        "budget": asdict(advice.budget), "response": advice.response, "unit": advice.unit, "level": advice.level,
        "sentences": list(advice.sentences), "finalists": advice.finalists.to_dict("records"),
    }  # fmt: skip
    write_text(Path(path), json.dumps(plain_json(plain), indent=1, ensure_ascii=False, allow_nan=False) + "\n")
    return Path(path)
