"""Where things lie: the project's folder, its runs, tables and notebooks, and the cache of what was fetched."""

import os
from pathlib import Path

from platformdirs import user_cache_dir

from claw.errors import InputError

REFERENCE = Path("results") / "reference.csv"


def default_table(project: Path) -> Path:
    """The table that notebooks open when none is named: the reference study's, else that of the newest run."""
    reference = project / REFERENCE
    if reference.is_file():
        return reference
    if newest := max((project / "runs").glob("*/table.csv"), key=os.path.getmtime, default=None):
        return newest
    raise InputError(
        f"There is no table to open yet: neither {REFERENCE} nor a table of a run. Make one with `make demo` (about ten "
        'minutes) or `claw run params/quickstart.yaml`, or name a table of your own: table = "my.csv".'
    )


def project_folder() -> Path:
    """The folder that holds `notebooks` and `params`: the first such at or above the current one, else the current one."""
    here = Path.cwd()
    return next((p for p in (here, *here.parents) if (p / "notebooks").is_dir() and (p / "params").is_dir()), here)


def inside_project(name: str) -> Path:
    """Absolute path of an input: as named from here if it is there, else below the project."""
    path = Path(name).expanduser()
    return path if path.is_absolute() or path.exists() else project_folder() / path


def run_folder(name: str) -> Path:
    """Absolute folder of a run: relative names are below the project, so notebooks and commands agree."""
    path = Path(name).expanduser()
    if path.exists() and not path.is_dir():
        raise InputError(f"run = {name!r} is a file. Name a folder, which is made if it does not exist.")
    return path if path.is_absolute() else project_folder() / path


def cache() -> Path:
    """Folder for everything fetched or derived, made where it is not there: `$CLAW_CACHE`, or the user's cache folder for claw.

    A relative `$CLAW_CACHE` is below the project, as a run's folder is, so that notebooks and commands agree.
    """
    named = os.environ.get("CLAW_CACHE", "").strip()
    try:
        path = Path(named or user_cache_dir("claw")).expanduser()
        path = path if path.is_absolute() else project_folder() / path
        path.mkdir(parents=True, exist_ok=True)
    except (OSError, RuntimeError, ValueError) as error:  # no folder, no home, no name of a file
        where = f"CLAW_CACHE = {named[:200]!r}" if named else "your home folder's cache"
        raise InputError(
            f"claw keeps what it fetches and derives in a cache, and {where} cannot be one: {str(error)[:300]}. Set CLAW_CACHE "
            "to the full path of a folder that you may write to; it is made if it does not exist."
        ) from error
    return path


def notebooks_folder() -> Path:
    """Folder of the stage notebooks: of the project one is in, else beside the installed package."""
    for root in (project_folder(), Path(__file__).parents[1]):
        if (root / "notebooks" / "10_compress.ipynb").is_file():
            return root / "notebooks"
    raise InputError("The stage notebooks were not found. Run claw inside its project folder (the one with notebooks/).")


def tables() -> list[str]:
    """Tidy tables of the project, as a notebook's parameter names them, the newest first."""
    root = project_folder()
    paths = [path for pattern in ("results/*.csv", "runs/*/table.csv") for path in root.glob(pattern) if _is_tidy(path)]
    return [str(path.relative_to(root)) for path in sorted(paths, key=os.path.getmtime, reverse=True)]


def _is_tidy(path: Path) -> bool:
    with path.open(encoding="utf-8", errors="replace") as lines:
        return {"model", "method", "ratio"} <= set(lines.readline().strip().split(","))
