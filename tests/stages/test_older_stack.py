"""Checkpoints saved here give the same tokens and logits in transformers 4.57: run in an environment of its own.

`make older-test` makes that environment in .venv-older and runs this; CLAW_OLDER_PYTHON names the Python of another one.
"""

import json
import os
import subprocess
from pathlib import Path

import pytest
import torch
from conftest import byte_tokenizer, sentences, tiny_model
from transformers import AutoModelForCausalLM, AutoTokenizer

import claw

ROOT = Path(__file__).parents[2]
PYTHON = Path(os.environ.get("CLAW_OLDER_PYTHON") or ROOT / ".venv-older" / "bin" / "python")
pytestmark = [pytest.mark.older, pytest.mark.skipif(not PYTHON.exists(), reason="no environment with transformers 4.57")]

MEASURE = """
import json, sys, torch
from transformers import AutoModelForCausalLM, AutoTokenizer, __version__
text, *folders = sys.argv[1:]
measured = {"version": __version__}
for folder in folders:
    model = AutoModelForCausalLM.from_pretrained(folder, torch_dtype=torch.float32)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    ids = torch.tensor(tokenizer(text)["input_ids"])[None, :200]
    with torch.no_grad():
        out = model.eval()(ids, labels=ids)
    measured[folder] = [ids.tolist(), float(out.loss), out.logits[0, -1].double().tolist()]
print(json.dumps(measured))
"""
YARN = {"rope_type": "yarn", "rope_theta": 5000.0, "factor": 4.0, "original_max_position_embeddings": 64}
LLAMA3 = {"rope_type": "llama3", "rope_theta": 30000.0, "factor": 8.0, "original_max_position_embeddings": 64}
LLAMA3 |= {"low_freq_factor": 1.0, "high_freq_factor": 4.0}
SLIDING = {"rope_type": "default", "rope_theta": 300.0}
ROPES = {
    "theta": {"rope_type": "default", "rope_theta": 123456.0},
    "linear": {"rope_type": "linear", "rope_theta": 20000.0, "factor": 3.0},
    "dynamic": {"rope_type": "dynamic", "rope_theta": 20000.0, "factor": 3.0},
    "yarn": YARN,
    "llama3": LLAMA3,
}


def measure(text: str, folders: list[Path], python: str | Path = PYTHON) -> dict:
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"} | {"HF_HUB_OFFLINE": "1"}
    command = [str(python), "-c", MEASURE, text, *map(str, folders)]
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr[-2000:]
    return json.loads(done.stdout.splitlines()[-1])


@torch.no_grad()
def here(folder: Path, text: str) -> tuple[list, float, torch.Tensor]:
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    ids = torch.tensor(AutoTokenizer.from_pretrained(folder)(text)["input_ids"])[None, :200]
    out = model(ids, labels=ids)
    return ids.tolist(), float(out.loss), out.logits[0, -1].double()


def check(text: str, folders: list[Path]) -> dict:
    measured = measure(text, folders)
    assert measured["version"].startswith("4.57.")
    for folder in folders:
        ids, loss, logits = here(folder, text)
        assert measured[str(folder)][0] == ids, folder
        assert measured[str(folder)][1] == pytest.approx(loss, abs=2e-5), folder
        assert torch.allclose(torch.tensor(measured[str(folder)][2], dtype=torch.float64), logits, atol=1e-3, rtol=1e-4), folder
    return measured


def test_every_family_and_kind_of_rope_is_the_same_model_in_transformers_4(tmp_path):
    tokenizer = byte_tokenizer()
    tokenizer.add_special_tokens({"additional_special_tokens": ["<pad>"]})
    models = {family: tiny_model(family) for family in ("llama", "qwen2", "qwen3", "mistral", "gemma3")}
    for family in ("llama", "qwen2"):
        models |= {f"{family}-{kind}": tiny_model(family, rope_parameters=dict(rope)) for kind, rope in ROPES.items()}
    scaled = {"full_attention": dict(ROPES["linear"]), "sliding_attention": SLIDING}
    models["gemma3-scaled"] = tiny_model("gemma3", rope_parameters=scaled)
    folders = [claw.save(model, tokenizer, tmp_path / name) for name, model in models.items()]
    check(sentences(5, 60), folders)


@pytest.mark.real
def test_smollm2_has_the_same_loss_in_transformers_4(tmp_path):
    model, tokenizer = claw.load("smollm2-135m", dtype="float32")
    small, report = claw.compress(model, "magnitude", 0.1)
    text = "The small village lies on the river. " + sentences(3, 30)
    folders = [claw.save(model, tokenizer, tmp_path / "dense"), claw.save(small, tokenizer, tmp_path / "small", report)]
    check(text, folders)
