"""Does every printed interval hold what it promises on a study as studies are? Simulate, fit, count.

    python benchmarks/crossed_coverage.py [--draws 400] [--models 4] [--only shared|method|bands|tests|curves] [--seed 0]

The design: four models, five to eight methods crossed with them, a quarter of the curves missing, four to nine ratios, one or
two seeds, recovery at some ratios; methods differ (0.8 in β), models little (0.25), curves less (0.1). Printed per law,
coefficient and kind of interval: bias in standard errors, coverage of nominal 95 % intervals where one is given (target: 93 to
97 %), and how often none is given because there are fewer than three degrees of freedom. 400 draws take a quarter of an hour.
"""

import argparse
import math
import time
import warnings
from collections import defaultdict
from dataclasses import replace

import numpy as np
import pandas as pd
from threadpoolctl import threadpool_limits

from claw import laws
from claw.errors import InputError
from claw.laws import catalogue, fitting, forms, pooled, simulate, wald
from claw.laws.over_curves import mean_over_curves
from claw.laws.sample import gather
from claw.laws.simulate import Design, Truth

LEVEL, GRID = 0.95, np.array([0.2, 0.5, 0.8])
ALL_KINDS = tuple(pooled.KINDS)
PARTS = ("shared", "method", "bands", "tests", "curves")


def differing(group: str, form: str, theta: dict, slope: str, scale: float = 1.0, **more) -> Truth:
    """A truth whose slope differs between methods, models and curves as in the committed table; recovery varies a little."""
    second = {name: 0.05 for name in theta if name in ("γ", "g")}
    spread = {
        "methods": {slope: 0.8 * scale} | second,
        "between": {slope: 0.25 * scale} | second,
        "curves": {slope: 0.1 * scale},
    }
    return Truth(group, form, theta, **spread, **more)


LAWS = [
    ("loss", differing("cross", "anchored", {"β": 1.5, "γ": 0.2}, "β")),
    ("loss", differing("cross", "unit-α", {"β": 1.5, "γ": 0.2}, "β")),
    ("loss", differing("cross", "original+intercept", {"κ": 0.0, "α": 1.0, "β": 1.5, "γ": 0.2}, "β")),
    ("loss", differing("cross", "unit-α×size", {"β": 1.5, "λ": -0.2, "γ": 0.2}, "β")),
    ("accuracy", differing("retention", "retention-linear", {"b": 0.6, "g": 0.2}, "b", 0.2, noise=0.02)),
    ("accuracy", differing("retention", "retention-quadratic", {"b": 0.4, "q": 0.2, "g": 0.2}, "b", 0.2, noise=0.02)),
    ("speedup", differing("speed", "speed-power-one-size", {"κ": 0.7}, "κ", 0.2)),
]


def study(response: str, truth: Truth, models: int, rng: np.random.Generator):
    """A simulated table as points, and how its coefficients depart from the truth."""
    recovery = (0, 1e7) if truth.group in ("cross", "retention") else (0,)
    methods = [f"method-{i}" for i in range(rng.integers(5, 9))]
    frame = simulate.rows(Design(models=models, methods=methods, tokens=recovery, seeds=2, unequal=True), rng)
    departed = simulate.departures(frame, truth, rng)
    frame[response] = simulate.draw(frame, truth, response, rng, departed=departed)
    if "loss" not in frame:
        frame["loss"] = frame["loss0"] * (1 + frame["ratio"])
    dense = frame.drop_duplicates("model").assign(method="dense", ratio=0.0, recovery="none", recovery_tokens=0, seed=0)
    dense["loss"] = dense["loss0"]
    if response == "accuracy":
        dense["accuracy"] = dense["accuracy0"]
    table = pd.concat([dense, frame], ignore_index=True).drop(columns="status")
    points = laws.read_points(table)
    return replace(points, rows=points.rows.assign(flag="")), departed


class Count:
    """Hits by place, shown as a table."""

    def __init__(self) -> None:
        self.held: dict[tuple, list[float]] = defaultdict(list)
        self.estimates: dict[tuple, list[float]] = defaultdict(list)

    def add(self, place: tuple, low: float, high: float, truth: float, estimate: float = math.nan) -> None:
        self.held[place].append(math.nan if not math.isfinite(low + high) else float(low <= truth <= high))
        self.estimates[place].append(estimate - truth)

    def table(self, names: list[str]) -> pd.DataFrame:
        rows = []
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            for place, held in self.held.items():
                gaps, given = np.array(self.estimates[place]), np.array(held)
                count = int(np.isfinite(given).sum())
                bias = gaps.mean() / gaps.std(ddof=1)
                share = 100 * np.nanmean(given) if count else math.nan
                rows.append((*place, bias, share, 100 * math.sqrt(0.95 * 0.05 / max(count, 1)), 100 * np.isnan(given).mean()))
        return pd.DataFrame(rows, columns=[*names, "bias/se", "covers %", "±", "none given %"])


def shared(draws: int, models: int, rng: np.random.Generator) -> None:
    """Coefficients of laws of several methods."""
    print("What methods share")
    for response, truth in LAWS:
        count = Count()
        form = catalogue.find_form(truth.form, truth.group)
        for _ in range(draws):
            points, _ = study(response, truth, models, rng)
            law = pooled.fit_pooled(gather(points, form, response), level=LEVEL, kinds=("mixed",))
            for name, value, (low, high) in zip(law.coefficient_names, law.coefficients, law.interval, strict=True):
                count.add((f"{truth.form} ({response})", name, law.default_kind), low, high, truth.theta[name], value)
        print(count.table(["law", "coefficient", "kind"]).round(2).to_string(index=False), flush=True)


def of_one_method(draws: int, models: int, rng: np.random.Generator) -> None:
    """Coefficients of the law of one method, by kind; the truth is the method's own."""
    print("Laws of one method")
    for response, truth in LAWS:
        count = Count()
        form = catalogue.find_form(truth.form, truth.group)
        for _ in range(draws):
            points, departed = study(response, truth, models, rng)
            own = dict(zip(form.coefficient_names, departed["method", "method-0"], strict=True))
            try:
                law = pooled.fit_pooled(
                    gather(points, form, response, method="method-0"), level=LEVEL, draws=999, kinds=ALL_KINDS
                )
            except InputError:
                continue
            for kind, pairs in law.intervals.items():
                for name, value, (low, high) in zip(law.coefficient_names, law.coefficients, pairs, strict=True):
                    place = (f"{truth.form} ({response})", name, kind + (" (one curve)" if law.unit == "run" else ""))
                    count.add(place, low, high, truth.theta[name] + own[name], value)
        print(count.table(["law", "coefficient", "kind"]).round(2).to_string(index=False), flush=True)


def bands(draws: int, models: int, rng: np.random.Generator) -> None:
    """Bands that `predict` gives: of what methods share, and of a method on a model that was not fitted."""
    count, settings = Count(), {"level": LEVEL, "seed": 0, "draws": 200}
    for response, truth in LAWS[:1] + LAWS[4:5]:
        form = catalogue.find_form(truth.form, truth.group)
        for _ in range(draws):
            points, departed = study(response, truth, models, rng)
            dense, chance, theta = 3.0, simulate.CHANCE, np.array([truth.theta[name] for name in form.coefficient_names])
            dense = dense if response == "loss" else 0.6
            c = {"r": GRID} | {
                name: np.full(len(GRID), value)
                for name, value in (("dense", dense), ("chance", chance), ("d", 0.0), ("size", 1.0))
            }
            y = lambda beta, noise=0.0, c=c, form=form: catalogue_value(form, c, beta, noise)
            new = lambda truth=truth, form=form: sum(
                np.array([spread.get(name, 0.0) for name in form.coefficient_names])
                * rng.standard_normal(len(form.coefficient_names))
                for spread in (truth.between, truth.curves)
            )
            both = {
                method: pooled.fit_pooled(gather(points, form, response, method=method), **settings, kinds=kinds)
                for method, kinds in ((laws.ALL, ("mixed",)), ("method-0", ("bias-reduced", "mixed")))
            }
            fields = {
                "source": {},
                "curves": (),
                "comparisons": {},
                "tests": pd.DataFrame(),
                "verdicts": (),
                "unfitted": pd.DataFrame(),
            }
            everything = fitting.Laws(points=points, pooled=tuple(both.values()), **fields, **settings)
            own, other = departed["method", "method-0"], np.zeros(len(theta))
            methods = np.array([truth.methods.get(name, 0.0) for name in form.coefficient_names])
            for method in ("method-0", "another"):
                band = everything.predict(GRID, "new", method, dense=dense, chance=chance, response=response)
                middle = own if method == "method-0" else other
                shift = own if method == "method-0" else methods * rng.standard_normal(len(theta))
                noise = truth.noise * rng.standard_normal(len(GRID))
                values = {"confidence": y(theta + middle), "model": y(theta + shift + new(), noise)}
                for kind, value in values.items():
                    for i, r in enumerate(GRID):
                        edges = (band[f"{kind}_low"].iloc[i], band[f"{kind}_high"].iloc[i])
                        count.add(
                            (truth.form, "measured" if method == "method-0" else "not measured", kind, r), *edges, value[i]
                        )
    table = count.table(["law", "method", "band", "r"]).drop(columns="bias/se")
    print("Bands of a model that was not fitted\n" + table.round(2).to_string(index=False), flush=True)


def catalogue_value(form, c, theta: np.ndarray, noise) -> np.ndarray:
    """y of a form at its coefficients."""
    return forms.from_scale(form.scale, form.eta(c, theta) + noise, c)


def tests(draws: int, models: int, rng: np.random.Generator) -> None:
    """How often tests reject what is true (target: 5 %), and whether means over curves hold theirs."""
    truth, rejected, count = LAWS[0][1], defaultdict(list), Count()
    for _ in range(draws):
        points, _ = study(
            "loss", replace(truth, theta={"β": 1.5, "γ": 0.0}, methods={"β": 0.8}, between={"β": 0.25}), models, rng
        )
        table = wald.ask_all(points)
        for name, p, df in table[["name", "p", "df"]].itertuples(index=False):
            rejected[name].append(math.nan if df < 3 and name != "recovery" else float(p < 0.05))
        cells = points.of("loss")[["method", "model"]].drop_duplicates().to_numpy(str)
        values = 0.0
        for i in (0, 1):
            names, where = np.unique(cells[:, i], return_inverse=True)
            values = values + rng.normal(0, (0.8, 0.25)[i], len(names))[where]
        mean = mean_over_curves(values + rng.normal(0, 0.2, len(cells)), cells[:, 0], cells[:, 1], LEVEL)
        count.add(("mean over curves", "methods differ"), mean.low, mean.high, 0.0, mean.value)
        even = mean_over_curves(rng.normal(0, 0.2, len(cells)), cells[:, 0], cells[:, 1], LEVEL)
        count.add(("mean over curves", "nothing differs"), even.low, even.high, 0.0, even.value)
    rows = [
        (name, 100 * np.nanmean(hits) if np.isfinite(hits).any() else math.nan, 100 * np.isnan(hits).mean())
        for name, hits in rejected.items()
    ]
    print(
        "Tests of what is true\n"
        + pd.DataFrame(rows, columns=["test", "rejected %", "not judged %"]).round(1).to_string(index=False)
    )
    print(count.table(["what", "where"]).round(2).to_string(index=False), flush=True)


def single_curves(draws: int, models: int, rng: np.random.Generator) -> None:
    """Laws of one curve: one model and one method, whose runs are the unit."""
    count = Count()
    for response, truth in LAWS[:1] + LAWS[4:5]:
        form = catalogue.find_form(truth.form, truth.group)
        for _ in range(draws):
            points, _ = study(response, replace(truth, methods={}, between={}, curves={}), models, rng)
            rows = points.rows[points.rows["model"].eq("model-0") & points.rows["method"].isin(("dense", "method-0"))]
            rows = rows[(rows["recovery_tokens"] == 0) & (rows["seed"] == 0)]
            try:
                law = pooled.fit_pooled(gather(replace(points, rows=rows), form, response), level=LEVEL, kinds=ALL_KINDS)
            except InputError:
                continue
            for kind, pairs in law.intervals.items():
                name = law.coefficient_names[0]
                count.add((truth.form, name, kind), *pairs[0], truth.theta[name], law.coefficients[0])
    print("One curve\n" + count.table(["law", "coefficient", "kind"]).round(2).to_string(index=False), flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--draws", type=int, default=400)
    parser.add_argument("--models", type=int, default=4)
    parser.add_argument("--only", choices=PARTS)
    parser.add_argument("--seed", type=int, default=0)
    chosen = parser.parse_args()
    pd.set_option("display.width", 200, "display.max_columns", 40)
    jobs = dict(zip(PARTS, (shared, of_one_method, bands, tests, single_curves), strict=True))
    started = time.perf_counter()
    with threadpool_limits(1):
        for number, (name, job) in enumerate(jobs.items()):
            if chosen.only in (None, name):
                job(chosen.draws, chosen.models, np.random.default_rng([chosen.seed, number]))
    print(f"{chosen.draws} draws each, {time.perf_counter() - started:.0f} s")


if __name__ == "__main__":
    main()
