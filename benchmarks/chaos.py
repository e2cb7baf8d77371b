"""Kill -9 whatever runs a study, at random moments, and see whether anything is lost: `python benchmarks/chaos.py`.

The study runs in three ways in turn: one job after the other, on workers of this machine, and on a Dask cluster of its own.
After each kill every record ever seen must still be there, whole and with the same result; after the death of the driver no
process of the run may be left; and the table at the end must be that of a run that nobody disturbed. Last, a disk runs full.
What was seen is kept in OUT/chaos.json and adds up over calls.
"""

import argparse
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import pandas as pd
import psutil
import tiny

from claw import records

ROLES = ("driver", "scheduler", "worker", "server", "papermill", "kernel")
TIMES = {"seconds", "code", "heldout_data"}  # columns that time, not the model, decides
GRACE = 20.0  # seconds in which everything of a killed driver must be gone; a loaded machine imports slowly


class Chaos:
    """One study under fire."""

    def __init__(self, project: Path, study: Path):
        self.project, self.study, self.folder = project, study, project / "runs" / study.stem
        self.state = project / "chaos.json"
        kept = json.loads(self.state.read_text()) if self.state.exists() else {"kills": [], "count": {}, "seen": {}}
        self.kills, self.seen, self.count = kept["kills"], kept["seen"], Counter(kept["count"])
        self.processes: list[subprocess.Popen] = []
        self.log = (project / "chaos.log").open("a")

    def save(self) -> None:
        """Keep what was seen for the next call."""
        self.state.write_text(json.dumps({"kills": self.kills, "count": self.count, "seen": self.seen}))

    def start(self, mode: str) -> subprocess.Popen:
        """Start `claw run` in one of the three ways; its process."""
        options = ["--workers", "2"] if mode == "workers" else []
        if mode == "scheduler":
            place = self.project / "scheduler.json"
            place.unlink(missing_ok=True)
            address = "--host 127.0.0.1 --port 0 --no-dashboard --scheduler-file".split()
            self._spawn("distributed.cli.dask_scheduler", *address, str(place))
            while not place.exists() or not place.read_text():
                time.sleep(0.1)
            self.address = json.loads(place.read_text())["address"]
            for _ in range(2):
                self.add_worker()
            options = ["--scheduler", self.address]
        return self._spawn("claw", "run", str(self.study), *options)

    def add_worker(self) -> None:
        """One more worker of the own cluster, as a batch system or a person would start it."""
        options = "--nthreads 1 --no-dashboard --death-timeout 5 --local-directory".split()
        self._spawn("distributed.cli.dask_worker", self.address, *options, str(self.project / "dask"))

    def _spawn(self, *arguments: str) -> subprocess.Popen:
        environment = os.environ | {"CLAW_CHAOS": str(self.project), "PYTHONPATH": str(tiny.ROOT)}
        command = [sys.executable, "-m", *arguments]
        output = {"stdout": self.log, "stderr": self.log}
        process = subprocess.Popen(command, cwd=self.project, env=environment, start_new_session=True, **output)
        self.processes.append(process)
        return process

    def victims(self) -> dict[str, list[psutil.Process]]:
        """Processes of the run that are alive, by role."""
        alive: dict[str, list[psutil.Process]] = {role: [] for role in ROLES}
        roles: dict[int, str] = {}
        for process in sorted(self.left(), key=lambda p: p.pid):
            try:
                words, parent = " ".join(process.cmdline()), process.ppid()
            except psutil.Error:
                continue
            if "claw.sweep.fork_server" in words:
                role = {"server": "papermill", "papermill": "kernel"}.get(roles.get(parent, ""), "server")
            elif " claw run" in words:
                role = "driver"
            elif "dask_scheduler" in words:
                role = "scheduler"
            elif "dask_worker" in words or "spawn_main" in words:
                role = "worker"
            else:
                continue
            roles[process.pid] = role
            alive[role].append(process)
        return {role: some for role, some in alive.items() if some}

    def left(self) -> list[psutil.Process]:
        """Processes that carry this project's mark in their environment and are not zombies."""
        marked = []
        for process in psutil.process_iter():
            try:
                ours = process.environ().get("CLAW_CHAOS") == str(self.project)
                if ours and process.status() != psutil.STATUS_ZOMBIE:
                    marked.append(process)
            except psutil.Error:
                continue
        return marked

    def look(self) -> None:
        """Compare the records on disk with those seen before."""
        for name, result in self.seen.items():
            path = self.folder / "records" / name
            if not path.exists():
                self.count["lost"] += 1
                print(f"LOST {name}")
            elif (again := _result(path)) != result:
                self.count["corrupt" if again is None else "changed"] += 1
                print(f"CHANGED {name}: {result} {again}")
        for path in (self.folder / "records").glob("*.json"):
            if path.name not in self.seen:
                result = _result(path)
                if result is None:
                    self.count["corrupt"] += 1
                    print(f"CORRUPT {path.name}")
                else:
                    self.seen[path.name] = result
        if len(self.seen) != len(list((self.folder / "records").glob("*.json"))):
            self.count["duplicated"] += 1

    def end(self) -> None:
        """End what is left on purpose (an own cluster), then count what nobody asked to stay."""
        for process in self.processes:
            if "distributed" in " ".join(process.args):
                process.terminate()
        deadline = time.monotonic() + GRACE
        while (left := self.left()) and time.monotonic() < deadline:
            time.sleep(0.2)
        for process in left:
            self.count["orphans"] += 1
            print("ORPHAN", process.pid, process.cmdline()[:5])
            process.kill()
        for process in self.processes:
            process.wait()
        self.processes = []


def _result(path: Path) -> str | None:
    """The result of a record as text, without times; None for a record that is damaged."""
    content = records.read_record(path)
    if content is None:
        return None
    if content["status"] == "failed":
        return "failed"
    return json.dumps({k: v for k, v in content["result"].items() if "second" not in k and "memory" not in k}, sort_keys=True)


def table(folder: Path) -> pd.DataFrame:
    """The table of a run without what time decides."""
    frame = records.table(folder)
    return frame[[name for name in frame.columns if name not in TIMES]]


def claw_run(study: Path, project: Path, **options) -> subprocess.CompletedProcess:
    """`claw run` of a study, to its end."""
    environment = os.environ | {"PYTHONPATH": str(tiny.ROOT)}
    return subprocess.run([sys.executable, "-m", "claw", "run", str(study)], cwd=project, env=environment, **options)


def calm(project: Path, **changes) -> pd.DataFrame:
    """The table of a run that nobody disturbs; made once."""
    path = tiny.study(project, "calm", **changes)
    if not (project / "runs" / "calm" / "report.html").exists():
        claw_run(path, project, check=True, stdout=subprocess.DEVNULL)
    return table(project / "runs" / "calm")


def full_disk(project: Path) -> str:
    """A run on a disk that is full after 200 kB: what claw says, and whether each record is whole."""
    folder = project / "runs" / "full"
    folder.mkdir(exist_ok=True)
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=200k", "tmpfs", str(folder)], capture_output=True).returncode:
        return "disk full: not tried (mounting needs root)"
    try:
        done = claw_run(tiny.study(project, "full"), project, text=True, capture_output=True)
        whole = [_result(record) is not None for record in (folder / "records").glob("*.json")]
        trace = "TRACEBACK " if "Traceback" in done.stderr else ""
        said = f"{trace}{sum(whole)} of {len(whole)} records whole; said: {done.stderr.strip()[-300:]}"
        return f"disk full: status {done.returncode}, {said}"
    finally:
        subprocess.run(["umount", str(folder)], check=False)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=100, help="over all calls that share --out")
    parser.add_argument("--minutes", type=float, default=1e9, help="stop this call after so long; the next one goes on")
    parser.add_argument("--real", action="store_true", help="SmolLM2-135M instead of a tiny model; hours")
    parser.add_argument("--out", type=Path, default=Path("runs") / "chaos")
    asked = parser.parse_args()
    project = tiny.project(asked.out.resolve())
    series = {"recipe": "lora", "tokens": [1024], "corpus": str(project / "train.txt"), "length": 64, "batch": 4}
    changes: dict = {"seeds": [0, 1], "recovery": [series]}
    if asked.real:
        changes = {"calibration": {"tokens": 2048, "length": 256}, "evaluation": {"tokens": 2048, "context": 256}}
        changes |= {"models": ["smollm2-135m"], "dtype": "bfloat16"}
    ends_at = time.monotonic() + 60 * asked.minutes
    undisturbed = calm(project, **changes)
    chaos = Chaos(project, tiny.study(project, "chaos", **changes))
    while time.monotonic() < ends_at and not (len(chaos.kills) >= asked.kills and chaos.count["tables equal"]):
        if live(chaos, kill=len(chaos.kills) < asked.kills) == 0:
            same = undisturbed.equals(table(chaos.folder))
            chaos.count["tables equal" if same else "tables different"] += 1
            shutil.rmtree(chaos.folder)
            chaos.seen.clear()
        chaos.save()
    return report(chaos, full_disk(project) if len(chaos.kills) >= asked.kills else "")


def live(chaos: Chaos, kill: bool) -> int:
    """One life of `claw run`: some kills of what works for it, then one of what directs it; its exit status."""
    lives = chaos.count["lives"] = chaos.count["lives"] + 1
    mode = ("workers", "scheduler", "serial")[lives % 3] if kill else "workers"
    draw = random.Random(lives)
    driver = chaos.start(mode)
    hits = draw.randint(6, 14) if kill else -1
    while driver.poll() is None:
        wakes = time.monotonic() + draw.uniform(0.2, 4.0)
        while driver.poll() is None and time.monotonic() < wakes:
            time.sleep(0.05)
        alive = chaos.victims()
        working = [role for role in alive if role not in ("driver", "scheduler")]
        if driver.poll() is not None or hits < 0 or not alive:
            continue
        if mode == "scheduler" and "worker" not in alive:
            chaos.add_worker()
        if "kernel" not in alive and draw.random() < 0.98:
            continue  # still importing: mostly, wait until there is work to disturb
        role = draw.choice(working if hits and working else [role for role in alive if role not in working])
        try:
            os.kill(draw.choice(alive[role]).pid, signal.SIGKILL)
        except ProcessLookupError:
            continue
        chaos.kills.append((mode, role))
        hits -= 1
        time.sleep(0.1)
        chaos.look()
        if role in ("driver", "scheduler"):
            break
    try:
        status = driver.wait(timeout=180)
    except subprocess.TimeoutExpired:
        chaos.count["hanging"] += 1
        print(f"HANGING after {chaos.kills[-1]}")
        driver.kill()
        status = driver.wait()
    chaos.end()
    chaos.look()
    kept = f"{len(chaos.kills)} kills, {len(chaos.seen)} records"
    print(f"{time.strftime('%H:%M:%S')} life {lives} ({mode}): status {status}, {kept}", flush=True)
    return status


def report(chaos: Chaos, disk: str) -> int:
    """Print who was killed how often and what came of it; the exit status."""
    kills = pd.DataFrame(chaos.kills, columns=["mode", "victim"])
    print(pd.crosstab(kills["victim"], kills["mode"], margins=True, margins_name="all").to_string())
    bad = ("lost", "duplicated", "corrupt", "changed", "orphans", "hanging", "tables different")
    print(", ".join(f"{name}: {chaos.count[name]}" for name in (*bad, "tables equal", "lives")))
    print(disk)
    return int(any(chaos.count[name] for name in bad))


if __name__ == "__main__":
    sys.exit(main())
