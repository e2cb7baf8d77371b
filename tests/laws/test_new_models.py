"""What is foretold of new models: a few stored numbers say exactly what the whole hierarchical law says."""

import json
import math
from pathlib import Path

import numpy as np
import pytest

from claw import files
from claw.errors import InputError
from claw.laws import hierarchical
from claw.laws.new_models import STORED, new_models, read_new_models
from claw.laws.published import PUBLISHED, published_law

ROOT = Path(__file__).parents[2]
R = [0.02, 0.1, 0.3, 0.5]


@pytest.fixture(scope="module")
def law() -> hierarchical.HierarchicalLaw:
    return published_law()


@pytest.fixture(scope="module")
def stored():
    return read_new_models()


def agree(few, whole):
    """Whether two bands are alike, on the scale of log log L/L0 on which the law adds up."""
    z = [np.log(np.log(band[["mean", "low", "high"]].to_numpy())) for band in (few, whole)]
    return np.abs(z[0] - z[1]).max() < 2e-3


@pytest.mark.parametrize("method", ["flap", "slicegpt", "wanda-sp", "svd-llm"])
def test_they_say_what_the_whole_law_says(method, law, stored):
    for size, trained, family in (
        (7e9, False, "(new)"),
        (1e8, True, "Llama-2"),
        (7e10, False, "OPT"),
        (3e9, True, "elsewhere"),
    ):
        choice = {"trained": trained, "family": family}
        assert agree(stored.predict(R, method, size, **choice), law.predict(R, method, size, **choice))


def test_what_is_stored_is_of_this_table(law, stored):
    table = (ROOT / PUBLISHED).read_bytes()
    assert stored.data == files.digest(table), "run `python results/published/tidy.py`"
    again = new_models(law, table)
    np.testing.assert_allclose(again.mean, stored.mean, atol=1e-3)
    assert again.names == stored.names and again.left_out["covered"] == pytest.approx(stored.left_out["covered"], abs=0.005)
    assert 0.93 <= stored.left_out["covered"] <= 0.97
    assert sum(map(len, stored.points.values())) <= len(law.points.rows)


def test_a_known_family_and_a_smaller_spread_narrow_the_band(stored):
    width = lambda **choice: (
        np.log(np.log(stored.predict([0.3], "flap", 7e9, **choice)[["low", "high"]])).diff(axis=1).iloc[0, 1]
    )
    assert width(family="Llama-2") < width() < width(trained=True)


def test_reading_it_back_gives_the_same_and_bad_questions_are_refused(stored, tmp_path, monkeypatch):
    path = tmp_path / "law.json"
    path.write_text(json.dumps(stored.to_dict()))
    assert read_new_models(path).predict(R, "flap", 7e9).equals(stored.predict(R, "flap", 7e9))
    for r, method, size, says in (
        (0.1, "flapp", 7e9, "flap"),
        (0.0, "flap", 7e9, "above 0"),
        (0.1, "flap", math.nan, "above 0"),
    ):
        with pytest.raises(InputError, match=says):
            stored.predict([r], method, size)
    with pytest.raises(InputError, match=r"tidy\.py"):
        read_new_models(tmp_path / STORED)
    monkeypatch.chdir(tmp_path)
    assert read_new_models().data == stored.data  # of a project without published measurements: claw's own
