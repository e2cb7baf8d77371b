"""The house keeps its plan: few rooms, arrows that only run down, one word for one thing. Counted from imports."""

import ast
import re
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FLOORS = (  # from the top; a room imports only from floors below its own
    "cli",
    "sweep",
    "one_model show",
    "stages",
    "figures prune recovery",
    "advice evaluate",
    "engine laws texts",
    "records",
    "models provenance specs",
    "csv_tables files paired project",
    "allocator errors progress words",
)
MODULES = {
    ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): path
    for path in sorted((ROOT / "claw").rglob("*.py"))
}
TREES = {name: ast.parse(path.read_text(encoding="utf-8")) for name, path in MODULES.items()}


def imported(name: str) -> set[str]:
    """Modules of claw that a module imports anywhere, lazily or for types too."""
    seen = set()
    for node in ast.walk(TREES[name]):
        if isinstance(node, ast.Import):
            seen |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            whole = {f"{node.module}.{alias.name}" for alias in node.names}
            seen |= {one if one in MODULES else node.module for one in whole}
    return {other for other in seen if other in MODULES and other != name}


ARROWS = {name: imported(name) for name in MODULES}


def room(name: str) -> str:
    return name.split(".")[1]


def test_every_room_has_its_floor_and_there_are_few():
    rooms = {room(name) for name in MODULES if "." in name} - {"__main__"}
    assert sorted(rooms) == sorted(" ".join(FLOORS).split())
    assert len(rooms) <= 25


def test_contributors_read_the_same_floors():
    said = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8").partition("The floors, from the top:")[2].partition(". ")[0]
    assert [set(re.findall(r"`(\w+)`", floor)) for floor in said.split("→")] == [set(rooms.split()) for rooms in FLOORS]


def test_a_room_imports_only_from_floors_below():
    floor = {name: number for number, rooms in enumerate(FLOORS) for name in rooms.split()}
    upward = [
        f"{name} -> {other}"
        for name, others in ARROWS.items()
        for other in others
        if "." in other and room(name) in floor and room(name) != room(other) and floor[room(other)] <= floor[room(name)]
    ]
    assert not upward


def test_no_modules_import_each_other_in_a_circle():
    left = {name: {o for o in others if MODULES[name].name != "__init__.py"} for name, others in ARROWS.items()}
    while free := {name for name, others in left.items() if not others & set(left)}:  # nothing that is left is needed by these
        left = {name: others for name, others in left.items() if name not in free}
    assert not left, f"in circles or above them: {sorted(left)}"


def test_modules_and_public_names_are_one_of_a_kind():
    modules = Counter(name.rpartition(".")[2] for name in MODULES if "." in name and MODULES[name].name != "__init__.py")
    names = Counter(
        node.name
        for tree in TREES.values()
        for node in tree.body
        if isinstance(node, (ast.FunctionDef, ast.ClassDef)) and not node.name.startswith("_") and node.name != "main"
    )
    stages = {"compress", "recover", "evaluate", "speed"}  # a stage has the word of its notebook, and of what it does
    assert {name for name, count in modules.items() if count > 1} <= stages
    assert not [name for name, count in names.items() if count > 1]


@pytest.mark.parametrize("name", MODULES)
def test_a_module_is_short_and_its_lines_fit(name):
    lines = MODULES[name].read_text(encoding="utf-8").splitlines()
    assert len(lines) <= 400 and MODULES[name].stat().st_size <= 20_000
    assert not [number for number, line in enumerate(lines, 1) if len(line) > 128]


@pytest.mark.parametrize("name", MODULES)
def test_nothing_is_just_called_found(name):
    words = {
        getattr(node, "id", None) or getattr(node, "arg", None) or getattr(node, "attr", None) for node in ast.walk(TREES[name])
    }
    assert "found" not in words


@pytest.mark.parametrize(
    "rooms, without",
    [(("claw", "claw.laws", "claw.specs", "claw.cli"), ("torch",)), (("claw.advice",), ("torch", "matplotlib"))],
)
def test_light_rooms_stay_light(rooms, without):
    names = [name for name in MODULES if name in rooms or any(name.startswith(f"{r}.") for r in rooms if r != "claw")]
    imports = f"import importlib, sys; [importlib.import_module(name) for name in {names}]"
    code = f"{imports}; print([module for module in {without} if module in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
