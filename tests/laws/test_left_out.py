"""Leave-one-ratio-out: the reading errs least, on our first study and on published curves, by the known figures."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from claw import laws

DATA = Path(__file__).parent / "data"


def errors(points, **choices) -> pd.Series:
    """Error in % of the loss, by way."""
    return 100 * laws.left_out_ratios(points, **choices).set_index("way")["error"]


@pytest.fixture(scope="module")
def first_study() -> laws.Points:
    return laws.read_points(pd.read_csv(DATA / "first_study.csv"))


def published(name: str, **columns) -> pd.DataFrame:
    frame = pd.read_csv(DATA / name)
    return frame.assign(loss=np.log(frame["perplexity"]), **columns)


def test_our_first_study_has_the_known_errors(first_study):
    table = laws.left_out_ratios(first_study)
    assert set(table["curves"]) == {22}
    ours = errors(first_study)
    known = {"PCHIP of log L": 4.1, "log-odds": 5.8, "log-kept-power": 6.2, "log-cubic": 6.4, "quadratic": 9.5, "power": 13.2}
    for way, error in known.items():
        assert ours[way] == pytest.approx(error, abs=0.1), way
    assert table["way"].iloc[0] == "reading"
    assert ours["reading"] < 4.05


def test_published_curves_have_the_known_order():
    slicegpt = published("slicegpt_table_1.csv")
    assert (slicegpt["model"].nunique(), len(slicegpt)) == (10, 50)
    glu = published("glu_llama_3_2_1b.csv")
    glu = glu.assign(model=glu["model"] + " " + glu["text"])
    ours = errors(laws.read_points(pd.concat([slicegpt, glu]).drop(columns="text")))
    known = {"PCHIP of log L": 0.58, "log-kept-power": 0.74, "quadratic": 0.93, "log-odds": 1.37, "power": 2.55}
    assert list(ours[list(known)].sort_values().index) == list(known)
    assert ours["reading"] < 0.9 and ours["PCHIP of log L"] < 0.9
    alone = errors(laws.read_points(slicegpt))
    assert alone["reading"] < 0.2 and alone["capacity"] < alone["quadratic"] < alone["power"]


def test_the_law_of_a_table_is_the_form_that_misses_least(first_study):
    fitted = laws.fit(published("slicegpt_table_1.csv"), draws=100, compare=False)
    assert fitted.form_of("loss") == "capacity"
    assert {law.form for law in fitted.curves_of("loss")} == {"capacity"}
    assert len(fitted.curves_of("loss")) == 10
    by_curve = laws.left_out_ratios(first_study, by_curve=True)
    assert by_curve.shape == (22, 8) and by_curve.notna().all().all()


def test_too_few_ratios_leave_nothing_to_judge():
    frame = pd.DataFrame({"model": "m", "method": ["dense", "a", "a"], "ratio": [0, 0.1, 0.3], "loss": [3, 3.1, 3.4]})
    table = laws.left_out_ratios(laws.read_points(frame))
    assert table["error"].isna().all() and (table["curves"] == 0).all()
    assert laws.fit(frame, draws=100, compare=False).form_of("loss") == "power"
