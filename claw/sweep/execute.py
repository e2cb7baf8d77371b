"""Execute one notebook through papermill in a process of its own: `python -m claw.sweep.execute JOB.json PARENT`.

Notable choices:
- The kernel talks over Unix sockets at a path of its own; TCP ports are raced for when many kernels start at once.
- The copy is written under a temporary name and renamed when the last cell has run, so a copy that is there is whole.
- A watcher ends the whole process group when the process that asked for the job is gone: no orphan keeps computing.
"""

import errno
import json
import logging
import os
import sys
import tempfile
from pathlib import Path
from typing import Any

from claw.errors import InputError
from claw.project import notebooks_folder
from claw.sweep import locks
from claw.sweep.forked_kernel import ForkedKernel, watch_parent

INPUT_ERROR = 2  # exit status of a job that was given something it cannot use
UNWRITABLE = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EFBIG)  # what only the user can put right


def run_notebook(notebook: str, output: Path, parameters: dict[str, Any]) -> None:
    """Execute notebooks/<notebook>.ipynb with `parameters` into `output`; raises what the notebook raised."""
    import papermill
    from traitlets.config import Config

    output.parent.mkdir(parents=True, exist_ok=True)
    part = output.with_suffix(".part.ipynb")
    place = None if len(tempfile.gettempdir()) < 60 else "/tmp"  # the path of a Unix socket may have about 100 characters
    with tempfile.TemporaryDirectory(prefix="claw-", dir=place) as sockets:
        transport = {"transport": "ipc", "ip": str(Path(sockets) / "k")} if os.name == "posix" else {}
        options: dict[str, Any] = {"kernel_name": "python3", "progress_bar": False, "log_output": False, "start_timeout": 120}
        options["config"] = Config({"KernelManager": transport})
        papermill.execute_notebook(notebooks_folder() / f"{notebook}.ipynb", part, parameters=parameters, **options)
    part.replace(output)


def execute_job(request: Path, parent: int | None = None, *, fork: bool = False) -> int:
    """Run the job that a JSON file describes (id, notebook, output, parameters); the exit status.

    It ends with the process `parent`. With `fork`, its kernel is a copy of this process.
    """
    job = json.loads(request.read_text())
    logging.getLogger("papermill").setLevel(logging.ERROR)
    try:
        with locks.mark(request.parents[1], job["id"], {"makes": job["makes"]}):
            if fork:
                ForkedKernel().serve_next()
            if parent:
                watch_parent(parent)
            from papermill.exceptions import PapermillExecutionError

            try:
                run_notebook(job["notebook"], Path(job["output"]), job["parameters"])
            except PapermillExecutionError as error:
                print(f"{error.ename}: {error.evalue}", file=sys.stderr)
                return INPUT_ERROR if error.ename.endswith("InputError") else 1
            return 0
    except InputError as error:
        problem = str(error)
    except OSError as error:
        if error.errno not in UNWRITABLE:
            raise
        advice = "Free disk space or correct the permissions and run again; what was recorded is kept."
        problem = f"the notebook could not be written: {error}. {advice}"
    print(f"InputError: {problem}", file=sys.stderr)
    return INPUT_ERROR


if __name__ == "__main__":
    sys.exit(execute_job(Path(sys.argv[1]), parent=int(sys.argv[2]) if len(sys.argv) > 2 else None))
