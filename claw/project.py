"""Where things lie: the project's folder, its runs, tables and notebooks, and the cache of what was fetched."""

import errno
import os
from pathlib import Path

from platformdirs import user_cache_dir

from claw.errors import InputError

REFERENCE = Path("results") / "reference.csv"
NAMELESS = (errno.ENAMETOOLONG, errno.EILSEQ)  # what file systems answer to a name that nothing can have


def default_table(project: Path) -> Path:
    """The table that notebooks open when none is named: that of the newest run, else the reference study's."""
    if newest := max((project / "runs").glob("*/table.csv"), key=os.path.getmtime, default=None):
        return newest
    if (reference := project / REFERENCE).is_file():
        return reference
    raise InputError(
        f"There is no table to open yet: neither that of a run nor {REFERENCE}. Make one with `make demo` (about ten "
        'minutes) or `claw run params/quickstart.yaml`, or name a table of your own: table = "my.csv".'
    )


def project_folder() -> Path:
    """The folder that holds `notebooks` and `params`: the first such at or above the current one, else the current one."""
    here = Path.cwd()
    return next((p for p in (here, *here.parents) if (p / "notebooks").is_dir() and (p / "params").is_dir()), here)


def inside_project(name: str | os.PathLike) -> Path:
    """Path of an input that a user names: a model, checkpoint, text, table or study.

    There is one rule for notebooks, studies, the command line and Python: a relative name is tried from the current folder,
    then from the project's. Where neither has it, the path is as named, so that errors speak of it so. InputError for a name
    that no file can have.
    """
    path = _plain_path(name)
    if path.is_absolute() or os.path.lexists(path):
        return path
    below = project_folder() / path
    return below if os.path.lexists(below) else path


def run_folder(name: str | os.PathLike) -> Path:
    """Absolute folder of a run or of what a notebook writes: relative names are below the project, wherever one is in it."""
    path = project_folder() / _plain_path(name)
    if path.exists() and not path.is_dir():
        raise InputError(f"{str(name)!r} is a file. Name a folder, which is made if it does not exist.")
    return path


def _plain_path(name: str | os.PathLike) -> Path:
    """A name as a path, with ~ for the home folder. InputError for what cannot be the name of a file."""
    try:
        path = Path(name).expanduser()
        os.stat(path)
    except FileNotFoundError:
        pass
    except RuntimeError as error:  # of ~ without a home
        raise InputError(f"{str(name)!r} begins with ~, and no home folder is known here. Write the full path.") from error
    except (OSError, ValueError) as error:
        if getattr(error, "errno", None) in NAMELESS or isinstance(error, ValueError):
            raise InputError(f"{str(name)[:80]!r} cannot be the name of a file or folder: {error.args[-1]}.") from error
    return path


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
    """Tidy tables of the project, as a notebook's parameter names them: those of runs, the newest first, then the results."""
    root = project_folder()
    places = [sorted(root.glob(name), key=os.path.getmtime, reverse=True) for name in ("runs/*/table.csv", "results/*.csv")]
    return [str(path.relative_to(root)) for paths in places for path in paths if _is_tidy(path)]


def _is_tidy(path: Path) -> bool:
    """Whether a file is a table of one study; measurements of many papers have a notebook of their own, 55_meta_analysis."""
    with path.open(encoding="utf-8", errors="replace") as lines:
        columns = set(lines.readline().strip().split(","))
    return {"model", "method", "ratio"} <= columns and "paper" not in columns
