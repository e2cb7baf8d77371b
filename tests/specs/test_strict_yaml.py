"""YAML is read as a person reads it, or refused with its line; no text of any kind gives a traceback."""

import contextlib

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from claw.errors import InputError
from claw.specs import strict_yaml


@pytest.mark.parametrize(
    "text, value",
    [
        ("a: 1", {"a": 1}),
        ("a: [0, .5, -2.5, 1.0e-4]", {"a": [0, 0.5, -2.5, 1e-4]}),
        ("a: true\nb: null\nc:", {"a": True, "b": None, "c": None}),
        ("a: 'no'\nb: \"007\"\nc: 1.2.3", {"a": "no", "b": "007", "c": "1.2.3"}),
        ("m: {x: smollm2-135m, y: qwen2.5-0.5b}", {"m": {"x": "smollm2-135m", "y": "qwen2.5-0.5b"}}),
    ],
)
def test_plain_values(text, value):
    assert strict_yaml.parse_yaml(text)[0] == value


@pytest.mark.parametrize("scalar", ["no", "Yes", "ON", "off", "007", "1e-4", "0x1F", "1_000", "12:30", ".inf", ".NaN", "TRUE"])
def test_what_yaml_would_twist_is_refused_with_its_line(scalar):
    with pytest.raises(InputError, match=r"study, line 3: b\.1"):
        strict_yaml.parse_yaml(f"a: 1\nb: [x,\n  {scalar}]", "study")


@pytest.mark.parametrize(
    "text, words",
    [
        ("a: &x 1", "line 1: anchors"),
        ("a: 1\nb: *x", "anchors"),
        ("a: 1\na: 2", "line 2: 'a' is given twice"),
        ("a:\n\tb: 1", "spaces, never with tabs"),
        ("a: !!python/object:os.system x", "tag"),
        ("a: {<<: {b: 1}}", "merge"),
        ("? [1]\n: 2", "list or mapping"),
        ("[" * 50, "nested deeper"),
        ("", "empty"),
        ("a: [1, 2", "not YAML"),
        ("a: 1\n---\nb: 2", "not YAML|one document"),
    ],
)
def test_tricks_are_refused(text, words):
    with pytest.raises(InputError, match=words):
        strict_yaml.parse_yaml(text, "study")


def test_lines_are_kept_by_path():
    _, lines = strict_yaml.parse_yaml("a: 1\nb:\n  - c: 2\n  - 3")
    assert lines[("a",)] == 1 and lines[("b", 0, "c")] == 3 and lines[("b", 1)] == 4


def test_a_large_file_is_refused_unread(tmp_path):
    path = tmp_path / "huge.yaml"
    path.write_text("[" * 2_000_000)
    with pytest.raises(InputError, match="bytes"):
        strict_yaml.load_yaml(path)


def test_a_missing_file_names_its_neighbours(tmp_path):
    (tmp_path / "quickstart.yaml").write_text("a: 1")
    with pytest.raises(InputError, match=r"no file .*quick\.yaml.*In its folder: quickstart\.yaml"):
        strict_yaml.load_yaml(tmp_path / "quick.yaml")


values = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(-(10**9), 10**9), st.text("abc xyz-", min_size=1)),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(st.text("abc", min_size=1), inner, max_size=3)),
    max_leaves=8,
)


@given(values)
def test_what_pyyaml_writes_comes_back(value):
    text = yaml.safe_dump(value)
    if text.strip() not in ("null\n...", "null", ""):
        assert strict_yaml.parse_yaml(text)[0] == value


@settings(max_examples=300)
@given(st.text(max_size=200))
def test_no_text_gives_anything_but_a_value_or_an_input_error(text):
    with contextlib.suppress(InputError):
        strict_yaml.parse_yaml(text)
