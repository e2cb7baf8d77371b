"""What `claw run` prints last: the result in plain sentences, a small table, three files to open and two commands to go on.

At most `LINES` lines. Everything else is in the report, in the findings and in the notebook of laws.
"""

import json
from collections.abc import Sequence
from pathlib import Path

from claw import files, records
from claw.advice import answers
from claw.advice.findings import findings_folder
from claw.csv_tables import table_text
from claw.laws import Laws
from claw.project import project_folder
from claw.provenance import code_hash
from claw.sweep.plan import Plan
from claw.words import plural

LINES = 14  # and one with the total time
NEXT = ("recovery", "what training wins back"), ("gpu", "a thousand experiments")


def pages(folder: Path) -> list[Path]:
    """The files for people that the end of a run writes."""
    own = [folder / name for name in ("table.csv", "laws.json", "report.html")]
    return own + [findings_folder(folder) / name for name in ("laws.json", "findings.md", "README.md")]


def is_finished(plan: Plan) -> bool:
    """Whether nothing is left to do: no job, and every page is there, of this table and of these laws."""
    folder = plan.folder
    if plan.jobs or plan.missing() or not all(path.is_file() and files.is_own(path) for path in pages(folder)):
        return False
    table = table_text(records.table(folder, plan.study.evaluation))
    if table.encode() != (folder / "table.csv").read_bytes():
        return False
    try:
        made = json.loads((folder / "laws.json").read_text(encoding="utf-8"))["source"]
    except (OSError, ValueError, KeyError, TypeError):
        return False
    return made.get("laws") == code_hash("laws") and made.get("code") == code_hash()


def finished_lines(plan: Plan) -> list[str]:
    """A finished run that is started again, in three lines."""
    counts = f"{plural(len(plan.study.experiments), 'experiment')}, {plural(len(plan.done), 'record')}"
    folder = _near(plan.folder)
    return [
        f"{plan.study.name} is finished ({counts}): nothing to run.",
        f"Open {folder / 'report.html'} or {findings_folder(folder) / 'findings.md'}.",
        _go_on(plan.study.name),
    ]


def last_lines(laws: Laws, folder: Path, notebook: str, tasks: Sequence[str] = ()) -> list[str]:
    """What a run found and where it lies; `notebook` is the id of the executed notebook of laws."""
    sentences, table = answers.closing(laws, ", ".join(tasks))
    place = _near(folder)
    open_these = f"Open report.html, findings/findings.md or notebooks/{notebook}.ipynb in {place}."
    parts = [part for part in (sentences, table, [open_these, _go_on(folder.name)]) if part]
    lines = [line for part in parts for line in (*part, "")][:-1]
    return lines if len(lines) <= LINES else [line for line in lines if line]


def _go_on(name: str) -> str:
    """Two commands, and once what makes them known."""
    other, what = next(pair for pair in NEXT if pair[0] != name)
    file = project_folder() / "params" / f"{other}.yaml"
    command = f"`claw run params/{other}.yaml` ({what})" if file.is_file() else "`claw findings mine.csv` (a table of your own)"
    return f"Go on: `. .venv/bin/activate` once, then {command}; or `make lab` (the notebooks)."


def _near(folder: Path) -> Path:
    """A folder as a person here would name it."""
    here = Path.cwd()
    return folder.relative_to(here) if folder.is_absolute() and folder.is_relative_to(here) else folder
