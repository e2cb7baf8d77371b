"""Jobs on Dask workers: in order, alone where they must be, refused where nobody can do them, and gone with their run."""

import builtins
import time
from pathlib import Path

import psutil
import pytest

from claw.cli import main
from claw.errors import InputError
from claw.sweep import cluster, locks, machine, plan, run_jobs, study_run

distributed = pytest.importorskip("distributed")
ROOT = Path(__file__).parents[2]


def local_cluster(**options):
    """A cluster in this process: what it runs can be watched."""
    address = {"host": "127.0.0.1", "dashboard_address": "127.0.0.1:0", "protocol": "tcp://"}
    return distributed.LocalCluster(processes=False, **address, **options)


@pytest.fixture(scope="module")
def scheduler():
    """A cluster of two workers with one thread each."""
    with local_cluster(n_workers=2, threads_per_worker=1, resources={"GPU": 1, "MEMORY": 8}) as made:
        yield made.scheduler_address


@pytest.fixture
def full_plan(study, tmp_path):
    """All four stages of two curves."""
    from claw.specs.experiment import Speed

    evaluation = study.evaluation.model_copy(update={"tasks": ("piqa",)})
    return plan.make(study.model_copy(update={"evaluation": evaluation, "speed": Speed()}), tmp_path)


@pytest.fixture
def ran(monkeypatch, tmp_path):
    """(job, began, ended) of each job, which does nothing but take a while in its room on the machine."""
    jobs = []

    def run_job(job, folder, *, waiting, **options):
        with locks.room(tmp_path / "machines", alone=job.alone):
            began = time.monotonic()
            while time.monotonic() < began + 0.2:
                waiting()
                time.sleep(0.02)
            jobs.append((job, began, time.monotonic()))

    monkeypatch.setattr(run_jobs, "run_job", run_job)
    return jobs


def test_jobs_wait_for_those_they_need_and_two_run_at_a_time(full_plan, ran, scheduler):
    done = []
    assert cluster.run_on_workers(full_plan, done.append, scheduler=scheduler) == []
    assert {job.id for job in done} == {job.id for job in full_plan.jobs} == {job.id for job, *_ in ran}
    ended = {job.id: end for job, _, end in ran}
    for job, began, _ in ran:
        assert all(ended[need] <= began for need in job.needs)
    assert any(a is not b and b[1] < a[1] < b[2] for a in ran for b in ran)
    timed = [span for span in ran if span[0].alone]
    assert len(timed) == 2 and not any(a is not b and a[1] < b[2] and b[1] < a[2] for a in timed for b in ran)
    assert [job.alone for job, *_ in sorted(ran, key=lambda span: span[1])][-2:] == [True, True]  # timed last


def test_what_is_timed_has_all_cores_and_the_others_share_them(full_plan, monkeypatch, scheduler):
    given = {}
    shown = lambda options: (options["threads"], options["alone"])
    monkeypatch.setattr(run_jobs, "run_job", lambda job, folder, **options: given.update({job: shown(options)}))
    assert cluster.run_on_workers(full_plan, lambda job: None, scheduler=scheduler) == []
    cores = len(machine.cores())
    assert {job.alone: count for job, count in given.items()} == {True: (cores, True), False: (max(1, cores // 2), False)}


@pytest.mark.parametrize("most", [1, 3, 100])
def test_jobs_are_handed_over_a_window_at_a_time_and_none_is_forgotten(full_plan, most):
    queue, order, with_scheduler = cluster._Queue(full_plan.jobs), [], []
    while queue.left or with_scheduler:
        ready = queue.ready(most - len(with_scheduler))
        for _, job, before in ready:
            assert len(before) == len(job.needs) and all(outcome.kind == "done" for outcome in before)
            assert not job.alone or all(other.alone or other.id in queue.ended for other in full_plan.jobs)
        with_scheduler += [job for _, job, _ in ready]
        assert 0 < len(with_scheduler) <= most
        order.append(with_scheduler.pop(0))
        queue.ended[order[-1].id] = run_jobs.Outcome("done")
    assert len(order) == len(full_plan.jobs) == len({job.id for job in order})
    if most == 1:  # as they were planned
        assert order == sorted(full_plan.jobs, key=lambda job: job.alone)


def test_failures_are_collected_and_stop_nothing_but_what_needs_them(full_plan, ran, scheduler, monkeypatch):
    quiet = run_jobs.run_job

    def breaking(job, folder, **options):
        if job.title.endswith("random seed0") and job.notebook == plan.COMPRESS:
            raise run_jobs.Failure("it broke")
        quiet(job, folder, **options)

    monkeypatch.setattr(run_jobs, "run_job", breaking)
    failures = cluster.run_on_workers(full_plan, scheduler=scheduler)
    assert sum("it broke" in words for words in failures) == 1 and sum("not run" in words for words in failures) == 2
    assert len(ran) == len(full_plan.jobs) - 3

    def unusable(job, folder, **options):
        raise InputError("ratio 0.9 cannot be reached")

    monkeypatch.setattr(run_jobs, "run_job", unusable)
    failures = cluster.run_on_workers(full_plan, scheduler=scheduler)
    assert len(failures) == len(full_plan.jobs) and any("cannot be reached" in words for words in failures)


def test_what_no_worker_offers_is_refused_before_anything_is_submitted(full_plan, ran, scheduler):
    study = full_plan.study
    for asked, said in [({"gpus": 2}, "gpus: 2.*offers gpus: 1"), ({"gpus": 1, "memory": 16.0}, "offers gpus: 1, memory: 8")]:
        wanted = study.model_copy(update={"resources": study.resources.model_copy(update=asked)})
        with pytest.raises(InputError, match=said):
            cluster.run_on_workers(plan.make(wanted, full_plan.folder), scheduler=scheduler)
    with pytest.raises(InputError, match="each of 2 workers on this machine offers memory"):
        wanted = study.model_copy(update={"resources": study.resources.model_copy(update={"memory": 1e5})})
        cluster.run_on_workers(plan.make(wanted, full_plan.folder), workers=2)
    assert not ran
    wanted = study.model_copy(update={"resources": study.resources.model_copy(update={"gpus": 1, "memory": 8.0})})
    assert cluster.run_on_workers(plan.make(wanted, full_plan.folder), scheduler=scheduler) == [] and ran


@pytest.mark.parametrize("address", ["tcp://127.0.0.1:9", "127.0.0.1:9", "http://127.0.0.1:9", "tcp://", "file:///etc/passwd"])
def test_a_scheduler_that_is_not_there_is_one_sentence(full_plan, address, monkeypatch):
    client = distributed.Client
    monkeypatch.setattr(distributed, "Client", lambda address, timeout, **named: client(address, timeout=1, **named))
    with pytest.raises(InputError, match=r"dask scheduler|tls://HOST:PORT"):
        cluster.run_on_workers(full_plan, scheduler=address)


def test_workers_with_several_threads_are_refused(full_plan):
    with local_cluster(n_workers=1, threads_per_worker=2) as made, pytest.raises(InputError, match="--nthreads 1"):
        cluster.run_on_workers(full_plan, scheduler=made.scheduler_address)


def test_without_dask_serial_runs_and_workers_say_what_to_install(full_plan, ran, monkeypatch):
    real = builtins.__import__

    def absent(name, *more, **named):
        if name.partition(".")[0] in ("dask", "distributed"):
            raise ImportError(name)
        return real(name, *more, **named)

    monkeypatch.setattr(builtins, "__import__", absent)
    with pytest.raises(InputError, match=r"pip install 'claw\[dask\]'"):
        cluster.run_on_workers(full_plan, workers=2)
    monkeypatch.setattr(run_jobs, "run_job", lambda job, folder, **options: None)
    assert run_jobs.run_in_turn(full_plan) == []


def test_a_job_ends_when_nobody_wants_it_any_more(full_plan, tmp_path):
    with locks.hold(tmp_path / cluster.WANTED):
        cluster._stop_unwanted(full_plan.jobs[0], tmp_path)
    with pytest.raises(run_jobs.Failure, match="claw run that wanted it ended"):
        cluster._stop_unwanted(full_plan.jobs[0], tmp_path)


def test_gpus_are_given_out_and_shared(monkeypatch):
    monkeypatch.setattr(machine, "gpus", lambda: ("0", "1", "2", "3"))
    assert [machine.gpus_of(worker, 4) for worker in range(4)] == ["0", "1", "2", "3"]
    assert [machine.gpus_of(worker, 8) for worker in range(8)] == ["0", "1", "2", "3"] * 2
    assert [machine.gpus_of(worker, 2) for worker in range(2)] == ["0,1", "2,3"]
    monkeypatch.setattr(machine, "gpus", lambda: ())
    assert machine.gpus_of(0, 2) is None


def test_who_has_no_certificate_of_the_run_cannot_reach_its_workers(full_plan):
    """Not by TLS with a certificate of another's own, nor by plain TCP; and all of its ports are this machine's."""
    pytest.importorskip("cryptography")
    with cluster._client(full_plan, 1, None) as client:
        client.wait_for_workers(1, timeout=60)
        address = client.scheduler.address
        assert address.startswith("tls://127.0.0.1:") and client.submit(sum, [1, 2]).result(timeout=60) == 3
        strangers = [(address, cluster.temporary_security()), (address.replace("tls", "tcp"), None)]
        for worker in client.scheduler_info(n_workers=-1)["workers"]:
            strangers.append((worker, cluster.temporary_security()))
        for reached, security in strangers:
            with pytest.raises((OSError, RuntimeError, TypeError)):
                distributed.Client(reached, timeout=3, security=security)
        tree = [psutil.Process(), *psutil.Process().children(recursive=True)]
        listening = {c.laddr.ip for p in tree for c in p.net_connections() if c.status == psutil.CONN_LISTEN}
        assert listening == {"127.0.0.1"} and client.dashboard_link.startswith("http://127.0.0.1:")


def test_without_cryptography_no_open_cluster_is_started(full_plan, monkeypatch):
    def absent():
        raise ImportError("cryptography")

    monkeypatch.setattr(distributed.Security, "temporary", absent)
    monkeypatch.setattr(distributed, "LocalCluster", None)
    with pytest.raises(InputError, match=r"cryptography.*pip install 'claw\[dask\]'"):
        cluster.run_on_workers(full_plan, workers=1)


def test_a_tls_scheduler_asks_for_certificates_and_an_open_one_is_said(full_plan, ran, scheduler, capsys):
    with pytest.raises(InputError, match=r"needs certificates.*docs/many-jobs\.md"):
        cluster.run_on_workers(full_plan, scheduler="tls://127.0.0.1:9")
    assert cluster.run_on_workers(full_plan, scheduler=scheduler) == []
    assert "can run code as you" in capsys.readouterr().out


def test_a_study_runs_on_two_workers_of_this_machine(study_file, tmp_path, monkeypatch, capsys):
    pytest.importorskip("cryptography")
    from claw import records
    from claw.specs import study as studies

    (tmp_path / "params").mkdir()
    (tmp_path / "notebooks").symlink_to(ROOT / "notebooks")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.setattr(study_run, "finish", lambda plan: None)
    assert main(["run", str(study_file), "--workers", "2"]) == 0
    assert "2 workers. Dashboard: http://127.0.0.1:" in capsys.readouterr().out
    folder = tmp_path / "runs" / "tiny"
    assert plan.make(studies.load_study(study_file), folder).jobs == ()
    table = records.table(folder)
    assert len(table) == 7 and (table["status"] == "done").all()
    assert main(["run", str(study_file), "--workers", "-1"]) == 2 and "1 to 1024" in capsys.readouterr().err
