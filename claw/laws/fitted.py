"""All laws of one table, and what they answer: a curve, a prediction with its bands, a critical ratio."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from scipy import stats

from claw.errors import InputError, unknown
from claw.laws import catalogue, conversion, critical, curves
from claw.laws.clusters import variances
from claw.laws.critical import Critical
from claw.laws.curves import CurveLaw
from claw.laws.points import Points
from claw.laws.pooled_law import PooledLaw
from claw.laws.sample import ALL, WORKING, covariates_at
from claw.laws.verdicts import Verdict

FEWEST = 3  # models below which no band for a model not seen is given
POOLED = {"loss": "anchored", "accuracy": "retention-linear", "speed": "speed-power-one-size"}
"""The law across models that answers where a curve was not measured."""
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
        self, model: str, method: str, response: str = "loss", tokens: float = 0, *, axis: str = "ratio", form: str = ""
    ) -> CurveLaw:
        """The law of one curve. InputError names what there is."""
        have = [law for law in self.curves if (law.response, law.axis) == (response, axis)]
        if not have:
            raise unknown("response or axis", f"{response}, {axis}", {f"{law.response}, {law.axis}" for law in self.curves})
        form = form or curves.DEFAULT[response]
        for name, value in (("model", model), ("method", method)):
            names = {getattr(law.curve, name) for law in have}
            if value not in names:
                raise unknown(name, value, names)
        have = [law for law in have if (law.curve.model, law.curve.method) == (model, method)]
        if tokens not in {law.curve.tokens for law in have}:
            budgets = ", ".join(sorted({f"{law.curve.tokens:g}" for law in have})) or "none"
            raise InputError(f"{model} · {method} has no curve with {tokens:g} recovery tokens. It has: {budgets}.")
        for law in have:
            if law.curve.tokens == tokens and law.form == form:
                return law
        catalogue.find_form(form)
        raise InputError(f"The {form} law of {response} was not fitted on {model} · {method}; laws.unfitted says why.")

    def curves_of(self, response: str, axis: str = "ratio") -> list[CurveLaw]:
        """The laws of single curves of a response, in its default form."""
        return [law for law in self.curves if (law.response, law.axis, law.form) == (response, axis, curves.DEFAULT[response])]

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
        if method not in {law.method for law in have}:
            raise unknown("method", method, {law.method for law in have})
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
    ) -> pd.DataFrame:
        """Frame over r: mean, confidence band (the law's), new-run band, new-model band, and whether r is beyond the fit.

        law="auto" takes the law of the curve where (model, method, tokens) was measured, else that of the method over models,
        else, for a method that was not measured, what methods share (`POOLED` names the form), with a band as wide as methods
        differ; "curve" or the name of a form insists. A band that the table cannot carry is NaN. A model that is not in the
        table needs `dense`, its loss or accuracy uncompressed (and `chance` for accuracy above guessing). `interval` is a kind
        of `claw.laws.KINDS`, for laws across models; each law has its default. For a measured speed-up (a column such as
        speedup_decode) r is the nominal ratio too, converted to the share that the speed law is in. `frame.attrs["law"]` says
        which law answered.
        """
        if response.startswith("speedup"):
            return self._speedup(r, model, method, response, form=law, interval=interval)
        curve = (model, method, tokens, response, axis)
        measured = {(fit.curve.model, fit.curve.method, fit.curve.tokens, fit.response, fit.axis) for fit in self.curves}
        if law == "curve" or (law == "auto" and curve in measured):
            return self._of_curve(r, self.curve(str(model), method, response, tokens, axis=axis))
        form = POOLED[response] if law == "auto" else law
        methods = {fit.method for fit in self.across(response, axis) if fit.form == form}
        pooled = self.law(form, response, method if method in methods or (law != "auto" and methods != {ALL}) else ALL, axis)
        known = self._dense(model, response)
        dense = known.get("dense") if dense is None else dense
        if dense is None:
            models = ", ".join(sorted(set(self.points.rows["model"])))
            raise InputError(f"{model!r} is not in the table ({models}), so its dense {response} is not known: pass dense=.")
        chance, size = known.get("chance", math.nan) if chance is None else chance, known.get("size", math.nan)
        options: dict[str, Any] = {"model": model, "interval": interval, "statistic": statistic}
        frame = pooled.predict(r, dense, tokens, chance=chance, size=size, **options)
        if pooled.method != ALL and not interval and {law.form for law in self.across(response, axis, ALL)} >= {form}:
            c = covariates_at(critical.checked(r), dense, tokens, chance, size)
            frame = self.law(form, response, ALL, axis, pooled.group).lend(frame, pooled, c)
        frame.attrs["law"] = f"{pooled.form} ({pooled.method})"
        return frame

    def _of_curve(self, r: Any, law: CurveLaw) -> pd.DataFrame:
        frame, spread = law.predict(r), self.between_models(law)
        frame["model_low"] = frame["model_high"] = math.nan
        if spread:
            design = catalogue.find_form(law.form).design({"r": frame["ratio"].to_numpy()})
            middle = design @ spread["coefficients"]
            half = spread["t"] * (variances(design, spread["covariance"]) + spread["sigma2"]) ** 0.5
            frame["model_low"], frame["model_high"] = middle - half, middle + half
        frame.attrs["law"] = f"{law.form} of {law.curve.title}"
        return frame

    def _speedup(self, r: Any, model: str | None, method: str, response: str, *, form: str, interval: str) -> pd.DataFrame:
        """Speed-up at nominal ratios."""
        axis = next((law.axis for law in self.pooled if law.response == response), "")
        if not axis:
            raise unknown("speed-up", response, {law.response for law in self.pooled if law.group == "speed"}, NO_SPEED)
        law = self.law(POOLED["speed"] if form in ("auto", "speed") else form, response, ALL, axis)
        r = critical.checked(r)
        share = r if axis == "ratio" else conversion.share(self.points, r, model, method, axis)
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
        """Largest r at which a share `threshold` of the dense performance is met, with its interval; see `predict`."""
        axis = options.get("axis", "ratio")
        high = self.points.of(response, axis)[axis].max()
        band = self.predict(np.linspace(0, high, critical.GRID), model, method, tokens, response, **options)
        dense = options.get("dense") or self._dense(model, response).get("dense", math.nan)
        return critical.ratio(band, threshold, dense, response, level=self.level, title=f"{model} · {method}")

    def conversion(self, axis: str = "ratio_params") -> pd.DataFrame:
        """Share truly removed per nominal ratio, by model and method."""
        return conversion.conversion_table(self.points, axis)

    def between_models(self, law: CurveLaw) -> dict[str, Any]:
        """Prediction interval of a run of a model not yet measured, at this curve's dense value; empty below three models.

        Each model's coefficients over its dense value are one draw: mean ± t(models - 1) × their spread × √(1 + 1/models), plus
        the noise of a run.
        """
        key = lambda law: (law.response, law.axis, law.form, law.curve._replace(model=""))
        alike = [other for other in self.curves if key(other) == key(law) and math.isfinite(other.dense)]
        if len(alike) < FEWEST or math.isnan(law.dense):
            return {}
        m, relative = len(alike), np.array([other.coefficients / other.dense for other in alike])
        return {
            "coefficients": relative.mean(axis=0) * law.dense,
            "covariance": np.atleast_2d(np.cov(relative, rowvar=False)) * (1 + 1 / m) * law.dense**2,
            "sigma2": float(np.mean([other.sigma2 / other.dense**2 for other in alike])) * law.dense**2,
            "t": float(stats.t.ppf(0.5 + self.level / 2, m - 1)),
            "models": m,
        }

    def measured(self, law: CurveLaw) -> pd.DataFrame:
        """The points of a curve: ratio, value, stderr, seed."""
        rows = curves.rows_of(self.points, law.curve, law.response, law.axis)
        columns = {law.axis: "ratio", law.response: "value", f"{law.response}_stderr": "stderr", "seed": "seed"}
        return rows.reindex(columns=list(columns)).rename(columns=columns).sort_values("ratio", ignore_index=True)
