"""Status and dry run: read from disk alone, right in every cell, and honest where nothing is known."""

import json
import os
import re

import hypothesis
import matplotlib.pyplot as plt
import pytest
from hypothesis import strategies as st
from written import write, write_all

from claw.cli import main
from claw.specs import study as studies
from claw.sweep import estimate, locks, plan, status, study_run


@pytest.fixture
def half_done(study, tmp_path):
    """A plan with two records of one curve done, one failed, one job running, and a stale mark of another."""
    made = plan.make(study, tmp_path)
    _, first, second = made.jobs
    write(tmp_path, made, first.makes[0], seconds=2.0)
    write(tmp_path, made, first.makes[1], status="nan")
    write(tmp_path, made, first.makes[2], status="failed", error="it broke")
    (tmp_path / "running").mkdir()
    (tmp_path / "running" / f"{first.id}.json").write_text(json.dumps({"makes": first.makes[3:4]}))  # nobody holds it
    with locks.mark(tmp_path, second.id, {"makes": second.makes}):
        yield plan.make(study, tmp_path)


def test_every_record_has_the_state_that_the_disk_shows(half_done):
    statuses = status.Watcher(half_done).frame()
    assert statuses["status"].value_counts().to_dict() == {"running": 6, "planned": 5, "done": 1, "nan": 1, "failed": 1}
    assert set(statuses.loc[statuses["status"] == "running", "method"]) == {"wanda-sp+ridge"}
    cells = status.cells(statuses).set_index(["method", "ratio"])
    assert cells.loc[("random", 0.2), ["records", "finished", "failed"]].tolist() == [2, 2, 0]
    assert cells.loc[("random", 0.4), ["records", "finished", "failed"]].tolist() == [2, 0, 1]


def test_the_terminal_shows_counts_signs_and_colours_only_where_asked(half_done):
    plain = status.status_text(half_done)
    assert "1 done, 1 nan, 1 failed, 6 running, 5 planned" in plain and "\x1b" not in plain
    assert re.search(r"random +2/2 +0/2! +0/2", plain) and re.search(r"wanda-sp\+ridge +0/2\* +0/2\* +0/2\*", plain)
    assert len({len(line) for line in plain.splitlines()[2:]}) == 1  # columns are aligned
    coloured = status.status_text(half_done, colour=True)
    assert re.sub(r"\x1b\[[0-9;]*m", "", coloured) == plain
    for shade in (status.RED, status.YELLOW, status.GREENS[-1], status.GREY):
        assert f"48;5;{shade}m" in coloured


def test_watching_shows_again_until_all_is_done(study, tmp_path, monkeypatch):
    made, screens = plan.make(study, tmp_path), []

    def finish(_):
        write_all(tmp_path, made)

    monkeypatch.setattr(status.time, "sleep", finish)
    status.watch(made, write=screens.append)
    assert len(screens) == 2 and "14 planned" in screens[0] and "14 done" in screens[1]
    assert all(screen.startswith(status.CLEAR) for screen in screens)


def test_watching_into_a_file_is_a_line_for_each_change(study, tmp_path, monkeypatch):
    made, written, waits = plan.make(study, tmp_path), [], []

    def sleep(_):
        waits.append(1)
        if len(waits) == 3:
            write_all(tmp_path, made)

    monkeypatch.setattr(status.time, "sleep", sleep)
    status.watch(made, write=written.append, terminal=False)
    assert written == [
        "tiny: 14 records: 0 done, 0 nan, 0 failed, 14 planned\n",
        "tiny: 14 records: 14 done, 0 nan, 0 failed, 0 planned\n",
    ]


def test_what_is_final_is_read_once(half_done, monkeypatch):
    watcher, read = status.Watcher(half_done), []
    real = status.records.open_record
    monkeypatch.setattr(status.records, "open_record", lambda path: read.append(path) or real(path))
    watcher.frame()
    assert len(read) == 14
    watcher.frame()
    assert len(read) == 14 + 12


def test_the_heat_map_shows_the_same_numbers(half_done, tmp_path):
    drawing = status.heat_map(half_done)
    words = [text.get_text() for text in drawing.figure.axes[0].texts]
    assert words.count("0/2…") == 3 and "2/2" in words and "0/2!" in words
    assert drawing.numbers["records"].sum() == 14
    assert all(path.stat().st_size for path in drawing.save(tmp_path / "figures"))
    plt.close("all")


def test_status_of_a_study_that_never_ran(study_file, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(["status", str(study_file)]) == 0
    assert "0 done, 0 nan, 0 failed, 14 planned" in capsys.readouterr().out and not (tmp_path / "runs").exists()


def test_time_is_estimated_from_records_of_the_same_kind_and_not_guessed(study, tmp_path):
    folder = tmp_path / "runs" / "tiny"
    made = plan.make(study, folder)
    assert (estimate.estimate_plan(made).known, estimate.estimate_plan(made).unknown) == (0, 14) and "nothing is known" in str(
        estimate.estimate_plan(made)
    )
    first = made.jobs[1]
    for name, seconds in zip(first.makes[::2], (2.0, 4.0), strict=False):  # two compress records
        assert name.endswith(".compress.json")
        write(folder, made, name, seconds=seconds)
    guess = estimate.estimate_plan(plan.make(study, folder))
    assert (guess.known, guess.unknown) == (5, 7) and guess.seconds == pytest.approx(5 * 3.0)
    assert guess.low < guess.seconds < guess.high
    assert "time    not known for 7 of 12 records: nothing like them" in str(guess) and "the other 5 take " in str(guess)
    beside = estimate.estimate_plan(plan.make(study, tmp_path / "runs" / "other"))  # a run beside it knows it too
    assert beside.known == 7 and beside.seconds == pytest.approx(7 * 3.0)


def test_what_jobs_take_beside_their_records_counts(study, tmp_path):
    folder = tmp_path / "runs" / "tiny"
    made = plan.make(study, folder)
    job = made.jobs[1]
    for name in job.makes:
        write(folder, made, name, seconds=1.0)
    left = plan.make(study, folder)
    assumed = estimate.estimate_plan(left)
    for place in ("jobs", "notebooks"):
        (folder / place).mkdir()
    request, notebook = folder / "jobs" / f"{job.id}.json", folder / "notebooks" / f"{job.id}.ipynb"
    request.write_text(json.dumps({"makes": job.makes}))
    notebook.touch()
    os.utime(request, (1000, 1000))
    os.utime(notebook, (1000, 1000 + len(job.makes) + 60))  # a minute of starting
    known = estimate.estimate_plan(left)
    assert known.seconds == assumed.seconds and known.low >= len(left.jobs) * 30 > assumed.low
    request.write_text("[]")  # damaged: assumed again
    assert estimate.estimate_plan(left) == assumed


@hypothesis.given(st.lists(st.tuples(st.floats(1e-3, 1e5), st.floats(1, 1e6)), min_size=1, max_size=12), st.floats(1e-3, 1e4))
def test_a_rate_is_a_range_around_its_mean(timed, factor):
    rate = estimate.Rate.of(*zip(*timed, strict=True))
    assert 0 < rate.low <= rate.mean <= rate.high
    more = rate.times(factor, doubt=2.0)
    assert more.low < more.mean < more.high and more.mean == pytest.approx(rate.mean * factor)


@pytest.mark.parametrize(
    "low, high, said",
    [
        (0.2, 1.4, "0.2 to 1.4 seconds"),
        (61, 119, "61 to 119 seconds"),
        (90, 240, "1.5 to 4 minutes"),
        (3000, 7300, "0.8 to 2 hours"),
        (5e5, 6e5, "5.8 to 6.9 days"),
        (30, 30, "about 30 seconds"),
    ],
)
def test_a_span_is_in_one_unit(low, high, said):
    assert estimate._span(low, high) == said


def test_recovery_takes_time_by_its_tokens_and_models_by_their_size(tmp_path):
    text = "name: s\nmodels: [smollm2-135m, gemma3-270m]\nmethods: [random]\nratios: [0.5]\nrecovery: [{tokens: [1000, 4000]}]"
    path = tmp_path / "s.yaml"
    path.write_text(text)
    study = studies.load_study(path)
    folder = tmp_path / "runs" / "s"
    small = next(e for e in study.experiments if e.recovery and e.recovery.tokens == 1000)
    name = plan.records_of(study, small)["recover"]
    write(folder, plan.make(study, folder), name, seconds=10.0)
    guess = estimate.estimate_plan(plan.make(study, folder))
    # of each model random neurons and, as a control, the whole model are trained for both budgets
    assert guess.known == 7 and guess.seconds == pytest.approx(90 + 100 * 268098176 / 134515008)


def test_disk_and_memory_follow_from_the_models(study, tmp_path):
    made = plan.make(study, tmp_path)
    size = estimate.weights(study.models[0], study.dtype)
    guess = estimate.estimate_plan(made)
    assert (guess.disk, guess.disk_all, guess.memory) == (3 * size, 6 * size, 2 * size) and size > 10_000
    unknown = study.model_copy(update={"models": ("some/model",)})
    assert estimate.weights("some/model", "auto") is None
    assert estimate.estimate_plan(plan.Plan(study=unknown, folder=tmp_path, jobs=(), wanted={}, done=frozenset())).disk is None


def test_the_dry_run_of_a_large_study_is_a_table(study, tmp_path):
    large = study.model_copy(update={"seeds": tuple(range(60)), "methods": ("random",)})
    said = study_run.describe_plan(plan.make(large, tmp_path))
    assert re.search(r"random +60 +180 +360 +0 +60", said) and "10_compress" not in said and "disk" in said
    assert "10_compress" in study_run.describe_plan(plan.make(study, tmp_path))
