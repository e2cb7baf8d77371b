"""`claw-lm-eval`: works where lm-eval's defaults do not fit, runs no stranger's code, and says what is wrong in a paragraph."""

import json

import pytest
import torch
from conftest import tiny_model
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from lm_eval.api.registry import get_model

from claw import project
from claw.errors import InputError
from claw.evaluate import lm_eval_command, lm_eval_model
from claw.evaluate.lm_eval_model import ClawLM
from claw.models import sources

HERE = (project.cache() / "archives" / sources.task_archive().file).is_file()
needs_archive = pytest.mark.skipif(not HERE, reason="the task archive is not in the cache: claw fetch tasks")


@pytest.fixture(autouse=True)
def no_log_handlers(monkeypatch):
    """lm-eval's handlers would keep the stream of the test that set them up."""
    monkeypatch.setattr("lm_eval.utils.setup_logging", lambda *_, **__: None)


@needs_archive
@pytest.mark.parametrize("device", [[], ["--device", "cpu"]])
def test_the_command_of_the_readme_works_without_cuda_and_without_network(device, folder_model, tmp_path, capsys):
    given = f"--model claw --model_args pretrained={folder_model},dtype=float32,cache=False --tasks piqa --limit 2".split()
    assert lm_eval_command.main([*given, *device, "--output_path", str(tmp_path / "out")]) == 0
    (path,) = (tmp_path / "out").rglob("results*.json")
    assert 0 <= json.loads(path.read_text())["results"]["piqa"]["acc,none"] <= 1
    assert "pinned archive" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ("--model claw --model_args pretrained=smollm3-135m --tasks piqa", "unknown model 'smollm3-135m'"),
        ("--model claw --model_args pretrained=x,trust_remote_code=True --tasks piqa", "trust_remote_code = True"),
        ("--model claw --model_args pretrained=x,max_lenght=12 --tasks piqa", "did you mean 'max_length'"),
        ("--model claw --tasks gsm8k --tasks_from archive", "--tasks_from hub"),
        ("--model claw --tasks gsm8k", "No model is named"),
        ("--model claw --model_args pretrained=x --tasks piqqa", "Tasks not found: piqqa"),
        ("--model claw --tasks piqa --include_path nowhere", "nowhere is not a folder"),
    ],
)
def test_mistakes_are_a_paragraph(given, says, capsys):
    assert lm_eval_command.main(given.split()) == 2
    said = capsys.readouterr().err
    assert says in said and "Traceback" not in said


def test_cuda_that_nobody_has_means_auto(folder_model, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    asked = {"device": "cuda:0", "batch_size": 1, "max_batch_size": None}
    model = get_model("claw").create_from_arg_string(f"pretrained={folder_model},cache=False", asked)
    assert model.device.type in ("cpu", "mps")
    with pytest.raises(InputError, match="cuda:1"):
        ClawLM(str(folder_model), device="cuda:1")


@pytest.mark.parametrize(("name", "values"), lm_eval_model.MEANS_NOTHING_ELSE.items())
def test_arguments_of_lm_evals_class_that_ask_for_nothing_else_are_taken(name, values, tokenizer):
    for value in (None, *values):
        ClawLM(tiny_model("llama"), tokenizer, cache=False, **{name: value})
    with pytest.raises(InputError, match=f"{name} = 'other'"):
        ClawLM(tiny_model("llama"), tokenizer, cache=False, **{name: "other"})


@pytest.mark.parametrize("wrong", [0, -1, "12", 1.5, True])
def test_a_window_is_a_number_of_tokens(wrong, tokenizer):
    with pytest.raises(InputError, match="max_length"):
        ClawLM(tiny_model("llama"), tokenizer, max_length=wrong)


SPELLINGS = ["!function {}", "!<!function> {}", "!%66unction {}", '!function "{}"', "!function\n            {}"]


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    spelling=st.sampled_from(SPELLINGS),
    place=st.sampled_from(["doc_to_text: {}", "metric_list:\n  - metric: {}", "deep:\n  er:\n    - [1, {}]", "? {}\n: 1"]),
    through=st.sampled_from(["", "include: {}", "include: [{}]", '"include": "{}"', "'include':\n  - {}"]),
)
def test_code_is_seen_however_it_is_spelled_and_wherever_it_stands(tmp_path_factory, spelling, place, through):
    folder = tmp_path_factory.mktemp("tasks")
    code = "task: t\n" + place.format(spelling.format("utils.run")) + "\n"
    if through:
        elsewhere = tmp_path_factory.mktemp("elsewhere") / "base.yaml"
        elsewhere.write_text(code)
        code = f"task: t\n{through.format(elsewhere)}\n"
    (folder / "sub").mkdir()
    (folder / "sub" / "t.yaml").write_text(code)
    with pytest.raises(InputError, match="runs Python code of its own"):
        lm_eval_command.check_task_code([str(folder)])


def test_tasks_without_code_and_lm_evals_own_pass(tmp_path):
    (tmp_path / "t.yaml").write_text(
        f"task: t\ninclude: {lm_eval_command.offline_tasks.lm_eval_tasks()}/hellaswag/hellaswag.yaml\n"
    )
    lm_eval_command.check_task_code([str(tmp_path)])
