"""Evaluation speed and equality: claw's engine against lm-eval's own Hugging Face class, in one process, interleaved.

    python benchmarks/evaluate.py --limit 20
    python benchmarks/evaluate.py --device cuda                       # all documents
    python benchmarks/evaluate.py --only mmlu_virology:5 arc_easy:0   # some tasks, each with its number of examples

Both run on the same loaded model, requests, number type and threads. lm-eval's class gets the batch size that is fastest on a
sample of each task. Ours runs before and after it, without any cache, and the mean of its two times counts. A time begins with
the texts of the requests and ends with their log-likelihoods, tokenisation included; building the requests and computing
the metrics is the same code for both and not counted. Tokens are those that pass through the model, lm-eval's with padding.

The roofline fraction is the engine's rate over the rate of the layers' bare matrix products on as many tokens, measured in
between. Only products with weights are counted as the engine's work, so attention and everything else lower the fraction.
"""

import argparse
import functools
import math
import platform
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch
from lm_eval import evaluate
from lm_eval.models.huggingface import HFLM

from claw.engine.decoder import Decoder
from claw.evaluate import lm_eval_model, tasks
from claw.evaluate.held_out import cross_entropy
from claw.evaluate.lm_eval_model import ClawLM
from claw.models import load
from claw.models.anatomy import Anatomy, anatomy
from claw.texts import token_blocks

PLAN = "arc_easy:0 arc_challenge:0 hellaswag:0 piqa:0 winogrande:0 mmlu:0 mmlu:5 arc_challenge:5".split()
BATCH_SIZES = {"cpu": (1, 4, 16), "cuda": (16, 64, 256, 1024)}
SAMPLE_TOKENS = {"cpu": 1500, "cuda": 400_000}  # for choosing lm-eval's batch size
RATE_TOKENS = {"cpu": 2048, "cuda": 16384}


@dataclass
class Work:
    """What passed through a model: tokens, and for the engine the places that went on to the head."""

    tokens: int = 0
    places: int = 0
    seconds: float = 0.0


def main() -> None:
    """Print one line per task, the geometric means, the roofline fractions and the largest disagreement."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="smollm2-135m", help="anything that claw.load takes")
    parser.add_argument("--only", nargs="+", default=PLAN, metavar="TASK:EXAMPLES", help="tasks to run")
    parser.add_argument("--limit", type=int, default=None, help="documents per task, for mmlu per subject; all by default")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:1")
    parser.add_argument("--dtype", default="auto", help="auto, float32, bfloat16, float16")
    parser.add_argument("--threads", type=int, default=None, help="CPU threads; torch's own choice by default")
    parser.add_argument("--ours-only", action="store_true", help="leave lm-eval's class out: times and roofline alone")
    parser.add_argument("--csv", default=None, help="write the table to this file, too")
    asked = parser.parse_args()
    if asked.threads:
        torch.set_num_threads(asked.threads)
    model, tokenizer = load.load(asked.model, dtype=asked.dtype, device=asked.device)
    parts = anatomy(model)
    print(describe(asked, parts), flush=True)
    rows = []
    for entry in asked.only:
        task, _, shots = entry.partition(":")
        rows.append(compare(model, tokenizer, task, int(shots or 0), asked.limit, ours_only=asked.ours_only))
        if len(rows) == 1:
            print("  ".join(f"{name:>{width(name)}}" for name in rows[0]))
        print("  ".join(f"{value!s:>{width(name)}}" for name, value in rows[-1].items()), flush=True)
    print(summary(pd.DataFrame(rows)))
    print(held_out(model, tokenizer, parts))
    if asked.csv:
        pd.DataFrame(rows).to_csv(asked.csv, index=False)


def width(column: str) -> int:
    """Characters of a column of the printed table."""
    return {"task": 20, "acc": 13}.get(column, max(8, len(column)))


def describe(asked: argparse.Namespace, parts: Anatomy) -> str:
    """The machine, the model and the settings in one line."""
    where = (
        torch.cuda.get_device_name()
        if parts.device.type == "cuda"
        else f"{torch.get_num_threads()} threads, {platform.machine()}"
    )
    kind = str(parts.dtype).removeprefix("torch.")
    return f"{asked.model}, {kind}, {where}, torch {torch.__version__}, limit {asked.limit}"


def compare(model, tokenizer, task: str, shots: int, limit: int | None, *, ours_only: bool) -> dict:
    """One task's line: times, tokens, ratio, whether accuracies agree, the largest difference in log-likelihood."""
    tasks.check_tasks([task])
    prompting = tasks.Prompting(shots)
    loaded = tasks.built_tasks((task,), limit, prompting)
    parts, works, rates = anatomy(model), [], []

    def ours() -> tuple[pd.DataFrame, pd.DataFrame]:
        forget()
        language_model = ClawLM(model, tokenizer, cache=False)
        rates.append(matmul_rate(parts))
        work = Work()
        with counted(language_model.scorer.decoder, work):
            frames = run(language_model, loaded, task, prompting, limit, work=work)
        works.append(work)
        return frames

    frame, samples = ours()
    line = {"task": f"{task}:{shots}", "requests": len(samples), "tokens": works[0].tokens}
    if ours_only:
        return line | speeds(works, rates, parts)
    with tasks.quiet():
        theirs = HFLM(pretrained=model, tokenizer=tokenizer, batch_size=1)
    theirs.batch_size_per_gpu = best_batch_size(theirs, loaded)
    work = Work()
    with hooked(model, work):
        other, other_samples = run(theirs, loaded, task, prompting, limit, work=work)
    ours()
    difference = (samples["loglikelihood"] - other_samples["loglikelihood"]).abs()
    values = frame["value"] - other["value"]
    return (
        line
        | speeds(works, rates, parts)
        | {
            "lm-eval s": round(work.seconds, 2),
            "lm-eval tokens": work.tokens,
            "batch": theirs.batch_size_per_gpu,
            "ratio": round(work.seconds / np.mean([w.seconds for w in works]), 2),
            "acc": "equal" if (values == 0).all() else f"off by {values.abs().max():.4f}",
            "largest": round(float(difference.max()), 6),
            "rms": round(float((difference**2).mean() ** 0.5), 6),
        }
    )


def speeds(works: Sequence[Work], rates: Sequence[float], parts: Anatomy) -> dict:
    """Mean seconds of our runs and their fraction of the matrix-product rate."""
    fractions = [flops(parts, work) / work.seconds / rate for work, rate in zip(works, rates, strict=True)]
    return {"ours s": round(float(np.mean([w.seconds for w in works])), 2), "roofline": round(float(np.mean(fractions)), 3)}


def run(
    language_model, loaded: dict, task: str, prompting: tasks.Prompting, limit: int | None, *, work: Work
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """lm-eval's evaluation of this task with the seconds spent in the model class added to `work`."""
    score = language_model.loglikelihood

    @functools.wraps(score)
    def timed(requests, **options):
        started = time.perf_counter()
        try:
            return score(requests, disable_tqdm=True)
        finally:
            work.seconds += time.perf_counter() - started

    language_model.loglikelihood = timed
    with tasks.quiet():
        out = evaluate(language_model, loaded, limit=limit, log_samples=True, bootstrap_iters=2)
    del language_model.loglikelihood
    return tasks.tidy(out, loaded["tasks"], [task]), tasks.tidy_samples(out, loaded["tasks"], [task])


def forget() -> None:
    """Drop what claw keeps of encoded requests, so that every run starts from texts."""
    lm_eval_model._encode_pairs.cache_clear()
    lm_eval_model._prefix_tree.cache_clear()


@contextmanager
def hooked(model, work: Work) -> Iterator[None]:
    """Counts the tokens that pass through a model's own forward."""

    def see(_, args, kwargs):
        work.tokens += (args[0] if args else kwargs["input_ids"]).numel()

    handle = model.register_forward_pre_hook(see, with_kwargs=True)
    try:
        yield
    finally:
        handle.remove()


@contextmanager
def counted(decoder: Decoder, work: Work) -> Iterator[None]:
    """Counts the tokens and scored places that pass through the engine's decoder."""
    hidden, stem = decoder.hidden, decoder.stem

    def counted_hidden(packed, places, above=None):
        work.tokens += len(packed.tokens)
        work.places += len(places)
        return hidden(packed, places, above)

    def counted_stem(tokens, above=None):
        work.tokens += len(tokens)
        return stem(tokens, above)

    decoder.hidden, decoder.stem = counted_hidden, counted_stem
    try:
        yield
    finally:
        del decoder.hidden, decoder.stem


def flops(parts: Anatomy, work: Work) -> float:
    """Products with weights: all of a layer for every token, but the last one's end and the head for scored places only."""
    layer = parts.layers[-1]
    size = lambda linears: sum(linear.weight.numel() for linear in linears)
    heads = size((layer.q, layer.k, layer.v))
    rest = size(layer.linears.values()) - heads
    everywhere = parts.depth * (heads + rest) - rest
    return 2.0 * (work.tokens * everywhere + work.places * (rest + size((parts.head,))))


@torch.inference_mode()
def matmul_rate(parts: Anatomy, repeats: int = 7) -> float:
    """FLOP/s of the matrix products of this model's layers, the median over several layers' worth."""
    layer = parts.layers[0]
    linears = tuple(layer.linears.values())
    count = RATE_TOKENS[parts.device.type]
    inputs = {n: torch.randn(count, n, device=parts.device).to(parts.dtype) for n in {x.in_features for x in linears}}
    seconds = []
    for _ in range(repeats):
        wait(parts)
        started = time.perf_counter()
        for linear in linears:
            torch.nn.functional.linear(inputs[linear.in_features], linear.weight)
        wait(parts)
        seconds.append(time.perf_counter() - started)
    return 2.0 * count * sum(linear.weight.numel() for linear in linears) / float(np.median(seconds))


def wait(parts: Anatomy) -> None:
    """Wait until a GPU has finished."""
    if parts.device.type == "cuda":
        torch.cuda.synchronize()


def best_batch_size(theirs: HFLM, loaded: dict) -> int:
    """The batch size with which lm-eval's class is fastest on a sample of these requests."""
    device = theirs.device.type
    requests = [instance for task in loaded["tasks"].values() for instance in task.instances]
    length = np.mean([len(theirs.tok_encode("".join(r.args))) for r in requests[:: max(1, len(requests) // 50)]])
    sample = requests[:: max(1, int(len(requests) * length / SAMPLE_TOKENS[device]))]
    seconds = {}
    for size in BATCH_SIZES[device]:
        theirs.batch_size_per_gpu = size
        try:
            seconds[size] = clock(lambda: theirs.loglikelihood(sample, disable_tqdm=True))
        except torch.OutOfMemoryError:
            torch.cuda.empty_cache()
    return min(seconds, key=seconds.get)


def clock(call: Callable) -> float:
    """Seconds that a call takes."""
    started = time.perf_counter()
    call()
    return time.perf_counter() - started


def held_out(model, tokenizer, parts: Anatomy, tokens: int = 4096, context: int = 512) -> str:
    """Rate of held-out cross-entropy, which scores every token, and its roofline fraction."""
    tokens *= 64 if parts.device.type == "cuda" else 1
    blocks = token_blocks.blocks(tokenizer, "wikipedia-heldout", length=context, count=tokens // context, purpose="heldout")
    fractions, rates = [], []
    for _ in range(3):
        rate = matmul_rate(parts)
        seconds = clock(lambda: cross_entropy(model, blocks))
        rate = (rate + matmul_rate(parts)) / 2
        inputs = len(blocks) * (context - 1)
        fractions.append(flops(parts, Work(inputs, inputs)) / seconds / rate)
        rates.append(rate)
    return (
        f"held-out loss, {len(blocks)} blocks of {context}: {blocks.tokens / seconds:.0f} tokens/s; roofline fraction "
        f"{np.median(fractions):.2f} of {np.median(rates) / 1e9:.0f} GFLOP/s, the rate of this model's matrix products"
    )


def summary(table: pd.DataFrame) -> str:
    """Geometric means of the ratios, largest disagreement, and whether all accuracies are equal."""
    seconds = f"ours in all: {table['ours s'].sum():.1f} s"
    if "ratio" not in table:
        return seconds
    plain = table["task"].str.endswith(":0")
    mean = lambda ratios: math.exp(np.log(ratios).mean()) if len(ratios) else math.nan
    return (
        f"{seconds}; lm-eval's class: {table['lm-eval s'].sum():.1f} s\n"
        f"geometric mean of ratios: {mean(table.loc[plain, 'ratio']):.2f} without examples, "
        f"{mean(table.loc[~plain, 'ratio']):.2f} with; largest difference of log-likelihoods {table['largest'].max():g} nats; "
        f"accuracies equal in {(table['acc'] == 'equal').sum()} of {len(table)} tasks"
    )


if __name__ == "__main__":
    main()
