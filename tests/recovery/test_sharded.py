"""Two processes that share a model by FSDP end in the weights of one."""

import os
import subprocess
import sys

import torch
from conftest import tiny_model
from safetensors.torch import load_file

import claw
from claw.texts import token_blocks


def test_two_processes_end_in_the_weights_of_one(tokenizer, train_text, tmp_path):
    model = tiny_model("llama")
    model.save_pretrained(tmp_path / "dense")
    tokenizer.save_pretrained(tmp_path / "dense")
    launcher = f"{sys.executable} -m torch.distributed.run --standalone --nproc_per_node 2 -m claw.stages.recover_sharded"
    options = "--tokens 1100 --length 64 --batch 4 --learning-rate 0.003 --dtype float32 --corpus"
    command = [*launcher.split(), str(tmp_path / "dense"), str(tmp_path / "out"), *options.split(), train_text]
    done = subprocess.run(command, capture_output=True, text=True, timeout=240, check=False, env=os.environ)
    assert done.returncode == 0, done.stderr[-3000:]
    assert "1,088 tokens" in done.stdout
    blocks = token_blocks.blocks(tokenizer, train_text, length=64, count=17, purpose="recovery", seed=1)
    alone, _ = claw.recover(model, blocks, tokens=1100, recipe="full", batch=4, learning_rate=0.003)
    weights = load_file(tmp_path / "out" / "model.safetensors")
    names = {name: p for name, p in alone.named_parameters() if name in weights}
    assert len(names) > 20
    for name, parameter in names.items():
        torch.testing.assert_close(weights[name], parameter.detach(), rtol=1e-3, atol=1e-4)
