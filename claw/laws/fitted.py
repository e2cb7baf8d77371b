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
from claw.laws.critical import Critical
from claw.laws.curves import CurveLaw
from claw.laws.points import Points
from claw.laws.pooled import PooledLaw
from claw.laws.sample import ALL
from claw.laws.verdicts import Verdict

FEWEST = 3  # models below which no band for a model not seen is given
POOLED = {"loss": "anchored", "accuracy": "retention-linear", "speed": "speed-power-one-size"}
"""The law across models that answers where a curve was not measured."""
NO_SPEED = "A table has one where its records have the stage speed (40_speed)."


@dataclass(frozen=True)
class FittedLaws:
    """The laws of a table, with the points they came from.

    `curves`: one law per curve, response, axis and form. `pooled`: laws across models, of each method and of all, speed
    included. `comparisons`: out-of-sample tables by `response|split|by`. `tests`: clustered Wald tests. `verdicts`: on the
    claims of the original paper. `unfitted`: what could not be fitted, and why.
    """

    points: Points
    curves: tuple[CurveLaw, ...]
    pooled: tuple[PooledLaw, ...]
    comparisons: Mapping[str, pd.DataFrame]
    tests: pd.DataFrame
    verdicts: tuple[Verdict, ...]
    unfitted: pd.DataFrame
    level: float
    seed: int
    draws: int
    source: Mapping[str, str]

    def curve(
        self, model: str, method: str, response: str = "loss", tokens: float = 0, axis: str = "ratio", form: str | None = None
    ) -> CurveLaw:
        """The law of one curve. InputError names what there is."""
        have = [law for law in self.curves if law.response == response and law.axis == axis]
        if not have:
            raise unknown("response or axis", f"{response}, {axis}", {f"{law.response}, {law.axis}" for law in self.curves})
        form = form or curves.DEFAULT[response]
        for name, value in (("model", model), ("method", method)):
            if value not in {getattr(law.curve, name) for law in have}:
                raise unknown(name, value, {getattr(law.curve, name) for law in have})
        have = [law for law in have if (law.curve.model, law.curve.method) == (model, method)]
        if tokens not in {law.curve.tokens for law in have}:
            budgets = ", ".join(sorted({f"{law.curve.tokens:g}" for law in have})) or "none"
            raise InputError(f"{model} · {method} has no curve with {tokens:g} recovery tokens. It has: {budgets}.")
        found = [law for law in have if law.curve.tokens == tokens and law.form == form]
        if not found:
            catalogue.find_form(form)
            raise InputError(f"The {form} law of {response} was not fitted on {model} · {method}; laws.unfitted says why.")
        return found[0]

    def curves_of(self, response: str, axis: str = "ratio") -> list[CurveLaw]:
        """The laws of single curves of a response, in its default form."""
        return [law for law in self.curves if (law.response, law.axis, law.form) == (response, axis, curves.DEFAULT[response])]

    def law(
        self, form: str, response: str = "loss", method: str = ALL, axis: str = "ratio", group: str | None = None
    ) -> PooledLaw:
        """A law across models. InputError names what there is.

        `group` tells forms of one name apart: cross, retention, competing, own, post-training, speed.
        """
        have = [law for law in self.pooled if (law.response, law.axis) == (response, axis)]
        if method not in {law.method for law in have}:
            raise unknown("method", method, {law.method for law in have})
        have = [law for law in have if law.method == method and group in (None, law.group)]
        if form not in {law.form for law in have}:
            raise unknown("law", form, {law.form for law in have}, "laws.unfitted says why others could not be fitted.")
        return next(law for law in have if law.form == form)

    def predict(
        self,
        r: Any,
        model: str | None = None,
        method: str = ALL,
        tokens: float = 0,
        response: str = "loss",
        axis: str = "ratio",
        *,
        law: str = "auto",
        interval: str = "bias-reduced",
        dense: float | None = None,
        chance: float | None = None,
        statistic: str = "median",
    ) -> pd.DataFrame:
        """Frame over r: mean, confidence band (the law's), new-run band, new-model band, and whether r is beyond the fit.

        law="auto" takes the law of the curve where (model, method, tokens) was measured, else the law across models
        (`POOLED`); "curve" or the name of a form insists. A model that is not in the table needs `dense`, its loss or accuracy
        uncompressed (and `chance` for accuracy above guessing). `interval` is a kind of `claw.laws.pooled.KINDS`, for laws
        across models. For a measured speed-up (a column such as speedup_decode) r is the nominal ratio too, converted to the
        share that the speed law is in. `frame.attrs["law"]` says which law answered.
        """
        if response.startswith("speedup"):
            return self._predict_speed(r, model, method, response, "speed" if law == "auto" else law, interval)
        measured = any(
            (one.curve.model, one.curve.method, one.curve.tokens, one.response, one.axis)
            == (model, method, tokens, response, axis)
            for one in self.curves
        )
        if law == "curve" or (law == "auto" and measured):
            return self._predict_curve(r, self.curve(model, method, response, tokens, axis))
        form = POOLED[response] if law == "auto" else law
        methods = {one.method for one in self.pooled if (one.form, one.response, one.axis) == (form, response, axis)}
        found = self.law(form, response, method if method in methods or (law != "auto" and methods != {ALL}) else ALL, axis)
        known = self._dense(model, response) if model is not None else {}
        dense = known.get("dense") if dense is None else dense
        if dense is None:
            raise InputError(
                f"{model!r} is not in the table, so its dense {response} is not known: pass dense=. The table has "
                f"{', '.join(sorted(set(self.points.rows['model'])))}."
            )
        chance = known.get("chance", math.nan) if chance is None else chance
        options = {
            "chance": chance,
            "size": known.get("size", math.nan),
            "interval": interval,
            "statistic": statistic,
            "model": model,
        }
        frame = found.predict(r, dense, tokens, **options)
        frame.attrs["law"] = f"{found.form} ({found.method})"
        return frame

    def _predict_curve(self, r: Any, law: CurveLaw) -> pd.DataFrame:
        frame, spread = law.predict(r), self.between_models(law)
        frame["model_low"] = frame["model_high"] = math.nan
        if spread:
            design = catalogue.find_form(law.form).design({"r": frame["ratio"].to_numpy()})
            middle = design @ spread["coefficients"]
            variance = np.einsum("ij,jk,ik->i", design, spread["covariance"], design) + spread["sigma2"]
            frame["model_low"], frame["model_high"] = middle - spread["t"] * variance**0.5, middle + spread["t"] * variance**0.5
        frame.attrs["law"] = f"{law.form} of {law.curve.title}"
        return frame

    def _predict_speed(self, r: Any, model: str | None, method: str, response: str, form: str, interval: str) -> pd.DataFrame:
        """Speed-up at nominal ratios."""
        have = [one for one in self.pooled if one.response == response]
        if not have:
            raise unknown("speed-up", response, {one.response for one in self.pooled if one.group == "speed"}, NO_SPEED)
        axis = have[0].axis
        found = self.law(POOLED["speed"] if form == "speed" else form, response, ALL, axis)
        r = critical.checked(r)
        share = r if axis == "ratio" else conversion.share(self.points, r, model, method, axis)
        size = self._dense(model, "loss").get("size", math.nan) if model is not None else math.nan
        frame = found.predict(share, 1.0, model=model, size=size, interval=interval).rename(columns={"ratio": "share"})
        frame.insert(0, "ratio", r)
        frame.attrs["law"] = f"{found.form} against {axis}"
        return frame

    def _dense(self, model: str, response: str) -> dict[str, float]:
        """Dense value, chance and size of a model of the table; empty for another."""
        rows = self.points.rows[self.points.rows["model"] == model]
        if not len(rows):
            return {}
        names = {"dense": f"{response}0", "chance": "chance", "size": "parameters0"}
        return {name: float(rows[column].mean()) for name, column in names.items() if column in rows}

    def critical_ratio(
        self, threshold: float, model: str, method: str, tokens: float = 0, response: str = "loss", **options
    ) -> Critical:
        """Largest r at which a share `threshold` of the dense performance is met, with its interval; see `predict`."""
        axis = options.get("axis", "ratio")
        high = self.points.of(response, axis)[axis].max()
        band = self.predict(np.linspace(0, high, critical.GRID), model, method, tokens, response, **options)
        dense = options.get("dense") or self._dense(model, response).get("dense", math.nan)
        return critical.ratio(band, threshold, dense, response, self.level, f"{model} · {method}")

    def conversion(self, axis: str = "ratio_params") -> pd.DataFrame:
        """Share truly removed per nominal ratio, by model and method."""
        return conversion.conversion_table(self.points, axis)

    def between_models(self, law: CurveLaw) -> dict[str, Any]:
        """Where a run of a model not yet measured may lie, at this curve's dense value; empty below three models.

        Each model's coefficients over its dense value are one draw: mean ± t(models - 1) × their spread × √(1 + 1/models), and
        the noise of a run beside it.
        """
        alike = [
            other
            for other in self.curves
            if (other.response, other.axis, other.form) == (law.response, law.axis, law.form)
            and other.curve._replace(model="") == law.curve._replace(model="")
            and math.isfinite(other.dense)
        ]
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
        stderr = rows.get(f"{law.response}_stderr", pd.Series(np.nan, rows.index))
        frame = {"ratio": rows[law.axis].astype(float), "value": rows[law.response], "stderr": stderr, "seed": rows["seed"]}
        return pd.DataFrame(frame).sort_values("ratio", ignore_index=True)
