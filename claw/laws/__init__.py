"""Compression laws: how loss, accuracy and speed follow from the fraction removed. No torch in here.

laws = claw.laws.fit(claw.laws.read("results/reference.csv"))        # or a table of your own, as it is
print(laws)                                                          # a dozen lines; print(laws.summary()) has the tables
laws.predict([0.1, 0.3], model="smollm2-135m", method="magnitude")   # read off the measured points, with three kinds of band
laws.critical_ratio(1.1, "smollm2-135m", "magnitude")                # how far, for 10 % more loss, and between which points
laws.curve("smollm2-135m", "magnitude").coefficients                 # its law, in the form that misses left-out ratios least
laws.law("anchored").intervals                                       # every kind in KINDS, side by side
print(laws.summary())
laws.to_json("laws.json")

`own_tables` makes a table tidy, `tidy` and `points` check it, `working` flags controls and destroyed models; `reading` reads
single curves off their points, `interpolation` between them; `curves` and `anchored` fit them, `left_out` judges how;
`catalogue` lists the forms, `sample` solves them, `clusters` and `mixed` give the intervals of one method's law over models,
`crossed` says what methods share, `pooled` fits both; `adequacy`, `over_curves`, `outside`, `wald` and `verdicts` judge them;
`hierarchical` is one law for the measurements of many papers, `published` what those say; `fitting` does all of one table.
"""

from claw.laws.critical import Critical
from claw.laws.curves import CurveKey, CurveLaw
from claw.laws.fitting import Laws, fit, fit_each, fit_or_read, from_json, judge_table
from claw.laws.left_out import left_out_ratios
from claw.laws.own_tables.read import read
from claw.laws.points import Points, read_points
from claw.laws.pooled import KINDS, PooledLaw
from claw.laws.reading import Reading
from claw.laws.sample import ALL
from claw.laws.tables import critical_table
from claw.laws.tidy import OwnTable
from claw.laws.verdicts import Verdict

__all__ = ["ALL", "KINDS", "Critical", "CurveKey", "CurveLaw", "Laws", "OwnTable", "Points", "PooledLaw", "Reading", "Verdict"]
__all__ += ["critical_table", "fit", "fit_each", "fit_or_read", "from_json", "judge_table", "left_out_ratios", "read"]
__all__ += ["read_points"]
