"""Compression laws: how loss, accuracy and speed follow from the fraction removed. No torch in here.

laws = claw.laws.fit(claw.records.table("results/reference.csv"))
print(laws)                                                          # a dozen lines; print(laws.summary()) has the tables
laws.predict([0.1, 0.3], model="smollm2-135m", method="magnitude")   # mean and three kinds of band
laws.critical_ratio(1.1, "smollm2-135m", "magnitude")                # how far, for 10 % more loss
laws.law("anchored").intervals                                       # every kind in KINDS, side by side
print(laws.summary())
laws.to_json("laws.json")

`points` checks a table, `working` flags controls and destroyed models; `curves` fits single curves; `catalogue` lists forms,
`sample` solves them, `clusters` and `mixed` give the intervals of one method's law over models, `crossed` says what methods
share, `pooled` fits both; `adequacy`, `over_curves`, `outside`, `wald` and `verdicts` judge them; `fitting` does all of it.
"""

from claw.laws.critical import Critical
from claw.laws.curves import CurveKey, CurveLaw
from claw.laws.fitting import Laws, fit, fit_each, fit_or_read, from_json, judge_table
from claw.laws.points import Points, read_points
from claw.laws.pooled import KINDS, PooledLaw
from claw.laws.sample import ALL
from claw.laws.tables import critical_table
from claw.laws.verdicts import Verdict

__all__ = ["ALL", "KINDS", "Critical", "CurveKey", "CurveLaw", "Laws", "Points", "PooledLaw", "Verdict", "critical_table"]
__all__ += ["fit", "fit_each", "fit_or_read", "from_json", "judge_table", "read_points"]
