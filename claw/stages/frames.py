"""What the notebooks of the stages show of their results: tables, and timings in words."""

import math
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from claw.evaluate import timing


def results_of(stage: str, results: Iterable[Mapping[str, Any]]) -> Iterator[tuple[dict[str, Any], Mapping[str, Any]]]:
    """Each record of a stage that holds a result, after the method, ratio and, if known, true share of its point."""
    results = list(results)
    shares = {
        str(record["spec"]["compression"]): record["result"]["ratio_params"]
        for record in results
        if record["stage"] == "compress" and record["result"]
    }
    for record in results:
        if record["stage"] == stage and record["result"]:
            compression = record["spec"]["compression"]
            place = {"method": compression["method"], "ratio": compression["ratio"]}
            share = shares.get(str(compression))
            yield place | ({} if share is None else {"ratio_params": share}), record


def cost_frame(results: Iterable[Mapping[str, Any]]) -> pd.DataFrame:
    """Seconds and peak memory of each compression among these records."""
    rows = []
    for point, record in results_of("compress", results):
        seconds = {"seconds to compress": record["result"]["seconds"], "seconds with saving": record["seconds"]}
        rows.append(point | seconds | {"peak memory in GB": record["result"]["peak_memory"] / 1e9})
    return pd.DataFrame(rows).round(2)


def checkpoint_frame(results: list[dict[str, Any]], folder: Path) -> pd.DataFrame:
    """Folder of each checkpoint on disk that these records made: the recovered ones if there are any, else the compressed."""
    recovered = any(record["stage"] == "recover" for record in results)
    more = ["recipe", "tokens"] if recovered else []
    rows = []
    for point, record in results_of("recover" if recovered else "compress", results):
        place = folder / "checkpoints" / record["experiment"]
        if place.is_dir():
            rows.append(point | {name: record["result"][name] for name in more} | {"folder": str(place)})
    known = ["ratio_params"] if any("ratio_params" in row for row in rows) else []
    return pd.DataFrame(rows, columns=["method", "ratio", *known, *more, "folder"])


def recovery_frame(results: Iterable[Mapping[str, Any]]) -> pd.DataFrame:
    """One row per recovery among these records: budget, held-out loss before, at its best and at the end, and what it took.

    `improvement` is the original study's, 1 - L_D / L; `came back` the share of the lost loss, (L - L_D) / (L - L_0), where the
    dense model's loss L_0 on the watched text is known.
    """
    names = "recipe tokens run before best best_tokens last improvement share_back overfitted nan_step".split()
    names += ["seconds", "flops", "tokens_per_second"]
    titles = {"before": "loss before", "best_tokens": "best at", "last": "loss after", "overfitted": "went too far"}
    titles |= {"share_back": "came back", "nan_step": "broke at step", "tokens_per_second": "tokens/s", "flops": "FLOPs"}
    rows = []
    for point, record in results_of("recover", results):
        result = record["result"] | {"improvement": 1 - record["result"]["last"] / record["result"]["before"]}
        rows.append(point | {titles.get(name, name): result.get(name, math.nan) for name in names})  # some are of an older claw
    return pd.DataFrame(rows)


def moment_frame(results: Iterable[Mapping[str, Any]]) -> pd.DataFrame:
    """Train and held-out loss along every recovery among these records, one row per moment."""
    rows = []
    for point, record in results_of("recover", results):
        rows += [point | {"budget": record["result"]["asked"]} | moment for moment in record["result"].get("moments", ())]
    known = ["ratio_params"] if any("ratio_params" in row for row in rows) else []
    return pd.DataFrame(rows, columns=["method", "ratio", *known, "budget", "tokens", "train", "heldout"])


def timing_frame(results: Iterable[Mapping[str, Any]]) -> pd.DataFrame:
    """One row per checkpoint, phase and batch size among these records: seconds, speed-up with interval, ideal, memory."""
    rows = []
    for point, record in results_of("speed", results):
        timings, memory = record["result"]["timings"], record["result"]["memory"] / record["result"]["memory0"]
        rows += [point | timed | {"of ideal": timed["speedup"] / timed["ideal"], "memory": memory} for timed in timings]
    return pd.DataFrame(rows)


def timing_sentences(results: Iterable[Mapping[str, Any]]) -> str:
    """Every timing among these records in words."""
    lines = []
    for point, record in results_of("speed", results):
        share = f"{point['ratio_params']:.1%} removed, " if "ratio_params" in point else ""
        lines.append(f"{point['method']} ({share}r = {point['ratio']:g}):")
        lines += [f"  {timing.timing_sentence(timed)}" for timed in record["result"]["timings"]]
    return "\n".join(lines)
