"""Execute one notebook through papermill in a process of its own: `python -m claw.sweep.execute JOB.json PARENT`.

Notable choices:
- The kernel talks over Unix sockets at a path of its own; TCP ports are raced for when many kernels start at once.
- The copy is written under a temporary name and renamed when the last cell has run, so a copy that is there is whole.
- In a job that a fork server forked, the kernel is forked from the job: it has imported everything, too.
- A watcher ends the whole process group when the process that asked for the job is gone: no orphan keeps computing.
"""

import contextlib
import errno
import json
import logging
import os
import sys
import tempfile
import traceback
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NoReturn

import psutil

from claw import files
from claw.errors import InputError
from claw.project import notebooks_folder
from claw.sweep import locks
from claw.sweep.processes import watch_parent

KERNEL_GONE = "its kernel ended without a word (killed, or out of memory)."
INPUT_ERROR = 2  # exit status of a job that was given something it cannot use
UNWRITABLE = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EFBIG)  # what only the user can put right


class ForkedKernel(psutil.Process):
    """A kernel that is a copy of this process: forked at once, while there is one thread, and told later where to listen.

    It answers jupyter_client as the `subprocess.Popen` of a kernel does.
    """

    stdin = stdout = stderr = None

    def __init__(self) -> None:
        read, self._tell = os.pipe()
        parent, child = os.getpid(), os.fork()
        if not child:
            self._run(read, parent)
        os.close(read)
        super().__init__(child)

    def _run(self, read: int, parent: int) -> NoReturn:
        """In the copy: be a kernel, as soon as it is said where."""
        try:
            os.close(self._tell)
            connection = os.read(read, 4096).decode()
            if connection:
                from ipykernel.kernelapp import IPKernelApp

                watch_parent(parent)
                os.environ["JPY_PARENT_PID"] = str(parent)
                IPKernelApp.launch_instance(argv=["-f", connection])
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(0)

    def serve_next(self) -> None:
        """Let the next notebook of this process run in this kernel."""
        from jupyter_client.provisioning import KernelProvisionerFactory, LocalProvisioner

        kernel: Any = self

        class Forked(LocalProvisioner):
            async def launch_kernel(self, cmd: list[str], **kwargs: Any) -> Any:
                manager: Any = self.parent
                os.write(kernel._tell, manager.connection_file.encode())
                os.close(kernel._tell)
                self.process, self.pid = kernel, kernel.pid
                return self.connection_info

        factory: Any = KernelProvisionerFactory.instance()
        factory.provisioners["forked"] = SimpleNamespace(name="forked", value="", load=lambda: Forked)
        factory.default_provisioner_name = "forked"

    def poll(self) -> int | None:
        """Exit status, or None while it runs."""
        with contextlib.suppress(psutil.TimeoutExpired):
            return self.wait(0)
        return None

    def send_signal(self, sig: int) -> None:
        """Signal the kernel alone; its group is the job's."""
        with contextlib.suppress(psutil.NoSuchProcess):
            super().send_signal(sig)


def run_notebook(notebook: str, output: Path, parameters: dict[str, Any]) -> None:
    """Execute notebooks/<notebook>.ipynb with `parameters` into `output`; raises what the notebook raised."""
    import papermill
    from traitlets.config import Config

    files.check_own([output])
    place = None if len(tempfile.gettempdir()) < 60 else "/tmp"  # the path of a Unix socket may have about 100 characters
    with tempfile.TemporaryDirectory(prefix="claw-", dir=place) as sockets:
        transport = {"transport": "ipc", "ip": str(Path(sockets) / "k")} if os.name == "posix" else {}
        options: dict[str, Any] = {"kernel_name": "python3", "progress_bar": False, "log_output": False, "start_timeout": 120}
        options["config"] = Config({"KernelManager": transport})
        with files.whole_and_stamped(output) as part:
            papermill.execute_notebook(notebooks_folder() / f"{notebook}.ipynb", part, parameters=parameters, **options)


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
                killed = (
                    error.ename == "CellExecutionError" and not error.evalue
                )  # there is no error to show: the kernel is gone
                print(KERNEL_GONE if killed else f"{error.ename}: {error.evalue}", file=sys.stderr)
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
