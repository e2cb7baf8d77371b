"""Compression laws: how loss, accuracy and speed follow from the fraction removed. No torch in here.

laws = claw.laws.fit(claw.records.table("results/reference.csv"))
laws.predict([0.1, 0.3], model="smollm2-135m", method="magnitude")   # mean and three kinds of band
laws.curve("smollm2-135m", "magnitude").critical_ratio(1.1)          # how far, for 10 % more loss
print(laws.summary())
laws.to_json("laws.json")
"""

from claw.laws.curves import Critical, Curve, CurveLaw
from claw.laws.points import Points, read
from claw.laws.study import Laws, fit, fit_each, from_json

__all__ = ["Critical", "Curve", "CurveLaw", "Laws", "Points", "fit", "fit_each", "from_json", "read"]
