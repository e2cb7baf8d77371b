"""`claw-lm-eval`: lm-eval's own command line with claw's engine as the model `claw`, and errors in one paragraph.

Everything is lm-eval's (`claw-lm-eval --help`) but for three things. `--tasks_from archive` (the default where every task named
is in it) reads the rows from the pinned archive and needs no network; `--tasks_from hub` reads them from the hub. Task files
of your own that run code (`!function`) are refused until `--confirm_run_unsafe_code` says that you trust them. And what you
can put right is said without a traceback.
"""

import argparse
import logging
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from unittest import mock

import yaml

import claw.evaluate.lm_eval_model  # noqa: F401  registers the model
from claw.errors import InputError
from claw.evaluate import offline_tasks

STANDARD = "tag:yaml.org,2002:"
"""What the tags of plain YAML begin with; any other tag is lm-eval's `!function`, however it is spelled."""


def main(arguments: list[str] | None = None) -> int:
    """Exit status 0, or 2 for input that cannot be used."""
    given = sys.argv[1:] if arguments is None else arguments
    try:
        _run(given)
    except InputError as error:
        print(f"claw: {error}", file=sys.stderr)
        return 2
    return 0


def _run(given: list[str]) -> None:
    from lm_eval._cli import HarnessCLI
    from lm_eval.utils import setup_logging

    ours = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    ours.add_argument("--tasks_from", choices=["archive", "hub"])
    ours.add_argument("--tasks", "-t", nargs="*", default=[])
    ours.add_argument("--include_path")
    ours.add_argument("--confirm_run_unsafe_code", action="store_true")
    known, _ = ours.parse_known_args(given)
    rest = _without(given, "--tasks_from")
    named = [name for group in known.tasks for name in group.split(",") if name]
    if not known.confirm_run_unsafe_code:
        files = [name for name in named if name.endswith((".yaml", ".yml"))]
        check_task_code([known.include_path] if known.include_path else [], files)
    if known.tasks_from == "archive" and known.include_path:
        raise InputError("--tasks_from archive and --include_path are two sources of tasks. Give one of them.")
    if named and not known.include_path and known.tasks_from != "hub":
        offline = set(named) <= set(offline_tasks.task_names())
        if known.tasks_from == "archive" and not offline:
            names = ", ".join(offline_tasks.NAMES)
            raise InputError(f"The archive has {names} and mmlu_<subject>. Name those, or say --tasks_from hub.")
        if offline:
            print("claw: rows of the tasks come from the pinned archive; --tasks_from hub reads the hub's.", file=sys.stderr)
            rest += ["--include_path", str(offline_tasks.folder())]
            logging.getLogger("lm_eval.tasks._index").setLevel(logging.ERROR)  # it warns of every task that is replaced
    setup_logging()
    parser = HarnessCLI()
    try:
        with mock.patch.object(sys, "argv", ["lm-eval", *rest]):  # its parser reads nothing else
            parser.execute(parser.parse_args())
    except (ConnectionError, FileNotFoundError) as error:
        raise InputError(
            f"lm-eval could not read its data: {error}. Tasks of the hub need the network (and some an account); "
            f"offline there are {', '.join(offline_tasks.NAMES)}."
        ) from error
    except ValueError as error:
        if not str(error).startswith("Tasks not found"):
            raise
        raise InputError(f"{error}. `claw-lm-eval ls tasks` lists them; files of your own need --include_path.") from error


def _without(given: Iterable[str], option: str) -> list[str]:
    """The arguments without one option and its value."""
    rest, skip = [], False
    for argument in given:
        if not (skip or argument == option or argument.startswith(f"{option}=")):
            rest.append(argument)
        skip = argument == option
    return rest


def check_task_code(folders: Iterable[str], files: Iterable[str] = ()) -> None:
    """InputError if lm-eval task files, those in folders or those that they include would run code of their own.

    Files of lm-eval's own installation are trusted, like lm-eval itself.
    """
    waiting = [Path(file) for file in files]
    for folder in map(Path, folders):
        if not folder.is_dir():
            raise InputError(f"--include_path {folder} is not a folder. Name the folder that holds your task files (.yaml).")
        waiting += [path for path in folder.rglob("*") if path.suffix in (".yaml", ".yml")]
    own, seen = offline_tasks.lm_eval_tasks().resolve(), set[Path]()
    while waiting:
        path = waiting.pop().expanduser().resolve()
        if path in seen or not path.is_file() or path.is_relative_to(own):
            continue
        seen.add(path)
        try:
            tree = yaml.compose(path.read_bytes(), Loader=yaml.SafeLoader)
        except yaml.YAMLError as error:
            raise InputError(f"{path} is not a YAML file that can be read: {error}. Correct or remove it.") from error
        for node in _nodes(tree):
            if not node.tag.startswith(STANDARD):
                raise InputError(
                    f"{path} runs Python code of its own ({node.tag} {node.value}), and lm-eval runs it when it loads the "
                    "task. Read the code it names; if you trust it, add --confirm_run_unsafe_code."
                )
        waiting += [path.parent / name for name in _included(tree)]


def _nodes(node: yaml.Node | None) -> Iterator[yaml.Node]:
    if node is not None:
        yield node
    if isinstance(node, yaml.SequenceNode):
        for item in node.value:
            yield from _nodes(item)
    elif isinstance(node, yaml.MappingNode):
        for key, value in node.value:
            yield from _nodes(key)
            yield from _nodes(value)


def _included(tree: yaml.Node | None) -> Iterator[str]:
    """Values of the key `include` at the top of a task file."""
    for key, value in tree.value if isinstance(tree, yaml.MappingNode) else ():
        if key.value == "include":
            yield from (node.value for node in _nodes(value) if isinstance(node, yaml.ScalarNode))
