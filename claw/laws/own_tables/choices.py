"""What the owner of a table can say about it, and the guesses that `claw.laws.read` makes where nothing was said.

Every guess is one line that ends with the argument that overrules it. What cannot be guessed is refused with the same words.
"""

from collections.abc import Mapping
from typing import Any, Literal

from pydantic import Field, field_validator

from claw.errors import InputError
from claw.specs.spec import Spec, Text

LOSS_KINDS = ("nats", "bits", "perplexity", "token_perplexity", "word_perplexity", "bits_per_byte")
"""What a column of losses can hold, as `loss=` says it."""


class Choices(Spec):
    """The arguments of `claw.laws.read`; each overrules one kind of guess.

    columns: name in the table → name in claw ("ratio", "kept", "perplexity", "task", "ignore", …). model, method: the name
    for all rows of a table without such a column. ratio: "removed", "kept", or a number where the table has one ratio only.
    loss: the column to take, or what its losses are (`LOSS_KINDS`). accuracy: the column, or the columns to average. values:
    what the cells of a wide table are. dense: the method name(s) of the uncompressed model. percent: whether shares are in
    percent, for all or by column. wide: what the headings of a wide table are; False for none. names: whether numbers at the
    end of names are ratios. sizes: parameters by model, or False to take none from names. fill: whether an empty name
    repeats the one above. separator, decimal: of a text file.
    """

    columns: dict[str, Text] = Field(default_factory=dict)
    model: Text | None = None
    method: Text | None = None
    ratio: Any = None
    loss: Text | None = None
    accuracy: Any = None
    values: Literal["loss", "perplexity", "word_perplexity", "accuracy"] | None = None
    dense: Any = None
    percent: Any = None
    wide: Literal["model", "method", "ratio", False] | None = None
    names: bool | None = None
    sizes: Any = None
    fill: bool = False
    separator: str | None = Field(None, min_length=1, max_length=1)
    decimal: Literal[".", ","] | None = None

    @field_validator("ratio")
    @classmethod
    def _a_ratio(cls, value: Any) -> Any:
        if value in (None, "removed", "kept") or (_is_number(value) and 0 < value < 1):
            return value
        raise InputError('"removed", "kept", or the fraction removed in all compressed rows, such as 0.5, is accepted.')

    @field_validator("accuracy", "dense")
    @classmethod
    def _names(cls, value: Any) -> tuple[str, ...] | None:
        several = (value,) if isinstance(value, str) else value
        if several is None or (isinstance(several, list | tuple) and all(isinstance(each, str) for each in several)):
            return None if several is None else tuple(several)
        raise InputError("a name or a list of names is accepted.")

    @field_validator("percent")
    @classmethod
    def _yes_or_no(cls, value: Any) -> Any:
        by_column = isinstance(value, dict) and all(isinstance(each, bool) for each in value.values())
        if value is None or isinstance(value, bool) or by_column:
            return value
        raise InputError('True, False, or one of them by column, such as {"ratio": False}, is accepted.')

    @field_validator("sizes")
    @classmethod
    def _parameters(cls, value: Any) -> Any:
        by_model = isinstance(value, dict) and all(_is_number(each) and each > 0 for each in value.values())
        if value is None or isinstance(value, bool) or by_model:
            return value
        raise InputError('False, or the number of parameters by model, such as {"mine": 1.2e9}, is accepted.')

    def in_percent(self, column: str) -> bool | None:
        """What was said about one column of shares; None if nothing."""
        return self.percent.get(column) if isinstance(self.percent, Mapping) else self.percent


class Guesses:
    """Lines on what was guessed, in the order of guessing."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def add(self, said: str, otherwise: str) -> None:
        """One guess, and the argument that overrules it."""
        line = f"{said}; otherwise {otherwise}"
        if line not in self.lines:
            self.lines.append(line)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def unclear(what: str, *ways: str) -> InputError:
    """The error for what cannot be guessed: what is unclear, and how to say it."""
    return InputError(f"{what} Say {' or '.join(ways)} in claw.laws.read(table, …).")


def listed(values: Any, most: int = 6) -> str:
    """Names or rows in words, cut after a few."""
    shown = [repr(each) if isinstance(each, str) else str(each) for each in values]
    return ", ".join(shown[:most]) + (f" and {len(shown) - most} more" if len(shown) > most else "")
