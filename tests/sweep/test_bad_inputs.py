"""Records that are damaged, strange or of another claw; studies that cannot work; texts and models that changed."""

import contextlib
import copy
import json
import os
import time
import warnings
from pathlib import Path

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from written import write, write_all

from claw import provenance, records
from claw.cli import main
from claw.errors import InputError
from claw.models import load, planned
from claw.specs import study as studies
from claw.sweep import checks, locks, origin, plan, status, study_run

QUICK = settings(deadline=None, suppress_health_check=list(HealthCheck), database=None)


@pytest.fixture
def made(study, tmp_path, own_cache):
    """A plan of all stages, with every record on disk."""
    from claw.specs.experiment import Recovery, RecoverySeries, Speed

    recovery = RecoverySeries(tokens=(1024,), length=64, corpus=study.calibration.corpus)
    assert isinstance(recovery.recoveries[0], Recovery)
    evaluation = study.evaluation.model_copy(update={"tasks": ("piqa",)})
    change = {"evaluation": evaluation, "speed": Speed(), "recovery": (recovery,), "ratios": (0.0, 0.2), "methods": ("random",)}
    made = plan.make(study.model_copy(update=change), tmp_path / "runs" / "tiny")
    write_all(made.folder, made)
    return plan.make(made.study, made.folder)


def every_stage(made):
    """A record of each stage: path and content."""
    by_stage = {stage: made.folder / "records" / name for name, (stage, _) in made.wanted.items()}
    assert set(by_stage) == set(records.STAGES)
    return {stage: (path, json.loads(path.read_text())) for stage, path in by_stage.items()}


def places(value, at=()):
    inside = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, item in inside:
        yield (*at, key)
        yield from places(item, (*at, key))


def sealed(content):
    """A record whose checksum fits."""
    with contextlib.suppress(RecursionError, AttributeError):
        return content | {"checksum": records.checksum(content)}
    return content


def mutated(content, place, how, value):
    content = copy.deepcopy(content)
    owner = content
    for key in place[:-1]:
        owner = owner[key]
    if how == "drop":
        del owner[place[-1]]
    elif how == "rename" and isinstance(owner, dict):
        owner[f"{place[-1]}x"] = owner.pop(place[-1])
    elif how == "nest":
        owner[place[-1]] = [owner[place[-1]]]
    else:
        owner[place[-1]] = value
    return content


def read_all(made):
    """What table, status and plan say of a run whose disk may hold anything; the table, or None where it was refused."""
    again = plan.make(made.study, made.folder)
    assert again.done | set(again.unusable) <= set(made.wanted)
    assert status.status_text(again)
    with contextlib.suppress(InputError):
        list(checks._check_records(again))
    study_run.describe_plan(again)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with contextlib.suppress(InputError):
            return records.table(made.folder)
    return None


odd = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=5), st.sampled_from([1e20, -1e20, 1e308, 10**30]),
    st.lists(st.integers(), max_size=2), st.dictionaries(st.text(max_size=3), st.integers(), max_size=2),
)  # fmt: skip


@settings(QUICK, max_examples=100)
@given(st.data())
def test_a_record_that_was_changed_anywhere_harms_no_other(made, data):
    path, content = every_stage(made)[data.draw(st.sampled_from(records.STAGES))]
    before = path.read_bytes()
    place = data.draw(st.sampled_from(list(places(content))))
    how = data.draw(st.sampled_from(["drop", "rename", "nest", "retype"]))
    seal = data.draw(st.booleans())
    try:
        changed = mutated(content, place, how, data.draw(odd))
        path.write_text(json.dumps(sealed(changed) if seal else changed))
        table = read_all(made)
        if table is not None:
            assert {"dense", "random"} <= set(table["method"])  # the good records still count
    finally:
        path.write_bytes(before)


@settings(QUICK, max_examples=50)
@given(st.sampled_from(records.STAGES), st.integers(0, 10**6), st.integers(0, 255), st.booleans())
def test_flipped_and_missing_bytes_harm_no_other_record(made, stage, where, byte, cut):
    path, _ = every_stage(made)[stage]
    before = path.read_bytes()
    where %= len(before)
    try:
        path.write_bytes(before[:where] if cut else before[:where] + bytes([byte]) + before[where + 1 :])
        assert set(read_all(made)["method"]) == {"dense", "random"}
    finally:
        path.write_bytes(before)


def test_each_damage_is_named_with_its_reason_and_measured_again(made):
    path, content = every_stage(made)["loss"]
    whole = path.read_text()
    wrong = {
        "its checksum does not fit": content | {"seconds": 2.0},
        "result has an unusable mean": sealed(mutated(content, ("result", "mean"), "drop", None)),
        "content has an unusable status": sealed(mutated(content, ("status",), "drop", None)),
        "content has an unusable environment": sealed(mutated(content, ("environment",), "drop", None)),
        "no clock shows this time": sealed(content | {"started": 1e20}),
        "record of another experiment": sealed(content | {"experiment": "0" * 16}),
        "it holds no JSON object": [content],
        "experiment has an unusable compression.ratio": sealed(
            mutated(content, ("spec", "compression", "ratio"), "retype", "0.3")
        ),
        "nested too deeply": None,
    }
    for reason, changed in wrong.items():
        path.write_text("[" * 100_000 if changed is None else json.dumps(changed))
        again = plan.make(made.study, made.folder)
        assert set(again.unusable) == {path.name} and reason in str(again.unusable[path.name])
        assert again.jobs and any(reason in note for note in checks._check_records(again))
        said = status.status_text(again)
        assert "1 damaged" in said and reason in said
        with pytest.warns(UserWarning, match="damaged"), pytest.warns(UserWarning, match=f"1 of {len(made.wanted)} records"):
            records.table(made.folder)
    path.write_text(whole)
    assert not plan.make(made.study, made.folder).unusable


def test_a_record_copied_under_another_name_does_not_count(made):
    (mine, content), (other, _) = every_stage(made)["compress"], every_stage(made)["recover"]
    other.write_text(json.dumps(content))
    again = plan.make(made.study, made.folder)
    assert "another experiment" in str(again.unusable[other.name]) and mine.name in again.done


@pytest.mark.parametrize(
    "change",
    [
        lambda content: content | {"schema": 2},
        lambda content: content | {"schema": 2, "stage": "merge", "result": []},
        lambda content: content | {"power": 3.0},
        lambda content: content | {"stage": "merge"},
        lambda content: mutated(content, ("spec", "compression", "method"), "retype", "future"),
        lambda content: content | {"spec": content["spec"] | {"merge": {"with": "m"}}},
    ],
)
def test_what_a_newer_claw_wrote_is_kept_and_the_run_refused_with_what_to_do(made, change):
    path, content = every_stage(made)["compress"]
    path.write_text(json.dumps(sealed(change(content))))
    before = path.read_bytes()
    again = plan.make(made.study, made.folder)
    assert again.unusable[path.name].precious
    for run in (study_run.run_study, study_run.rehearse):
        with pytest.raises(InputError, match=r"stands where this study writes.*(claw that wrote it|newer)"):
            run(made.study, made.folder)
    assert path.read_bytes() == before and "1 refused" in status.status_text(again)
    with pytest.warns(UserWarning, match="left out"):
        assert set(records.table(made.folder)["method"]) == {"dense", "random"}


def test_a_folder_or_an_unreadable_file_where_a_record_belongs_is_refused_before_work(made, monkeypatch):
    path, _ = every_stage(made)["compress"]
    before = path.read_text()
    path.unlink()
    path.mkdir()
    with pytest.raises(InputError, match="is a folder where a file should be"):
        study_run.run_study(made.study, made.folder)
    assert read_all(made) is not None
    path.rmdir()
    path.write_text(before)
    real = Path.read_text

    def closed(self, *more, **named):
        if self == path:
            raise PermissionError(13, "Permission denied")
        return real(self, *more, **named)

    monkeypatch.setattr(Path, "read_text", closed)
    with pytest.raises(InputError, match="correct the permissions"):
        study_run.run_study(made.study, made.folder)


@pytest.mark.parametrize("content", ["[]", "{", '{"code": [], "data": []}', '{"code": "x", "data": {}}', "[" * 99_999, '"x"'])
def test_what_a_run_was_begun_with_may_be_damaged(study, tmp_path, own_cache, content):
    folder = tmp_path / "runs" / "tiny"
    folder.mkdir(parents=True)
    (folder / origin.NAME).write_text(content)
    (sentence,) = origin.check_origin(study, folder)
    assert "is damaged" in sentence
    assert origin.check_origin(study, folder) == []


def test_marks_of_running_jobs_may_be_damaged(made):
    place = made.folder / "running"
    place.mkdir()
    for name, content in {"a": "[]", "b": "{", "c": '{"makes": 3}', "d": "[" * 99_999}.items():
        with locks.hold(place / f"{name}.json", content):
            assert status.status_text(made) and set(locks.marks(made.folder)) <= {"c"}


# what can be known before the first job


@pytest.fixture
def ready(study, tmp_path, own_cache):
    return study, tmp_path / "runs" / "tiny"


def evaluated(study, **change):
    return study.model_copy(update={"evaluation": study.evaluation.model_copy(update=change)})


def longer(study, **change):
    return study.model_copy(update={"calibration": study.calibration.model_copy(update=change)})


@pytest.mark.parametrize(
    "change, words",
    [
        (lambda s: s.model_copy(update={"ratios": (0.99,), "ratio_of": "params"}), "nearest reachable"),
        (lambda s: evaluated(s, context=10_000, tokens=20_000), r"beyond this model's window of 256"),
        (lambda s: longer(s, length=512), r"calibration's length of 512 tokens is beyond"),
        (lambda s: evaluated(s, tokens=10**9), r"has only [\d,]+ tokens for heldout .* need"),
        (lambda s: longer(s, tokens=10**9), r"has only [\d,]+ tokens for calibration"),
        (lambda s: evaluated(s, heldout=s.calibration.corpus), "calibration"),
        (lambda s: evaluated(s, heldout="/etc/passwd"), "corpus"),
        (lambda s: s.model_copy(update={"device": "meta"}), "meta"),
        (lambda s: s.model_copy(update={"device": "gpu"}), "gpu"),
        (lambda s: s.model_copy(update={"models": ("/etc",)}), r"config\.json"),
        (lambda s: s.model_copy(update={"models": ("smollm3",)}), "smollm2-135m"),
        (lambda s: s.model_copy(update={"models": (s.models[0], f"{s.models[0]}/.")}), "the same model twice"),
        (lambda s: s.model_copy(update={"resources": studies.Resources(memory=1e5)}), "ask for memory: 100000"),
        (lambda s: s.model_copy(update={"resources": studies.Resources(gpus=64)}), "ask for gpus: 64"),
        (lambda s: s.model_copy(update={"methods": ("blocks",), "ratios": (0.5,)}), "nearest reachable"),
    ],
)
def test_what_cannot_work_is_refused_before_the_first_job_and_by_the_dry_run_alike(ready, capsys, change, words):
    study, folder = ready
    for run in (study_run.run_study, study_run.rehearse):
        with pytest.raises(InputError, match=words):
            run(change(study), folder)
    assert "experiments in" in capsys.readouterr().out and not folder.exists()  # the dry run shows the plan all the same


def test_the_dry_run_ends_as_the_run_does_with_a_paragraph_and_status_2(study_file, tmp_path, monkeypatch, capsys, own_cache):
    monkeypatch.chdir(tmp_path)
    content = yaml.safe_load(study_file.read_text())
    study_file.write_text(yaml.safe_dump(content | {"device": "meta"}))
    assert main(["run", str(study_file), "--dry-run"]) == main(["run", str(study_file)]) == 2
    said = capsys.readouterr()
    assert said.out.count("7 experiments in 2 curves") == 1
    first, second = said.err.splitlines()
    assert first == second and first.startswith("claw: device 'meta' cannot be used")


def test_ratios_that_come_to_the_same_cut_are_said(ready, capsys):
    study, folder = ready
    tiny = study.model_copy(update={"methods": ("shortgpt", "random"), "ratios": (0.0, 0.05, 0.3, 0.31, 0.33)})
    study_run.rehearse(tiny, folder)
    said = capsys.readouterr().out
    assert "shortgpt: ratio 0.05 is too small to remove anything" in said
    assert "shortgpt: ratios 0.3 and 0.31 and 0.33 give the same cut" in said


def test_a_configuration_tells_the_shape_that_the_weights_have(folder_model):
    from claw.models.anatomy import anatomy

    parts = planned.planned_anatomy(planned.planned_config(folder_model))
    assert parts.shape == anatomy(load.load(folder_model)[0]).shape
    assert planned.planned_config("some-org/some-model") is None


def test_a_configuration_that_is_damaged_is_one_paragraph(ready):
    study, folder = ready
    config = Path(study.models[0]) / "config.json"
    good = config.read_text()
    for content in ("{", "[]", "{}", '{"model_type": "nothing"}', good.replace('"hidden_size": 32', '"hidden_size": "x"')):
        config.write_text(content)
        with pytest.raises(InputError, match=r"config"):
            study_run.rehearse(study, folder)


def test_texts_and_blocks_beyond_the_window_are_refused_in_python_too(folder_model, train_text, heldout_text, own_cache):
    import claw

    model, tokenizer = claw.load(folder_model)
    for use, text, purpose in ((claw.calibrate, train_text, "calibration"), (claw.cross_entropy, heldout_text, "heldout")):
        with pytest.raises(InputError, match="beyond this model's window of 256"):
            use(model, claw.blocks(tokenizer, text, length=257, count=1, purpose=purpose))


def test_twenty_thousand_experiments_are_planned_at_once(tmp_path):
    """So that two hundred thousand take seconds: the time grows with their number alone."""
    values = {"name": "s", "models": ["smollm2-135m"], "methods": ["random"], "seeds": [*range(2_000)]}
    study = studies.parse_study(values | {"ratios": [i / 20 for i in range(10)]}, {}, "s.yaml")
    began = time.process_time()
    made = plan.make(study, tmp_path)
    assert study_run.describe_plan(made) and len(made.wanted) == 2 * (9 * 2_000 + 1)
    assert time.process_time() - began < 2  # 0.4 on a machine that does nothing else


# ids and origins see what computes


def settle(monkeypatch):
    monkeypatch.setattr(provenance, "SETTLED", -1.0)


def test_a_byte_in_the_middle_of_a_large_file_changes_its_hash(tmp_path, own_cache, monkeypatch):
    path = tmp_path / "model.safetensors"
    path.write_bytes(bytes(3 << 20))
    before, old = origin.fingerprint(str(path)), path.stat()
    with path.open("r+b") as file:
        file.seek(1 << 20)
        file.write(b"x")
    os.utime(path, ns=(old.st_atime_ns, old.st_mtime_ns))  # a change that hides its time
    assert origin.fingerprint(str(path)) != before


def test_a_file_is_read_once_as_long_as_nobody_writes_to_it(tmp_path, own_cache, monkeypatch):
    settle(monkeypatch)
    path, read = tmp_path / "text.txt", []
    path.write_text("some text")
    real = provenance.sha256
    monkeypatch.setattr(provenance, "sha256", lambda path: read.append(path) or real(path))
    assert len({origin.fingerprint(str(path)) for _ in range(3)}) == 1 and len(read) == 1
    (kept,) = (own_cache / "hashes").iterdir()
    kept.write_text("not a hash")
    assert origin.fingerprint(str(path)) == real(path) and len(read) == 2
    path.write_text("some tex!")
    assert origin.fingerprint(str(path)) == real(path) and len(read) == 3


def test_a_run_begun_by_an_earlier_claw_goes_on_and_is_known_by_all_bytes_then(study, tmp_path, own_cache, monkeypatch):
    monkeypatch.setattr(origin, "ENDS", 100)
    folder = tmp_path / "run"
    folder.mkdir()
    names = [study.models[0], study.evaluation.heldout, study.calibration.corpus]
    data = {name: origin.fingerprint(name, by=origin._ends) for name in names}
    (folder / origin.NAME).write_text(json.dumps({"code": [provenance.code_hash()], "data": data}))
    assert origin.check_origin(study, folder) == []
    now = json.loads((folder / origin.NAME).read_text())
    assert now["whole"] and now["data"] == {name: origin.fingerprint(name) for name in names} != data
    (folder / origin.NAME).write_text(json.dumps(now | {"data": data}))
    with pytest.raises(InputError, match="changed since"):
        origin.check_origin(study, folder)


def test_a_hub_model_is_known_by_its_revision(study, tmp_path, monkeypatch, own_cache):
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    hub = study.model_copy(update={"models": ("org/name",)})
    folder = tmp_path / "run"

    def fetched(revision):
        place = tmp_path / "hub" / "models--org--name" / "refs"
        place.mkdir(parents=True, exist_ok=True)
        (place / "main").write_text(revision)

    assert origin.check_origin(hub, folder) == []  # before it was fetched nothing is known
    fetched("abc")
    assert origin.check_origin(hub, folder) == []
    assert json.loads((folder / origin.NAME).read_text())["data"]["org/name"] == "hub org/name@abc"
    (tmp_path / "hub" / "models--org--name" / "refs" / "main").unlink()
    assert origin.check_origin(hub, folder) == []
    fetched("def")
    with pytest.raises(InputError, match="org/name changed"):
        origin.check_origin(hub, folder)


def test_one_study_has_one_number_type_or_says_so(study, tmp_path, own_cache):
    auto = study.model_copy(update={"dtype": "auto"})
    made = plan.make(auto, tmp_path)
    assert {job.parameters["dtype"] for job in made.jobs} == {"auto"}
    first, *_, last = made.wanted
    environment = {"code": "c", "device": "cpu", "dtype": "bfloat16"}
    write(tmp_path, made, first, environment=environment)
    made = plan.make(auto, tmp_path)
    assert {job.parameters["dtype"] for job in made.jobs} == {"bfloat16"}
    assert "measured in bfloat16, and so will the rest be" in " ".join(checks.check_plan(made))
    with pytest.raises(InputError, match=r"asks for float32, and the records in .* were measured in bfloat16"):
        checks.check_plan(plan.make(study, tmp_path))
    write(tmp_path, made, last)
    with pytest.warns(UserWarning, match=r"mixed: bfloat16 \(1 experiment\), float32 \(1 experiment\)"):
        records.table(tmp_path)
    assert "of several number types: bfloat16, float32" in " ".join(checks.check_plan(plan.make(auto, tmp_path)))


def test_a_run_whose_records_are_missing_does_not_end_well(study, tmp_path, own_cache, monkeypatch, capsys):
    monkeypatch.setattr(study_run.run_jobs, "run_in_turn", lambda made, drop: [])  # killed without a word
    assert study_run.run_study(study, tmp_path / "run") == 1
    assert "14 records of this study are not in" in capsys.readouterr().out


@pytest.mark.parametrize("where", ["a file", "/dev/null/x", "x" * 4000])
def test_a_cache_that_cannot_be_used_is_one_paragraph_and_no_success(study_file, tmp_path, monkeypatch, capsys, where):
    if where == "a file":
        (tmp_path / "file").write_text("")
        where = str(tmp_path / "file")
    monkeypatch.setenv("CLAW_CACHE", where)
    monkeypatch.chdir(tmp_path)
    assert main(["run", str(study_file)]) != 0
    assert "Traceback" not in "".join(capsys.readouterr())


# names


def test_names_mean_the_same_from_every_folder_of_the_project(tmp_path, monkeypatch, folder_model, train_text, own_cache):
    from claw.specs import notebooks
    from claw.stages import checkpoints
    from claw.texts import corpora

    for name in ("notebooks", "params", "models", "texts", "runs/r/checkpoints"):
        (tmp_path / name).mkdir(parents=True)
    Path(folder_model).rename(tmp_path / "models" / "tiny")
    (tmp_path / "texts" / "t.txt").write_text(Path(train_text).read_text())
    (tmp_path / "results").mkdir()
    (tmp_path / "results" / "t.csv").write_text("model,method,ratio,loss\n")
    place = tmp_path / "runs" / "r" / "checkpoints" / "a"
    place.mkdir()
    spec = {"compression": {"model": "models/tiny", "method": "magnitude", "ratio": 0.3}}
    (place / "claw.json").write_text(json.dumps({"experiment": spec}))
    answers = set()
    for folder in (tmp_path, tmp_path / "notebooks", tmp_path / "runs" / "r"):
        monkeypatch.chdir(folder)
        load.check_name("models/tiny")
        corpora.check_corpus("texts/t.txt")
        laws = notebooks.LawsParameters(table="results/t.csv", out="runs/laws")
        chosen = notebooks.EvaluateParameters(run="runs/r", checkpoints=["runs/r/checkpoints/a"])
        experiment = checkpoints.experiment_of(chosen.checkpoints[0])
        files = [load.resolve("models/tiny"), corpora.documents("texts/t.txt")[0], laws.source, laws.folder, chosen.folder]
        where = [str(Path(str(file)[:4000]).resolve()) for file in files if not str(file).startswith("t")]
        answers.add((experiment.id, origin.fingerprint("models/tiny"), origin.fingerprint("texts/t.txt"), *where[2:]))
        assert experiment.compression.method == "magnitude" and Path(load.resolve("models/tiny")).samefile("/" + where[0][1:])
        assert laws.source.samefile(tmp_path / "results" / "t.csv") and laws.folder == tmp_path / "runs" / "laws"
    assert len(answers) == 1
