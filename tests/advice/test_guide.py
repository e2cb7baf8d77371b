"""Advice: known worlds give known answers, budgets are kept, probabilities add up, and what is missing is said."""

import pkgutil
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest

from claw import advice as room
from claw import figures, laws
from claw.advice import guide
from claw.errors import InputError
from claw.specs.budget import Budget

RATIOS = np.array([0.0, 0.2, 0.4, 0.6, 0.8])


def model(name: str, size: float, dense: float, slope: float, **columns) -> pd.DataFrame:
    """A model whose loss rises as a line with r, almost without noise; half of r is truly removed."""
    loss = dense + slope * RATIOS + 1e-3 * np.array([0, 1, -1, -1, 1])
    frame = pd.DataFrame({"model": name, "method": ["dense"] + ["cut"] * 4, "ratio": RATIOS, "loss": loss, "loss_stderr": 0.01})
    frame = frame.assign(ratio_params=RATIOS / 2, ratio_flops=RATIOS / 2, recovery_tokens=0, seed=0)
    return frame.assign(parameters0=size, flops_per_token=2 * size * (1 - RATIOS / 2), **{"heldout_data": "one"} | columns)


def fitted(*parts: pd.DataFrame) -> laws.Laws:
    return laws.fit(pd.concat(parts), compare=False, draws=100)


@pytest.fixture(scope="module")
def shallow() -> laws.Laws:
    """A large model that loses little: compressing it beats the small one."""
    return fitted(model("large", 2e9, 2.5, 0.5), model("small", 1.4e9, 3.0, 0.5))


def test_a_large_model_that_loses_little_is_compressed_just_enough(shallow):
    advice = guide.advise(shallow, Budget(parameters=1.5e9))
    assert (advice.best["model"], advice.best["method"]) == ("large", "cut")
    assert advice.best["ratio"] == pytest.approx(0.5)
    assert advice.best["parameters"] <= 1.5e9
    assert advice.best["probability"] > 0.95
    assert "remove 25 % of large's parameters (ratio 0.50) with cut" in advice.sentences[0]


def test_a_large_model_that_loses_much_is_left_for_the_small_one():
    advice = guide.advise(fitted(model("large", 2e9, 2.5, 4.0), model("small", 1.4e9, 3.0, 0.5)), Budget(parameters=1.5e9))
    assert (advice.best["model"], advice.best["method"]) == ("small", guide.AS_IS)
    assert "the uncompressed model is clearly better" in " ".join(advice.sentences)


def test_a_model_that_fits_is_not_compressed(shallow):
    advice = guide.advise(shallow, Budget())
    assert set(advice.finalists["method"]) == {guide.AS_IS}
    assert advice.best["model"] == "large"


@pytest.mark.parametrize(("limit", "value"), [("parameters", 1.2e9), ("memory", 2.4), ("flops", 2.4e9), ("milliseconds", 10.0)])
def test_no_finalist_exceeds_the_budget(limit, value):
    speedy = [
        model(n, s, d, 0.5).assign(speedup_decode=1 / (1 - RATIOS / 2)) for n, s, d in (("large", 2e9, 2.5), ("small", 1e9, 3))
    ]
    budget = Budget(**{limit: value}, dense_milliseconds=(("large", 14.0), ("small", 7.0)))
    advice = guide.advise(fitted(*speedy), budget)
    assert len(advice.finalists) == 2
    assert (advice.finalists[limit] <= value * (1 + 1e-9)).all()
    assert advice.finalists["probability"].sum() == pytest.approx(1)


def test_nothing_fits_and_the_least_is_named(shallow):
    advice = guide.advise(shallow, Budget(parameters=1e6))
    assert advice.best is None
    assert "small with cut, 40 % removed" in advice.sentences[0]
    assert "840 M" in advice.sentences[0]


def test_the_frontier_is_beaten_by_nothing(shallow):
    advice = guide.advise(shallow, Budget())
    front = advice.pareto()
    assert front["parameters"].is_monotonic_increasing
    assert front["value"].is_monotonic_decreasing
    for option in front.itertuples():
        cheaper = advice.options[advice.options["parameters"] <= option.parameters]
        assert cheaper["value"].min() == option.value


def test_no_option_goes_beyond_the_measured_ratios(shallow):
    assert guide.advise(shallow, Budget()).options["ratio"].max() <= 0.8 + 1e-9


def test_no_cut_is_promised_to_better_its_own_model():
    steep = model("steep", 2e9, 2.5, 0.0)
    steep["loss"] = 2.5 + np.array([0.0, 0.0, 1.0, 4.0, 8.0])  # a parabola through this dips below 2.5 at small ratios
    dipping = fitted(steep)
    (law,) = dipping.curves_of("loss")
    assert law.predict([0.1])["mean"].iloc[0] < 2.5
    options = guide.advise(dipping, Budget()).options
    assert (options["value"] >= 2.5).all() and (options["low"] <= options["value"]).all()


def test_a_control_is_recommended_only_where_there_is_nothing_else():
    cut, control = model("large", 2e9, 2.5, 0.5), model("large", 2e9, 2.5, 0.1).replace({"method": {"cut": "random+ridge"}})
    budget = Budget(parameters=1.5e9)
    assert guide.advise(fitted(cut, control[1:]), budget).best["method"] == "cut"
    assert guide.advise(fitted(control), budget).best["method"] == "random+ridge"
    assert guide.advise(fitted(cut, control[1:]), budget, methods=("random+ridge",)).best["method"] == "random+ridge"
    other = model("small", 1.4e9, 3.0, 0.5)
    assert guide.advise(fitted(control, other), budget, models=("large",)).best["method"] == "random+ridge"


def test_a_curve_that_its_law_hardly_knows_is_not_advised():
    def seeds(method, slope, scatter):
        one = model("large", 2e9, 2.5, slope, method=["dense"] + [method] * 4)
        two = one[one["method"] != "dense"]
        parts = [two.assign(seed=seed, loss=two["loss"] * np.exp(sign * scatter)) for seed, sign in ((0, -1), (1, 1))]
        return pd.concat([one[one["method"] == "dense"].assign(seed=0), *parts])

    wild = seeds("wild", 0.0, 0.8)
    advice = guide.advise(fitted(seeds("cut", 1.5, 0.01), wild[wild["method"] == "wild"]), Budget(parameters=1.5e9))
    other = advice.finalists.set_index("method").loc["wild"]
    assert advice.best["method"] == "cut" and other["high"] > advice.best["high"]


def test_accuracy_counts_upwards():
    parts = [model(n, s, 3.0, 1.0).assign(accuracy=a - 0.1 * RATIOS) for n, s, a in (("large", 2e9, 0.7), ("small", 1e9, 0.5))]
    advice = guide.advise(fitted(*parts), Budget(parameters=1.5e9), "accuracy")
    assert advice.best["model"] == "large"


def test_other_tokenizers_compare_in_bits_per_byte_or_not_at_all():
    def tokenized(name, size, dense, bits):
        part = model(name, size, dense, 0.5, heldout_data=name)
        return part.assign(bits_per_byte=part["loss"] * bits)

    parts = [tokenized("large", 2e9, 2.5, 0.4), tokenized("small", 1e9, 3.0, 0.2)]  # per byte the small one is better
    advice = guide.advise(fitted(*parts), Budget())
    assert advice.unit == "bits per byte"
    assert advice.best["model"] == "small"
    apart = guide.advise(fitted(*(part.drop(columns="bits_per_byte") for part in parts)), Budget())
    assert apart.best is None and len(apart.groups) == 2  # each alone, and said
    said = " ".join(apart.sentences)
    assert "do not compare" in said and "bits_per_byte" in said and "large as it is" in said and "small as it is" in said
    with pytest.raises(InputError, match="no frontier"):
        apart.pareto()


def test_what_cannot_be_judged_is_refused_with_what_it_needs(shallow):
    with pytest.raises(InputError, match="dense_milliseconds"):
        guide.advise(shallow, Budget(milliseconds=5))
    with pytest.raises(InputError, match="above 0"):
        guide.advise(shallow, Budget(parameters=-1))
    with pytest.raises(InputError, match="did you mean 'large'"):
        guide.advise(shallow, Budget(), models=("larg",))
    with pytest.raises(InputError, match="accuracy"):
        guide.advise(shallow, Budget(), "accuracy")


def test_equal_seeds_give_equal_advice_and_it_is_written_whole(shallow, tmp_path):
    first, again = (guide.advise(shallow, Budget(parameters=1.5e9), seed=3) for _ in range(2))
    pd.testing.assert_frame_equal(first.finalists, again.finalists)
    text = guide.save_advice(first, tmp_path / "advice.json").read_text(encoding="utf-8")
    assert repr(float(first.best["value"])) in text
    assert first.sentences[0] in text


def test_the_figure_draws_every_option_and_saves_its_numbers(shallow, tmp_path):
    advice = guide.advise(shallow, Budget(parameters=1.5e9))
    drawing = figures.advice_pareto(advice)
    assert (drawing.numbers["kind"] == "option").sum() == len(advice.options)
    assert {path.suffix for path in drawing.save(tmp_path)} == {".pdf", ".png", ".svg", ".csv"}
    with pytest.raises(InputError, match="cost"):
        figures.advice_pareto(advice, "milliseconds")


def test_no_module_of_advice_needs_torch_or_matplotlib():
    names = [f"claw.advice.{module.name}" for module in pkgutil.iter_modules(room.__path__)]
    assert "claw.advice.findings" in names
    code = f"import sys, {', '.join(names)}; assert not {{'torch', 'matplotlib'}} & set(sys.modules), 'imported'"
    subprocess.run([sys.executable, "-c", code], check=True)
