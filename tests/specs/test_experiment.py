"""Specs are strict, canonical and stable: equal experiments have equal ids, wrong values name themselves."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from claw.errors import InputError
from claw.specs import experiment as specs
from claw.specs.spec import build_spec

BASE = {"model": "smollm2-135m", "method": "magnitude", "ratios": [0, 0.5]}


def test_choices_that_cannot_matter_do_not_change_the_id():
    plain = specs.Compression(model="m", method="magnitude", ratio=0.5)
    fancy = specs.Compression(model="m", method="magnitude", ratio=0.5, seed=7, calibration=specs.Calibration(tokens=99))
    assert plain == fancy and plain.digest == fancy.digest
    dense = specs.Compression(model="m", method="random", ratio=0.0, seed=3)
    assert dense.method == "dense" and dense == specs.Compression(model="m", method="wanda-sp", ratio=0)


def test_choices_that_matter_change_the_id():
    base = {"model": "m", "method": "wanda-sp", "ratio": 0.5}
    variants = [{}, {"ratio": 0.4}, {"seed": 1}, {"method": "random"}, {"calibration": specs.Calibration(tokens=8)}]
    digests = {specs.Compression(**{**base, **change}).digest for change in variants}
    assert len(digests) == len(variants)


def test_the_id_does_not_change_between_versions():
    """Records are found by it: a change here orphans every study on disk, so it must be deliberate."""
    experiment = specs.Experiment(compression=specs.Compression(model="m", method="magnitude", ratio=0.5))
    assert experiment.id == "4961ffb481bbb72e"

    recovery = specs.Recovery(recipe="distill", divergence="reverse", learning_rate=6e-4)
    adapters = specs.Recovery(learning_rate=1e-3)  # these were the rates before they followed a sweep
    assert adapters.digest == "19ae6c18148bbe9e" and recovery.digest == "f090fe8cd52e72cb"
    assert specs.RecoverySeries().digest == "59bf2f7ce5fc311d"


def test_a_recipe_has_what_it_uses_and_nothing_else():
    unused = dict(trains="lora", divergence="skew", skew=0.3, data_loss=0.5, hidden_loss=1.0, top_k=64)
    assert specs.Recovery(recipe="full", rank=8, **unused) == specs.Recovery(recipe="full")
    assert specs.Recovery(recipe="distill", skew=0.3) == specs.Recovery(recipe="distill")
    assert specs.Recovery(recipe="distill", divergence="skew").skew == 0.1
    adapters = specs.Recovery(recipe="distill", trains="lora")
    assert (adapters.rank, adapters.trained, adapters.learning_rate) == (32, "lora", specs.LEARNING_RATES["lora"])
    for recovery in (adapters, specs.Recovery(recipe="distill", **unused, warmup=0, decay=1.0)):
        assert specs.Recovery.model_validate_json(recovery.model_dump_json()) == recovery


def test_a_recipe_is_named_by_where_it_departs():
    assert specs.Recovery(recipe="full", tokens=9, seed=3).title == "full"
    assert specs.Recovery(rank=8, decay=1.0).title == "lora (decay 1.0, rank 8)"
    assert specs.Recovery(corpus="x", length=64).title == "lora (corpus x, length 64)"  # another text is another curve


@given(st.sampled_from(["model", "method", "ratios", "seed", "ratio_of", "calibration"]), st.data())
def test_any_wrong_type_is_one_readable_error(field, data):
    junk = st.one_of(st.none(), st.booleans(), st.binary(max_size=3).map(str), st.floats(), st.lists(st.booleans(), max_size=2))
    values = {**BASE, field: data.draw(junk)}
    try:
        build_spec(specs.Curve, values, "study.yaml")
    except InputError as error:
        assert field in str(error) and "Traceback" not in str(error) and "pydantic" not in str(error)


@pytest.mark.parametrize(
    "change, words",
    [
        ({"ratios": ["1e-4"]}, r"ratios\.0 = '1e-4'.*read as text: write 0\.0001"),
        ({"ratios": [1.0]}, r"ratios\.0 = 1\.0.*less than 1"),
        ({"ratios": []}, "ratios"),
        ({"model": False}, "YAML reads yes, no"),
        ({"sed": 1}, "unknown parameter 'sed': did you mean 'seed'"),
        ({"method": "slicegpd"}, "unknown method 'slicegpd'"),
        ({"calibration": {"token": 1}}, "unknown parameter 'token': did you mean 'tokens'"),
        ({"ratio_of": "parameters"}, "params"),
    ],
)
def test_wrong_values_say_what_is_accepted(change, words):
    with pytest.raises(InputError, match=words):
        build_spec(specs.Curve, {**BASE, **change})


def test_a_curve_lists_its_points_once():
    curve = specs.Curve(model="m", method="magnitude", ratios=(0, 0.0, 0.5, 0.5))
    assert [c.ratio for c in curve.compressions] == [0.0, 0.5]


def test_specs_import_no_torch():
    import subprocess
    import sys

    code = (
        "import sys, claw.specs.experiment, claw.specs.study, claw.sweep.plan, claw.records; sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


def test_a_changed_copy_forgets_what_was_worked_out_from_the_old_values():
    seed = specs.Loss(heldout="a", tokens=1, context=2)
    before = seed.digest
    changed = seed.model_copy(update={"tokens": 2})
    assert changed.digest != before == seed.digest and changed.digest == specs.Loss(heldout="a", tokens=2, context=2).digest
