"""A table on its way to being tidy: its cells, what its headings mean, what was said about it and what was guessed."""

from collections.abc import Iterable
from dataclasses import dataclass, field

import pandas as pd

from claw.laws.own_tables.choices import Choices, Guesses, listed, unclear
from claw.laws.own_tables.headings import Meaning
from claw.laws.own_tables.own_files import numbers_in

FAILED = set("oom fail failed failure diverged crash crashed error timeout refused tbd x × ✗".split()) | {
    "out of memory",
    "not measured",
}
"""What stands in place of a number that could not be measured."""


@dataclass
class Draft:
    """A table on its way: cells with the meanings of their headings, what was said, and what was guessed."""

    frame: pd.DataFrame
    choices: Choices
    guesses: Guesses
    decimal: str = "."
    meanings: dict[str, Meaning] = field(default_factory=dict)
    in_percent: dict[str, list[str]] = field(default_factory=dict)

    def of_kind(self, *kinds: str) -> list[str]:
        """Headings of these kinds."""
        return [name for name, meaning in self.meanings.items() if meaning.kind in kinds and name in self.frame]

    def numbers(self, name: str) -> tuple[pd.Series, pd.Series]:
        """The numbers of a column and which had a percent sign. InputError for cells that are neither numbers nor blank."""
        values, signs, wrong = numbers_in(self.frame[name], self.decimal)
        failed = self.frame[name].map(lambda cell: isinstance(cell, str) and cell.strip().lower() in FAILED)
        if wrong.any() and failed[wrong].all():
            words = sorted(set(self.frame.loc[wrong, name]))
            self.guesses.add(f"{listed(words)} means that nothing was measured", "write a number or leave the row out")
            self.frame = self.frame.assign(**{name: self.frame[name].mask(wrong, None)})
        elif wrong.any():
            cells = self.frame.loc[wrong, name]
            raise unclear(
                f"Column {name} has {len(cells)} entries that are not numbers, such as {cells.iloc[0]!r} in row "
                f"{cells.index[0]}. Write numbers, and leave what was not measured empty, or leave the column out.",
                f'columns={{"{name}": "ignore"}}',
            )
        return values, signs

    def set_names(self, column: str, names: Iterable[str | None]) -> None:
        """Fill a column with names: text, or None where there is none."""
        self.frame = self.frame.assign(**{column: pd.Series(list(names), index=self.frame.index, dtype=object)})

    def guess_percent(self, name: str, label: str) -> None:
        """One line on all columns of one kind that are in percent."""
        self.in_percent.setdefault(label, []).append(name)
        columns = self.in_percent[label]
        self.guesses.lines = [line for line in self.guesses.lines if f'percent={{"{label}": ' not in line]
        verb = "is" if len(columns) == 1 else "are"
        self.guesses.add(f"{', '.join(columns)} {verb} in percent: divided by 100", f'percent={{"{label}": False}}')

    def one_of(self, kind: str, headings: list[str], how: str = "") -> str | None:
        """The only heading, or the one with claw's own name; None without any. InputError where several differ."""
        if not headings:
            return None
        if len(headings) == 1 or kind in headings:
            return kind if kind in headings else headings[0]
        if all(self.frame[name].equals(self.frame[headings[0]]) for name in headings[1:]):
            return headings[0]
        say = how or 'columns={{"{}": "' + kind + '"}}'
        which = f"Several columns could be {kind}: {listed(headings)}. Which one?"
        raise unclear(which, *(say.format(name) for name in headings))

    def rename(self, name: str, target: str, said: str = "") -> None:
        """Give a column claw's name; a guess, unless it only differs in capitals or was said."""
        if name == target:
            return
        if name.strip().lower() != target and name not in self.choices.columns:
            self.guesses.add(said or f"column {name!r} is {target}", f'columns={{"{name}": "…"}}')
        self.frame = self.frame.drop(columns=[target], errors="ignore").rename(columns={name: target})
        self.meanings.pop(name, None)
        self.meanings[target] = Meaning(target)
