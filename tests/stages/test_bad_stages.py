"""What stands around a checkpoint survives everything that claw does, and what claw reads of one is checked."""

import errno
import json
import os
from pathlib import Path

import pytest
from conftest import byte_tokenizer, tiny_model
from huggingface_hub import ModelCard
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import claw
from claw import files, records
from claw.errors import InputError
from claw.specs.experiment import Experiment
from claw.stages import checkpoints

QUICK = settings(max_examples=12, deadline=None, suppress_health_check=list(HealthCheck))
SMALL, TOKENIZER = tiny_model("llama", num_hidden_layers=1), byte_tokenizer()
SPEC = {"compression": {"model": "smollm2-135m", "method": "magnitude", "ratio": 0.5}}
EXPERIMENT = Experiment.model_validate(SPEC)


def tree(folder: Path) -> dict[str, object]:
    """Everything below a folder: bytes of files, where links lead, folders."""
    return {
        str(path.relative_to(folder)): os.readlink(path) if path.is_symlink() else path.read_bytes() if path.is_file() else None
        for path in folder.rglob("*")
    }


names = st.sampled_from(
    "model.safetensors config.json claw.json README.md tokenizer.json notes.txt .hidden a/model.safetensors thesis.tex".split()
)
foreign = st.dictionaries(names, st.binary(max_size=20), min_size=1, max_size=4)


def plant(folder: Path, content: dict[str, bytes], link_to: Path | None = None) -> None:
    for name, body in content.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(body)
    if link_to is not None:
        (folder / "link").symlink_to(link_to)


@QUICK
@given(content=foreign, place=st.sampled_from(["itself", "current", "beside", "linked", "checkpoint"]), fails=st.booleans())
def test_no_file_of_others_is_touched_whatever_happens(content, place, fails, tmp_path_factory, monkeypatch):
    root = tmp_path_factory.mktemp("save")
    mine, elsewhere = root / "mine", root / "elsewhere"
    plant(elsewhere, {"keep.txt": b"keep", "model.safetensors": b"others"})
    target: Path | str = mine
    with monkeypatch.context() as patch:
        if place == "beside":
            target = root / "new"
        if place == "linked":
            (root / "link-to-mine").symlink_to(mine)
            target = root / "link-to-mine"
        if place == "checkpoint":  # of claw, to which somebody added files
            claw.save(SMALL, TOKENIZER, mine)
        plant(mine, content, elsewhere)
        if place == "current":
            patch.chdir(mine)
            target = "."
        before = tree(root)
        if fails:
            patch.setattr(type(SMALL), "save_pretrained", full_disk)
        if place == "beside" and not fails:
            claw.save(SMALL, TOKENIZER, target)
        else:
            with pytest.raises(InputError):
                claw.save(SMALL, TOKENIZER, target)
        after = tree(root)
        assert {name: after.get(name, "gone") for name in before} == before
        assert {name.split("/")[0] for name in set(after) - set(before)} <= ({"new"} if not fails else set())


def full_disk(model, folder, **_):
    Path(folder).mkdir(parents=True, exist_ok=True)
    (Path(folder) / "model.safetensors").write_bytes(b"half")
    raise OSError(errno.ENOSPC, "No space left on device")


def test_a_checkpoint_is_replaced_whole_or_not_at_all(tmp_path, monkeypatch):
    folder = claw.save(SMALL, TOKENIZER, tmp_path / "small")
    other = tiny_model("llama", seed=3, num_hidden_layers=1)
    claw.save(other, TOKENIZER, folder)  # nobody touched it
    before, rename = tree(tmp_path), os.rename

    def fails_once(source, target):
        if Path(target) == folder and ".before" not in str(source):
            raise OSError(errno.EIO, "the disk is gone")
        return rename(source, target)

    monkeypatch.setattr(os, "rename", fails_once)
    with pytest.raises(InputError, match="disk is gone"):
        claw.save(SMALL, TOKENIZER, folder)
    assert tree(tmp_path) == before


@pytest.mark.parametrize("change", ["new file", "weights", "card", "link", "folder", "gone"])
def test_a_checkpoint_that_somebody_touched_is_neither_replaced_nor_deleted(change, tmp_path):
    folder = claw.save(SMALL, TOKENIZER, tmp_path / EXPERIMENT.id, experiment=EXPERIMENT)
    weights = folder / "model.safetensors"
    if change == "weights":  # trained further in place: equal size
        weights.write_bytes(bytes(reversed(weights.read_bytes())))
    elif change == "link":
        (tmp_path / "moved").write_bytes(weights.read_bytes())
        weights.unlink()
        weights.symlink_to(tmp_path / "moved")
    elif change == "folder":
        (folder / "empty").mkdir()
    elif change == "gone":
        (folder / "tokenizer.json").unlink()
    else:
        (folder / {"new file": "notes.txt", "card": "README.md"}[change]).write_text("mine")
    before = tree(tmp_path)
    with pytest.raises(InputError, match="was changed since claw wrote it"):
        claw.save(SMALL, TOKENIZER, folder)
    assert not checkpoints.discard_checkpoint(folder, EXPERIMENT.id) and tree(tmp_path) == before


def test_claw_deletes_its_own_checkpoint_under_its_own_name_and_through_no_link(tmp_path):
    disk = tmp_path / "disk"
    folder = claw.save(SMALL, TOKENIZER, disk / EXPERIMENT.id, experiment=EXPERIMENT)
    (tmp_path / "checkpoints").symlink_to(disk)
    assert not checkpoints.discard_checkpoint(tmp_path / "checkpoints" / EXPERIMENT.id, EXPERIMENT.id)
    assert not checkpoints.discard_checkpoint(folder, "another")
    (tmp_path / "link").symlink_to(folder)
    assert not checkpoints.discard_checkpoint(tmp_path / "link", EXPERIMENT.id) and folder.is_dir()
    assert checkpoints.discard_checkpoint(folder, EXPERIMENT.id) and not folder.exists() and disk.is_dir()


@pytest.mark.parametrize("kind", ["dense", "source", "file", "dangling", "under a file", "parent", "empty name", "NUL", "long"])
def test_places_where_no_checkpoint_belongs(kind, folder_model, tmp_path, monkeypatch):
    model, tokenizer = claw.load(folder_model, dtype="float32")
    (tmp_path / "file").write_text("mine")
    (tmp_path / "dangling").symlink_to(tmp_path / "nowhere")
    (tmp_path / "here" / "deep").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "here" / "deep")
    if kind == "source":
        saved = claw.save(*claw.load(folder_model, dtype="float32"), tmp_path / "saved")
        model, tokenizer = claw.load(str(saved), dtype="float32")
    places = {"dense": folder_model, "source": tmp_path / "saved", "file": tmp_path / "file", "dangling": tmp_path / "dangling"}
    places |= {"under a file": tmp_path / "file" / "small", "parent": tmp_path / "here", "empty name": "", "NUL": "a\0b"}
    places["long"] = "a" * 5000
    before = tree(tmp_path)
    with pytest.raises(InputError):
        claw.save(model, tokenizer, places[kind])
    assert tree(tmp_path) == before


def test_an_empty_folder_and_a_new_one_are_taken(tmp_path):
    (tmp_path / "empty").mkdir()
    for name in ("empty", "deep/new"):
        assert (claw.save(SMALL, TOKENIZER, tmp_path / name) / "claw.json").is_file()


@QUICK
@given(
    parts=st.lists(st.text("abc-XY .ü7", min_size=1, max_size=8).map(str.strip).filter(bool), min_size=1, max_size=3),
    known=st.booleans(),
)
def test_no_path_of_this_machine_is_in_a_checkpoint(parts, known, tmp_path_factory):
    root = tmp_path_factory.mktemp("secret-place")
    place = root.joinpath("x", *parts)
    corpus = place.parent / "corpus.txt"
    SMALL.save_pretrained(place)
    TOKENIZER.save_pretrained(place)
    corpus.write_text("text")
    if known:
        (place / "README.md").write_text("---\nlicense: apache-2.0\nbase_model: org/upstream\n---\nA model.\n")
    model, tokenizer = claw.load(str(place), dtype="float32")
    model.config.trained_at = str(place)
    small, report = claw.compress(model, "magnitude", 0.5)
    spec = {
        "compression": SPEC["compression"] | {"model": str(place), "method": "flap", "calibration": {"corpus": str(corpus)}}
    }
    experiment = Experiment.model_validate(spec | {"recovery": {"tokens": 64, "corpus": str(corpus)}})
    folder = claw.save(small, tokenizer, root / "out", report, experiment=experiment, base_model=str(place))
    for path in folder.rglob("*"):
        assert b"secret-place" not in path.read_bytes(), path
    data = ModelCard.load(folder / "README.md").data
    assert (data.base_model, data.license) == (("org/upstream", "apache-2.0") if known else (None, None))
    assert checkpoints.experiment_of(str(folder)).compression.model == place.name
    # inside a run, its records know the whole
    record = {"experiment": experiment.id, "stage": "recover", "spec": experiment.model_dump(mode="json"), "status": "done"}
    records.write_record(records.path_of(root / "run", experiment.id, "recover"), record)
    inside = checkpoints.checkpoint_folder(root / "run", experiment)
    claw.save(small, tokenizer, inside, report, experiment=experiment, base_model=str(place))
    assert checkpoints.experiment_of(str(inside)) == experiment


nonsense = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5) | st.floats(allow_nan=False),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=6,
)


@settings(max_examples=80, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    about=nonsense
    | st.fixed_dictionaries(
        {}, optional={"schema": nonsense, "experiment": nonsense | st.just(SPEC), "id": nonsense, "files": nonsense}
    )
)
def test_any_description_of_a_checkpoint_is_read_or_refused(about, tmp_path_factory):
    run = tmp_path_factory.mktemp("about")
    folder = run / "checkpoints" / "one"
    folder.mkdir(parents=True)
    (folder / "claw.json").write_text(json.dumps(about))
    before = tree(run)
    for read in (lambda: checkpoints.experiment_of(str(folder)), lambda: checkpoints.check_place(folder)):
        try:
            read()
        except InputError as error:
            assert "\n" not in str(error)
    assert not checkpoints.discard_checkpoint(folder, "one") and tree(run) == before


@pytest.mark.parametrize(
    "about",
    [
        [1, 2],
        {"experiment": "x"},
        {"experiment": {"compression": SPEC["compression"] | {"new": 1}}},
        {"experiment": {"compression": SPEC["compression"] | {"method": "future"}}},
        {"schema": 99, "experiment": SPEC},
    ],
)
def test_a_description_of_another_claw_says_what_to_do(about, tmp_path):
    from claw.specs import notebooks

    folder = tmp_path / "run" / "checkpoints" / "one"
    folder.mkdir(parents=True)
    (folder / "claw.json").write_text(json.dumps(about))
    says = r"claw\.json.*(Compress|Use the claw that wrote it)"
    with pytest.raises(InputError, match=says):
        checkpoints.experiment_of(str(folder))
    for parameters in (notebooks.EvaluateParameters, notebooks.RecoverParameters):  # a run goes on without that checkpoint
        with pytest.warns(UserWarning, match=says), pytest.raises(ValueError, match="no compressed checkpoints"):
            parameters(run=str(tmp_path / "run"))


def test_files_are_as_readable_as_the_umask_says(tmp_path):
    before = os.umask(0o027)
    try:
        folder = claw.save(SMALL, TOKENIZER, tmp_path / "small")
        files.write_own(tmp_path / "page.md", "page")
    finally:
        os.umask(before)
    modes = {path.stat().st_mode & 0o777 for path in (*folder.iterdir(), tmp_path / "page.md") if path.is_file()}
    assert modes == {0o640} and folder.stat().st_mode & 0o777 == 0o750
