"""The command line: compress, compare, say, run, status, table, findings, foretell, models, fetch. Logic is elsewhere."""

import argparse
import ast
import os
import signal
import sys
import warnings
from collections.abc import Callable
from importlib import metadata
from pathlib import Path
from typing import Any

from claw.errors import InputError, unknown
from claw.one_model.commands import add_commands
from claw.project import cache, inside_project, project_folder
from claw.words import plural


def main(arguments: list[str] | None = None) -> int:
    """Exit status 0 when all went well, 1 when experiments failed, 2 for input that cannot be used."""
    parser = _parser()
    parsed = parser.parse_args(arguments)
    if not hasattr(parsed, "command"):
        parser.print_help()
        return 0
    try:
        with warnings.catch_warnings():
            warnings.showwarning = _say
            return parsed.command(parsed) or 0
    except InputError as error:
        print(f"claw: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # what is left is quick, and a third one has nothing to stop
        print("claw: stopped. Everything recorded so far is kept; the same command continues from there.", file=sys.stderr)
        return 130
    except BrokenPipeError:  # `claw models | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0


def _say(message: Warning | str, *where: Any, **line: Any) -> None:
    """Show a warning as a sentence, without the line of code that gave it."""
    print(f"claw: {message}", file=sys.stderr)


def _parser() -> argparse.ArgumentParser:
    epilog = "Begin with `claw run params/quickstart.yaml --dry-run`, `claw compress smollm2-135m --remove 30%` or `make lab`."
    parser = argparse.ArgumentParser(prog="claw", description="Compression laws of large language models.", epilog=epilog)
    parser.add_argument("--version", action="version", version=f"claw {metadata.version('claw')}")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND")

    def command(function: Callable[[argparse.Namespace], int | None], says: str) -> argparse.ArgumentParser:
        added = commands.add_parser(function.__name__.strip("_"), help=says)
        added.set_defaults(command=function)
        return added

    add_commands(command)
    run = command(_run, "run a study; what is done already is not repeated")
    run.add_argument("study", type=Path, help="a YAML file, e.g. params/quickstart.yaml, or its name, e.g. quickstart")
    run.add_argument("--dry-run", action="store_true", help="show the plan and stop")
    where = run.add_mutually_exclusive_group()
    where.add_argument("--workers", type=int, metavar="N", help="run N jobs at a time on this machine")
    where.add_argument("--scheduler", metavar="ADDRESS", help="run on the Dask cluster at tcp://HOST:PORT")

    status = command(_status, "what is planned, running, done and failed, as a heat map")
    status.add_argument("study", type=Path)
    status.add_argument(
        "--watch",
        action="store_true",
        help="show it again until all is done: every two seconds, in a file a line whenever it changed",
    )

    table = command(_table, "write the tidy table, one row per experiment")
    table.add_argument("study", type=Path)
    table.add_argument("--out", type=Path, required=True, help="a .csv file")

    findings = command(_findings, "write what a table says: laws, verdicts, advice, what was run")
    findings.add_argument("table", type=Path, help="a table, e.g. results/reference.csv, or a run's folder")
    findings.add_argument("--out", type=Path, metavar="FOLDER", help="where to; else a new folder beside the table")
    says = "what to take as said about the table, e.g. loss=wikitext_ppl; the guesses name what can be said"
    findings.add_argument("--say", action="append", default=[], metavar="NAME=VALUE", help=says)
    findings.add_argument("--study", type=Path, help="the YAML file that planned it, for the completeness table")

    foretell = command(_foretell, "write down what laws say of a model before it is measured; or score what they said")
    foretell.add_argument(
        "table", type=Path, help="a table or a run's folder: what the laws are fitted to, or what was measured"
    )
    foretell.add_argument("--study", type=Path, help="the YAML file that plans the model")
    foretell.add_argument("--model", help="the model to foretell; rows of it in the table are left out")
    foretell.add_argument("--out", type=Path, metavar="FILE.csv", help="where to write what is foretold")
    foretell.add_argument(
        "--score", type=Path, metavar="FILE.csv", help="compare what was foretold in this file with the table"
    )
    foretell.add_argument("--figures", type=Path, metavar="FOLDER", help="with --score: draw both beside each other in here")

    command(_models, "list the known models, and which are on this machine")
    fetch = command(_fetch, "download models, corpora and tasks by name, verified and cached")
    fetch.add_argument("names", nargs="*", metavar="NAME", help="known names; `tasks` for the benchmark data; none lists them")
    return parser


def _study(path: Path) -> tuple:
    """The study in a file and the folder of its run."""
    from claw.specs import study as studies
    from claw.sweep.plan import folder_of

    study = studies.load_study(_study_file(path))
    return study, folder_of(study)


def _study_file(path: Path) -> Path:
    """The file of a study: as named, or the one of that name in the project's `params`."""
    place = inside_project(path)
    if place.is_file() or path.suffix or len(path.parts) != 1:
        return place
    known = {file.stem: file for file in sorted((project_folder() / "params").glob("*.yaml"))}
    if known and str(path) not in known:
        raise unknown("study", str(path), known, f"Or name a YAML file; there is no file {path}.")
    return known.get(str(path), place)


def _run(parsed: argparse.Namespace) -> int:
    from claw.sweep import study_run

    if parsed.workers is not None and not 1 <= parsed.workers <= 1024:
        raise InputError(
            f"--workers {parsed.workers} is no number of workers. Give 1 to 1024, or leave it out: then jobs run in turn."
        )
    where = {"workers": parsed.workers or 0, "scheduler": parsed.scheduler}
    if parsed.dry_run:
        study_run.rehearse(*_study(parsed.study), **where)
        return 0
    return study_run.run_study(*_study(parsed.study), **where)


def _status(parsed: argparse.Namespace) -> None:
    from claw.sweep import status
    from claw.sweep.plan import make

    plan = make(*_study(parsed.study))
    if parsed.watch:
        status.watch(plan, terminal=sys.stdout.isatty())
    else:
        print(status.status_text(plan, colour=sys.stdout.isatty()))


def _table(parsed: argparse.Namespace) -> None:
    from claw import records
    from claw.sweep.earlier import table_of

    study, folder = _study(parsed.study)
    if parsed.out.suffix != ".csv":
        raise InputError(f"--out {parsed.out} must end in .csv.")
    frame = table_of(study, folder)
    records.save_csv(frame, parsed.out)
    print(f"{plural(len(frame), 'experiment')} written to {parsed.out}")


def _said(text: str) -> tuple[str, Any]:
    """NAME=VALUE, the value as Python writes it or else as text."""
    name, equals, value = text.partition("=")
    if not equals:
        raise InputError(f"--say {text} is not accepted: write --say NAME=VALUE, such as --say ratio=kept.")
    try:
        return name.strip(), ast.literal_eval(value)
    except (ValueError, SyntaxError):
        return name.strip(), value.strip()


def _findings(parsed: argparse.Namespace) -> None:
    from claw import laws
    from claw.advice import findings

    source, study = inside_project(parsed.table), parsed.study and _study_file(parsed.study)
    reading = laws.read(source, **dict(map(_said, parsed.say)))
    if reading.guesses:
        print(f"The table was read with these guesses:\n{reading}", file=sys.stderr)
    print(*findings.write_findings(source, study, parsed.out, reading), sep="\n")


def _foretell(parsed: argparse.Namespace) -> None:
    from claw import laws, records
    from claw.csv_tables import read_table
    from claw.figures import foretold_points
    from claw.sweep import foretell

    given = {name: getattr(parsed, name) for name in ("study", "model", "out") if getattr(parsed, name) is not None}
    if (len(given) < 3 or parsed.figures is not None) if parsed.score is None else given:
        raise InputError(
            "foretell either writes, `claw foretell TABLE --study STUDY.yaml --model NAME --out FILE.csv`, or scores what was "
            "written, `claw foretell TABLE --score FILE.csv [--figures FOLDER]`."
        )
    table = laws.read(inside_project(parsed.table))
    if parsed.score is not None:
        both = foretell.compared(read_table(parsed.score), table)
        print(*foretell.score_text(both), sep="\n")
        if parsed.figures is not None:
            foretold_points(both).save(parsed.figures)
        return
    if parsed.out.suffix != ".csv":
        raise InputError(f"--out {parsed.out} must end in .csv.")
    frame = foretell.foretell(table, _study(parsed.study)[0], parsed.model)
    records.save_csv(frame, parsed.out)
    counts = plural(frame["experiment"].nunique(), "point"), plural(frame["law"].nunique(), "law")
    print(f"{counts[0]} of {parsed.model} foretold by {counts[1]}:")
    print(f"written to {parsed.out}. Commit it, measure, and `claw foretell TABLE --score {parsed.out}`.")
    if seen := int(frame["left_out"].max()):
        print(f"The table holds {plural(seen, 'row')} of {parsed.model}, which no law saw; they are noted in the file.")


def _models(parsed: argparse.Namespace) -> None:
    from claw.models import sources

    for source in sources.models().values():
        where = source.hub or f"pinned archives, {source.gguf_bytes / 1e6:,.0f} MB"
        size = sources.bytes_here(source)
        here = f"here, {size / 1e6:,.0f} MB" if size else "not here"
        print(f"{source.name:20} {source.parameters / 1e6:>8,.0f} M  {source.family:8} {where:29} {here}")
    print(f"\nPinned archives and what is made of them lie in {cache()}, models of the hub in its own cache.")


def _fetch(parsed: argparse.Namespace) -> None:
    from claw.evaluate import offline_tasks
    from claw.models import gguf, sources
    from claw.texts import corpora

    pinned = [name for name, source in sources.models().items() if not source.hub]
    accepted = {name: lambda name: gguf.known_folder(sources.models()[name]) for name in pinned}
    accepted |= {name: lambda name: corpora.known_file(sources.corpora()[name]).parent for name in sources.corpora()}
    accepted["tasks"] = lambda name: offline_tasks.folder()
    if not parsed.names:
        print("Known names:", ", ".join(accepted))
    for name in parsed.names:  # all names first: a wrong one stops before any download
        if name not in accepted:
            raise unknown("name", name, accepted, "Hub models are fetched by transformers when first loaded.")
    for name in parsed.names:
        print(f"{name}: ready in {accepted[name](name)}")
