"""All laws of one table, and what they answer: a curve, a prediction with its bands, a critical ratio."""

import math
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
import pandas as pd
from scipy import stats

from claw.errors import InputError, unknown
from claw.laws import catalogue, conversion, critical, curves, reading
from claw.laws.critical import Critical
from claw.laws.curves import CurveKey, CurveLaw
from claw.laws.points import Points
from claw.laws.pooled_law import PooledLaw
from claw.laws.reading import Reading
from claw.laws.sample import ALL, WORKING, covariates_at
from claw.laws.verdicts import Verdict

FEWEST = 3  # models below which no band for a model not seen is given
POOLED = {"loss": "anchored", "accuracy": "retention-linear", "speed": "speed-power-one-size"}
"""The law across models that answers where a curve was not measured."""
Kind = TypeVar("Kind", CurveLaw, Reading)
NO_SPEED = "A table has one where its records have the stage speed (40_speed)."


@dataclass(frozen=True, kw_only=True)
class FittedLaws:
    """The laws of a table, with the points they came from.

    `points`: the rows used and left out. `curves`: one law per curve, response, axis and form. `pooled`: laws across models, of
    each method and of all, speed included. `comparisons`: out-of-sample tables by `response|split|by`. `tests`: clustered Wald
    tests. `verdicts`: on the claims of the original paper. `unfitted`: what could not be fitted, and why.
    """

    source: Mapping[str, str]
    level: float
    seed: int
    draws: int
    points: Points
    curves: tuple[CurveLaw, ...]
    pooled: tuple[PooledLaw, ...]
    comparisons: Mapping[str, pd.DataFrame]
    tests: pd.DataFrame
    verdicts: tuple[Verdict, ...]
    unfitted: pd.DataFrame

    def curve(
        self,
        model: str,
        method: str,
        response: str = "loss",
        tokens: float = 0,
        *,
        axis: str = "ratio",
        form: str = "",
        recovery: str = "",
        ratio_of: str = "",
    ) -> CurveLaw:
        """The law of one curve. InputError names what there is, as where `recovery` or `ratio_of` must tell curves apart."""
        have = [law for law in self.curves if (law.response, law.axis) == (response, axis)]
        if not have:
            raise unknown("response or axis", f"{response}, {axis}", {f"{law.response}, {law.axis}" for law in self.curves})
        form = form or self.form_of(response, axis)
        for law in _of_curve(have, model, method, tokens, recovery, ratio_of):
            if law.form == form:
                return law
        catalogue.find_form(form)
        raise InputError(f"The {form} law of {response} was not fitted on {model} · {method}; laws.unfitted says why.")

    def curves_of(self, response: str, axis: str = "ratio") -> list[CurveLaw]:
        """The laws of single curves of a response, in the form chosen for this table (`form_of`)."""
        form = self.form_of(response, axis)
        return [law for law in self.curves if (law.response, law.axis, law.form) == (response, axis, form)]

    def form_of(self, response: str, axis: str = "ratio") -> str:
        """The form of single curves: of accuracy the original paper's, of loss one through the dense model.

        It is the simplest form that misses left-out ratios by no more than one standard error above the best (of the
        difference, paired by curve), over curves on which every form was judged; where none was, that of one coefficient.
        """
        if response != "loss":
            return curves.CLAIM[response]
        forms = dict[str, dict[CurveKey, float]]()
        for law in self.curves:
            if (law.response, law.axis) == (response, axis) and math.isfinite(law.quality.get("left_out", math.nan)):
                forms.setdefault(law.form, {})[law.curve] = law.quality["left_out"]
        common = set.intersection(*map(set, forms.values())) if forms else set[CurveKey]()
        if not common:
            return catalogue.ANCHORED[0].name
        errors = pd.DataFrame({name: [forms[name][curve] for curve in sorted(common)] for name in forms})
        above = errors.sub(errors[errors.mean().idxmin()], axis=0)
        near = above.columns[above.mean() <= above.sem().fillna(0.0)]
        return min(near, key=lambda name: (len(catalogue.find_form(name).coefficient_names), errors[name].mean()))

    def readings(self, response: str, axis: str = "ratio") -> list[Reading]:
        """What was measured of every curve of a response, to be read off; see `claw.laws.reading`."""
        kept = self.__dict__.setdefault("_readings", {})  # beside the fields: made when first asked for
        if (response, axis) not in kept:
            known = response in self.points.responses and axis in self.points.axes
            kept[response, axis] = reading.read_curves(self.points, response, axis, self.level) if known else []
        return kept[response, axis]

    def reading(
        self,
        model: str,
        method: str,
        response: str = "loss",
        tokens: float = 0,
        *,
        axis: str = "ratio",
        recovery: str = "",
        ratio_of: str = "",
    ) -> Reading:
        """One curve as it was measured. InputError names what there is; `recovery` and `ratio_of` as for `curve`."""
        have = self.readings(response, axis)
        if not have:
            known = {f"{name}, {other}" for name in self.points.responses for other in self.points.axes}
            raise unknown("response or axis", f"{response}, {axis}", known)
        return _of_curve(have, model, method, tokens, recovery, ratio_of)[0]

    def across(self, response: str, axis: str = "ratio", method: str | None = None, scope: str = WORKING) -> list[PooledLaw]:
        """The laws across models of a response on an axis, of one method or of every one; of working rows, or of every row."""
        laws = [law for law in self.pooled if (law.response, law.axis, law.scope) == (response, axis, scope)]
        return [law for law in laws if method in (None, law.method)]

    def law(
        self,
        form: str,
        response: str = "loss",
        method: str = ALL,
        axis: str = "ratio",
        group: str | None = None,
        scope: str = WORKING,
    ) -> PooledLaw:
        """A law across models. InputError names what there is.

        `group` tells forms of one name apart: cross, retention, competing, own, post-training, speed. `scope`: "working" leaves
        controls and destroyed models out, "every row" does not (fitted where there are some).
        """
        have = self.across(response, axis, scope=scope)
        methods = {law.method for law in have}
        if method == ALL and ALL not in methods:
            instead = f"There are laws of one method: {', '.join(sorted(methods))}. " if methods else ""
            raise InputError(f"No law of {response} across models and methods was fitted. {instead}laws.unfitted says why.")
        if method not in methods:
            raise unknown("method", method, methods)
        have = [law for law in have if law.method == method and group in (None, law.group)]
        for law in have:
            if law.form == form:
                return law
        raise unknown("law", form, {law.form for law in have}, "laws.unfitted says why others could not be fitted.")

    def predict(
        self,
        r: Any,
        model: str | None = None,
        method: str = ALL,
        tokens: float = 0,
        response: str = "loss",
        *,
        axis: str = "ratio",
        law: str = "auto",
        interval: str = "",
        dense: float | None = None,
        chance: float | None = None,
        statistic: str = "median",
        recovery: str = "",
        ratio_of: str = "",
    ) -> pd.DataFrame:
        """Frame over r: mean, confidence band (the law's), new-run band, new-model band, and whether r is beyond the fit.

        law="auto" reads it off the measured points where (model, method, tokens) was measured (`claw.laws.reading`), with the
        measured ratios on either side in `bracket_low` and `bracket_high`; beyond them it goes on as the law of the curve does,
        without a band, or where a curve has too few points for a law, as the law across models says. That is the law of the
        method where nothing was measured of this model, and for a method that was not measured what methods share (`POOLED`
        names the form), with a band as wide as methods differ. "reading" (NaN beyond the points), "curve" (the curve's law)
        or the name of a form across models insists. A band that the table cannot carry is NaN. A model that is not in the table
        needs `dense`, its loss or accuracy uncompressed (and `chance` for accuracy above guessing). `interval` is a kind of
        `claw.laws.KINDS`, for laws across models; each law has its default. For a measured speed-up (a column such as
        speedup_decode) r is converted to the share that the speed law is in, unless `axis` is that share. Where recipes or what
        a ratio counts differ between curves of one method, `recovery` and `ratio_of` say which is meant.
        `frame.attrs["law"]` says what answered.
        """
        curve = {"recovery": recovery, "ratio_of": ratio_of}
        if response.startswith("speedup"):
            return self._speedup(r, model, method, response, form=law, interval=interval, given=axis)
        if law == "curve":
            return self._by_law(r, self.curve(str(model), method, response, tokens, axis=axis, **curve))
        measured = law in ("auto", "reading") and self._is_measured(model, method, tokens, response, axis)
        if measured or law == "reading":
            one = self.reading(str(model), method, response, tokens, axis=axis, **curve)
            frame = self._read(r, one)
            return frame if law == "reading" else self._beyond(frame, one)
        form = POOLED[response] if law == "auto" else law
        methods = {fit.method for fit in self.across(response, axis) if fit.form == form}
        pooled = self.law(form, response, method if method in methods or (law != "auto" and methods != {ALL}) else ALL, axis)
        known = self._dense(model, response)
        dense = known.get("dense") if dense is None else dense
        if dense is None:
            models = ", ".join(sorted(set(self.points.rows["model"])))
            what = "No model is named" if model is None else f"{model!r} is not in the table"
            raise InputError(
                f"{what}, so the dense {response} is not known. Pass model= for one of the table ({models}), or "
                "pass dense= for another."
            )
        chance, size = known.get("chance", math.nan) if chance is None else chance, known.get("size", math.nan)
        options: dict[str, Any] = {"model": model, "interval": interval, "statistic": statistic}
        frame = pooled.predict(r, dense, tokens, chance=chance, size=size, **options)
        if pooled.method != ALL and not interval and {law.form for law in self.across(response, axis, ALL)} >= {form}:
            c = covariates_at(critical.checked(r), dense, tokens, chance, size)
            frame = self.law(form, response, ALL, axis, pooled.group).lend(frame, pooled, c)
        frame.attrs["law"] = f"{pooled.form} ({pooled.method})"
        return frame

    def _is_measured(self, model: str | None, method: str, tokens: float, response: str, axis: str) -> bool:
        """Whether there is a curve that was measured."""
        every = self.readings(response, axis)
        return any(one.curve[:2] == (model, method) and one.curve.tokens == tokens for one in every)

    def _read(self, r: Any, one: Reading) -> pd.DataFrame:
        """A reading with the band of a new model."""
        frame = self._between_models(one.predict(r), one.curve, one.response, one.axis, one.dense)
        frame.attrs["law"] = f"measured points of {one.curve.title}"
        return frame

    def _beyond(self, frame: pd.DataFrame, one: Reading) -> pd.DataFrame:
        """With what was not measured: from the last point on the course of the curve's law, else the law across models."""
        far = (frame["ratio"] > one.high).to_numpy()
        if not far.any():
            return frame
        r, response, said = frame.loc[far, "ratio"].to_numpy(), one.response, frame.attrs["law"]
        law = next((law for law in self.curves_of(response, one.axis) if law.curve == one.curve), None)
        if law is not None:
            course = law.predict(np.append(one.high, r))["mean"].to_numpy()
            last = float(one.points["value"].iloc[-1])
            mean = last * course[1:] / course[0] if response == "loss" else np.clip(last + course[1:] - course[0], 0, 1)
            frame.loc[far, "mean"], said = mean, f"{said}, beyond r = {one.high:g} as its {law.form} law goes on"
        else:
            with suppress(InputError):  # there may be none
                across = self.predict(
                    r, one.curve.model, one.curve.method, one.curve.tokens, response, axis=one.axis, law=POOLED[response]
                )
                for name in [name for name in across if name not in ("ratio", "extrapolated")]:
                    frame.loc[far, name] = across[name].to_numpy()
                said = f"{said}, beyond r = {one.high:g} the law {across.attrs['law']}"
        frame.attrs["law"] = said
        return frame

    def _by_law(self, r: Any, law: CurveLaw) -> pd.DataFrame:
        frame = self._between_models(law.predict(r), law.curve, law.response, law.axis, law.dense)
        frame.attrs["law"] = f"{law.form} of {law.curve.title}"
        return frame

    def _between_models(self, frame: pd.DataFrame, curve: CurveKey, response: str, axis: str, dense: float) -> pd.DataFrame:
        """With `model_low` and `model_high`, between which a run of a model not yet measured falls, from this dense value on.

        At each ratio the models of this method, over their dense values, are one draw each: mean ± t(models - 1) × their
        spread × √(1 + 1/models). NaN where fewer than three models were measured.
        """
        alike = [one for one in self.readings(response, axis) if one.curve._replace(model="") == curve._replace(model="")]
        alike = [one for one in alike if math.isfinite(one.dense)]
        frame["model_low"] = frame["model_high"] = math.nan
        if len(alike) < FEWEST or math.isnan(dense):
            return frame
        rises = np.array([one.mean(frame["ratio"]) / one.dense for one in alike])
        rises = np.log(rises) if response == "loss" else rises
        count = np.isfinite(rises).sum(axis=0)
        enough = np.flatnonzero(count >= FEWEST)
        rises, count = rises[:, enough], count[enough]
        half = stats.t.ppf(0.5 + self.level / 2, count - 1) * np.nanstd(rises, axis=0, ddof=1) * np.sqrt(1 + 1 / count)
        for name, sign in (("model_low", -1), ("model_high", 1)):
            edge = np.nanmean(rises, axis=0) + sign * half
            frame.loc[enough, name] = dense * (np.exp(edge) if response == "loss" else edge)
        return frame

    def _speedup(
        self, r: Any, model: str | None, method: str, response: str, *, form: str, interval: str, given: str
    ) -> pd.DataFrame:
        """Speed-up at ratios on the axis `given`: nominal ones, or those that the speed law is in."""
        axis = next((law.axis for law in self.pooled if law.response == response), "")
        if not axis:
            raise unknown("speed-up", response, {law.response for law in self.pooled if law.group == "speed"}, NO_SPEED)
        law = self.law(POOLED["speed"] if form in ("auto", "speed") else form, response, ALL, axis)
        r = critical.checked(r)
        share = r if axis in ("ratio", given) else conversion.share(self.points, r, model, method, axis)
        size = self._dense(model, "loss").get("size", math.nan)
        frame = law.predict(share, 1.0, model=model, size=size, interval=interval).rename(columns={"ratio": "share"})
        frame.insert(0, "ratio", r)
        frame.attrs["law"] = f"{law.form} against {axis}"
        return frame

    def _dense(self, model: str | None, response: str) -> dict[str, float]:
        """Dense value, chance and size of a model of the table; empty for another."""
        rows = self.points.rows[self.points.rows["model"] == model]
        names = {"dense": f"{response}0", "chance": "chance", "size": "parameters0"}
        return {name: float(rows[column].mean()) for name, column in names.items() if column in rows and len(rows)}

    def critical_ratio(
        self, threshold: float, model: str, method: str, tokens: float = 0, response: str = "loss", **options
    ) -> Critical:
        """Largest r at which a share `threshold` of the dense performance is met, with its interval; see `predict`.

        Where the curve was measured it is read off the points, and says between which.
        """
        axis = options.get("axis", "ratio")
        if options.get("law", "auto") in ("auto", "reading") and self._is_measured(model, method, tokens, response, axis):
            which = {name: options.get(name, "") for name in ("recovery", "ratio_of")}
            return self.reading(model, method, response, tokens, axis=axis, **which).critical_ratio(threshold)
        high = self.points.of(response, axis)[axis].max()
        band = self.predict(np.linspace(0, high, critical.GRID), model, method, tokens, response, **options)
        dense = options.get("dense") or self._dense(model, response).get("dense", math.nan)
        return critical.ratio(band, threshold, dense, response, level=self.level, title=f"{model} · {method}")

    def conversion(self, axis: str = "ratio_params") -> pd.DataFrame:
        """Share truly removed per nominal ratio, by model and method."""
        return conversion.conversion_table(self.points, axis)

    def measured(self, law: CurveLaw | Reading) -> pd.DataFrame:
        """The points of a curve: ratio, value, stderr, seed."""
        rows = curves.rows_of(self.points, law.curve, law.response, law.axis)
        columns = {law.axis: "ratio", law.response: "value", f"{law.response}_stderr": "stderr", "seed": "seed"}
        return rows.reindex(columns=list(columns)).rename(columns=columns).sort_values("ratio", ignore_index=True)


def _of_curve(have: list[Kind], model: str, method: str, tokens: float, recovery: str, ratio_of: str) -> list[Kind]:
    """Those of one curve. InputError names what there is, as where there are several."""
    for name, value in (("model", model), ("method", method)):
        names = {getattr(one.curve, name) for one in have}
        if value not in names:
            raise unknown(name, value, names)
    have = [one for one in have if (one.curve.model, one.curve.method) == (model, method)]
    if tokens not in {one.curve.tokens for one in have}:
        budgets = ", ".join(sorted({f"{one.curve.tokens:g}" for one in have})) or "none"
        raise InputError(f"{model} · {method} has no curve with {tokens:g} recovery tokens. It has: {budgets}.")
    have = [one for one in have if one.curve.tokens == tokens]
    for name, value in (("recovery", recovery), ("ratio_of", ratio_of)):
        names = {getattr(one.curve, name) for one in have}
        if len(names) > 1 and not value:
            raise InputError(
                f"{model} · {method} has {len(names)} curves that differ in {name}: {', '.join(sorted(names))}. Say which with "
                f"{name}=."
            )
        if value and value not in names:
            raise unknown(name, value, names)
        have = [one for one in have if value in ("", getattr(one.curve, name))]
    return have
