"""What is on this disk is worked on without a word to the network: no name is looked up, nothing connects."""

import json
import os
import subprocess
import sys

from scripts import ROOT

from claw import project
from claw.models import sources

CACHE = project.cache()
HERE = (CACHE / "archives" / sources.task_archive().file).is_file()
WATCHED = """
import json, socket, sys, traceback
asked = []
def refuse(*given, **more):
    if given and getattr(given[0], "family", None) == socket.AF_UNIX:
        return connect(*given, **more)
    asked.append("".join(traceback.format_stack(limit=12)))
    raise OSError("no network here")
connect, socket.getaddrinfo, socket.socket.connect = socket.socket.connect, refuse, refuse

import claw
folder, train, heldout, out, scored = json.loads(sys.argv[1])
model, tokenizer = claw.load(folder, dtype="float32")
blocks = claw.blocks(tokenizer, train, length=32, count=4)
small, report = claw.compress(model, "wanda-sp", 0.5, statistics=claw.calibrate(model, blocks))
test = claw.blocks(tokenizer, heldout, length=32, count=2, purpose="heldout")
claw.cross_entropy(small, test)
claw.save(small, tokenizer, out, report)
claw.load(out)
claw.recover(small, claw.blocks(tokenizer, train, length=32, count=8, purpose="recovery"), tokens=256, batch=2, heldout=test)
claw.measure_speed(small, against=model, prompt=8, generate=2, batches=(1,), rounds=3)
if scored:
    claw.score_tasks(small, tokenizer, ["piqa", "arc_easy"], limit=1, cache=False)
print("\\n".join(asked) or "nobody was asked")
"""


def test_a_local_model_is_compressed_and_measured_without_the_network(
    folder_model, train_text, heldout_text, tmp_path, own_cache
):
    own_cache.mkdir()
    for name in ("archives", "tasks", "datasets") if HERE else ():
        (CACHE / name).mkdir(exist_ok=True)
        (own_cache / name).symlink_to(CACHE / name)
    parts = json.dumps([folder_model, train_text, heldout_text, str(tmp_path / "out"), HERE])
    environment = {name: value for name, value in os.environ.items() if name != "HF_HUB_OFFLINE"}
    command = [sys.executable, "-W", "ignore", "-c", WATCHED, parts]
    done = subprocess.run(command, env=environment, cwd=ROOT, text=True, capture_output=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "nobody was asked", done.stdout
