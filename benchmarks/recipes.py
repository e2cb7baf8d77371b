"""Held-out loss after several budgets for each recovery recipe, on one compressed model after another.

    python benchmarks/recipes.py CHECKPOINT ... [--dense smollm2-135m] [--recipes FILE.yaml] [--tokens 50000 200000 1000000]

A checkpoint is a folder that claw saved, METHOD:RATIO:RATIO_OF of the dense model, such as claw:0.5:params, which is
compressed first, or `dense` for the dense model itself: a control, because what training on a text gains there is no recovery.
FILE.yaml is a list of recipes as under `recovery:` in a study, without tokens; without it a short list is taken. One line of
JSON is printed for each result as soon as it is known (`| tee recipes.jsonl`), the table at the end. What a file named
by --done has is not computed again.
"""

import argparse
import json
import math
import sys
import time
from pathlib import Path
from typing import Any

import pandas as pd
import torch

import claw
from claw.errors import InputError
from claw.evaluate import held_out
from claw.models.anatomy import anatomy
from claw.recovery import run
from claw.specs import strict_yaml
from claw.specs.experiment import Recovery, RecoverySeries
from claw.specs.spec import build_spec
from claw.words import markdown

RECIPES: list[dict[str, Any]] = [
    {"recipe": "lora"},
    {"recipe": "full"},
    {"recipe": "norms"},
    {"recipe": "distill", "top_k": 64},
    {"recipe": "distill", "top_k": 64, "divergence": "reverse"},
    {"recipe": "distill", "top_k": 64, "divergence": "skew"},
    {"recipe": "distill", "top_k": 64, "data_loss": 0.3},
    {"recipe": "distill", "top_k": 64, "trains": "lora"},
    {"recipe": "distill", "hidden_loss": 1.0},
]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoints", nargs="+")
    parser.add_argument("--dense", default="smollm2-135m")
    parser.add_argument("--recipes", type=Path)
    parser.add_argument("--tokens", type=int, nargs="+", default=[50_000, 200_000, 1_000_000])
    parser.add_argument("--corpus", default="wikipedia-train")
    parser.add_argument("--heldout", default="wikipedia-heldout")
    parser.add_argument("--heldout-tokens", type=int, default=65536)
    parser.add_argument("--calibration-tokens", type=int, default=65536)
    parser.add_argument("--length", type=int, default=512)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--dtype", default="auto")
    parser.add_argument("--done", type=Path)
    asked = parser.parse_args()
    recipes = strict_yaml.load_yaml(asked.recipes)[0] if asked.recipes else RECIPES
    common = {"tokens": asked.tokens, "length": asked.length, "corpus": asked.corpus}
    series = [build_spec(RecoverySeries, common | recipe) for recipe in recipes]  # all are looked at before work
    done = [json.loads(line) for line in asked.done.read_text().splitlines() if line[:1] == "{"] if asked.done else []
    dense, tokenizer = claw.load(asked.dense, dtype=asked.dtype, device=asked.device)
    count = max(asked.tokens) // asked.length
    blocks = claw.blocks(tokenizer, asked.corpus, length=asked.length, count=count, purpose="recovery", seed=1)
    heldout = claw.blocks(
        tokenizer, asked.heldout, length=asked.length, count=asked.heldout_tokens // asked.length, purpose="heldout"
    )
    rows = [*done]
    print(f"# dense: {held_out.cross_entropy(dense, heldout).mean:.4f} on {heldout.tokens:,} tokens", file=sys.stderr)
    for checkpoint in asked.checkpoints:
        small, start = None, math.nan
        for each in series:
            recoveries, title = each.recoveries, each.recoveries[0].title
            if {(checkpoint, title, r.tokens) for r in recoveries} <= {
                (x["checkpoint"], x["recipe"], x["asked"]) for x in done
            }:
                continue
            if small is None:
                small = compressed(checkpoint, dense, tokenizer, asked)
                start = held_out.cross_entropy(small, heldout).mean
                true = 1 - anatomy(small).shape.parameters / anatomy(dense).shape.parameters
                rows.append({"checkpoint": checkpoint, "recipe": "none", "asked": 0, "last": start, "true": true})
                print(json.dumps(rows[-1]), flush=True)
            try:
                for row in results(small, blocks, list(recoveries), heldout, dense if each.recipe == "distill" else None):
                    rows.append({"checkpoint": checkpoint, "recipe": title, "start": start} | row)
                    print(json.dumps(rows[-1]), flush=True)
            except InputError as error:  # such as hidden states of another width
                print(f"# {checkpoint}, {title}: {error}", file=sys.stderr)
    table = pd.DataFrame(rows).drop_duplicates(["checkpoint", "recipe", "asked"], keep="last")
    for checkpoint, part in table.groupby("checkpoint", sort=False):
        frame = (
            part.pivot(index="recipe", columns="asked", values="last").reindex(part["recipe"].unique()).round(3).reset_index()
        )
        print(f"\n{checkpoint}\n\n{markdown(frame)}")


def results(small: Any, blocks: Any, recoveries: list[Recovery], heldout: Any, teacher: Any):
    """What each budget of a recipe gives: held-out loss on all held-out text at its end, and what it took."""
    started = time.perf_counter()
    for recovered, report in run.recover_milestones(small, blocks, recoveries, teacher=teacher):
        taken = time.perf_counter() - started
        last = held_out.cross_entropy(recovered, heldout).mean if report.nan_step is None else math.nan
        yield {
            "asked": report.asked, "tokens": report.tokens, "last": last, "seconds": report.seconds, "with_teacher": taken,
            "rate": report.tokens_per_second, "nan_step": report.nan_step, "device": device_name(recovered),
        }  # fmt: skip


def compressed(name: str, dense: Any, tokenizer: Any, asked: argparse.Namespace) -> Any:
    """The model in a folder, the dense one, or the dense one compressed as METHOD:RATIO:RATIO_OF says."""
    if name == "dense":
        return dense
    if Path(name).is_dir():
        return claw.load(name, dtype=asked.dtype, device=asked.device)[0]
    method, ratio, *of = name.split(":")
    text = {"length": asked.length, "count": asked.calibration_tokens // asked.length, "purpose": "calibration"}
    statistics = claw.calibrate(dense, claw.blocks(tokenizer, asked.corpus, **text))
    return claw.compress(dense, method, float(ratio), statistics=statistics, **({"ratio_of": of[0]} if of else {}))[0]


def device_name(model: Any) -> str:
    device = next(model.parameters()).device
    return torch.cuda.get_device_name(device) if device.type == "cuda" else str(device)


if __name__ == "__main__":
    main()
