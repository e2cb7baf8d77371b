"""Whole records, as the stages write them, for tests that need some on disk."""

import math

from claw import records


def result(stage, mean=3.0):
    """A result that has all that a stage's result has."""
    if stage == "compress":
        ratios = {f"ratio_{name}": 0.25 for name in ("own", "params", "nonembedding", "flops")}
        sizes = {"parameters": 30, "parameters0": 40, "flops_per_token": 60}
        return {"family": "Llama", "ratio_of": "ffn", "seconds": 0.1, "peak_memory": 1} | ratios | sizes
    if stage == "recover":
        losses = {"before": 4.0, "best": mean, "last": mean, "best_tokens": 1000, "nan_step": None, "overfitted": False}
        about = {"recipe": "lora", "run": "r", "asked": 1000, "tokens": 1000, "tokens_per_second": 10.0}
        return about | losses | {"moments": [{"tokens": 1000, "train": 3.5, "heldout": mean}]}
    if stage == "loss":
        about = {"mean": mean, "stderr": 0.1, "tokens": 100, "corpus": "c", "data": "d", "context": 32}
        return about | {"token_perplexity": math.exp(mean), "word_perplexity": 2.0, "bits_per_byte": 1.0}
    if stage == "tasks":
        score = {"task": "piqa", "metric": "acc", "value": 0.6, "stderr": 0.1, "n": 10, "chance": 0.5}
        return {"rows": [score, score | {"metric": "acc_norm", "value": 0.7}], "num_fewshot": 0, "limit": 10}
    timing = {"phase": "decode", "batch": 1, "seconds": 0.01, "seconds0": 0.02, "speedup": 2.0, "low": 1.9, "high": 2.1}
    return {
        "speedup_decode": 2.0,
        "timings": [timing | {"ideal": 2.0}],
        "memory": 1,
        "memory0": 2,
        "prompt": 256,
        "generate": 32,
    }


def record(experiment, stage, values=None, measured="", status="done", **change):
    """A record of an experiment; `values` is its result, a usual one where none is given."""
    about = {"experiment": experiment.id, "stage": stage, "measured": measured, "status": status, "seconds": 1.0}
    about |= {"spec": experiment.model_dump(mode="json"), "started": 1.7e9, "result": result(stage)}
    about |= {"environment": {"code": "abc", "device": "cpu", "dtype": "float32"}}
    if values is not None:
        about["result"] = values
    if status == "failed":
        about["result"] = {}
    return about | change


def write_all(folder, plan, **change):
    """Write every record that a plan wants."""
    for name in plan.wanted:
        write(folder, plan, name, **change)


def write(folder, plan, name, **change):
    """Write the record of this name, as a plan wants it."""
    stage, experiment = plan.wanted[name]
    measured = name.removesuffix(".json").partition("-")[2]
    records.write_record(folder / "records" / name, record(experiment, stage, measured=measured, **change))
