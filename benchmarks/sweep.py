"""What running a study costs beside the work in it: `python benchmarks/sweep.py [throughput] [overhead] [empty]`.

- throughput: experiments per minute of the engines, and of a shell loop with one process per experiment that does the same
  work (load, calibrate, compress, save, held-out loss, record). Rounds are interleaved; each side has a cache of its own.
- overhead: the share of a study's time on a real model that is not spent in the cells of its notebooks.
- empty: ten thousand experiments that do nothing: time for each and memory, over the course of the study.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pandas as pd
import psutil
import tiny

from claw import records
from claw.specs import study as studies
from claw.sweep import cluster, plan, run_jobs, status, study_run

ONE = """
import json, sys
import claw
from claw import stages
from claw.specs.notebooks import CompressParameters
asked = CompressParameters.model_validate_json(sys.argv[1])
stages.compress_curve(asked, *claw.load(asked.model, dtype=asked.dtype))
"""
METHODS = ("random", "magnitude", "wanda-sp+ridge", "flap+ridge")
COMPUTE = ("claw.load(", "compress_curve(", "recover_checkpoints(", "evaluate_checkpoints(")


def made(project: Path, name: str, **changes) -> plan.Plan:
    """The plan of a study whose run begins anew."""
    study = studies.load_study(tiny.study(project, name, **changes))
    shutil.rmtree(project / "runs" / name, ignore_errors=True)
    return plan.make(study, project / "runs" / name)


def loop(jobs: tuple[plan.Job, ...], ratios: list[float], cache: Path) -> None:
    """One process per experiment, one after the other."""
    for job in jobs:
        for ratio in ratios:
            given = job.parameters | {"ratios": [ratio], "run": f"{job.parameters['run']}-loop"}
            command = [sys.executable, "-c", ONE, json.dumps(given)]
            subprocess.run(command, check=True, stderr=subprocess.DEVNULL, env=os.environ | {"CLAW_CACHE": str(cache)})


def processor() -> float:
    """Processor seconds of this process, of those that ended, and of those that still work for it."""
    mine, total = psutil.Process(), sum(os.times()[:4])
    for process in mine.children(recursive=True):
        times = process.cpu_times()
        total += times.user + times.system + times.children_user + times.children_system
    return total


def throughput(project: Path, asked: argparse.Namespace) -> None:
    """Print experiments per minute of each engine, and ratios to the shell loop."""
    ratios = np.linspace(0.1, 0.8, asked.ratios).round(3).tolist()
    real = {"calibration": {"tokens": 2048, "length": 256}, "evaluation": {"tokens": 2048, "context": 256}}
    changes = real | {"models": ["smollm2-135m"]} if asked.real else {}
    rows = []
    for number, method in enumerate(METHODS[: asked.rounds]):
        name = f"throughput-{method.replace('+', '-')}"
        whole = made(project, name, methods=[method], ratios=ratios, **changes)
        curves = tuple(job for job in whole.jobs if job.notebook == plan.COMPRESS)
        wanted = {name: whole.wanted[name] for job in curves for name in job.makes}
        few = plan.Plan(study=whole.study, folder=whole.folder, jobs=curves, wanted=wanted, done=frozenset())
        for engine in ("claw run", "shell loop", *(["--workers 2"] if asked.workers else [])):
            shutil.rmtree(whole.folder, ignore_errors=True)
            wall, cpu = time.perf_counter(), processor()
            if engine == "shell loop":
                loop(curves, ratios[: asked.loop], project / "loop-cache")
            else:
                failures = run_jobs.run_in_turn(few) if engine == "claw run" else cluster.run_on_workers(few, workers=2)
                assert not failures, failures
            count = asked.loop if engine == "shell loop" else len(ratios)
            rows.append((number, method, engine, count, time.perf_counter() - wall, processor() - cpu))
            print("round {} {:16} {:12} {:3d} experiments {:8.1f} s, processor {:8.1f} s".format(*rows[-1]), flush=True)
    timed = pd.DataFrame(rows, columns=["round", "method", "engine", "experiments", "seconds", "processor"])
    later = timed[timed["round"] > 0]
    for words, part in (("all rounds", timed), ("without the first, which starts claw's fork server", later)):
        if part.empty:
            continue
        total = part.groupby("engine", sort=False)[["experiments", "seconds", "processor"]].sum()
        total["per minute"] = 60 * total["experiments"] / total["seconds"]
        for name in ("seconds", "processor"):
            each = total[name] / total["experiments"]
            total[f"times the loop, {name}"] = each["shell loop"] / each
        print(f"{words}\n{total.round(2).to_string()}")


def overhead(project: Path, asked: argparse.Namespace) -> None:
    """Print where the time of a study on SmolLM2-135M goes, over all its jobs."""
    texts = {"calibration": {"tokens": 16384, "length": 512}, "evaluation": {"tokens": asked.tokens, "context": 512}}
    grid = {"models": ["smollm2-135m"], "methods": ["magnitude", "wanda-sp+ridge"]}
    made_plan = made(project, "overhead", **grid, ratios=np.linspace(0.1, 0.9, 9).round(2).tolist(), **texts, dtype="auto")
    began, times = time.perf_counter(), []
    run_jobs.run_in_turn(made_plan, lambda job: times.append(time.perf_counter()))
    walls = np.diff([began, *times])
    rows = []
    for job, wall in zip(made_plan.jobs, walls, strict=True):
        cells = json.loads((made_plan.folder / "notebooks" / f"{job.id}.ipynb").read_text())["cells"]
        code = [cell for cell in cells if cell["cell_type"] == "code"]
        timed = [("".join(cell["source"]), cell["metadata"]["papermill"]["duration"] or 0.0) for cell in code]
        compute = sum(seconds for source, seconds in timed if any(name in source for name in COMPUTE))
        shown = sum(seconds for _, seconds in timed) - compute
        rows.append((job.notebook, job.title, len(job.makes) // 2, wall, compute, shown, wall - compute - shown))
    spent = ["compute", "figures and tables", "overhead"]
    jobs = pd.DataFrame(rows, columns=["notebook", "title", "experiments", "wall", *spent])
    print(jobs.round(2).to_string(index=False))
    for name, part in (("all jobs", jobs), ("all but the first, which starts the fork server", jobs.iloc[1:])):
        share = 100 * part[spent].sum() / part["wall"].sum()
        each = part["overhead"].sum() / part["experiments"].sum()
        shares = ", ".join(f"{key} {value:.2f} %" for key, value in share.items())
        print(f"{name}: {shares}; {each:.2f} s overhead per experiment")


def empty(project: Path, asked: argparse.Namespace) -> None:
    """Print time per job and memory over the course of a study whose jobs do nothing."""
    began = time.perf_counter()
    seeds = list(range(asked.experiments))
    study = studies.load_study(tiny.study(project, "empty", methods=["random"], ratios=[0.5], seeds=seeds))
    folder = project / "runs" / "empty"
    shutil.rmtree(folder, ignore_errors=True)
    (folder / "records").mkdir(parents=True)
    made_plan = plan.make(study, folder)
    print(f"plan of {len(study.experiments):,} experiments, {len(made_plan.jobs):,} jobs: {time.perf_counter() - began:.1f} s")
    specs = {e.id: e.model_dump(mode="json") for e in study.experiments}

    def write(job: plan.Job, *_, **__) -> None:
        for name in job.makes:
            identity, _, stage = name.removesuffix(".json").partition(".")
            stage, _, measured = stage.partition("-")
            content = {"schema": 1, "experiment": identity, "stage": stage, "measured": measured, "spec": specs[identity]}
            content |= {"environment": {}, "status": "nan", "result": {}}
            (folder / "records" / name).write_text(json.dumps(content | {"checksum": records.checksum(content)}))

    run_jobs.run_job = write
    process, at = psutil.Process(), []
    drop = study_run.Unneeded(made_plan).drop

    def after(job: plan.Job) -> None:
        drop(job)
        at.append((time.perf_counter(), process.memory_info().rss))

    for name, run in (("one after the other", run_jobs.run_in_turn), ("2 workers", _threads)):
        at.clear()
        shutil.rmtree(folder / "records")
        (folder / "records").mkdir()
        at.append((time.perf_counter(), process.memory_info().rss))
        run(made_plan, after)
        clock, memory = np.array(at).T
        tenths = [1000 * np.diff(part).mean() for part in np.array_split(clock, 10)]
        held = [memory[0], *(part[-1] for part in np.array_split(memory[1:], 10))]
        print(f"{name}, by tenth of the study: ms per job " + " ".join(f"{t:.2f}" for t in tenths))
        print(f"{name}, at the start and after each tenth: MB " + " ".join(f"{m / 1e6:.0f}" for m in held))
    began = time.perf_counter()
    again = plan.make(study, folder)
    print(f"plan again, {len(again.done):,} records done: {time.perf_counter() - began:.1f} s; ", end="")
    began = time.perf_counter()
    watcher = status.Watcher(again)
    watcher.frame()
    first, began = time.perf_counter() - began, time.perf_counter()
    watcher.frame()
    print(f"status: {first:.1f} s, again {time.perf_counter() - began:.2f} s")


def _threads(made_plan: plan.Plan, after) -> list[str]:
    """Two Dask workers that are threads here, so that the jobs that do nothing can be replaced here."""
    import dask
    import distributed

    address = {"protocol": "tcp://", "host": "127.0.0.1", "dashboard_address": "127.0.0.1:0"}
    workers = {"n_workers": 2, "threads_per_worker": 1, "processes": False}
    with dask.config.set(cluster.SETTINGS), distributed.LocalCluster(**workers, **address) as made_cluster:
        return cluster.run_on_workers(made_plan, after, scheduler=made_cluster.scheduler_address)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parts = {"throughput": throughput, "overhead": overhead, "empty": empty}
    parser.add_argument("what", nargs="*", choices=[*parts, []], default=list(parts))
    parser.add_argument("--ratios", type=int, default=8, help="experiments of each round of throughput")
    parser.add_argument("--loop", type=int, default=8, help="of these, experiments that the shell loop does")
    parser.add_argument("--rounds", type=int, default=3, help="methods, one a round")
    parser.add_argument("--workers", action="store_true", help="throughput of --workers 2 too")
    parser.add_argument("--real", action="store_true", help="throughput on SmolLM2-135M")
    parser.add_argument("--tokens", type=int, default=32768, help="held-out tokens of each experiment of overhead")
    parser.add_argument("--experiments", type=int, default=10_000, help="of empty")
    parser.add_argument("--out", type=Path, default=Path("runs") / "sweep-benchmark")
    asked = parser.parse_args()
    project = tiny.project(asked.out.resolve())
    os.chdir(project)
    os.environ["PYTHONPATH"] = str(tiny.ROOT)
    for name in asked.what:
        parts[name](project, asked)


if __name__ == "__main__":
    main()
