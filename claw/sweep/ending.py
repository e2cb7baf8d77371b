"""What `claw run` prints last: the result in plain sentences, a small table, three files to open and two commands to go on.

At most `LINES` lines. Everything else is in the report, in the findings and in the notebook of laws.
"""

import json
from pathlib import Path
from typing import Any

from claw import files
from claw.advice import answers
from claw.advice.findings import findings_folder
from claw.advice.true_shares import percent
from claw.csv_tables import table_text
from claw.laws import Laws
from claw.project import project_folder
from claw.provenance import code_hash
from claw.sweep.earlier import table_of
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
    table = table_text(table_of(plan.study, folder))
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
    folder, best = _near(plan.folder), best_kept(plan)
    load = f" Load `{folder / 'checkpoints' / best['experiment']}`, its best checkpoint." if best else ""
    return [
        f"{plan.study.name} is finished ({counts}): nothing to run.",
        f"Open {folder / 'report.html'} or {findings_folder(folder) / 'findings.md'}.{load}",
        _go_on(plan.study.name),
    ]


def last_lines(laws: Laws, plan: Plan, notebook: str) -> list[str]:
    """What a run found and where it lies; `notebook` is the id of the executed notebook of laws."""
    sentences, table = answers.closing(laws)
    place = _near(plan.folder)
    open_these = f"Open report.html, findings/findings.md or notebooks/{notebook}.ipynb in {place}."
    ways = [open_these, *_load(plan), _go_on(plan.study.name)]
    parts = [part for part in (sentences, table, ways) if part]
    lines = [line for part in parts for line in (*part, "")][:-1]
    return lines if len(lines) <= LINES else [line for line in lines if line]


def best_kept(plan: Plan) -> dict[str, Any] | None:
    """The row of the best checkpoint that stayed: the smallest within 10 % more loss, else the one with the lowest loss."""
    kept = {e.id for e in plan.study.experiments if plan.study.keeps(e) and (plan.folder / "checkpoints" / e.id).is_dir()}
    if not kept:
        return None
    table = table_of(plan.study, plan.folder)
    rows = table[table["experiment"].isin(kept) & table["loss"].notna()]
    within = rows[rows["loss"] <= answers.MAIN * rows["loss0"]]
    best = within.sort_values(["ratio_params", "loss"], ascending=[False, True]) if len(within) else rows.sort_values("loss")
    return best.iloc[0].to_dict() if len(best) else None


def _load(plan: Plan) -> list[str]:
    """How to load the best checkpoint that stayed; nothing where none did."""
    if not (best := best_kept(plan)):
        return []
    what = f"{best['method']}, {percent(best['ratio_params'])} removed, loss {best['loss']:.2f}"
    place = _near(plan.folder) / "checkpoints" / best["experiment"]
    return [f'Best checkpoint ({what}): `claw.load("{place}")`, or `from_pretrained`.']


def _go_on(name: str) -> str:
    """Two commands, and once what makes them known."""
    other, what = next(pair for pair in NEXT if pair[0] != name)
    file = project_folder() / "params" / f"{other}.yaml"
    command = f"`claw run params/{other}.yaml` ({what})" if file.is_file() else "`claw findings mine.csv` (a table of your own)"
    return f"Go on: `. .venv/bin/activate` once, then {command}; or `make lab`."


def _near(folder: Path) -> Path:
    """A folder as a person here would name it."""
    here = Path.cwd()
    return folder.relative_to(here) if folder.is_absolute() and folder.is_relative_to(here) else folder
