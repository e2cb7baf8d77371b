"""Execute one notebook through papermill in a process of its own: `python -m claw.sweep.execute JOB.json`.

Notable choices:
- The kernel talks over Unix sockets at a path of its own; TCP ports are raced for when many kernels start at once.
- The copy is written under a temporary name and renamed when the last cell has run, so a copy that is there is whole.
- A watcher ends the whole process group when the process that asked for the job is gone: no orphan keeps computing.
"""

import json
import logging
import os
import signal
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

from claw.errors import InputError


def notebooks() -> Path:
    """Folder of the stage notebooks: of the project one is in, else beside the installed package."""
    from claw.parameters import project

    for root in (project(), Path(__file__).parents[2]):
        if (root / "notebooks" / "10_compress.ipynb").is_file():
            return root / "notebooks"
    raise InputError("The stage notebooks were not found. Run claw inside its project folder (the one with notebooks/).")


def run_notebook(notebook: str, output: Path, parameters: dict[str, Any], title: str) -> None:
    """Execute notebooks/<notebook>.ipynb with `parameters` into `output`; raises what the notebook raised."""
    import papermill
    from traitlets.config import Config

    output.parent.mkdir(parents=True, exist_ok=True)
    part = output.with_suffix(".part.ipynb")
    with tempfile.TemporaryDirectory(prefix="claw-", dir=_short_folder()) as sockets:
        transport = {"transport": "ipc", "ip": str(Path(sockets) / "k")} if os.name == "posix" else {}
        papermill.execute_notebook(
            notebooks() / f"{notebook}.ipynb",
            part,
            parameters=parameters,
            kernel_name="python3",
            progress_bar={"desc": title} if sys.stderr.isatty() else False,
            log_output=False,
            start_timeout=120,
            config=Config({"KernelManager": transport}),
        )
    part.replace(output)


def _short_folder() -> str | None:
    """A folder whose name is short: the path of a Unix socket may have about 100 characters."""
    return None if len(tempfile.gettempdir()) < 60 else "/tmp"


def watch_parent(parent: int) -> None:
    """End this process group as soon as `parent` is no longer the parent process."""

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(0.5)
        os.killpg(os.getpgid(0), signal.SIGKILL)

    threading.Thread(target=watch, daemon=True).start()


def main(arguments: list[str]) -> int:
    """Run the job described by a JSON file: notebook, output, parameters, title, parent."""
    job = json.loads(Path(arguments[0]).read_text())
    if job.get("parent"):
        watch_parent(job["parent"])
    logging.getLogger("papermill").setLevel(logging.ERROR)
    from papermill.exceptions import PapermillExecutionError

    try:
        run_notebook(job["notebook"], Path(job["output"]), job["parameters"], job["title"])
    except PapermillExecutionError as error:
        print(f"{error.ename}: {error.evalue}", file=sys.stderr)
        return 2 if error.ename.endswith("InputError") else 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
