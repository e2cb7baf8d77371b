"""A whole study from plan to report: check, run the jobs, fit the laws, draw, say where everything is."""

import shutil
import time
from pathlib import Path

from claw import data, models, records, report, tasks
from claw.prune import catalogue
from claw.recovery import schedule
from claw.studies import Study
from claw.sweep import engine
from claw.sweep.plan import LAWS, Job, Plan, make

COLUMNS = [
    "model", "method", "ratio", "ratio_params", "recovery_tokens", "loss", "loss_stderr", "accuracy", "accuracy_stderr",
    "speedup_prefill", "speedup_decode",
]  # fmt: skip


def check(study: Study) -> None:
    """Raise InputError for anything in a study that can be known to be wrong before work starts."""
    for model in study.models:
        models.check_name(model)
    data.check_purpose(study.evaluation.heldout, "heldout")
    if any(catalogue.needs_statistics(method) for method in study.methods):
        data.check_purpose(study.calibration.corpus, "calibration")
        data.check_disjoint(study.calibration.corpus, study.evaluation.heldout)
    for series in study.recovery:
        data.check_purpose(series.corpus, "recovery")
        data.check_disjoint(series.corpus, study.evaluation.heldout)
        schedule.milestones(series.tokens, series.length, series.batch)
    tasks.check_tasks(study.evaluation.tasks, hub=study.evaluation.tasks_from == "hub")
    models.pick_device(study.device)


def describe(plan: Plan) -> str:
    """The plan in words: jobs, experiments, what is done."""
    study = plan.study
    lines = [
        f"{study.name}: {len(study.experiments)} experiments in {len(study.curves)} curves, {len(plan.wanted)} records, "
        f"{len(plan.done)} done; {len(plan.jobs)} jobs to run in {plan.folder}",
        "",
        *(
            f"  {number:3d}. {job.notebook:12} {job.title}  ({len(job.makes)} records)"
            for number, job in enumerate(plan.jobs, 1)
        ),
    ]
    return "\n".join(lines)


def run(plan: Plan) -> int:
    """Run a plan, fit the laws and write the report; the exit status."""
    started = time.monotonic()
    check(plan.study)
    print(
        f"{describe(plan).splitlines()[0]}\n`claw status` tells how far it is; stopped, the same command goes on from there.",
        flush=True,
    )
    failures = engine.run(plan, after=lambda job: _drop_checkpoints(plan))
    finish(plan)
    print(f"\nTotal time {time.monotonic() - started:.0f} s.")
    for failure in failures:
        print(f"failed: {failure}")
    return 1 if failures else 0


def _drop_checkpoints(plan: Plan) -> None:
    """Delete checkpoints that no later stage of the study needs, unless the study keeps them."""
    if plan.study.keep_checkpoints:
        return
    left = make(plan.study, plan.folder).jobs
    needed = {Path(name) for later in left for name in later.parameters.get("checkpoints", ())}
    for folder in (plan.folder / "checkpoints").glob("*"):
        if folder not in needed:
            shutil.rmtree(folder, ignore_errors=True)


def finish(plan: Plan) -> None:
    """Fit the laws in their notebook, write table and report, and print what a reader wants to know first."""
    from claw import laws

    folder = plan.folder
    table = records.table(folder, plan.study.evaluation)
    records.save_csv(table, folder / "table.csv")
    engine.run_job(laws_job(folder), folder)
    fitted = laws.from_json(folder / "laws.json")
    figures = sorted((folder / "figures").glob("*.svg"))
    for cut_off in (folder / "notebooks").glob("*.part.ipynb"):  # of jobs that were killed; their records count, they do not
        cut_off.unlink()
    notebooks = sorted((folder / "notebooks").glob("*.ipynb"))
    page = report.write(folder / "report.html", plan.study.name, fitted, table, figures, notebooks)
    print(table[COLUMNS].dropna(axis=1, how="all").to_string(index=False, float_format=lambda value: f"{value:.4f}", na_rep=""))
    print(f"\n{fitted.summary()}\n")
    print(f"executed notebooks  {folder / 'notebooks'}")
    print(f"figures             {folder / 'figures'} ({len(figures)}, each as pdf, png, svg and csv)")
    print(f"table               {folder / 'table.csv'}")
    print(f"laws                {folder / 'laws.json'}")
    print(f"report              {page}")
    print(
        "\nOpen the report in a browser; it needs neither network nor Python. `make lab` goes on from here, `make app` slides the laws."
    )


def laws_job(folder: Path) -> Job:
    """The notebook that fits the laws of a run."""
    return Job(LAWS, "laws", {"table": str(folder / "table.csv"), "out": str(folder)}, ())
