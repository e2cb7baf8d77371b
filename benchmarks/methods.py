"""Every compression method and every peer at equal true whole-model ratios: loss, time, memory, reloads plain.

python benchmarks/methods.py                        # everything; resumes where it stopped
python benchmarks/methods.py --methods claw flap+ridge "optipfair PPM" --ratios 0.3 0.5

Each method runs in a process of its own, one after the other, on the same calibration and held-out blocks, so that peak memory
is its own: all that is resident, and, on Linux, what is not mapped from files, which the system drops when memory is short (the
dense weights are). Rows go to OUT/rows.jsonl as they are known, each with its model and texts: only those of the same are
compared.
`--match` compares PPM and PruneNet with the peers' own at equal FFN ratios; `--control` measures what the last steps of `claw`,
which see the loss of the calibration text, gain on the whole model: so much is the text.

An anchor outside of this project: Llama-3.2-1B on WikiText-2 (perplexity at a true 20 and 40 %: LaMoC 17.2 and 41.3, MoDeGPT
17.5 and 44.2, as their authors print them), where the hub or a folder with the model and the two texts are at hand:

python benchmarks/methods.py --model meta-llama/Llama-3.2-1B --methods claw --ratios 0.2 0.4 --length 2048 \\
    --calibration-text wiki.train.raw --heldout-text wiki.test.raw --calibration-blocks 128 --heldout-blocks 140
"""

import argparse
import copy
import json
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import psutil
import torch
from peers import PEERS
from torch import nn

import claw
from claw import provenance
from claw.errors import InputError
from claw.evaluate import held_out
from claw.models import load
from claw.models.anatomy import anatomy
from claw.prune import whole_model
from claw.specs import methods
from claw.stages import checkpoints
from claw.texts.token_blocks import Blocks

RATIOS = [0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9]
OURS = [name for name in methods.method_names() if methods.makes_checkpoint(name)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="smollm2-135m")
    parser.add_argument("--methods", nargs="+", default=[*OURS, *PEERS])
    parser.add_argument("--ratios", nargs="+", type=float, default=RATIOS)
    parser.add_argument("--calibration-blocks", type=int, default=128, help="of LENGTH tokens")
    parser.add_argument("--heldout-blocks", type=int, default=32, help="of LENGTH tokens")
    parser.add_argument("--length", type=int, default=512, help="tokens of a block")
    parser.add_argument("--calibration-text", default="wikipedia-train", help="a known text or a file")
    parser.add_argument("--heldout-text", default="wikipedia-heldout", help="a known text or a file")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--match", action="store_true", help="PPM and PruneNet against the peers' own, three seeds")
    parser.add_argument("--control", action="store_true", help="the last steps of claw on the whole model")
    parser.add_argument("--out", type=Path, default=Path("runs/benchmark-methods"))
    parser.add_argument("--one", help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.one:
        measure(asked.one, asked)
        return
    if asked.match:
        match(asked)
        return
    if asked.control:
        control(asked)
        return
    for method in asked.methods:
        if remaining(method, asked):
            subprocess.run([sys.executable, __file__, *sys.argv[1:], "--one", method], check=False)
    show(asked)


def rows(asked: argparse.Namespace) -> list[dict]:
    """Those measured under the same settings."""
    path, same = asked.out / "rows.jsonl", conditions(asked)
    known = [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
    return [row for row in known if same.items() <= row.items()]


def conditions(asked: argparse.Namespace) -> dict[str, Any]:
    """What rows that are compared have in common."""
    names = ["model", "calibration_text", "calibration_blocks", "heldout_text", "heldout_blocks", "length", "seed"]
    return {name: getattr(asked, name) for name in names}


def remaining(method: str, asked: argparse.Namespace) -> list[float]:
    done = {(row["method"], row["target"]) for row in rows(asked)}
    return [ratio for ratio in asked.ratios if (method, ratio) not in done]


def setting(asked: argparse.Namespace) -> tuple[nn.Module, Blocks, Blocks]:
    """The model, its calibration blocks and its held-out blocks."""
    model, tokenizer = load.load(asked.model, device=asked.device)
    length = asked.length
    calibration = claw.blocks(tokenizer, asked.calibration_text, length=length, count=asked.calibration_blocks, seed=asked.seed)
    heldout = claw.blocks(tokenizer, asked.heldout_text, purpose="heldout", length=length, count=asked.heldout_blocks)
    return model, calibration, heldout


class OwnMemory(threading.Thread):
    """The most memory of this process that is not mapped from files, in bytes, looked at five times a second; Linux only."""

    def __init__(self):
        super().__init__(daemon=True)
        self.peak = 0

    def run(self) -> None:
        process = psutil.Process()
        while hasattr(memory := process.memory_info(), "shared"):  # with files, as Linux counts
            self.peak = max(self.peak, memory.rss - memory.shared)
            time.sleep(0.2)


def measure(method: str, asked: argparse.Namespace) -> None:
    """All remaining ratios of one method, each written as soon as it is known."""
    memory = OwnMemory()
    memory.start()
    model, calibration, heldout = setting(asked)
    dense = anatomy(model).shape.parameters
    dense_loss = held_out.cross_entropy(model, heldout).mean
    statistics = None
    if method not in PEERS and methods.needs_statistics(method):
        statistics = claw.calibrate(model, calibration, gradients=methods.needs_gradients(method))
    if method == "claw":  # like calibration: once per model and text
        started = time.perf_counter()
        whole_model.costs(anatomy(model), statistics)
        seconds = time.perf_counter() - started
        print(f"claw: costs of each axis known after {seconds:.0f} s; {memory.peak / 1e9:.1f} GB beside files", flush=True)
    for ratio in remaining(method, asked):
        row = conditions(asked) | {"method": method, "target": ratio, "dense_loss": dense_loss, "peer": method in PEERS}
        started, small = time.perf_counter(), None
        try:
            if method in PEERS:
                small = PEERS[method](copy.deepcopy(model), ratio, calibration.ids, asked.seed)
            else:
                small, _ = claw.compress(model, method, ratio, ratio_of="params", statistics=statistics, seed=asked.seed)
        except InputError:
            small = None
        except Exception as error:  # a peer that breaks is a result
            small, row["error"] = None, f"{type(error).__name__}: {error}"[:200]
        if small is not None:
            row["seconds"] = time.perf_counter() - started
            row["peak_gb"], row["own_gb"] = provenance.resident_peak() / 1e9, memory.peak / 1e9 or None
            row["true"] = 1 - anatomy(small).shape.parameters / dense
            row["loss"] = held_out.cross_entropy(small, heldout).mean
            row["plain"] = reloads(small)
        asked.out.mkdir(parents=True, exist_ok=True)
        with (asked.out / "rows.jsonl").open("a") as out:
            out.write(json.dumps(row) + "\n")
        print({name: round(v, 3) if isinstance(v, float) else v for name, v in row.items()}, flush=True)


def control(asked: argparse.Namespace) -> None:
    """Held-out loss of the whole model as it is, and after the last steps of `claw`, as where a tenth is removed."""
    model, calibration, heldout = setting(asked)
    before = held_out.cross_entropy(model, heldout).mean
    statistics = claw.calibrate(model, calibration)
    whole_model.refit_norms(model, statistics, 0.1, each=False)
    after = held_out.cross_entropy(model, heldout).mean
    print(f"{asked.model}: the whole model {before:.3f}, after the last steps of claw {after:.3f} ({after - before:+.3f})")


def reloads(model: nn.Module) -> bool:
    """Whether stock transformers reloads the saved model with equal logits."""
    with tempfile.TemporaryDirectory() as folder:
        try:
            model.save_pretrained(folder)
            checkpoints.check_reload(model, Path(folder))
        except Exception:
            return False
    return True


def show(asked: argparse.Namespace) -> None:
    """Print the tables and write the figure."""
    frame = pd.DataFrame(rows(asked))
    frame = frame[frame["method"].isin(asked.methods) & frame["target"].isin(asked.ratios)]
    grid = frame.pivot_table(index="method", columns="target", values="loss", sort=False)
    print(f"held-out loss (nats/token) at true whole-model reductions; dense {frame['dense_loss'].iloc[0]:.3f}")
    print(grid.round(3).to_string(na_rep="-"))
    print("\nas perplexity")
    print(np.exp(grid).round(2).to_string(na_rep="-"))
    columns = {"seconds": ("seconds", "median"), "slowest": ("seconds", "max"), "peak_gb": ("peak_gb", "max")}
    columns |= {"own_gb": ("own_gb", "max"), "plain": ("plain", "min"), "off": ("off", "max")}
    cost = frame.assign(off=(frame["true"] - frame["target"]).abs()).groupby("method", sort=False).agg(**columns)
    print("\nper method: median and longest seconds to compress (calibration apart), peak memory of the process, ", end="")
    print("that without what is mapped from files, reloads plain, largest distance of the true ratio from the target")
    print(cost.round(3).to_string(na_rep="-"))
    if "claw" in grid.index and grid.index.isin(PEERS).any():
        excess = grid - frame["dense_loss"].iloc[0]
        peer = excess[excess.index.isin(PEERS)].min()
        others = [name for name in excess.index if name not in PEERS and name != "claw"]
        plain = [name for name in others if not name.endswith(methods.RIDGE)]
        table = pd.DataFrame({"claw": excess.loc["claw"], "best peer": peer, "claw / best peer": excess.loc["claw"] / peer})
        table = table.assign(**{"best re-implementation": excess.loc[plain].min(), "best +ridge": excess.loc[others].min()})
        print("\nexcess loss over dense")
        print(table.round(3).to_string(na_rep="-"))
    if "error" in frame:
        for row in frame.dropna(subset=["error"]).itertuples():
            print(f"{row.method} at {row.target}: {row.error}")
    draw(frame, asked.out)


def draw(frame: pd.DataFrame, out: Path) -> None:
    from claw.figures import style

    with style.paper():
        figure = style.figure("neurips", 3.6)
        panel = figure.subplots()
        for method, points in frame.dropna(subset=["loss"]).groupby("method", sort=False):
            look = {"color": "0.5", "ls": ":", "marker": "x"}
            if method not in PEERS:
                look = {"color": style.colour(method), "ls": style.line(method), "marker": "o"}
            panel.plot(points["true"], points["loss"], label=method, lw=2 if method == "claw" else 0.8, **look)
        panel.set_xlabel("share of all parameters removed")
        panel.set_ylabel("held-out loss (nats/token)")
        panel.legend(fontsize=6, ncols=2)
        style.Drawing("methods", figure, frame).save(out)
    print(f"\nfigure {out / 'methods.pdf'}")


def match(asked: argparse.Namespace) -> None:
    """Our PPM and PruneNet beside the peers' own, at equal FFN ratios and seeds."""
    model, calibration, heldout = setting(asked)
    matched = {"optipfair PPM": "ppm", "efficient-pruners PruneNet": "prunenet-stochastic"}
    for peer, method in matched.items():
        for seed in (0, 1, 2) if "PruneNet" in peer else (0,):
            small, report = claw.compress(model, method, 0.3, seed=seed, round_to=1)
            theirs = PEERS[peer](copy.deepcopy(model), report.ratio_params, calibration.ids, seed)
            ours, peers = (f"{held_out.cross_entropy(m, heldout).mean:.3f} (width {anatomy(m).width})" for m in (small, theirs))
            print(f"{method} seed {seed}: ours {ours}, {peer} {peers}", flush=True)


if __name__ == "__main__":
    torch.manual_seed(0)
    main()
