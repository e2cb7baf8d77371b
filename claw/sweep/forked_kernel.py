"""A notebook kernel that is a copy of the process that asks for it, and the watcher that ends both with their parent."""

import os
import signal
import threading
import time
import traceback
from types import SimpleNamespace
from typing import Any


def watch_parent(parent: int) -> None:
    """End this process group as soon as `parent` is no longer the parent process."""

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(0.2)
        os.killpg(os.getpgid(0), signal.SIGKILL)

    threading.Thread(target=watch, daemon=True).start()


class ForkedKernel:
    """A kernel that is a copy of this process: forked at once, while there is one thread, and told later where to listen.

    It answers jupyter_client as the `subprocess.Popen` of a kernel does.
    """

    stdin = stdout = stderr = None

    def __init__(self) -> None:
        parent, (read, self._tell) = os.getpid(), os.pipe()
        self.returncode: int | None = None
        self.pid = os.fork()
        if self.pid:
            os.close(read)
            return
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
                kernel.listen(manager.connection_file)
                self.process, self.pid = kernel, kernel.pid
                return self.connection_info

        factory: Any = KernelProvisionerFactory.instance()
        factory.provisioners["forked"] = SimpleNamespace(name="forked", value="", load=lambda: Forked)
        factory.default_provisioner_name = "forked"

    def listen(self, connection_file: str) -> None:
        """Let the kernel begin."""
        os.write(self._tell, connection_file.encode())
        os.close(self._tell)

    def poll(self) -> int | None:
        """Exit status, or None while it runs."""
        return self.returncode if self.returncode is not None else self._reap(os.WNOHANG)

    def wait(self) -> int | None:
        """Exit status, when it ended."""
        return self.returncode if self.returncode is not None else self._reap(0)

    def _reap(self, options: int) -> int | None:
        ended, status = os.waitpid(self.pid, options)
        if ended:
            self.returncode = os.waitstatus_to_exitcode(status)
        return self.returncode

    def send_signal(self, number: int) -> None:
        """Signal the kernel alone; its group is the job's."""
        if self.poll() is None:
            os.kill(self.pid, number)
