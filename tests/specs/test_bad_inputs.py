"""Wrong and odd values over all fields of all notebooks' parameters: a value, or one paragraph; never another error."""

import contextlib
import json
import math
import warnings

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from claw.errors import InputError
from claw.specs import experiment, methods, notebooks, on_disk
from claw.specs import study as studies
from claw.specs.spec import Spec

CLASSES = [cls for cls in vars(notebooks).values() if isinstance(cls, type) and cls.__name__.endswith("Parameters")]
CLASSES.remove(notebooks.Parameters)
NEEDED = {notebooks.CompressParameters: {"model": "m", "method": "magnitude", "ratios": [0.1]}}
NEEDED |= {cls: {"checkpoints": ["m"]} for cls in CLASSES if issubclass(cls, notebooks.Checkpoints)}
FIELDS = [(cls, name) for cls in CLASSES for name in cls.model_fields]
WORDS = "magnitud ../../etc /etc/passwd ~nobody/x ~ . .. [0.3] 0.3 1 1e-4 nan inf no True null \0 a\0b".split(" ")
WORDS += ["", " ", "a" * 399, "a" * 500, "\ud800", "\u202e", "é" * 300, "runs/" + "x" * 300, "hub:", "hub:a", "tcp://"]
NUMBERS = [0, -1, 1, 30, 50, 1e308, -1e308, math.inf, math.nan, 10**18, 10**400, 0.1, 1.5, 2.0]
deep = [[[[[[[[[["x"]]]]]]]]]]
anything = st.one_of(
    st.sampled_from(
        [*WORDS, *NUMBERS, None, True, deep, {}, [], {"a": 1}, {1: 2}, {(1, 2): 3}, {"piqa": 0}, [None], object(), 1j]
    ),
    st.text(max_size=20),
    st.integers(),
    st.floats(),
    st.binary(max_size=5),
    st.lists(st.one_of(st.sampled_from([*WORDS, *NUMBERS]), st.text(max_size=5)), max_size=3),
    st.dictionaries(st.text(max_size=5), st.one_of(st.integers(), st.text(max_size=5), st.floats()), max_size=2),
)


def ask(cls, given):
    """Everything that a notebook asks of its parameters."""
    with contextlib.suppress(InputError):
        asked = notebooks.from_notebook(cls, NEEDED.get(cls, {}) | given)
        for name in dir(cls):
            if isinstance(vars(cls).get(name, getattr(cls, name, None)), property) and name != "model_fields_set":
                with contextlib.suppress(InputError):
                    getattr(asked, name)
        if isinstance(asked, notebooks.CompressParameters):
            assert asked.curve.experiments and asked.evaluation.loss.digest
        return asked
    return None


@pytest.fixture(autouse=True)
def elsewhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


@settings(max_examples=3000, deadline=None, suppress_health_check=list(HealthCheck), database=None)
@given(st.sampled_from(FIELDS), anything)
def test_any_value_of_any_parameter_is_taken_or_refused_in_words(field, value):
    cls, name = field
    ask(cls, {name: value})


def test_the_parameters_that_are_mutated_are_valid():
    for cls in CLASSES:
        assert ask(cls, {}) is not None, cls


@pytest.mark.parametrize(
    "cls, given, words",
    [
        ("CompressParameters", {"method": "magnitud"}, "did you mean 'magnitude'"),
        ("CompressParameters", {"method": "../../etc"}, "unknown method"),
        ("CompressParameters", {"ratios": "[0.3]"}, r'with papermill as -y "ratios: \[a, b\]"'),
        ("CompressParameters", {"ratios": 0.3}, r'Write \[0\.3\], with papermill as -y "ratios: \[0\.3\]"'),
        ("CompressParameters", {"seed": "1"}, "write 1 "),
        ("CompressParameters", {"ratios": [30]}, r"for 30 % write 0\.3"),
        ("TourParameters", {"ratio": 30}, r"for 30 % write 0\.3"),
        ("CompressParameters", {"ratio_of": "milliseconds"}, "only claw spends milliseconds"),
        ("CompressParameters", {"ratio_of": "layers"}, "leaves layers untouched"),
        ("CompressParameters", {"context": 4096, "heldout_tokens": 512}, "no block of 4,096 tokens fits into 512"),
        ("CompressParameters", {"calibration_length": 10**9}, "no block of 1,000,000,000 tokens"),
        ("CompressParameters", {"run": "x\0y"}, None),
        ("EvaluateParameters", {"limit": {"a": 1}}, "limit names a, which is not among the tasks"),
        ("GuideParameters", {"most_parameters": math.inf}, "most_parameters"),
        ("SpeedParameters", {"prompt": 10**30}, "prompt"),
    ],
)
def test_common_mistakes_are_one_paragraph_that_says_what_to_write(cls, given, words):
    cls = getattr(notebooks, cls)
    with pytest.raises(InputError, match=words) as refused:
        asked = notebooks.from_notebook(cls, NEEDED.get(cls, {}) | given)
        _ = asked.folder
    assert "pydantic" not in str(refused.value) and "\n" not in str(refused.value)


@pytest.mark.parametrize(
    "change, words",
    [
        ({"ratios": [0.1, 0.3, 0.1]}, "ratios: 0.1 is named twice"),
        ({"models": ["m", "m"]}, "models: m is named twice"),
        ({"methods": ["ppm", "random", "ppm"]}, "ppm is named twice"),
        ({"seeds": [0, 0]}, "seeds: 0 is named twice"),
        ({"recovery": [{"tokens": [1024]}, {"tokens": [1024, 2048]}]}, "same recipe and number of tokens"),
        ({"ratio_of": "milliseconds"}, "'milliseconds' cannot be asked of method 'random'"),
        ({"methods": ["claw"], "ratio_of": "ffn"}, "claw chooses the axes itself"),
        ({"evaluation": {"context": 10**9}}, "no block of 1,000,000,000 tokens"),
        ({"calibration": {"length": 4096, "tokens": 512}}, "calibration's length and tokens"),
        ({"recovery": [{"tokens": [100], "length": 512}]}, "recovery's length and tokens"),
        ({"ratios": [30]}, r"for 30 % write 0\.3"),
        ({"ratios": "[0.3]"}, "without quotes"),
        ({"seeds": ["1"]}, "write 1 "),
    ],
)
def test_a_study_that_cannot_work_is_refused_where_it_is_read(change, words):
    values = {"name": "s", "models": ["m"], "methods": ["random"], "ratios": [0.1]} | change
    with pytest.raises(InputError, match=words) as refused:
        studies.parse_study(values, {}, "s.yaml")
    assert str(refused.value).startswith("s.yaml")


@pytest.mark.parametrize("ratio_of", methods.RATIO_OF)
@pytest.mark.parametrize("method", methods.method_names())
def test_what_a_ratio_may_count_is_known_from_the_method_alone(method, ratio_of):
    from claw.models.shape import Shape
    from claw.prune.compress import target_shape

    shape = Shape(vocabulary=259, hidden=32, depth=4, width=64, heads=4, groups=2, head_size=8, tied=True)
    known = possible = True
    try:
        methods.check_ratio_of(method, ratio_of)
    except InputError:
        known = False
    try:
        target_shape(shape, method, 0.25, ratio_of)
    except InputError as error:
        possible = "cannot be reached" in str(error)
    assert known == possible


def test_parts_of_parameters_that_do_not_fit_are_an_input_error():
    class Loose(Spec):
        """Has a value that an experiment refuses."""

        model: str = "m"
        method: str = "magnitud"
        ratio: float = 0.1

    with pytest.raises(InputError, match="unknown method 'magnitud'"):
        Loose().part(experiment.Compression)


GOOD = {"experiment": {"compression": {"model": "m", "method": "magnitude", "ratio": 0.3}, "recovery": None}, "report": None}


@pytest.mark.parametrize(
    "content, precious",
    [
        ([], False),
        ("x", False),
        ({"experiment": "x"}, False),
        ({"experiment": []}, False),
        ({"experiment": {"compression": 3}}, False),
        ({"experiment": {"compression": GOOD["experiment"]["compression"] | {"new": 1}}}, True),
        ({"experiment": GOOD["experiment"] | {"distillation": {}}}, True),
        ({"experiment": {"compression": GOOD["experiment"]["compression"] | {"method": "future"}}}, True),
        ({"experiment": {"compression": {"method": "magnitude", "ratio": 0.3}}}, False),
    ],
)
def test_a_note_beside_a_checkpoint_that_cannot_be_read_is_named(content, precious, tmp_path):
    place = tmp_path / "checkpoints" / "a"
    place.mkdir(parents=True)
    (place / "claw.json").write_text(json.dumps(content))
    with pytest.raises(on_disk.Unusable, match=r"claw\.json (cannot be used|is damaged)") as refused:
        on_disk.checkpoint_experiment(place)
    assert refused.value.precious == precious and ("Use the claw that wrote it" in str(refused.value)) == precious
    good = tmp_path / "checkpoints" / "b"
    good.mkdir()
    (good / "claw.json").write_text(json.dumps(GOOD))
    plain = tmp_path / "checkpoints" / "c"  # saved by hand: there is no experiment
    plain.mkdir()
    (plain / "claw.json").write_text("{}")
    with pytest.warns(UserWarning, match="left out"):
        assert notebooks.EvaluateParameters(run=str(tmp_path)).checkpoints == ("m", str(good))


junk = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=8)),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(st.text(max_size=4), inner, max_size=3)),
    max_leaves=5,
)


@settings(max_examples=300, deadline=None, suppress_health_check=list(HealthCheck), database=None)
@given(st.one_of(junk.map(json.dumps), st.text(max_size=50), st.just("[" * 100_000)), junk)
def test_any_note_beside_a_checkpoint_is_read_or_refused(tmp_path, text, spec):
    (tmp_path / "claw.json").write_text(text, encoding="utf-8", errors="replace")
    with contextlib.suppress(InputError), warnings.catch_warnings():
        on_disk.checkpoint_experiment(tmp_path)
    with contextlib.suppress(InputError):
        on_disk.stored_experiment(spec)
