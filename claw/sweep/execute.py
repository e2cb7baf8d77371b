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
from types import SimpleNamespace
from typing import Any

from claw.errors import InputError
from claw.project import notebooks_folder
from claw.sweep import locks
from claw.sweep.forked_kernel import ForkedKernel, watch_parent

INPUT_ERROR = 2  # exit status of a job that was given something it cannot use
UNWRITABLE = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EFBIG)  # what only the user can put right


def run_notebook(notebook: str, output: Path, parameters: dict[str, Any], kernel: ForkedKernel | None = None) -> None:
    """Execute notebooks/<notebook>.ipynb with `parameters` into `output`, in `kernel` or one that is started for it.

    Raises what the notebook raised.
    """
    import papermill
    from traitlets.config import Config

    if kernel is not None:
        _use(kernel)

    output.parent.mkdir(parents=True, exist_ok=True)
    part = output.with_suffix(".part.ipynb")
    with tempfile.TemporaryDirectory(prefix="claw-", dir=_short_folder()) as sockets:
        transport = {"transport": "ipc", "ip": str(Path(sockets) / "k")} if os.name == "posix" else {}
        papermill.execute_notebook(
            notebooks_folder() / f"{notebook}.ipynb",
            part,
            parameters=parameters,
            kernel_name="python3",
            progress_bar=False,
            log_output=False,
            start_timeout=120,
            config=Config({"KernelManager": transport}),
        )
    part.replace(output)


def _short_folder() -> str | None:
    """A folder whose name is short: the path of a Unix socket may have about 100 characters."""
    return None if len(tempfile.gettempdir()) < 60 else "/tmp"


def _use(kernel: ForkedKernel) -> None:
    """Let the next notebook of this process run in a kernel that is there already."""
    from jupyter_client.provisioning import KernelProvisionerFactory, LocalProvisioner

    class Forked(LocalProvisioner):
        async def launch_kernel(self, cmd: list[str], **kwargs: Any) -> dict[str, Any]:
            kernel.listen(self.parent.connection_file)
            self.process, self.pid = kernel, kernel.pid
            return self.connection_info

    factory = KernelProvisionerFactory.instance()
    factory.provisioners["forked"] = SimpleNamespace(name="forked", value="", load=lambda: Forked)
    factory.default_provisioner_name = "forked"


def execute_job(request: Path, parent: int | None = None, *, fork: bool = False) -> int:
    """Run the job that a JSON file describes (id, notebook, output, parameters); the exit status.

    It ends with the process `parent`. With `fork`, its kernel is a copy of this process.
    """
    job = json.loads(request.read_text())
    logging.getLogger("papermill").setLevel(logging.ERROR)
    try:
        with locks.mark(request.parents[1], job["id"], {"makes": job["makes"]}):
            kernel = ForkedKernel() if fork else None
            if parent:
                watch_parent(parent)
            from papermill.exceptions import PapermillExecutionError

            try:
                run_notebook(job["notebook"], Path(job["output"]), job["parameters"], kernel)
            except PapermillExecutionError as error:
                print(f"{error.ename}: {error.evalue}", file=sys.stderr)
                return INPUT_ERROR if error.ename.endswith("InputError") else 1
    except InputError as error:
        print(f"InputError: {error}", file=sys.stderr)
        return INPUT_ERROR
    except OSError as error:
        if error.errno not in UNWRITABLE:
            raise
        advice = "Free disk space or correct the permissions and run again; what was recorded is kept."
        print(f"InputError: the notebook could not be written: {error}. {advice}", file=sys.stderr)
        return INPUT_ERROR
    return 0


if __name__ == "__main__":
    sys.exit(execute_job(Path(sys.argv[1]), parent=int(sys.argv[2]) if len(sys.argv) > 2 else None))
