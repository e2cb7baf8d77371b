"""Scripts of the project that are no part of a package, as modules, so that tests can call what is in them."""

from importlib import util
from pathlib import Path
from types import ModuleType

ROOT = Path(__file__).parents[1]


def script(place: str) -> ModuleType:
    """The module that a script below the project's folder is, such as benchmarks/recheck.py."""
    path = ROOT / place
    spec = util.spec_from_file_location(path.stem, path)
    module = util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
