"""README, environment.yml, constraints and the shipped studies say what is true."""

import csv
import json
import os
import re
import shutil
import subprocess
import tomllib
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

from claw import project
from claw.cli import main
from claw.errors import InputError
from claw.models import sources
from claw.prune import scores
from claw.specs import methods
from claw.specs import study as studies
from claw.sweep import plan

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()
PAGES = {path: path.read_text() for path in sorted((ROOT / "docs").glob("*.md"))}
OWN = ROOT / "docs" / "own-data.md"
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
PINS = {
    canonicalize_name(line.partition("==")[0]): line.partition("==")[2]
    for line in (ROOT / "constraints.txt").read_text().splitlines()
    if "==" in line and line[0] != "#"
}


def blocks(language, text=README):
    return re.findall(rf"```{language}\n(.*?)```", text, re.S)


def test_every_dependency_is_pinned_within_its_bounds():
    extras = PROJECT["optional-dependencies"]
    for text in [*PROJECT["dependencies"], *(name for extra in extras.values() for name in extra)]:
        requirement = Requirement(text)
        if requirement.name == PROJECT["name"]:  # one extra takes in another
            continue
        assert requirement.specifier, f"{text} has no lower bound"
        assert requirement.specifier.contains(PINS[canonicalize_name(requirement.name)]), text
    assert PINS["torch"] == "2.13.0"


def test_every_dependency_has_its_reason():
    lines = (ROOT / "pyproject.toml").read_text().splitlines()
    listed = [line for line in lines if re.match(r'  "[a-z]', line)]
    assert len(listed) >= len(PROJECT["dependencies"])
    assert all("  # " in line or '",   # ' in line for line in listed), "each dependency says beside it what it is for"


def test_conda_installs_the_same_project():
    environment = yaml.safe_load((ROOT / "environment.yml").read_text())
    python, _, pip = environment["dependencies"]
    assert Version(python.removeprefix("python=")) in Requirement(f"python{PROJECT['requires-python']}").specifier
    assert pip["pip"] == ["--constraint constraints.txt", "--editable .[test]"]
    assert environment["name"] == PROJECT["name"]


@pytest.mark.parametrize("path", sorted((ROOT / "params").glob("*.yaml")), ids=lambda path: path.stem)
def test_shipped_studies_are_valid_and_named_after_their_files(path):
    study = studies.load_study(path)
    assert study.name == path.stem.removesuffix("-first") and study.experiments  # a part of a study goes into its folder
    assert set(study.models) <= set(sources.models())


def test_the_readmes_study_is_valid(tmp_path):
    (tmp_path / "study.yaml").write_text(blocks("yaml")[0])
    assert studies.load_study(tmp_path / "study.yaml").name == "my-study"


def test_readme_is_read_in_five_minutes_and_its_first_screen_in_one():
    assert len(README.encode()) <= 12_000
    screen = README[: README.index("\n## ", README.index("## Two commands") + 1)]
    said = re.sub(r"!\[.*?\]\(.*?\)|\]\(.*?\)", "", screen)
    assert len(said.split()) <= 250
    for needed in (
        "](figures/readme.png)",
        "make demo",
        "make test",
        "minutes",
        "memory",
        "disk",
        "GPU",
        "arxiv.org",
        "Quantisation",
    ):
        assert needed in screen, needed


def test_every_page_of_the_docs_has_one_link_in_readme_or_in_another_page_and_none_is_dead():
    for path, text in PAGES.items():
        assert len(re.findall(rf"\]\(docs/{path.name}\)", README)) >= 1, f"README does not link {path.name}"
        for target, _, part in re.findall(r"\]\(([^)#:]+)(#([^)]+))?\)", text):
            assert (path.parent / target).exists(), f"{path.name}: {target}"
            headings = re.findall(r"^#+ (.*)$", (path.parent / target).read_text(), re.M) if part else []
            assert not part or part in {heading.lower().replace(" ", "-") for heading in headings}


def test_readme_says_once_at_the_top_how_to_get_the_environment():
    assert README.index(". .venv/bin/activate") < README.index("papermill ")
    assert README.count(".venv/bin/activate") == 1
    for path, text in PAGES.items():
        assert not blocks("bash", text) or ".venv/bin/activate" in text.partition("```")[0], path.name


def test_make_help_lists_every_target():
    text = (ROOT / "Makefile").read_text()
    targets = set(re.findall(r"^\.PHONY: (.*)$", text, re.M)[0].split()) - {"help"}
    command = ["make", "--no-print-directory", "help"]
    shown = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert {line.split()[0] for line in shown.splitlines()} - {"help"} == targets
    assert targets == set(re.findall(r"^([a-z-]+):", text, re.M)) - {"help"}


@pytest.mark.parametrize("user, options, goes_on", [(0, "", False), (0, "--allow-root", True), (1000, "", True)])
def test_make_lab_as_root_says_what_to_do(user, options, goes_on, tmp_path):
    """With programs of the same names that only say that they were called."""
    programs = {"id": f"echo {user}", "jupyter": "echo started $@"}
    for name, does in programs.items():
        (tmp_path / name).write_text(f"#!/bin/sh\n{does}\n")
        (tmp_path / name).chmod(0o755)
    for name in (".installed", "share/jupyter/lab/settings/overrides.json", "bin/python"):
        (tmp_path / "venv" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "venv" / name).touch()
    (tmp_path / "jupyter").rename(tmp_path / "venv" / "bin" / "jupyter")
    command = ["make", "lab", f"VENV={tmp_path / 'venv'}", f"LAB_OPTIONS={options}"]
    environment = os.environ | {"PATH": f"{tmp_path}:{os.environ['PATH']}"}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert (done.returncode == 0) is goes_on and ("started lab" in done.stdout) is goes_on
    assert ("another user" in done.stdout) is not goes_on


@pytest.mark.parametrize("text", [README, *PAGES.values()], ids=["README", *(path.stem for path in PAGES)])
def test_the_commands_of_readme_and_docs_exist(text, capsys):
    for line in "\n".join(blocks("bash", text)).splitlines():
        words = line.partition(" #")[0].split()
        if words and words[0] == "claw":
            with pytest.raises(SystemExit) as ended:
                main([words[1], "--help"])
            assert ended.value.code == 0
        for word in words:
            if word.endswith((".ipynb", ".yaml")) and "/" in word:
                assert (ROOT / word).is_file(), word
        if words and words[0] == "make":
            assert re.search(rf"^{words[1]}:", (ROOT / "Makefile").read_text(), re.M)


def test_the_readme_lists_every_method_and_its_links_exist():
    for name in methods.METHODS:
        assert f"`{name}`" in README, name
    for target in re.findall(r"\]\(([^)#:]+)\)", README):
        assert (ROOT / target).exists(), target


def test_the_cluster_file_makes_workers_of_one_thread_with_the_resources_that_claw_knows(monkeypatch):
    dask = pytest.importorskip("dask")
    jobqueue = pytest.importorskip("dask_jobqueue")
    from claw.sweep import machine

    own = yaml.safe_load((ROOT / "cluster" / "jobqueue.yaml").read_text())
    own["jobqueue"]["slurm"]["scheduler-options"] = {"dashboard_address": "127.0.0.1:0", "host": "127.0.0.1"}
    with dask.config.set(dask.config.merge(dask.config.config, own)), jobqueue.SLURMCluster() as cluster:
        script = cluster.job_script()
    *_, options = script.partition("dask_worker")
    words = options.split()
    assert words[len(words) - words[::-1].index("--nthreads")] == "1"  # the last one counts
    offered = dict(pair.split("=") for pair in words[words.index("--resources") + 1].split(","))
    assert set(offered) == set(machine.NAMES.values())
    assert "--gres=gpu:1" in script


@pytest.mark.real
def test_the_readmes_python_runs(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    quick = {
        "tokens=100_000": "tokens=2_048",
        "count=200": "count=4",
        "batch=8": "batch=1",
        "prompt=256, generate=32": "prompt=8, generate=2",
    }
    code = "\n".join(blocks("python")[:2])
    for written, smaller in quick.items():
        code = code.replace(written, smaller)
    exec(compile(code, "README.md", "exec"), {})
    said = capsys.readouterr().out
    assert "piqa" in said and (tmp_path / "runs" / "readme" / "small" / "model.safetensors").is_file()


def test_the_own_model_data_task_and_method_of_the_docs_run(
    folder_model, train_text, heldout_text, tmp_path, monkeypatch, capsys, own_cache
):
    """The worked examples of docs/own-data.md, on a model, texts and a task made here."""
    section = PAGES[OWN]
    monkeypatch.chdir(tmp_path)
    Path(folder_model).rename("my-model")
    shutil.copy(train_text, "my-domain.txt")
    documents = Path(heldout_text).read_text().split("\n\n")
    Path("my-test.jsonl").write_text(
        "\n".join(json.dumps({"text": " ".join(documents[i : i + 20])}) for i in range(0, 200, 20))
    )
    Path("my-tasks").mkdir()
    (task,) = (block for block in re.findall(r"```yaml\n(.*?)```", section, re.S) if block.startswith("task:"))
    Path("my-tasks/capitals.yaml").write_text(task)
    question = {"country": "France", "choices": ["Rome", "Paris"], "answer": 1}
    Path("my-tasks/capitals.jsonl").write_text("\n".join(json.dumps(question) for _ in range(4)))
    examples = re.findall(r"```python\n(.*?)```", section, re.S)
    names = {}
    monkeypatch.setattr(scores, "NEURONS", dict(scores.NEURONS))
    monkeypatch.setattr(methods, "METHODS", dict(methods.METHODS))
    for example in examples:
        exec(compile(example, OWN.name, "exec"), names)
    assert len(examples) == 4 and Path("my-model-30/model.safetensors").is_file()
    assert capsys.readouterr().out.count("acc_norm,none") == 2
    assert names["report"].method == "written+ridge" and names["report"].ratio_own > 0.2


def test_the_original_studys_design_has_more_than_a_thousand_experiments():
    study = studies.load_study(ROOT / "params" / "paper.yaml")
    assert len(study.experiments) > 1000 and len(study.models) == 8 and len(study.seeds) == 3
    assert {tokens for series in study.recovery for tokens in series.tokens} >= {1_000_000, 25_000_000}


def test_the_gpu_study_has_more_than_a_thousand_experiments_that_its_models_can_do():
    study = studies.load_study(ROOT / "params" / "gpu.yaml")
    made = plan.make(study, Path("runs") / "gpu")
    assert len(study.experiments) > 1000 and len(made.wanted) == 3 * len(study.experiments)
    assert len(study.evaluation.tasks) == 6 and study.resources.gpus == 1 and len(study.models) == 3
    recovered = [e for e in study.experiments if e.recovery is not None]
    assert {e.recovery.tokens for e in recovered} == {50_000, 200_000}
    cut = {(e.compression.model, e.compression.method) for e in study.experiments}
    assert ("smollm2-135m", "slicegpt") in cut and ("gemma3-270m", "slicegpt") not in cut  # cannot be rotated
    assert {job.notebook for job in made.jobs} == {plan.COMPRESS, plan.RECOVER, plan.EVALUATE}
    ids = {job.id for job in made.jobs}
    assert len(ids) == len(made.jobs) and all(set(job.needs) <= ids for job in made.jobs)


def test_what_is_committed_of_the_study_is_of_its_plan_and_paired_with_dense_models():
    planned = {e.id: e for e in studies.load_study(ROOT / "params" / "reference.yaml").experiments}
    with (ROOT / "results" / "reference.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert {row["experiment"] for row in rows} <= planned.keys() and len(rows) == len({row["experiment"] for row in rows})
    assert all(row["method"] == planned[row["experiment"]].compression.method for row in rows)
    dense = {row["model"]: row for row in rows if row["method"] == methods.DENSE and row["recovery"] == "none"}
    for row in rows:  # of the same machine's dense model, whose loss another machine's differs from by rounding
        other = dense[row["model"]]
        rounding = 0 if row["device"] == other["device"] else 0.001
        assert not row["loss0"] or abs(float(row["loss0"]) - float(other["loss"])) <= rounding


@pytest.mark.parametrize(
    ("named", "said"),
    [("a file", "File exists"), ("/dev/null/x", "Not a directory"), ("/x" * 3000, "too long"), ("/" + "x" * 300, "too long")],
    ids=["a file", "below a device", "a long path", "a long name"],
)  # fmt: skip
def test_a_cache_that_cannot_be_a_folder_is_one_paragraph(tmp_path, monkeypatch, named, said):
    (tmp_path / "a file").touch()
    monkeypatch.setenv("CLAW_CACHE", str(tmp_path / named))
    with pytest.raises(InputError, match=f"CLAW_CACHE.*{said}.*full path"):
        project.cache()


def test_without_a_home_the_cache_must_be_named(monkeypatch):
    monkeypatch.delenv("CLAW_CACHE", raising=False)
    monkeypatch.setattr(project, "user_cache_dir", lambda name: "~nobodyatall/.cache/claw")
    with pytest.raises(InputError, match="your home folder's cache"):
        project.cache()


def test_a_relative_cache_is_the_same_from_everywhere_in_the_project(tmp_path, monkeypatch):
    for name in ("notebooks", "params"):
        (tmp_path / name).mkdir()
    monkeypatch.setenv("CLAW_CACHE", "kept")
    for here in (tmp_path, tmp_path / "notebooks"):
        monkeypatch.chdir(here)
        assert project.cache() == tmp_path / "kept" and (tmp_path / "kept").is_dir()
