"""What a choice of the explorer shows: the answer on a grid of places, what was measured, and the words for both."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import pandas as pd

from claw.advice.task_names import few_tasks
from claw.advice.true_shares import cut_rows
from claw.errors import InputError
from claw.laws import KINDS, Critical, CurveKey, Laws, critical, curves
from claw.laws.fitted import POOLED
from claw.show import how_far

STEP = 0.005
GRID = np.arange(198) * STEP
OWN = "own"


class Choice(NamedTuple):
    """What the menus say."""

    curve: CurveKey
    interval: str = OWN


@dataclass(frozen=True, kw_only=True)
class View:
    """One response of one choice on the grid of ratios: the answer, what was measured, how far one can go."""

    response: str
    dense: float
    band: pd.DataFrame  # what `Laws.predict` gives on GRID; its attrs["law"] says what answers
    measured: pd.DataFrame  # ratio, value
    bracket: pd.DataFrame | None = None  # ratio, value of the points that the band goes through, where it is read off them
    critical: Critical | None = None
    level: float
    axis: str = "ratio"
    own: tuple[tuple[float, float], ...] = ()  # (share, the method's own ratio), where the axis is a share
    tasks: str = ""  # whose accuracy it is, where they are few

    @property
    def end(self) -> float:
        """Where a slider over it ends: what the method can reach, whether or not this response was measured."""
        measured = float(self.measured["ratio"].max()) if len(self.measured) else 0.0
        return how_far.end_of(self.axis, measured, [list(pair) for pair in self.own]) or float(GRID[-1])

    @property
    def is_measured(self) -> bool:
        """Whether there is a point of this curve itself, beside the dense model's."""
        return _has_points(self.measured)

    def removed(self, r: float, model: str = "") -> str:
        """What a place on the axis is called: the share of all parameters, the method's own ratio in brackets."""
        if self.axis == "ratio":
            return f"r = {r:.2f} of {model or 'the model'}"
        share, ratio = self.own[-1] if self.own else (math.nan, math.nan)
        shares, ratios = np.array(self.own or [(math.nan, math.nan)], float).T
        own = ratio * r / share if r > share else float(np.interp(r, shares, ratios))
        whose = f"{model}'s" if model else "the"
        return f"{r:.1%} of {whose} parameters" + (f" (own ratio {own:.2f})" if r > 0 and math.isfinite(own) else "")

    def at(self, r: float) -> pd.Series:
        """The row of the band nearest to a ratio."""
        return self.band.iloc[min(round(r / STEP), len(self.band) - 1)]

    def sentence(self, r: float) -> str:
        """What is answered at one ratio, and between which measured points."""
        at = self.at(r)
        if math.isnan(at["mean"]):
            return f"{self.response} was not measured there, and no law goes so far"
        known = math.isfinite(at["confidence_low"])
        edges = f"{self.level:.0%} confidence {at['confidence_low']:.3g} to {at['confidence_high']:.3g}" if known else ""
        notes = [] if self.is_measured else ["not measured of it: what the law of the others says"]
        if self.response.startswith("speedup"):
            phase = self.response.removeprefix("speedup").replace("_", " ").strip() or "it"
            return f"{phase} {at['mean']:.2f} times as fast as dense" + _in_brackets([*notes, edges])
        unit = " nats per token" if self.response == "loss" else f" on {self.tasks}" if self.tasks else ""
        notes += [self.between(at), edges]
        if math.isfinite(at["run_low"]):
            notes.append(f"a new run falls between {at['run_low']:.3g} and {at['run_high']:.3g}")
        text = f"{self.response} {at['mean']:.3g}{unit}{_in_brackets(notes)}"
        return text + (f", {at['mean'] / self.dense:.2f} times the dense {self.dense:.3g}" if self.dense > 0 else "")

    def between(self, at: pd.Series) -> str:
        """The measured points on either side of an answer, in words; empty for a law."""
        if self.bracket is None or not math.isfinite(at["bracket_low"]):
            return ""
        if at["bracket_low"] == at["bracket_high"]:
            return "as measured"
        near = self.bracket[self.bracket["ratio"].isin([at["bracket_low"], at["bracket_high"]])]
        place = "{:.1%}".format if self.axis != "ratio" else "r = {:.3g}".format
        points = " and ".join(f"{row.value:.3g} at {place(row.ratio)}" for row in near.itertuples())
        return f"between measured {points}"

    def reach(self) -> str:
        """How far one can go at the threshold, as a sentence; empty without a threshold."""
        if self.critical is None:
            return ""
        change = "more loss" if self.response == "loss" else "less accuracy"
        far, name = self.critical, f"{abs(self.critical.threshold - 1):.0%} {change}"
        if math.isnan(far.ratio):
            return f" With {name} allowed nothing can be removed."
        low, high = np.nan_to_num(far.low, nan=0.0), far.high
        place = "{:.1%}".format if self.axis != "ratio" else "{:.2f}".format
        edges = ""  # of a law without a confidence band
        if low <= far.ratio:
            edges = f"; {self.level:.0%} interval {place(low)} {'or more' if math.isnan(high) else f'to {place(high)}'}"
        all_of_it = ", the most that was measured" if far.ratio >= far.limit else ""
        return f" With {name} allowed one can remove {self.removed(far.ratio)}{all_of_it}{edges}."


def view_of(laws: Laws, choice: Choice, response: str, threshold: float | None = None) -> View:
    """What the laws say of one response of a choice. InputError where they say nothing.

    `threshold` is a share of the dense value (1.1 allows 10 % more loss; 0.9 keeps 90 % of the accuracy).
    """
    key, interval = choice
    model, method, _, tokens, ratio_of = key
    axis = laws.points.leading_axis
    speed, own = response.startswith("speedup"), interval == OWN
    kind, bracket = next(iter(KINDS)) if own else interval, None
    if speed:  # one law across models, of the cut alone
        band = laws.predict(GRID, model, method, response=response, interval=kind, axis=axis)
        rows, dense = cut_rows(laws.points.rows, model, method, ratio_of), 1.0
        rows = rows[rows[response].notna()]
    else:
        one = laws.reading(model, method, response, tokens, axis=axis, **key.apart) if own else None
        law, bracket = "auto" if own else POOLED[response], one.points if one else None
        band = laws.predict(GRID, model, method, tokens, response, axis=axis, law=law, interval=kind, **key.apart)
        rows, dense = curves.rows_of(laws.points, key, response, axis), float(laws.points.dense_row(model)[f"{response}0"])
    if not np.isfinite(band["mean"]).any():
        raise InputError(
            f"the {response} of {model} was not measured, nor that of the dense model, which laws are relative to."
        )
    measured = pd.DataFrame({"ratio": rows[axis].astype(float), "value": rows[response].astype(float)})
    reach = None
    if threshold and own and not speed and math.isfinite(dense):
        reach = laws.critical_ratio(threshold, model, method, tokens, response, axis=axis, **key.apart)
    elif threshold and not speed and math.isfinite(dense) and _has_points(measured):
        within = band[band["ratio"] <= measured["ratio"].max() + STEP / 2]
        reach = critical.ratio(within, threshold, dense, response, level=laws.level, title=model)
    pairs = tuple((share, ratio) for share, ratio in how_far.own_ratios(laws, model, method, ratio_of, axis))
    known = {"dense": dense, "band": band, "measured": measured, "bracket": bracket, "axis": axis, "own": pairs}
    known["tasks"] = few_tasks(laws.points.rows[laws.points.rows["model"] == model]) if response == "accuracy" else ""
    return View(response=response, **known, critical=reach, level=laws.level)


def _has_points(measured: pd.DataFrame) -> bool:
    """Whether rows of a curve hold more than the dense model."""
    return bool((measured["ratio"] > 0).any())


def _in_brackets(notes: Sequence[str]) -> str:
    return f" ({'; '.join(filter(None, notes))})" if any(notes) else ""


def answer_sentence(choice: Choice, views: Sequence[View], r: float) -> str:
    """What the laws say at one ratio, as one sentence, and how far one can go."""
    key, recovery = choice.curve, f" and {choice.curve.training}" if choice.curve.tokens else ""
    said = "; ".join(view.sentence(r) for view in views)
    what = f"Removing {views[0].removed(r, key.model)} with {key.method}{recovery}"
    text = f"{what}: {said}." + "".join(map(View.reach, views))
    if any(view.at(r)["extrapolated"] for view in views):
        text += " This is beyond the measured range: the course of a law, a guess."
    return text
