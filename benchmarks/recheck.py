"""The sceptic's check: re-run random experiments of a study from their choices alone, and one loss by hand: the same numbers?

    python benchmarks/recheck.py params/reference.yaml --count 5 --seed 0 [--model smollm2-135m] [--unrecovered]
    python benchmarks/recheck.py runs/explore --count 5 --tasks

Experiments are drawn (seeded) from those with a measured loss: of a study's table, the one it goes on from included, or of the
records of a run. Each is made again from what is said of it (model, method, ratio, seed, calibration, recovery, held-out text,
number type) in an empty folder, with statistics, policies and scores that were cached before out of reach. The last lines
compute the loss of a re-made checkpoint without claw: stock AutoModelForCausalLM and torch.nn.functional.cross_entropy on the
same token blocks, one block at a time, in the number type of the row, in float32 and in bfloat16. `docs/numbers.md` says what
two programs may differ by, and how far each is from float32.
"""

import argparse
import math
import os
import random
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

from claw.specs.experiment import Experiment
from claw.specs.methods import DENSE
from claw.stages import checkpoints
from claw.sweep.earlier import SAME

SHARED = ("archives", "corpora", "datasets", "models", "tasks")  # downloads; everything else is computed again


@dataclass(frozen=True, kw_only=True)
class Measured:
    """The held-out loss of an experiment, and how it was measured; `tasks` is the record of its tasks, where there is one."""

    experiment: Experiment
    mean: float  # nats/token
    stderr: float
    tokens: int
    context: int
    corpus: str
    data: str  # digest of the tokens scored
    dtype: str
    code: str
    tasks: dict | None = None

    @property
    def blocks(self) -> int:
        return math.ceil(self.tokens / (self.context - 1))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("source", type=Path, help="a study's .yaml file, or the folder of a run with its records")
    parser.add_argument("--count", type=int, default=5)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--model", help="of this model only")
    parser.add_argument("--unrecovered", action="store_true", help="no recovered experiments, which take minutes each")
    parser.add_argument(
        "--tasks", action="store_true", help="score the tasks again, too; of a run only, as a table has no answers"
    )
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
    there = of_study(chosen.source) if chosen.source.suffix in (".yaml", ".yml") else of_run(chosen.source)
    names = sorted(name for name, measured in there.items() if wanted(measured.experiment, chosen))
    if not names:
        print(f"{chosen.source} has no such experiment with a measured loss.")
        return 1
    drawn = random.Random(chosen.seed).sample(names, min(chosen.count, len(names)))
    print(f"{len(drawn)} of {len(names)} experiments of {chosen.source}, drawn with seed {chosen.seed}")
    different = 0
    for name in drawn:
        started = time.monotonic()
        print(f"\n{name}  {title(there[name].experiment)}", flush=True)
        different += not compare_loss(there[name], remake(there[name], folder))
        if chosen.tasks and there[name].tasks:
            different += not compare_tasks(there[name], folder)
        print(f"  {time.monotonic() - started:.0f} s", flush=True)
    by_hand([there[name] for name in drawn], folder)
    print(f"\n{different} of {len(drawn)} differ by more than {SAME} standard errors or in an answer")
    return int(different > 0)


def of_study(path: Path) -> dict[str, Measured]:
    """What the table of a study says, by experiment."""
    from claw.specs.study import load_study
    from claw.sweep.earlier import table_of
    from claw.sweep.plan import folder_of

    study = load_study(path)
    planned = {experiment.id: experiment for experiment in study.experiments}
    table = table_of(study, folder_of(study))
    table = table[table["loss"].notna() & table["experiment"].isin(planned.keys())]
    return {
        row.experiment: Measured(
            experiment=planned[row.experiment],
            mean=row.loss,
            stderr=row.loss_stderr,
            tokens=int(row.loss_tokens),
            context=int(row.context),
            corpus=row.heldout,
            data=row.heldout_data,
            dtype=row.dtype,
            code=row.code,
        )
        for row in table.itertuples()
    }


def of_run(folder: Path) -> dict[str, Measured]:
    """What the records of a run say, by experiment."""
    from claw import records

    every = [record for record in records.every(folder) if record["status"] == "done"]
    scored = {record["experiment"]: record for record in every if record["stage"] == "tasks"}
    return {
        record["experiment"]: Measured(
            experiment=Experiment.model_validate(record["spec"]),
            **{name: record["result"][name] for name in ("mean", "stderr", "tokens", "context", "corpus", "data")},
            dtype=record["environment"]["dtype"],
            code=record["environment"]["code"],
            tasks=scored.get(record["experiment"]),
        )
        for record in every
        if record["stage"] == "loss"
    }


def wanted(experiment: Experiment, chosen: argparse.Namespace) -> bool:
    """Whether an experiment may be drawn."""
    compression = experiment.compression
    return (
        compression.method != DENSE
        and (not chosen.model or compression.model == chosen.model)
        and not (chosen.unrecovered and experiment.recovery)
    )


def title(experiment: Experiment) -> str:
    """Model, method, ratio, seed and recovery of an experiment."""
    compression, recovery = experiment.compression, experiment.recovery
    more = f", {recovery.recipe} {recovery.tokens} tokens" if recovery else ""
    return f"{compression.model}, {compression.method} r = {compression.ratio:g} seed {compression.seed}{more}"


def remake(measured: Measured, folder: Path) -> dict:
    """The loss record of the same experiment, made again in `folder`."""
    from claw import records
    from claw.models import load
    from claw.specs.notebooks import CompressParameters, RecoverParameters
    from claw.stages import compress, recover

    compression, recovery = measured.experiment.compression, measured.experiment.recovery
    shared = {"run": str(folder), "dtype": measured.dtype, "heldout": measured.corpus}
    shared |= {"heldout_tokens": measured.blocks * measured.context, "context": measured.context}
    text = compression.calibration  # None for methods that need no text
    names = {"calibration": "corpus", "calibration_tokens": "tokens", "calibration_length": "length"}
    calibration = {name: getattr(text, part) for name, part in names.items()} if text else {}
    same = {name: getattr(compression, name) for name in ("model", "method", "ratio_of", "seed")}
    asked = CompressParameters(**shared, **calibration, **same, ratios=(compression.ratio,))
    model, tokenizer = load.load(asked.model, dtype=asked.dtype)
    results = compress.compress_curve(asked, model, tokenizer)
    if recovery:
        del model
        (point,) = asked.curve.experiments
        given = {**recovery.model_dump(), "tokens": (recovery.tokens,)}
        series = RecoverParameters(**shared, **given, checkpoints=(str(checkpoints.checkpoint_folder(folder, point)),))
        results = recover.recover_checkpoints(series)
    again = next(r for r in results if r["stage"] == "loss" and r["experiment"] == measured.experiment.id)
    assert records.checksum(again) == again["checksum"]
    return again


def compare_loss(was: Measured, again: dict) -> bool:
    """Print both losses; whether they agree."""
    now = again["result"]
    gap = (now["mean"] - was.mean) / was.stderr
    text = "same text" if was.data == now["data"] else f"OTHER TEXT {was.data} {now['data']}"
    code = "same code" if was.code == again["environment"]["code"] else "code has changed since"
    print(
        f"  loss  recorded {was.mean:.6f}  again {now['mean']:.6f}  difference {now['mean'] - was.mean:+.2e} "
        f"({gap:+.4f} standard errors), {text}, {code}"
    )
    return abs(gap) <= SAME and was.data == now["data"]


def compare_tasks(was: Measured, folder: Path) -> bool:
    """Score a re-made checkpoint's tasks as the record did; print both, and whether every answer is the same."""
    from claw.evaluate import tasks
    from claw.models import load

    result = was.tasks["result"]
    rows = {(row["task"], row["metric"]): row["value"] for row in result["rows"]}
    model, tokenizer = load.load(str(folder / "checkpoints" / was.experiment.id), dtype=was.dtype)
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


def by_hand(drawn: list[Measured], folder: Path) -> None:
    """The loss of the first re-made checkpoint with stock transformers, in several number types, beside the recorded one."""
    from claw.models import pretrained
    from claw.texts import token_blocks

    was = next((measured for measured in drawn if (folder / "checkpoints" / measured.experiment.id).is_dir()), None)
    if was is None:
        print("\nNone of these has a checkpoint to compute a loss of by hand.")
        return
    place = folder / "checkpoints" / was.experiment.id
    tokenizer = pretrained.tokenizer_in(place)
    blocks = token_blocks.blocks(tokenizer, was.corpus, length=was.context, count=was.blocks, purpose="heldout")
    print()
    for dtype in dict.fromkeys((was.dtype, "float32", "bfloat16")):
        mean = stock_loss(place, blocks, dtype)
        print(
            f"by hand  {was.experiment.id} with stock transformers in {dtype}: {mean:.6f} over {blocks.tokens} tokens; "
            f"recorded {was.mean:.6f} over {was.tokens} in {was.dtype}, "
            f"difference {mean - was.mean:+.2e} ({(mean - was.mean) / was.stderr:+.4f} standard errors)"
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
