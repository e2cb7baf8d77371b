"""YAML as people read it: what looks like a number or a truth value to a person must be one, or is refused with its line.

PyYAML follows YAML 1.1, where `no` is False, `007` is 7, `1e-4` is text and `12:30` is 750. Here plain text that YAML 1.1
would turn into something else is an error that says how to write what was meant; so are repeated keys, anchors, tags and
files that are too large or too deeply nested. Every value's line is kept for later messages.
"""

# Why no YAML 1.2 library: ruamel.yaml would read `no` as text and `1e-4` as a number, but refusing `007`, anchors, tags, depth
# and size, and the line of each value, would still have to be written here.

import re
from pathlib import Path
from typing import Any

import yaml

from claw.errors import InputError

LARGEST = 1_000_000  # bytes
DEEPEST = 12  # levels of nesting

_INTEGER = re.compile(r"[-+]?(0|[1-9][0-9]*)")
_FLOAT = re.compile(r"[-+]?(0|[1-9][0-9]*)\.[0-9]*([eE][-+]?[0-9]+)?|[-+]?\.[0-9]+([eE][-+]?[0-9]+)?")
_EXPONENT = re.compile(r"([-+]?[0-9]+)[eE]([-+]?[0-9]+)")
_CONSTANTS = {"true": True, "false": False, "null": None, "~": None, "": None}
_TRUTH_LIKE = {"yes", "no", "on", "off", *_CONSTANTS}
_NUMBER_LIKE = re.compile(
    r"[-+]?[0-9][0-9_]*(\.[0-9_]*)?|0[xob][0-9a-fA-F_]+|[-+]?\.(inf|nan)|[-+]?[0-9]+(:[0-5]?[0-9])+", re.IGNORECASE
)

Lines = dict[tuple, int]


def load_yaml(path: Path) -> tuple[Any, Lines]:
    """Values of a YAML file and the line of each by its path, e.g. ("ratios", 2)."""
    try:
        size = path.stat().st_size
        if size > LARGEST:
            raise InputError(f"{path} has {size:,} bytes. A study is a short text: at most {LARGEST:,} bytes are read.")
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError as error:
        near = ", ".join(sorted(other.name for other in path.parent.glob("*.yaml")))
        beside = f" In its folder: {near}." if near else ""
        raise InputError(f"There is no file {path}.{beside}") from error
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path} cannot be read: {error}. A study is a UTF-8 text file.") from error
    return parse_yaml(text, str(path))


def parse_yaml(text: str, where: str = "YAML") -> tuple[Any, Lines]:
    """Values and lines of a YAML text; `where` names it in errors."""
    lines: Lines = {}
    try:
        _refuse_tricks(text, where)
        node = yaml.compose(text, Loader=yaml.SafeLoader)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None) or getattr(error, "context_mark", None)
        place = f", line {mark.line + 1}" if mark else ""
        problem = getattr(error, "problem", None) or str(error)
        tab = " YAML is indented with spaces, never with tabs." if "\\t" in problem else ""
        raise InputError(f"{where}{place}: this is not YAML: {problem}.{tab}") from error
    if node is None:
        raise InputError(f"{where} is empty. See params/quickstart.yaml for an example.")
    return _value(node, (), lines, where), lines


def _refuse_tricks(text: str, where: str) -> None:
    """Refuse anchors, tags, further documents and deep nesting, from events: nothing recursive has seen the text yet."""
    depth = 0
    for event in yaml.parse(text, Loader=yaml.SafeLoader):
        place = f"{where}, line {event.start_mark.line + 1}"
        if isinstance(event, yaml.AliasEvent) or getattr(event, "anchor", None):
            raise InputError(f"{place}: anchors (&name) and aliases (*name) are not accepted. Write the value out.")
        if getattr(event, "tag", None):
            raise InputError(f"{place}: tags such as {event.tag} are not accepted. Write plain values.")
        depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
        if depth > DEEPEST:
            raise InputError(f"{place}: nested deeper than {DEEPEST} levels.")


def _value(node: yaml.Node, path: tuple, lines: Lines, where: str) -> Any:
    lines[path] = node.start_mark.line + 1
    if isinstance(node, yaml.ScalarNode):
        return _scalar(node, f"{where}, line {lines[path]}: {'.'.join(map(str, path)) or 'the value'} = {node.value}")
    if isinstance(node, yaml.SequenceNode):
        return [_value(item, (*path, index), lines, where) for index, item in enumerate(node.value)]
    values: dict[str, Any] = {}
    for key, value in node.value:
        place = f"{where}, line {key.start_mark.line + 1}"
        if not isinstance(key, yaml.ScalarNode) or key.value == "<<":
            kind = "a merge" if isinstance(key, yaml.ScalarNode) else "a list or mapping"
            raise InputError(f"{place}: a name is plain text, not {kind}.")
        if key.value in values:
            raise InputError(f"{place}: {key.value!r} is given twice. Keep one of them.")
        values[key.value] = _value(value, (*path, key.value), lines, where)
    return values


def _scalar(node: yaml.ScalarNode, place: str) -> Any:
    text = node.value
    if node.style in ("'", '"', "|", ">"):
        return text
    if text in _CONSTANTS:
        return _CONSTANTS[text]
    if _INTEGER.fullmatch(text) and len(text) < 30:
        return int(text)
    if _FLOAT.fullmatch(text):
        return float(text)
    if parts := _EXPONENT.fullmatch(text):
        raise InputError(f"{place} is text to YAML, not a number. Write it with a dot: {parts[1]}.0e{parts[2]}.")
    if text.lower() in _TRUTH_LIKE:
        raise InputError(f"{place} is ambiguous in YAML. Write true or false, or put text in quotes: '{text}'.")
    if _NUMBER_LIKE.fullmatch(text):
        raise InputError(f"{place} is ambiguous in YAML. Write a plain decimal number such as 7 or 0.5, or put text in quotes.")
    return text
