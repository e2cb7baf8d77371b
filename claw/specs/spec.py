"""Frozen typed values that refuse what they are not, with an error that says how to write it.

Types are strict: text is not a number, `no` is not text. YAML and papermill turn `1e-4` into text and `no` into False, so the
error says what to write instead.
"""

import functools
import json
from collections.abc import Iterator, Mapping
from typing import Annotated, Any, Literal, Self, TypeVar

import pydantic
from pydantic import BaseModel, ConfigDict, Field, model_validator

from claw import files
from claw.errors import InputError, unknown

Ratio = Annotated[float, Field(ge=0, lt=1, allow_inf_nan=False)]
Count = Annotated[int, Field(ge=1, le=10**12)]
Seed = Annotated[int, Field(ge=0, lt=2**31)]
Text = Annotated[str, Field(min_length=1, max_length=400)]
Size = Annotated[int, Field(ge=1, le=10**12)]
Length = Annotated[int, Field(ge=2, le=10**12)]  # tokens of a block


_CANONICAL = json.JSONEncoder(sort_keys=True, separators=(",", ":"))


class Spec(BaseModel):
    """A frozen, strict value: unknown names, wrong types and values out of range are refused."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)

    @model_validator(mode="before")
    @classmethod
    def _prepared(cls, given: Any) -> Any:
        """Lists may stand for tuples: what Python, JSON and YAML users write."""
        if not isinstance(given, dict):
            return given
        return cls._normal({name: tuple(value) if isinstance(value, list) else value for name, value in given.items()})

    @classmethod
    def _normal(cls, given: dict[str, Any]) -> dict[str, Any]:
        """One form for choices that cannot change the result, so that equal specs have equal digests."""
        return given

    def model_copy(self, *, update: Mapping[str, Any] | None = None, deep: bool = False) -> Self:
        """A copy with other values, which are taken as valid, and without what was worked out from the old ones."""
        values = {name: getattr(self, name) for name in type(self).model_fields} | dict(update or {})
        return self.model_construct(self.model_fields_set | set(update or ()), **values)

    @functools.cached_property
    def digest(self) -> str:
        """First 16 hex digits of the sha256 of the canonical text: JSON with sorted names, which is equal for equal values."""
        return files.digest(_CANONICAL.encode(self.model_dump(mode="json")))

    def part(self, cls: type["AnySpec"], **others: Any) -> "AnySpec":
        """A `cls` with these values for the fields of the same name, except for the others that are given."""
        shared = {name: getattr(self, name) for name in cls.model_fields if name in type(self).model_fields}
        try:
            return cls(**shared | others)
        except pydantic.ValidationError as error:
            raise explain(error, cls) from error


AnySpec = TypeVar("AnySpec", bound=Spec)


class Placement(Spec):
    """Where models are loaded, and with which number type."""

    device: Text = "auto"
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"


def build_spec(cls: type[AnySpec], values: Mapping[str, Any], where: str = "") -> AnySpec:
    """`cls` from plain values (a YAML mapping, a notebook's parameters), or an InputError naming the first bad field.

    Lists become tuples and whole numbers may stand for floats; nothing else is converted.
    """
    try:
        return cls.model_validate_json(json.dumps(values, allow_nan=True))
    except pydantic.ValidationError as error:
        raise explain(error, cls, where) from error
    except (TypeError, ValueError, RecursionError) as error:
        raise InputError(f"{where or cls.__name__}: {error}") from error


def explain(error: pydantic.ValidationError, cls: type[Spec], where: str = "", lines: Mapping | None = None) -> InputError:
    """One paragraph on the first thing that is wrong. `lines` maps a field's path to its line in a file."""
    first = error.errors()[0]
    kind, value = first["type"], first["input"]
    path = tuple(part for part in first["loc"] if not str(part).startswith(("function-before", "limit:")))
    name = ".".join(map(str, path)) or cls.__name__
    line = next((lines[path[:n]] for n in range(len(path), -1, -1) if path[:n] in lines), None) if lines else None
    place = f"{where}{f', line {line}' if line else ''}: " if where else ""
    if kind == "extra_forbidden":
        return InputError(place + str(unknown("parameter", path[-1], _owner(cls, path[:-1]).model_fields)))
    if kind == "missing":
        return InputError(f"{place}{name} is missing. {cls.__name__} needs it.")
    inner = first.get("ctx", {}).get("error")
    if isinstance(inner, InputError):
        return InputError(f"{place}{name}: {inner}")
    shown = repr(value) if len(repr(value)) < 120 else repr(value)[:117] + "..."
    message = f"{first['msg'][0].lower()}{first['msg'][1:]}".replace("a valid array", LIST).replace("a valid tuple", LIST)
    return InputError(f"{place}{name} = {shown} is not accepted: {message}.{_hint(value, kind, '' if line else name)}")


LIST = "a list such as [a, b]"


def _hint(value: Any, kind: str, name: str) -> str:
    """How to write what YAML or papermill took for something else; `name` of a notebook's parameter, empty for a file's."""
    if isinstance(value, bool):
        return " YAML reads yes, no, on and off as true or false: put text in quotes."
    if kind == "less_than" and 1 <= value <= 100:
        return f" It is the fraction removed: for {value:g} % write {value / 100:g}."
    if kind.startswith(("tuple", "list", "dict")) and isinstance(value, str | int | float):
        items = "a, b" if isinstance(value, str) and value.startswith("[") else value
        read = " It was read as text: write it without quotes" if items == "a, b" else f" Write [{value}]"
        return f'{read}, with papermill as -y "{name}: [{items}]".' if name else f"{read}."
    if not isinstance(value, str):
        return ""
    if not kind.startswith(("float", "int")):
        return ""
    try:
        plain = int(value) if kind.startswith("int") else float(value)
    except ValueError:
        return " Write a number without quotes."
    return f" It was read as text: write {plain!r} (YAML needs a dot in 1.0e-4) and no quotes."


def _owner(cls: type[BaseModel], path: tuple) -> type[BaseModel]:
    """The model class that the path of a field leads to; places in lists are passed over."""
    for part in path:
        field = cls.model_fields.get(str(part))
        cls = next(_models(field.annotation), cls) if field else cls
    return cls


def _models(annotation: Any) -> Iterator[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for argument in getattr(annotation, "__args__", ()):
        yield from _models(argument)
