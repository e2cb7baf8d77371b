"""A whole study from plan to report: check, run the jobs, fit the laws, draw, say where everything is."""

import json
import time
from collections import Counter
from pathlib import Path

import pandas as pd

from claw import files, records
from claw.advice import findings
from claw.errors import InputError
from claw.models import load
from claw.show import report
from claw.specs.study import Study
from claw.stages import checkpoints
from claw.sweep import checks, ending, estimate, locks, origin, run_jobs
from claw.sweep.earlier import table_of
from claw.sweep.plan import LAWS, Job, Plan, make
from claw.words import plural

SHORT = 40  # jobs that a dry run lists one by one


def headline(plan: Plan) -> str:
    """What a plan holds and where it runs, in one line."""
    study = plan.study
    return (
        f"{study.name}: {plural(len(study.experiments), 'experiment')} in {plural(len(study.curves), 'curve')}, "
        f"{plural(len(plan.wanted), 'record')}, {len(plan.done):,} done; {plural(len(plan.jobs), 'job')} to run in "
        f"{plan.folder}"
    )


def describe_plan(plan: Plan) -> str:
    """The plan as a table: experiments, records and jobs of each model and method, what is done, what it will cost."""
    parts = [headline(plan), plan_grid(plan).to_string(index=False), str(estimate.estimate_plan(plan))]
    if 0 < len(plan.jobs) <= SHORT:
        jobs = enumerate(plan.jobs, 1)
        lines = [f"  {number:3d}. {job.notebook:12} {job.title}  ({len(job.makes)} records)" for number, job in jobs]
        parts.insert(2, "\n".join(lines))
    return "\n\n".join(parts)


def plan_grid(plan: Plan) -> pd.DataFrame:
    """One row per model and method of a plan: curves, experiments, records, records done, jobs to run."""
    owner = lambda name: (plan.wanted[name][1].compression.model, plan.wanted[name][1].compression.method)
    counts = Counter((curve.model, curve.method, "curves") for curve in plan.study.curves)
    counts.update((e.compression.model, e.compression.method, "experiments") for e in plan.study.experiments)
    counts.update((*owner(name), "records") for name in plan.wanted)
    counts.update((*owner(name), "done") for name in plan.done)
    counts.update((*owner(job.makes[-1]), "jobs") for job in plan.jobs)
    columns = ("curves", "experiments", "records", "done", "jobs")
    groups = dict.fromkeys((model, method) for model, method, _ in counts)
    rows = [(*group, *(counts[*group, name] for name in columns)) for group in groups]
    return pd.DataFrame(rows, columns=["model", "method", *columns])


def rehearse(study: Study, folder: Path, *, workers: int = 0, scheduler: str | None = None) -> None:
    """Print the plan, what is to be known of it, and what it will cost. InputError where `run_study` would refuse it."""
    plan = make(study, folder)
    notes: list[str] = []
    try:
        refuse_foreign_origin(folder / origin.NAME)
        notes = checks.check_plan(plan, workers=workers, scheduler=scheduler)
        check_outputs(plan)
    finally:  # a plan that cannot be run here is shown before it is said why
        print("\n\n".join([describe_plan(plan), *notes]), flush=True)


def run_study(study: Study, folder: Path, *, workers: int = 0, scheduler: str | None = None) -> int:
    """Run what a study lacks in `folder`, fit the laws and write the report; the exit status.

    Jobs run one after the other, on `workers` of this machine, or on the Dask cluster at the address `scheduler`.
    """
    started = time.monotonic()
    for note in checks.check_plan(make(study, folder), workers=workers, scheduler=scheduler):
        print(note)
    another, patience = f"Another claw run works on {study.name}", "Waiting until it ends; then this one does what is left."
    with locks.whole_run(folder, lambda who: print(f"{another} ({who}). {patience}")):
        refuse_foreign_origin(folder / origin.NAME)
        plan = make(study, folder)
        check_outputs(plan)
        if (folder / "checkpoints").is_symlink() and not study.keep_checkpoints:
            print(f"{folder / 'checkpoints'} is a link: claw deletes nothing through links, so all checkpoints there stay.")
        if study.dtype == "auto" and not plan.dtypes and not scheduler:  # chosen once, not by the timing of each job
            dtype = str(load.fast_dtype(load.pick_device(study.device))).removeprefix("torch.")
            plan = make(study.model_copy(update={"dtype": dtype}), folder)
        origin.check_origin(study, folder)
        if ending.is_finished(plan):
            print("\n".join(ending.finished_lines(plan)))
            return 0
        print(headline(plan) + ". If this run is stopped, the same command goes on from there.", flush=True)
        drop = Unneeded(plan).drop
        if plan.jobs and (workers or scheduler):
            from claw.sweep import cluster

            failures = cluster.run_on_workers(plan, drop, workers=workers, scheduler=scheduler)
        else:
            failures = run_jobs.run_in_turn(plan, drop)
        missing = plan.missing()
        if missing and not failures:
            failures.append(f"{plural(missing, 'record')} of this study are not in {folder / 'records'}. Run it again.")
        try:
            origin.check_origin(study, folder)  # what was fetched has its revision now, and nothing changed meanwhile
            if missing < len(plan.wanted):
                finish(plan)
        except (run_jobs.Failure, InputError) as problem:
            failures.append(str(problem))
    print(f"\nTotal time {time.monotonic() - started:.0f} s.")
    for failure in failures:
        print(f"failed: {failure}")
    return 1 if failures else 0


class Unneeded:
    """Deletes each checkpoint of the study after the last job that makes or reads it, unless the study keeps it.

    The checkpoints of a job that failed stay for the next attempt; so does everything else in their folder.
    """

    def __init__(self, plan: Plan):
        self.folder = plan.folder / "checkpoints"
        self.kept = {experiment.id for experiment in plan.study.experiments if plan.study.keeps(experiment)}
        self.users = Counter(name for job in plan.jobs for name in job.checkpoints)
        for name in {experiment.id for experiment in plan.study.experiments} - set(self.users):  # of a run that was killed
            self._delete(name)

    def drop(self, job: Job) -> None:
        """Take note that a job was done."""
        for name in job.checkpoints:
            self.users[name] -= 1
            if not self.users[name]:
                self._delete(name)

    def _delete(self, name: str) -> None:
        if name not in self.kept:
            checkpoints.discard_checkpoint(self.folder / name, name)


def refuse_foreign_origin(path: Path) -> None:
    """InputError where a file of somebody else has the name under which a run says what it was begun with."""
    files.refuse_link(path)
    try:
        begun = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {"code": [], "data": {}}
    except (OSError, ValueError, RecursionError):
        begun = None
    if not (isinstance(begun, dict) and {"code", "data"} <= begun.keys()):
        raise InputError(f"{path} is damaged or was not written by claw. Move it elsewhere, or give the study another name.")


def laws_job(folder: Path) -> Job:
    """The job that fits the laws of a run's table."""
    return Job(notebook=LAWS, title="laws", parameters={"table": str(folder / "table.csv"), "out": str(folder)})


def check_outputs(plan: Plan) -> None:
    """InputError where a file stands in the way of what the run writes, or where somebody changed what it wrote."""
    folder, jobs = plan.folder, (*plan.jobs, laws_job(plan.folder))
    pages = ending.pages(folder)
    if plan.done - plan.spared and not (folder / files.STAMPS).exists():  # begun by a claw that left no stamps
        files.adopt([*pages, *folder.glob("figures/*"), *folder.glob("notebooks/*.ipynb")])
    files.check_own([*pages, *(folder / "notebooks" / f"{job.id}.ipynb" for job in jobs), *files.stamped(folder / "figures")])


def finish(plan: Plan) -> None:
    """Fit the laws in their notebook, write table, report and findings, and print what a reader wants to know first."""
    from claw import laws

    folder, study = plan.folder, plan.study
    table = table_of(study, folder)
    records.save_csv(table, folder / "table.csv")
    run_jobs.run_job(laws_job(folder), folder)
    fitted = laws.from_json(folder / "laws.json")
    figures = sorted((folder / "figures").glob("*.svg"))
    notebooks = sorted((folder / "notebooks").glob("*.ipynb"))
    report.write_report(folder / "report.html", study.name, fitted, table, figures=figures, notebooks=notebooks)
    findings.write_findings(folder, reading=laws.read(folder / "table.csv"))
    print("\n".join(["", *ending.last_lines(fitted, plan, laws_job(folder).id)]))
