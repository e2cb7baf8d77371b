"""Made-up tables of a study like the real one, methods crossed with models; and laws that hold the points of a table alone."""

import numpy as np
import pandas as pd

from claw import laws


def crossed_table(
    seed: int,
    methods: int = 6,
    models: int = 4,
    *,
    between_methods: float = 0.8,
    between_models: float = 0.25,
    curve_spread: float = 0.1,
    noise: float = 0.03,
    recovery: bool = False,
    accuracy: bool = False,
) -> tuple[pd.DataFrame, dict[str, float]]:
    """A tidy table with loss = loss0 (1+r)^β, β = 1.5 + method + model + curve, and the true β of all and of each method."""
    rng = np.random.default_rng(seed)
    own, of_model = rng.normal(0, between_methods, methods), rng.normal(0, between_models, models)
    truth = {"β": 1.5} | {f"method-{j}": 1.5 + own[j] for j in range(methods)}
    rows = []
    for m in range(models):
        dense = {"model": f"model-{m}", "family": "made-up", "parameters0": 1e9 * 2.0**m, "loss0": 3.2 - 0.2 * m}
        dense |= {"accuracy0": 0.6 + 0.02 * m, "chance": 0.3}
        rows.append({**dense, "method": "dense", "ratio": 0.0, "seed": 0, "recovery_tokens": 0, "loss": dense["loss0"]})
        for j in range(methods):
            if m > 1 and rng.random() < 0.25:  # every method on two models at least
                continue
            beta = truth[f"method-{j}"] + of_model[m] + rng.normal(0, curve_spread)
            ratios = np.sort(rng.choice(np.arange(1, 10) / 10, rng.integers(4, 9), replace=False))
            for r in ratios:
                for run in range(rng.integers(1, 3)):
                    for tokens in (0, 10_000_000) if recovery and r in ratios[::2] else (0,):
                        value = dense["loss0"] * (1 + r) ** beta * np.exp(rng.normal(0, noise)) * (0.9 if tokens else 1.0)
                        place = {"method": f"method-{j}", "ratio": r, "seed": run, "recovery_tokens": tokens}
                        rows.append(dense | place | {"loss": value})
    frame = pd.DataFrame(rows)
    if accuracy:
        share = 1 - 0.8 * frame["ratio"] + rng.normal(0, 0.02, len(frame))
        frame["accuracy"] = frame["chance"] + (frame["accuracy0"] - frame["chance"]) * share
        frame["accuracy_stderr"] = 0.01
    return frame.drop(columns=[] if accuracy else ["accuracy0", "chance"]), truth


def points_alone(table: pd.DataFrame) -> laws.Laws:
    """Laws of a table without a fit: what is read off measured points needs none."""
    nothing = {
        "curves": (),
        "pooled": (),
        "comparisons": {},
        "tests": pd.DataFrame(),
        "verdicts": (),
        "unfitted": pd.DataFrame(),
    }
    settings = {"source": {"data": "", "code": ""}, "level": 0.95, "seed": 0, "draws": 100}
    return laws.Laws(points=laws.read_points(table), **nothing, **settings)
