"""What was measured otherwise is refused, taken apart or left out, and never pooled in silence."""

import numpy as np
import pandas as pd
import pytest
from synthetic import study_table

from claw import laws
from claw.errors import InputError

ONE = ("model-s",)


def table(methods=("claw", "random"), **columns) -> pd.DataFrame:
    return study_table(ONE, methods, recovery=False).assign(**columns)


def calibrated(frame: pd.DataFrame, tokens: int) -> pd.DataFrame:
    """As a run of claw writes it: methods that need no text have none."""
    needs = ~frame["method"].isin(["dense", "random"])
    return frame.assign(
        calibration=np.where(needs, "wikipedia-train", None), calibration_tokens=np.where(needs, tokens, np.nan)
    )


def two_calibrations() -> pd.DataFrame:
    """One method twice, with more text and with less; ids tell the rows apart."""
    more, less = calibrated(table(), 65536), calibrated(table(), 4096)
    less = less[less["method"] == "claw"].assign(loss=less["loss"] + 0.5)
    return pd.concat([more, less.assign(experiment="less" + less["experiment"])], ignore_index=True)


def test_one_method_calibrated_on_two_amounts_of_text_is_no_curve():
    frame = two_calibrations()
    with pytest.raises(InputError, match="claw of model-s has rows of 2 values of calibration_tokens \\(4096, 65536\\)"):
        laws.fit(frame, draws=100)
    apart = laws.fit_each(frame, by="calibration_tokens", draws=100)
    assert list(apart) == ["4096", "65536"]
    for fitted in apart.values():  # the dense model and the control belong to both
        assert set(fitted.points.rows["method"]) == {"dense", "claw", "random"}
    at = [fitted.predict(0.5, model="model-s", method="claw")["mean"].iloc[0] for fitted in apart.values()]
    assert at[0] > at[1] + 0.3


def test_the_error_names_a_selection_that_works():
    frame = two_calibrations()
    with pytest.raises(InputError) as refused:
        laws.read_points(frame)
    kept = str(refused.value).split("keep one: ")[1].removesuffix(".")
    points = laws.read_points(eval(kept, {"table": frame}))  # what a user would paste
    assert set(points.rows["method"]) == {"dense", "claw", "random"}
    assert len(points.rows) == len(table())


def test_models_may_have_been_calibrated_on_unlike_amounts_and_a_note_says_so():
    frame = study_table(("model-s", "model-m"), ("claw", "random"), recovery=False)
    parts = [calibrated(frame[frame["model"] == model], n) for model, n in (("model-s", 65536), ("model-m", 16384))]
    (note,) = [note for note in laws.read_points(pd.concat(parts)).notes if "calibration" in note]
    assert "claw had 16,384 for model-m, 65,536 for model-s" in note and "random" not in note


@pytest.mark.parametrize("some", [40.0, "arc_easy:40 mmlu:1"])
def test_some_documents_and_all_of_them_are_not_pooled(some):
    """An empty limit beside an accuracy is all documents."""
    whole, part = table(limit=None), table(limit=some)
    frame = pd.concat([whole, part.assign(experiment="part" + part["experiment"])], ignore_index=True)
    with pytest.raises(InputError, match=r"mixes 2 values of limit .*all documents"):
        laws.fit(frame, draws=100)
    apart = laws.fit_each(frame, by="limit", draws=100)
    assert len(apart) == 2 and len(apart["all documents"].points.rows) == len(whole)


def test_rows_without_an_accuracy_have_no_limit():
    frame = table()
    frame.loc[frame["ratio"] > 0.4, ["accuracy", "limit"]] = np.nan
    assert len(laws.read_points(frame).of("accuracy")) == 9


def test_speeds_timed_otherwise_are_left_out_and_counted():
    frame = table()
    timed = frame.index[frame["speedup_decode"].notna()]
    frame.loc[timed, "speed_setting"] = "cpu"
    frame.loc[timed[:2], "speed_setting"] = "NVIDIA H100"
    points = laws.read_points(frame)
    assert points.rows["speedup_decode"].notna().sum() == len(timed) - 2
    assert points.rows["loss"].notna().all()
    (note,) = [note for note in points.notes if "timed in 2 ways" in note]
    assert "Used: cpu. Not used: 2 rows of NVIDIA H100." in note
    assert frame["speedup_decode"].notna().sum() == len(timed)  # the caller's table stays


def test_each_way_of_timing_has_its_speeds_and_all_losses():
    frame = table()
    timed = frame.index[frame["speedup_decode"].notna()]
    frame.loc[timed, "speed_setting"] = "cpu"
    frame.loc[timed[:6], "speed_setting"] = "NVIDIA H100"
    frame.index = [0] * len(frame)  # as after pd.concat
    apart = laws.fit_each(frame, by="speed_setting", draws=100)
    counts = {name: fitted.points.rows["speedup_decode"].notna().sum() for name, fitted in apart.items()}
    assert counts == {"NVIDIA H100": 6, "cpu": len(timed) - 6}
    assert all(not fitted.points.rows["loss"].isna().any() for fitted in apart.values())
