"""Kill -9 whatever runs a study, at random moments, and see whether anything is lost: `python benchmarks/chaos.py`.

The study runs in three ways in turn: one job after the other, on workers of this machine, and on a Dask cluster of its own.
After each kill every record ever seen must still be there, whole and with the same result; after the death of the driver no
process of the run may be left; and the table at the end must be that of a run that nobody disturbed. Last, a disk runs full.
Kills are noted in OUT/kills.csv and add up over calls.
"""

import argparse
import csv
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

    def __init__(self, project: Path, study: Path, seed: int):
        self.project, self.study, self.draw = project, study, random.Random(seed)
        self.folder = project / "runs" / study.stem
        self.seen: dict[str, str] = {}
        self.count: Counter = Counter()
        self.processes: list[subprocess.Popen] = []
        self.log = (project / "chaos.log").open("a")

    def start(self, mode: str) -> subprocess.Popen:
        """Start `claw run` in one of the three ways; its process."""
        how = []
        if mode == "workers":
            how = ["--workers", "2"]
        if mode == "scheduler":
            place = self.project / "scheduler.json"
            place.unlink(missing_ok=True)
            self._spawn("distributed.cli.dask_scheduler", "--host", "127.0.0.1", "--port", "0", "--no-dashboard",
                        "--scheduler-file", str(place))  # fmt: skip
            while not place.exists() or not place.read_text():
                time.sleep(0.1)
            address = json.loads(place.read_text())["address"]
            for _ in range(2):
                self._spawn("distributed.cli.dask_worker", address, "--nthreads", "1", "--no-dashboard", "--death-timeout", "5",
                            "--local-directory", str(self.project / "dask"))  # fmt: skip
            how = ["--scheduler", address]
        return self._spawn("claw", "run", str(self.study), *how)

    def _spawn(self, *arguments: str) -> subprocess.Popen:
        environment = os.environ | {"CLAW_CHAOS": str(self.project), "PYTHONPATH": str(tiny.ROOT)}
        process = subprocess.Popen(
            [sys.executable, "-m", *arguments], cwd=self.project, env=environment, stdout=self.log, stderr=self.log,
            start_new_session=True,
        )  # fmt: skip
        self.processes.append(process)
        return process

    def victims(self) -> dict[str, list[psutil.Process]]:
        """Processes of the run that are alive, by role."""
        found: dict[str, list[psutil.Process]] = {role: [] for role in ROLES}
        roles: dict[int, str] = {}
        for process in sorted(self.left(), key=lambda p: p.pid):
            try:
                words, parent = " ".join(process.cmdline()), process.ppid()
            except psutil.Error:
                continue
            if "claw.sweep.warm" in words:
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
            found[role].append(process)
        return {role: some for role, some in found.items() if some}

    def left(self) -> list[psutil.Process]:
        """Processes that carry this project's mark in their environment and are not zombies."""
        found = []
        for process in psutil.process_iter():
            try:
                marked = process.environ().get("CLAW_CHAOS") == str(self.project)
                if marked and process.status() != psutil.STATUS_ZOMBIE:
                    found.append(process)
            except psutil.Error:
                continue
        return found

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
    content = records.read(path)
    if content is None:
        return None
    if content["status"] == "failed":
        return "failed"
    return json.dumps({k: v for k, v in content["result"].items() if "second" not in k and "memory" not in k}, sort_keys=True)


def table(folder: Path) -> pd.DataFrame:
    """The table of a run without what time decides."""
    frame = records.table(folder)
    return frame[[name for name in frame.columns if name not in TIMES]]


def calm(project: Path, **changes) -> pd.DataFrame:
    """The table of a run that nobody disturbs; made once."""
    path = tiny.study(project, "calm", **changes)
    if not (project / "runs" / "calm" / "report.html").exists():
        environment = os.environ | {"PYTHONPATH": str(tiny.ROOT)}
        subprocess.run([sys.executable, "-m", "claw", "run", str(path)], cwd=project, env=environment, check=True,
                       stdout=subprocess.DEVNULL)  # fmt: skip
    return table(project / "runs" / "calm")


def full_disk(project: Path) -> str:
    """A run on a disk that is full after 200 kB: what claw says, and whether each record is whole."""
    folder = project / "small-disk"
    folder.mkdir(exist_ok=True)
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=200k", "tmpfs", str(folder)], capture_output=True).returncode:
        return "disk full: not tried (mounting needs root)"
    try:
        path = tiny.study(project, "full")
        shutil.rmtree(project / "runs" / "full", ignore_errors=True)
        (project / "runs" / "full").symlink_to(folder)
        environment = os.environ | {"PYTHONPATH": str(tiny.ROOT)}
        done = subprocess.run([sys.executable, "-m", "claw", "run", str(path)], cwd=project, env=environment, text=True,
                              capture_output=True)  # fmt: skip
        whole = [_result(record) is not None for record in (folder / "records").glob("*.json")]
        trace = "TRACEBACK " if "Traceback" in done.stderr else ""
        return f"disk full: status {done.returncode}, {trace}{sum(whole)} of {len(whole)} records whole; said: {done.stderr.strip()[-300:]}"
    finally:
        (project / "runs" / "full").unlink(missing_ok=True)
        subprocess.run(["umount", str(folder)], check=False)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--real", action="store_true", help="SmolLM2-135M instead of a tiny model; hours")
    parser.add_argument("--out", type=Path, default=Path("runs") / "chaos")
    asked = parser.parse_args()
    project = tiny.project(asked.out.resolve())
    changes: dict = {"seeds": [0, 1], "recovery": [
        {"recipe": "lora", "tokens": [1024], "corpus": str(project / "train.txt"), "length": 64, "batch": 4}
    ]}  # fmt: skip
    if asked.real:
        changes = {"models": ["smollm2-135m"], "dtype": "bfloat16", "recovery": None,
                   "calibration": {"tokens": 2048, "length": 256}, "evaluation": {"tokens": 2048, "context": 256}}  # fmt: skip
    undisturbed = calm(project, **changes)
    chaos = Chaos(project, tiny.study(project, "chaos", **changes), asked.seed)
    kills: list[tuple[str, str]] = []
    ends = Counter()
    life = 0
    while len(kills) < asked.kills or not ends["finished"]:
        calm_now = len(kills) >= asked.kills  # the last life ends undisturbed, so that there is a table to compare
        mode = ("workers", "scheduler", "serial")[life % 3]
        life += 1
        driver = chaos.start("serial" if calm_now else mode)
        hits = chaos.draw.randint(3, 8)
        while driver.poll() is None:
            ends_at = time.monotonic() + (1.0 if calm_now else chaos.draw.uniform(0.2, 5.0))
            while driver.poll() is None and time.monotonic() < ends_at:
                time.sleep(0.05)
            found = chaos.victims()
            if calm_now or not found or driver.poll() is not None:
                continue
            working = [role for role in found if role not in ("driver", "scheduler")]
            if not working and hits and chaos.draw.random() < 0.8:
                continue  # still importing: wait for something worth killing, mostly
            last = not hits or not working
            role = chaos.draw.choice([r for r in found if r in ("driver", "scheduler")] if last else working)
            victim = chaos.draw.choice(found[role])
            try:
                os.kill(victim.pid, signal.SIGKILL)
            except ProcessLookupError:
                continue
            kills.append((mode, role))
            hits = max(0, hits - 1)
            time.sleep(0.1)
            chaos.look()
            if role in ("driver", "scheduler"):
                break
        try:
            status = driver.wait(timeout=120)
        except subprocess.TimeoutExpired:
            chaos.count["hanging"] += 1
            print(f"HANGING after {kills[-1]}")
            driver.kill()
            status = driver.wait()
        chaos.end()
        chaos.look()
        ends["finished" if status == 0 else "killed" if status < 0 else f"status {status}"] += 1
        print(
            f"{time.strftime('%H:%M:%S')} life {life} ({mode}): status {status}, {len(kills)} kills, {len(chaos.seen)} records",
            flush=True,
        )
        if status == 0:
            same = undisturbed.equals(pd.DataFrame(table(chaos.folder)))
            chaos.count["tables equal" if same else "tables different"] += 1
            shutil.rmtree(chaos.folder)
            chaos.seen.clear()
    return report(asked.out, kills, chaos.count, full_disk(project))


def report(out: Path, kills: list, count: Counter, disk: str) -> int:
    """Add to the notes of earlier calls, and print the table of all."""
    note = out / "kills.csv"
    with note.open("a", newline="") as file:
        csv.writer(file).writerows([("kill", *kill) for kill in kills] + [("count", name, n) for name, n in count.items()])
    rows = list(csv.reader(note.open()))
    found = pd.DataFrame([row[1:] for row in rows if row[0] == "kill"], columns=["mode", "victim"])
    total = Counter()
    for row in rows:
        if row[0] == "count":
            total[row[1]] += int(row[2])
    print(pd.crosstab(found["victim"], found["mode"], margins=True, margins_name="all").to_string())
    bad = ("lost", "duplicated", "corrupt", "changed", "orphans", "hanging", "tables different")
    print(", ".join(f"{name}: {total[name]}" for name in (*bad, "tables equal")))
    print(disk)
    return int(any(total[name] for name in bad))


if __name__ == "__main__":
    sys.exit(main())
