"""The sceptic's check: re-run random experiments of a run from their records alone, and one loss by hand: the same numbers?

    python benchmarks/recheck.py runs/reference --count 5 --seed 0 [--tasks] [--model smollm2-135m] [--unrecovered]

Experiments are drawn (seeded) from a run's loss records. Each is made again from what its record says (model, method, ratio,
seed, calibration, recovery, held-out text, number type) in an empty folder, with statistics, policies and scores that were
cached before out of reach. The last lines compute the loss of a re-made checkpoint without claw: stock AutoModelForCausalLM
and torch.nn.functional.cross_entropy on the same token blocks, one block at a time, in the number type of the record, in
float32 and in bfloat16. `docs/numbers.md` says what two programs may differ by, and how far each is from float32.
"""

import argparse
import math
import os
import random
import tempfile
import time
from pathlib import Path

from claw.stages import checkpoints
from claw.sweep.earlier import SAME

SHARED = ("archives", "corpora", "datasets", "models", "tasks")  # downloads; everything else is computed again


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("run", type=Path, help="folder of a run, with its records")
    parser.add_argument("--count", type=int, default=5)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--model", help="of this model only")
    parser.add_argument("--unrecovered", action="store_true", help="no recovered experiments, which take minutes each")
    parser.add_argument("--tasks", action="store_true", help="score the tasks again, too")
    chosen = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="recheck-") as folder:
        from claw.project import cache

        fresh = Path(folder) / "cache"
        fresh.mkdir()
        for name in SHARED:
            if (cache() / name).is_dir():
                (fresh / name).symlink_to(cache() / name)
        os.environ["CLAW_CACHE"] = str(fresh)
        return recheck(chosen, Path(folder) / "run")


def recheck(chosen: argparse.Namespace, folder: Path) -> int:
    """Re-run what was drawn, print both numbers of each; the number of experiments that came out differently."""
    from claw import records

    loss = {r["experiment"]: r for r in records.every(chosen.run) if r["stage"] == "loss" and r["status"] == "done"}
    scored = {r["experiment"]: r for r in records.every(chosen.run) if r["stage"] == "tasks" and r["status"] == "done"}
    names = sorted(name for name, record in loss.items() if wanted(record["spec"], chosen))
    if not names:
        print(f"{chosen.run} has no such experiment with a measured loss.")
        return 1
    drawn = random.Random(chosen.seed).sample(names, min(chosen.count, len(names)))
    print(f"{len(drawn)} of {len(names)} experiments of {chosen.run}, drawn with seed {chosen.seed}")
    different = 0
    for name in drawn:
        started = time.monotonic()
        print(f"\n{name}  {title(loss[name])}")
        again = remake(loss[name], folder)
        different += not compare_loss(loss[name], again)
        if chosen.tasks and name in scored:
            different += not compare_tasks(scored[name], folder)
        print(f"  {time.monotonic() - started:.0f} s")
    by_hand(loss, drawn, folder)
    print(f"\n{different} of {len(drawn)} differ by more than {SAME} standard errors or in an answer")
    return int(different > 0)


def wanted(spec: dict, chosen: argparse.Namespace) -> bool:
    """Whether an experiment may be drawn."""
    compression = spec["compression"]
    return (
        compression["method"] != "dense"
        and (not chosen.model or compression["model"] == chosen.model)
        and not (chosen.unrecovered and spec["recovery"])
    )


def title(record: dict) -> str:
    """Model, method, ratio, seed and recovery of a record."""
    compression, recovery = record["spec"]["compression"], record["spec"]["recovery"]
    more = f", {recovery['recipe']} {recovery['tokens']} tokens" if recovery else ""
    return f"{compression['model']}, {compression['method']} r = {compression['ratio']:g} seed {compression['seed']}{more}"


def remake(record: dict, folder: Path) -> dict:
    """The loss record of the same experiment, made again in `folder`."""
    from claw import records
    from claw.models import load
    from claw.specs.notebooks import CompressParameters, RecoverParameters
    from claw.stages import compress, recover

    compression, recovery, result = record["spec"]["compression"], record["spec"]["recovery"], record["result"]
    blocks = math.ceil(result["tokens"] / (result["context"] - 1))
    shared = {"run": str(folder), "dtype": record["environment"]["dtype"], "heldout": result["corpus"]}
    shared |= {"heldout_tokens": blocks * result["context"], "context": result["context"]}
    text = compression["calibration"]  # None for methods that need no text
    names = {"calibration": "corpus", "calibration_tokens": "tokens", "calibration_length": "length"}
    calibration = {name: text[part] for name, part in names.items()} if text else {}
    same = {name: compression[name] for name in ("model", "method", "ratio_of", "seed")}
    asked = CompressParameters(**shared, **calibration, **same, ratios=(compression["ratio"],))
    model, tokenizer = load.load(asked.model, dtype=asked.dtype)
    results = compress.compress_curve(asked, model, tokenizer)
    if recovery:
        del model
        (point,) = asked.curve.experiments
        given = {**recovery, "tokens": (recovery["tokens"],)}
        series = RecoverParameters(**shared, **given, checkpoints=(str(checkpoints.checkpoint_folder(folder, point)),))
        results = recover.recover_checkpoints(series)
    again = next(r for r in results if r["stage"] == "loss" and r["experiment"] == record["experiment"])
    assert records.checksum(again) == again["checksum"]
    return again


def compare_loss(record: dict, again: dict) -> bool:
    """Print both losses; whether they agree."""
    was, now = record["result"], again["result"]
    gap = (now["mean"] - was["mean"]) / was["stderr"]
    text = "same text" if was["data"] == now["data"] else f"OTHER TEXT {was['data']} {now['data']}"
    code = "same code" if record["environment"]["code"] == again["environment"]["code"] else "code has changed since"
    print(
        f"  loss  recorded {was['mean']:.6f}  again {now['mean']:.6f}  difference {now['mean'] - was['mean']:+.2e} "
        f"({gap:+.4f} standard errors), {text}, {code}"
    )
    return abs(gap) <= SAME and was["data"] == now["data"]


def compare_tasks(record: dict, folder: Path) -> bool:
    """Score a re-made checkpoint's tasks as the record did; print both, and whether every answer is the same."""
    from claw.evaluate import tasks
    from claw.models import load

    result = record["result"]
    rows = {(row["task"], row["metric"]): row["value"] for row in result["rows"]}
    model, tokenizer = load.load(str(folder / "checkpoints" / record["experiment"]), dtype=record["environment"]["dtype"])
    names = tuple(dict.fromkeys(task for task, _ in rows))
    hub = any(row["source"] == "hub" for row in result["rows"])
    frame, samples = tasks.score_tasks(
        model, tokenizer, names, samples=True, limit=result["limit"], num_fewshot=result["num_fewshot"], hub=hub
    )
    for row in frame.itertuples():
        print(f"  {row.task:14} {row.metric:8}  recorded {rows[row.task, row.metric]:.4f}  again {row.value:.4f}")
    answered = tasks.answered(samples)
    flipped = sum(
        a != b
        for task, metrics in result["answered"].items()
        for metric, sides in metrics.items()
        for a, b in zip(sides, answered[task][metric], strict=True)
    )
    print(f"  {flipped} answers changed sides")
    return flipped == 0


def by_hand(loss: dict, drawn: list[str], folder: Path) -> None:
    """The loss of the first re-made checkpoint with stock transformers, in several number types, beside the recorded one."""
    from claw.models import pretrained
    from claw.texts import token_blocks

    name = next((name for name in drawn if (folder / "checkpoints" / name).is_dir()), None)
    if name is None:
        print("\nNone of these has a checkpoint to compute a loss of by hand.")
        return
    result, place = loss[name]["result"], folder / "checkpoints" / name
    count = math.ceil(result["tokens"] / (result["context"] - 1))
    tokenizer = pretrained.tokenizer_in(place)
    blocks = token_blocks.blocks(tokenizer, result["corpus"], length=result["context"], count=count, purpose="heldout")
    print()
    for dtype in dict.fromkeys((loss[name]["environment"]["dtype"], "float32", "bfloat16")):
        mean = stock_loss(place, blocks, dtype)
        print(
            f"by hand  {name} with stock transformers in {dtype}: {mean:.6f} over {blocks.tokens} tokens; "
            f"recorded {result['mean']:.6f} over {result['tokens']} in {loss[name]['environment']['dtype']}, "
            f"difference {mean - result['mean']:+.2e} ({(mean - result['mean']) / result['stderr']:+.4f} standard errors)"
        )


def stock_loss(place: Path, blocks, dtype: str) -> float:
    """Cross-entropy by the model's own forward and head in this number type, log-softmax of its logits in float32."""
    import torch
    from torch.nn.functional import cross_entropy

    from claw.models import pretrained

    model = pretrained.stock_reload(place, dtype=getattr(torch, dtype)).eval()
    total, tokens = 0.0, 0
    with torch.no_grad():
        for ids, scored in zip(blocks.ids, blocks.scored, strict=True):
            logits = model(ids[None]).logits[0, :-1].float()
            losses = cross_entropy(logits, ids[1:], reduction="none")[scored[1:]]
            total, tokens = total + losses.double().sum().item(), tokens + len(losses)
    return total / tokens


if __name__ == "__main__":
    raise SystemExit(main())
