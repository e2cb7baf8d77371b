"""Chromium on pages of this project: servers on 127.0.0.1 and what a person does there. Used by tests and by benchmarks.

Nothing is written outside the folder that is given: Jupyter's settings, workspaces and runtime files go below it.
"""

import json
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

ROOT = Path(__file__).parents[1]
NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
QUIET = (
    "--disable-gpu --disable-quic --no-first-run --disable-background-networking --disable-component-update --disable-sync"
).split()
SETTINGS = {
    "@jupyterlab/apputils-extension:notification": {"fetchNews": "false", "checkForUpdates": False},
    "@jupyterlab/notebook-extension:tracker": {"windowingMode": "none"},
    "@jupyterlab/docmanager-extension:plugin": {"autosave": False},
}
"""No question about news, every cell in the page, no saving behind the test's back."""
FOLDERS = {
    "JUPYTER_CONFIG_DIR": ".",
    "JUPYTER_DATA_DIR": "data",
    "JUPYTER_RUNTIME_DIR": "runtime",
    "JUPYTERLAB_WORKSPACES_DIR": "workspaces",
    "JUPYTERLAB_SETTINGS_DIR": "settings",
    "IPYTHONDIR": "ipython",
}
PROMPTS = "[...document.querySelectorAll('.jp-CodeCell .jp-InputPrompt')].map((e) => e.textContent)"
DONE = PROMPTS + r".every((text) => /\[\d+\]/.test(text))"
BUSY = PROMPTS + ".some((text) => text.includes('*'))"
SCROLLED = "document.querySelector('.jp-WindowedPanel-outer') || document.documentElement"
HARMLESS = ("favicon", "cdn.jsdelivr.net", "net::ERR_INTERNET_DISCONNECTED")  # Voilà takes icons from there; it works without


def chromium() -> str | None:
    """Path of the system's Chromium; None where there is none."""
    return next((path for name in NAMES if (path := shutil.which(name))), None)


@contextmanager
def browser(**options) -> Iterator:
    """A headless Chromium. The sandbox needs a user who is not root."""
    from playwright.sync_api import sync_playwright

    arguments = [*QUIET, *(["--no-sandbox"] if os.geteuid() == 0 else [])]
    with sync_playwright() as play:
        opened = play.chromium.launch(executable_path=chromium(), args=arguments, **options)
        try:
            yield opened
        finally:
            opened.close()


def page(launched, height: int = 1000, width: int = 1300, **options):
    """A page with `complaints`: what its console called an error, and exceptions of its scripts."""
    opened = launched.new_context(viewport={"width": width, "height": height}, **options).new_page()
    opened.complaints = []
    opened.on("pageerror", lambda error: opened.complaints.append(str(error)))
    opened.on(
        "console",
        lambda said: (
            opened.complaints.append(said.text)
            if said.type == "error" and not any(word in said.text + str(said.location) for word in HARMLESS)
            else None
        ),
    )
    return opened


@contextmanager
def served(kind: str, folder: Path, *arguments: str) -> Iterator[tuple[str, str]]:
    """Address and token of a server of `kind` (lab or voila) on 127.0.0.1 that shows `folder`."""
    own = folder / ".jupyter-test"
    (own / "labconfig").mkdir(parents=True, exist_ok=True)
    (own / "labconfig" / "default_setting_overrides.json").write_text(json.dumps(SETTINGS))
    port, token = free_port(), secrets.token_hex(16)
    folders = {name: str(own / place) for name, place in FOLDERS.items()}
    packages = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
    environment = {**os.environ, **folders, "PYTHONPATH": packages, "OMP_WAIT_POLICY": "PASSIVE"}
    command = ["jupyterlab" if kind == "lab" else kind, "--no-browser", *arguments]
    if kind == "lab":
        command += ["--ServerApp.ip=127.0.0.1", f"--ServerApp.port={port}", "--ServerApp.port_retries=0"]
        command += [f"--IdentityProvider.token={token}", f"--ServerApp.root_dir={folder}"]
        command += ["--allow-root"] if os.geteuid() == 0 else []
    else:
        command += ["--Voila.ip=127.0.0.1", f"--port={port}"]
    log = (own / f"{kind}.log").open("w")
    server = subprocess.Popen(
        [sys.executable, "-m", *command], cwd=folder, env=environment, stdout=log, stderr=log, start_new_session=True
    )
    try:
        address = f"http://127.0.0.1:{port}"
        wait_for(f"{address}/api/status?token={token}" if kind == "lab" else f"{address}/static/", server, own / f"{kind}.log")
        yield address, token
    finally:
        server.send_signal(signal.SIGTERM)
        try:
            server.wait(15)
        except subprocess.TimeoutExpired:
            os.killpg(server.pid, signal.SIGKILL)
            server.wait()
        log.close()


def free_port() -> int:
    """A port of 127.0.0.1 that nobody listens on."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return taken.getsockname()[1]


def wait_for(address: str, server: subprocess.Popen, log: Path, seconds: float = 180) -> None:
    """Wait until something answers at an address; any answer will do."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if server.poll() is not None:
            break
        try:
            urllib.request.urlopen(address, timeout=2)
            return
        except urllib.error.HTTPError:
            return
        except OSError:
            time.sleep(0.2)
    raise RuntimeError(f"The server did not come up: {log.read_text()[-2000:]}")


def project(folder: Path) -> Path:
    """A copy of the notebooks, laid out like the repository, so that runs are written beside the copy."""
    shutil.copytree(ROOT / "notebooks", folder / "notebooks", ignore=shutil.ignore_patterns(".*"))
    shutil.copytree(ROOT / "params", folder / "params")
    return folder


def open_notebook(opened, address: str, token: str, name: str) -> None:
    """Open a notebook in JupyterLab, alone on the page, and wait for its kernel."""
    asks = opened.locator(".jp-Dialog", has_text="Select Kernel").last  # which a slow machine makes JupyterLab do, even twice

    def accept(dialog) -> None:
        dialog.locator("button.jp-mod-accept").click()
        opened.wait_for_timeout(2_000)  # until it has closed: asked twice, it would start a second kernel

    opened.add_locator_handler(asks, accept, no_wait_after=True)
    opened.request.get(f"{address}/lab?token={token}")  # the cookie: a token in the page's address makes it load twice
    opened.goto(f"{address}/doc/tree/notebooks/{name}.ipynb")
    opened.locator(".jp-Notebook .jp-Cell").first.wait_for(timeout=180_000)
    opened.locator(".jp-Notebook-ExecutionIndicator[data-status=idle]").first.wait_for(timeout=180_000)


def run_all(opened, seconds: float = 120) -> None:
    """Choose Run → Run All Cells, and wait until every code cell has run and the kernel rests.

    JupyterLab may start two kernels for a page and drop the one that was asked first; it is asked again then.
    """
    end, resting = time.monotonic() + seconds, 0
    while not (opened.evaluate(DONE) or errors(opened)):
        resting = 0 if opened.evaluate(BUSY) else resting + 1
        if resting in (1, 60):  # at once, and again if for half a minute nothing has begun
            resting = 1
            opened.get_by_role("menuitem", name="Run", exact=True).click()
            opened.get_by_role("menuitem", name="Run All Cells", exact=True).click()
        if time.monotonic() > end:
            raise TimeoutError(f"The notebook has not run to its end in {seconds:.0f} s: {opened.evaluate(PROMPTS)}")
        opened.wait_for_timeout(500)
    opened.locator(".jp-Notebook-ExecutionIndicator[data-status=idle]").first.wait_for(timeout=1000 * seconds)


def errors(opened) -> list[str]:
    """What red cells say: errors, which some versions of JupyterLab show as stderr, and anything written there."""
    kinds = ("error", "stderr")
    return opened.locator(", ".join(f'[data-mime-type="application/vnd.jupyter.{kind}"]' for kind in kinds)).all_inner_texts()


def whole(opened, path: Path, limit: int = 16_000) -> Path:
    """A screenshot of the whole page or notebook, not only of what fits into the window."""
    size = opened.viewport_size
    needed = opened.evaluate(f"() => ({SCROLLED}).scrollHeight")
    opened.set_viewport_size({"width": size["width"], "height": min(limit, max(size["height"], needed + 120))})
    opened.evaluate(f"() => ({SCROLLED}).scrollTo(0, 0)")
    opened.wait_for_timeout(600)
    opened.screenshot(path=path)
    opened.set_viewport_size(size)
    return path
