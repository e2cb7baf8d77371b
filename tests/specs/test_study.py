"""A study file stands for the experiments it says, once each, and shipped studies are valid."""

from pathlib import Path

import pytest

from claw.errors import InputError
from claw.specs import strict_yaml
from claw.specs import study as studies
from claw.sweep import plan

BASE = """
name: s
models: [smollm2-135m]
methods: [random, magnitude]
ratios: [0, 0.5]
"""


def parse(text: str) -> studies.Study:
    return studies.parse_study(*strict_yaml.parse_yaml(text, "s.yaml"), "s.yaml")


def test_the_grid_without_repeats():
    study = parse(BASE + "seeds: [0, 1]")
    assert len(study.curves) == 3  # magnitude draws nothing, so it has one seed
    assert len(study.experiments) == 1 + 3  # dense, random twice, magnitude


def test_the_dense_model_is_always_there():
    study = parse(BASE.replace("[0, 0.5]", "[0.5]"))
    assert next(e.compression.method for e in study.experiments) == "dense"


def test_excluded_points_are_left_out():
    study = parse(BASE + "exclude: [{method: random, ratio: 0.5}]")
    assert [e.compression.method for e in study.experiments] == ["dense", "magnitude"]


def test_recovery_may_be_of_some_points_only():
    text = BASE + "recovery: [{tokens: [8192, 16384]}]\nrecovery_of: [{method: magnitude}]"
    recovered = [e.compression for e in parse(text).experiments if e.recovery]
    assert {(c.method, c.ratio) for c in recovered} == {("magnitude", 0.5)} and len(recovered) == 2


def test_some_points_may_have_some_budgets_only():
    text = BASE + "recovery: [{tokens: [8192, 16384]}]\nrecovery_of: "
    budgets = lambda of: [(e.compression.method, e.recovery.tokens) for e in parse(text + of).experiments if e.recovery]
    both = [("random", 8192), ("random", 16384)]
    assert budgets("[{method: random}, {method: [random, magnitude], tokens: 16384}]") == [*both, ("magnitude", 16384)]
    assert budgets("[{tokens: 8192}]") == [("random", 8192), ("magnitude", 8192)]
    assert budgets("[{method: dense, tokens: 8192}, {ratio: 0.5, seed: 0}]")[0] == ("dense", 8192)
    assert ("dense", 16384) not in budgets("[{method: dense, tokens: 8192}, {ratio: [0, 0.5]}]")


def test_the_dense_model_is_trained_too_unless_others_only_are_named():
    text = BASE + "recovery: [{tokens: [8192, 16384]}]\n"
    trained = lambda more: [e.recovery.tokens for e in parse(text + more).experiments if e.recovery and not e.compression.ratio]
    assert trained("") == trained("recovery_of: [{method: [magnitude, dense]}]") == [8192, 16384]
    assert not any(map(trained, ("recovery_of: [{ratio: 0.5}]", "recovery_of: [{model: smollm2-135m}]")))
    assert not parse(BASE + "recovery_of: [{method: dense}]").recovered(parse(BASE).experiments[0])


@pytest.mark.parametrize(
    "more, timed",
    [
        ("", set()),
        ("speed: {rounds: 3}", {"random", "magnitude"}),
        ("speed: {rounds: 3}\nspeed_of: [{method: magnitude}]\nrecovery: [{tokens: [8192]}]", {"magnitude"}),
        ("speed_of: [{method: magnitude}]", set()),
    ],
)
def test_speed_may_be_of_some_points_only(more, timed):
    study = parse(BASE + more)
    experiments = [e for e in study.experiments if study.is_timed(e)]
    assert {e.compression.method for e in experiments} == timed and not any(e.recovery for e in experiments)
    records = [name for e in study.experiments for name in plan.records_of(study, e).values() if ".speed-" in name]
    assert len(records) == len(timed)


@pytest.mark.parametrize(
    "text, words",
    [
        (BASE + "exclude: [{method: wanda-sp}]", "exclude names method wanda-sp, which is not in this study"),
        (BASE + "recovery_of: [{ratio: 0.4}]", "recovery_of names ratio 0.4"),
        (BASE + "recovery: [{tokens: [8192]}]\nrecovery_of: [{tokens: 99}]", "recovery_of names 99 tokens.*trains on: 8192"),
        (BASE + "recovery_of: [{method: random, tokens: 8192}]", "no entry of recovery trains on: none"),
        (BASE + "speed_of: [{method: ppm}]", "speed_of names method ppm"),
        (BASE + "speed_of: [{method: dense}]", "speed_of names method dense"),
        (BASE.replace("random", "randm"), r"s\.yaml, line 4: methods: unknown method 'randm'"),
        (BASE.replace("0.5", "1.5"), r"line 5: ratios\.1 = 1\.5.*less than 1"),
        (BASE.replace("name: s", "name: ../s"), "line 2: name"),
        (BASE.replace("name: s", "name: /etc/x"), "name"),
        (BASE + "evaluation: {limt: 3}", r"line 6: unknown parameter 'limt': did you mean 'limit'"),
        (BASE + "evaluation: {tasks: piqa}", "list such as"),
        (BASE.replace("models: [smollm2-135m]\n", ""), "models is missing"),
        ("- a", "mapping of names"),
    ],
)
def test_wrong_studies_name_the_line(text, words):
    with pytest.raises(InputError, match=words):
        parse(text)


@pytest.mark.parametrize("path", sorted((Path(__file__).parents[2] / "params").glob("*.yaml")), ids=lambda p: p.stem)
def test_shipped_studies_are_valid(path):
    assert studies.load_study(path).experiments


def test_the_reference_study_holds_a_thousand_experiments_and_sixty_of_each_model():
    whole = studies.load_study(Path(__file__).parents[2] / "params" / "reference.yaml")
    compressed = [e for e in whole.experiments if e.compression.ratio > 0]
    assert len(compressed) >= 1000 and min(sum(e.compression.model == m for e in compressed) for m in whole.models) >= 60
