"""What a page without Python needs to slide a law: a law of a curve is a few coefficients and their covariance.

mean(r) = Σ coefficients[i] r^powers[i]; with x the powers of r, the confidence band is mean ± t √(xᵀ covariance x), the new-run
band mean ± t √(xᵀ covariance x + sigma2). `new_model` holds coefficients, covariance, sigma2 and t of its own for the band of
a model not seen (null below three models). `points` are [r, value, stderr]; beyond `range` draw dashed. `unit`, `title` and
`formula` are for people.
"""

from typing import Any

import numpy as np

from claw.laws import catalogue, curves
from claw.laws.fitted import FittedLaws
from claw.laws.storage import plain_json


def slider_data(laws: FittedLaws) -> list[dict[str, Any]]:
    """One mapping per curve, response and axis, of the default form."""
    found = []
    for law in laws.curves:
        if law.form != curves.DEFAULT[law.response]:
            continue
        form, spread, measured = catalogue.find_form(law.form), laws.between_models(law), laws.measured(law)
        found.append({
            "id": "|".join(map(str, (*law.curve, law.response, law.axis))), "title": law.curve.title, **law.curve._asdict(),
            "response": law.response, "unit": curves.UNITS[law.response], "axis": law.axis, "form": law.form,
            "formula": form.formula, "powers": list(form.powers), "coefficients": law.coefficients.tolist(),
            "covariance": law.covariance.tolist(), "t": law.quantile, "sigma2": law.sigma2, "level": law.level,
            "range": [law.low, law.high], "dense": law.dense, "n": law.n,
            "new_model": {name: np.asarray(value).tolist() for name, value in spread.items()} or None,
            "points": measured[["ratio", "value", "stderr"]].to_numpy().tolist(),
        })  # fmt: skip
    return plain_json(found)
