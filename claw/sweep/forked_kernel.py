"""A notebook kernel that is a copy of the process that asks for it, and the watcher that ends both with their parent."""

import contextlib
import os
import signal
import threading
import time
import traceback
from types import SimpleNamespace
from typing import Any, NoReturn

import psutil


def watch_parent(parent: int) -> None:
    """End this process group as soon as `parent` is no longer the parent process."""

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(0.2)
        os.killpg(os.getpgid(0), signal.SIGKILL)

    threading.Thread(target=watch, daemon=True).start()


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
