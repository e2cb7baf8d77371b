"""A made-up study with everything in it: three models, eight methods, seeds, recovery, tasks, speed, failures."""

import numpy as np
import pandas as pd

MODELS = {  # family, parameters, dense loss, tokenizer
    "model-s": ("Llama", 135e6, 3.1, "a"),
    "model-m": ("Gemma3", 270e6, 2.9, "b"),
    "model-l": ("Qwen2", 1.5e9, 2.4, "c"),
}
METHODS = {"random": 9.0, "magnitude": 12.0, "prunenet": 6.0, "wanda-sp+ridge": 2.4, "flap+ridge": 2.2, "taylor": 3.5}
METHODS |= {"slicegpt": 3.0, "claw": 1.5}
"""How fast loss rises."""
TEXT = 0.1  # what training on the text gains at most on a dense model
RATIOS = (0.1, 0.2, 0.3, 0.5, 0.7, 0.9)
TASKS = {  # chance, dense accuracy, metric
    "arc_challenge": (0.25, 0.30, "acc_norm"),
    "arc_easy": (0.25, 0.55, "acc_norm"),
    "hellaswag": (0.25, 0.42, "acc_norm"),
    "mmlu": (0.25, 0.30, "acc"),
    "piqa": (0.5, 0.68, "acc_norm"),
    "winogrande": (0.5, 0.55, "acc"),
}


def study_table(models=tuple(MODELS), methods=tuple(METHODS), recovery=True, tasks=True, speed=True, *, seed=0) -> pd.DataFrame:
    """Rows as `claw.records.table` gives them, with noise; two seeds of the first two methods."""
    draw = np.random.default_rng(seed)
    rows = []
    for model in models:
        rows += [_row(draw, model, "dense", 0.0, tokens=d, tasks=tasks) for d in ((0, 1e5, 4e5) if recovery else (0,))]
        for method in methods:
            for number in (0, 1) if method in tuple(METHODS)[:2] else (0,):
                for r in RATIOS:
                    rows.append(_row(draw, model, method, r, seed=number, tasks=tasks, speed=speed))
            if recovery and method in ("prunenet", "wanda-sp+ridge"):
                rows += [_row(draw, model, method, r, tokens=d, tasks=tasks) for r in (0.3, 0.7) for d in (1e5, 4e5)]
    table = pd.DataFrame(rows)
    table["experiment"] = [f"{i:016x}" for i in range(len(table))]
    dense = table[(table["method"] == "dense") & (table["recovery_tokens"] == 0)].set_index("model")
    for name, of_dense in (("loss", "loss0"), ("accuracy", "accuracy0"), ("accuracy_stderr", "accuracy0_stderr")):
        if name in table:
            table[of_dense] = table["model"].map(dense[name])
    return table


def _row(draw, model, method, r, *, seed=0, tokens=0, tasks=True, speed=False) -> dict:
    family, size, dense, tokenizer = MODELS[model]
    slope = METHODS.get(method, 0.0) * (size / 135e6) ** -0.15
    excess = slope * r**2 / (1 + 0.04 * slope * r**2) * (1 - 0.35 * (1 - np.exp(-tokens / 2e5)))
    share = 0.75 * r if method == "slicegpt" else r if method == "claw" else 0.62 * r
    loss = dense + excess + 0.02 * draw.standard_normal() * (r > 0)
    loss -= TEXT * (1 - np.exp(-tokens / 2e5)) * (r == 0)
    row = {"model": model, "family": family, "method": method, "ratio": r, "ratio_of": "own"}
    row |= {"ratio_params": share, "ratio_nonembedding": share, "ratio_flops": 0.9 * share, "seed": seed}
    row |= {"recovery": "lora" if tokens else "none", "recovery_tokens": int(tokens), "recovery_run": "run" if tokens else ""}
    row |= {"parameters": size * (1 - share), "parameters0": size, "flops_per_token": 2 * size * (1 - 0.9 * share)}
    row |= {"loss": loss, "loss_stderr": 0.03, "bits_per_byte": loss / 3, "heldout": "wikipedia-heldout"}
    row |= {"heldout_data": tokenizer, "context": 512, "device": "cpu", "dtype": "bfloat16", "status": "done"}
    row |= {"seconds": 10.0, "code": "made up"}
    if tasks:
        row |= {"tasks": "+".join(TASKS), "num_fewshot": 0, "limit": 200}
        values = []
        for task, (chance, top, metric) in TASKS.items():
            value = chance + (top - chance) * np.exp(-0.6 * excess) + 0.01 * draw.standard_normal()
            row |= {f"{task}_{metric}": value, f"{task}_{metric}_stderr": 0.03, f"{task}_n": 200, f"{task}_chance": chance}
            values.append(value)
        row |= {"accuracy": np.mean(values), "accuracy_stderr": 0.013, "chance": np.mean([c for c, *_ in TASKS.values()])}
    if speed:
        for phase, got, base in (("prefill", 0.9, 200.0), ("decode", 0.7, 20.0)):
            ideal = 1 / (1 - (0.9 * share if phase == "prefill" else share))
            up = ideal**got * np.exp(0.03 * draw.standard_normal())
            row |= {f"speedup_{phase}": up, f"speedup_{phase}_low": 0.96 * up, f"speedup_{phase}_high": 1.04 * up}
            time = base * (size / 135e6) ** 0.9
            row |= {f"ideal_{phase}": ideal, f"milliseconds_{phase}": time / up, f"milliseconds0_{phase}": time}
    return row
