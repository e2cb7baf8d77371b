"""No study file, however wrong, gives anything but a study or an InputError that names the line: ten thousand of them."""

import copy
import tempfile
from pathlib import Path

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from claw.errors import InputError
from claw.specs import strict_yaml
from claw.specs import study as studies
from claw.sweep.plan import folder_of

VALID = {
    "name": "s",
    "models": ["smollm2-135m", "Qwen/Qwen2.5-0.5B"],
    "methods": ["random", "wanda-sp+ridge"],
    "ratios": [0, 0.25, 0.5],
    "ratio_of": "own",
    "seeds": [0, 1],
    "calibration": {"corpus": "wikipedia-train", "tokens": 1024, "length": 64},
    "recovery": [{"recipe": "lora", "tokens": [1000, 2000], "length": 64, "batch": 4, "learning_rate": 0.001, "rank": 8}],
    "evaluation": {
        "heldout": "wikipedia-heldout",
        "tokens": 1024,
        "context": 64,
        "tasks": ["piqa"],
        "limit": 8,
        "num_fewshot": 0,
    },
    "speed": {"prompt": 8, "generate": 4, "batches": [1, 8], "rounds": 3, "compiled": False},
    "exclude": [{"method": "random", "ratio": 0.5}],
    "device": "auto",
    "dtype": "auto",
    "keep_checkpoints": False,
    "keep_checkpoints_of": [{"method": "random", "ratio": 0.25}],
    "time_limit": 3600,
    "resources": {"gpus": 1, "gpu_memory": 40.0, "memory": 16},
}
DUMPER = getattr(yaml, "CSafeDumper", yaml.SafeDumper)
TEXT = yaml.safe_dump(VALID, sort_keys=False)
SCALARS = "no Yes on 007 1e-4 0x1F 1_000 12:30 .inf -.NaN TRUE ~ null '' 'no' -1 0 1 2.5 1e400".split()
SCALARS += "99999999999999999999999999999999 2026-01-01 0o17 +1 1. .5 -0.0 0.9999999999999999999 - << { [ | > % @ `".split()
SCALARS += "../s /etc/passwd a/../../b ~/x s\\0 ｓ Ⅳ a\u202eb é e\u0301 \U0001f600 CON . .. .hidden *a smollm2 tcp://1".split()
SCALARS += [
    "- a",
    "? b",
    "&a b",
    "!!python/object:os.system x",
    "\t",
    "\ufeff",
    "\x85",
    "\u2028",
    "a" * 500,
    "[" * 40,
    "{a: " * 40,
]
FUZZ = settings(max_examples=2000, deadline=None, suppress_health_check=list(HealthCheck), database=None)


def check(text: str) -> studies.Study | None:
    """The study, or None if it was refused in words; anything else is a defect."""
    try:
        study = studies.parse_study(*strict_yaml.parse_yaml(text, "s.yaml"), "s.yaml")
    except InputError as error:
        said = str(error)
        assert said.startswith("s.yaml") and len(said) < 4000 and said.strip().count("\n") <= 3, said
        return None
    assert study.experiments is not None and study.curves is not None
    folder = folder_of(study)
    assert folder.parent.name == "runs" and folder.name == study.name and ".." not in folder.parts
    return study


def paths(value, at=()):
    """Every place in nested values."""
    yield at
    inside = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, item in inside:
        yield from paths(item, (*at, key))


PLACES = [path for path in paths(VALID) if path]
anything = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=30), st.sampled_from(SCALARS)),
    lambda inner: st.one_of(st.lists(inner, max_size=4), st.dictionaries(st.text(max_size=8), inner, max_size=4)),
    max_leaves=6,
)


def changed(place, value):
    study = copy.deepcopy(VALID)
    owner = study
    for key in place[:-1]:
        owner = owner[key]
    owner[place[-1]] = value
    return study


def test_the_study_that_is_mutated_is_valid():
    assert len(check(TEXT).experiments) > 10


@settings(FUZZ, max_examples=4500)
@given(st.text(max_size=200))
def test_arbitrary_text(text):
    check(text)


@settings(FUZZ, max_examples=1000)
@given(st.sampled_from(PLACES), anything)
def test_any_value_in_any_place(place, value):
    check(yaml.dump(changed(place, value), Dumper=DUMPER, sort_keys=False, allow_unicode=True))


@FUZZ
@given(st.integers(0, len(TEXT)), st.integers(0, 12), st.one_of(st.sampled_from(SCALARS), st.text(max_size=12)))
def test_any_cut_and_paste_in_the_text(start, length, pasted):
    check(TEXT[:start] + pasted + TEXT[start + length :])


@settings(FUZZ, max_examples=1000)
@given(
    st.permutations(TEXT.splitlines()).map(lambda lines: lines[:25]), st.sampled_from(["", "\t", "  ", "- ", "# ", "&a ", "? "])
)
def test_lines_in_any_order(lines, prefix):
    check("\n".join([*lines[:12], prefix + lines[12], *lines[13:]]))


@settings(FUZZ, max_examples=500)
@given(st.sampled_from(PLACES), st.sampled_from(SCALARS))
def test_any_plain_word_in_any_place(place, word):
    mark = "MARK-0451"
    text = yaml.safe_dump(changed(place, mark), sort_keys=False)
    check(text.replace(mark, word))


@settings(FUZZ, max_examples=1000)
@given(st.binary(max_size=300))
def test_any_bytes_in_a_file(content):
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "s.yaml"
        path.write_bytes(content)
        try:
            studies.load_study(path)
        except InputError as error:
            assert "s.yaml" in str(error)


NAMES = [
    "../x",
    "/abs",
    "a/b",
    "a\\b",
    "..",
    ".",
    ".x",
    "",
    "ｘ",
    "a\u202eb",
    "x\n",
    "x ",
    "é",
    "a" * 65,
    "x\0",
    "~",
    "$HOME",
    "-x",
]


@pytest.mark.parametrize("name", NAMES)
def test_a_name_that_is_no_plain_folder_is_refused_with_its_line(name):
    text = yaml.safe_dump(VALID | {"name": name}, sort_keys=False)
    with pytest.raises(InputError, match=r"s\.yaml.*(name|special characters|not YAML)"):
        studies.parse_study(*strict_yaml.parse_yaml(text, "s.yaml"), "s.yaml")


@pytest.mark.parametrize("place", PLACES, ids=lambda place: ".".join(map(str, place)))
def test_each_field_refuses_a_wrong_type_with_its_line(place):
    owner = VALID
    for key in place:
        owner = owner[key]
    may_map = isinstance(owner, dict) or place[-1] == "limit"
    wrong = ["neither", "this"] if may_map else {"what": ["ever"]}
    values, lines = strict_yaml.parse_yaml(yaml.safe_dump(changed(place, wrong), sort_keys=False), "s.yaml")
    with pytest.raises(InputError) as refused:
        studies.parse_study(values, lines, "s.yaml")
    assert f"s.yaml, line {lines[place]}: {place[0]}" in str(refused.value), refused.value


@pytest.mark.parametrize("depth", [13, 1000, 400_000])
@pytest.mark.parametrize("opening", ["[", "{a: ", "- ", "? "])
def test_nesting_is_refused_before_it_is_followed(depth, opening):
    text = "a: " + (opening * depth)[:900_000] if opening != "- " else (opening * depth)[:900_000]
    with pytest.raises(InputError):
        strict_yaml.parse_yaml(text, "s.yaml")


def test_ten_megabytes_are_refused_unread(tmp_path):
    path = tmp_path / "s.yaml"
    path.write_text("a: " + "[" * 10_000_000)
    with pytest.raises(InputError, match="10,000,003 bytes"):
        studies.load_study(path)


def test_a_run_folder_that_leads_elsewhere_is_refused(tmp_path, monkeypatch):
    for name in ("notebooks", "params", "runs"):
        (tmp_path / name).mkdir()
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs" / "s").symlink_to(tmp_path.parent)
    study = studies.parse_study(*strict_yaml.parse_yaml(TEXT, "s.yaml"), "s.yaml")
    with pytest.raises(InputError, match=r"runs/s is a link .*out of"):
        folder_of(study)
    (tmp_path / "runs" / "s").unlink()
    assert folder_of(study) == tmp_path / "runs" / "s"
