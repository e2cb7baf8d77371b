"""Compression laws: how loss, accuracy and speed follow from the fraction removed. No torch in here.

laws = claw.laws.fit(claw.laws.read("results/reference.csv"))        # or a table of your own, as it is
laws.predict([0.1, 0.3], model="smollm2-135m", method="magnitude")   # mean and three kinds of band
laws.critical_ratio(1.1, "smollm2-135m", "magnitude")                # how far, for 10 % more loss
laws.law("anchored").intervals                                       # every kind in KINDS, side by side
print(laws.summary())
laws.to_json("laws.json")

`reading` makes a table tidy, `tidy` and `points` check it; `curves` fits single curves;
`catalogue` lists the forms, `sample` solves them, `clusters` and `mixed` give their intervals and `pooled` the laws across
models; `outside`, `wald` and `verdicts` judge them; `fitting` does all of it.
"""

from claw.laws.critical import Critical
from claw.laws.curves import CurveKey, CurveLaw
from claw.laws.fitting import Laws, fit, fit_each, fit_or_read, from_json, judge_table
from claw.laws.points import Points, read_points
from claw.laws.pooled import KINDS, PooledLaw
from claw.laws.reading.read import read
from claw.laws.sample import ALL
from claw.laws.tables import critical_table
from claw.laws.tidy import Reading
from claw.laws.verdicts import Verdict

__all__ = ["ALL", "KINDS", "Critical", "CurveKey", "CurveLaw", "Laws", "Points", "PooledLaw", "Reading", "Verdict"]
__all__ += ["critical_table", "fit", "fit_each", "fit_or_read", "from_json", "judge_table", "read", "read_points"]
