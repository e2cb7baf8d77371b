"""Published measurements of compressed models in claw's tidy columns: `python results/published/tidy.py`.

Reads `points.csv` (one figure a row, as its source prints it), `papers.csv` (the sources) and `shapes.csv` (what the models are
made of). Writes `../published.csv`, where a row is one compressed model with a loss on one text, or with its mean accuracy,
`disagreements.csv`: uncompressed models whose published figures differ by more than 2 %, and `../published_law.json`: what the
law of the losses foretells of new models (half a minute).

- `loss` is in nats per token (ln perplexity), per word or per byte as `heldout` says. `loss0` is the uncompressed model's
  figure on the same text, of the same source where it has one, else the median of the others (`loss0_from`).
- `accuracy` is the mean over the tasks that the source gives for this model and its uncompressed one; `chance` likewise.
- `ratio` and `ratio_of` are the source's own. `ratio_params`, the share of all parameters removed, is what the source says,
  else it follows from the model's shape (`ratio_params_from`); it is missing where it cannot be derived.
- `recovery_tokens` is empty where a model was trained after compression and the source does not say on how much.
- `apart` says why a row does not belong into a common law: empty for rows that do.
"""

import json
import re
from pathlib import Path

import numpy as np
import pandas as pd

from claw.advice.true_shares import parts_of_shape, sliced_size
from claw.laws.new_models import new_models
from claw.laws.published import published_law

HERE = Path(__file__).parent
KEY = "paper where model family parameters method_as_printed ratio ratio_of ratio_as_printed recovery_tokens".split()
TRAINED = re.compile(r"\s*\+?\+?\s*(LoRA|KD|tune|training|CPT|finetuning|BLD)\b.*| LoRA step .*")
UNTRAINED = re.compile(r" w/o LoRA$| LoRA step 0 .*")
ALIASES = {  # names of one method
    "SLEB": "sleb",
    "SVD-LLM": "svd-llm",
    "ASVD": "asvd",
    "FLAP(WIFV)": "flap",
    "LLM_Pruner": "llm-pruner",
    "ppm (optipfair, no refit)": "ppm",
    "blocks (EXP01)": "minitron-depth",
}
VARIANTS = (  # beginnings of names that differ in calibration text or in the order of a score only
    ("slicegpt", "slicegpt"),
    ("llm-pruner-random", "random"),
    ("llm-pruner-channel", "llm-pruner-channel"),
    ("llm-pruner", "llm-pruner"),
    ("shortened-llama", "shortened-llama"),
    ("blocks (EXP", "blocks by hand"),
)
CHANCE = {"piqa": 1 / 2, "winogrande": 1 / 2, "boolq": 1 / 2, "rte": 1 / 2, "hellaswag": 1 / 4, "arc-e": 1 / 4, "arc-c": 1 / 4}
CHANCE |= {"obqa": 1 / 4, "mmlu": 1 / 4, "race": 1 / 4, "mathqa": 1 / 5, "siqa": 1 / 3}
TASKS = {"arc_easy": "arc-e", "arc_challenge": "arc-c", "openbookqa": "obqa"}
TEXTS = re.compile(r"(?P<heldout>.*?)(?: ctx(?P<context>\d+)| seq(?P<seq>\d+))?$")
LINEAR = "low rank, of compressed matrices"
DISAGREE = 0.02


def tidy(points: pd.DataFrame, shapes: pd.DataFrame) -> pd.DataFrame:
    """The tidy table of raw points."""
    rows = points.rename(columns={"method": "method_as_printed"})
    rows["line"] = rows.index + 2
    rows["recovery_tokens"] = pd.to_numeric(rows["recovery_tokens"].replace({"unknown": "", "": ""}), errors="coerce")
    rows.loc[rows["method_as_printed"] == "dense", "recovery_tokens"] = 0.0
    table = pd.concat([_losses(rows), _accuracies(rows)], ignore_index=True)
    printed = table["method_as_printed"].str.replace(UNTRAINED, "", regex=True)
    name = printed.str.replace(TRAINED, "", regex=True).str.strip()
    table["method"] = name.replace(ALIASES).map(_variant)
    table["recovery"] = np.where((name != printed) | (table["recovery_tokens"] != 0), "trained", "none")
    table["ratio_params"], table["ratio_params_from"] = zip(*map(shares(shapes), table.itertuples()), strict=True)
    table["apart"] = [_apart(row) for row in table.itertuples()]
    table = table.rename(columns={"parameters": "parameters0"})
    table["vocabulary"] = table["model"].map(shapes.set_index("model")["vocabulary"])
    columns = "paper where line model family parameters0 vocabulary method method_as_printed ratio ratio_of ratio_as_printed "
    columns += "ratio_params ratio_params_from recovery recovery_tokens heldout context loss loss0 loss0_from tasks "
    columns += "accuracy accuracy0 chance apart"
    return table[columns.split()].sort_values("line", ignore_index=True)


def _variant(name: str) -> str:
    return next((method for start, method in VARIANTS if name.startswith(start)), name)


def _losses(rows: pd.DataFrame) -> pd.DataFrame:
    """Losses on each text, with that of the uncompressed model on the same text."""
    rows = rows[rows["metric"].isin(["perplexity", "word_perplexity", "bits_per_byte", "loss"])].copy()
    texts = rows["dataset"].str.extract(TEXTS)
    unit = rows["metric"].map({"word_perplexity": " (per word)", "bits_per_byte": " (per byte)"}).fillna("")
    rows["heldout"], rows["context"] = texts["heldout"] + unit, texts["context"].fillna(texts["seq"]).astype(float)
    logged = rows["metric"].str.endswith("perplexity")
    rows["loss"] = np.where(logged, np.log(rows["value"].where(rows["value"] > 0)), rows["value"])
    rows.loc[rows["metric"] == "bits_per_byte", "loss"] *= np.log(2)
    place = ["model", "dataset", "metric"]
    dense = rows[rows["method_as_printed"] == "dense"]
    own = dense.groupby(["paper", *place])["loss"].median().rename("own")
    others = dense.groupby(place)["loss"].median().rename("others")
    rows = rows.join(own, on=["paper", *place]).join(others, on=place)
    rows["loss0"] = rows["own"].fillna(rows["others"])
    rows["loss0_from"] = np.select([rows["own"].notna(), rows["others"].notna()], ["own", "other sources"], "")
    return rows


def _accuracies(rows: pd.DataFrame) -> pd.DataFrame:
    """Mean accuracy over the tasks that a source gives for a model compressed and uncompressed."""
    rows = rows[rows["metric"].isin(["acc", "acc_norm"]) & ~rows["dataset"].str.contains(r"avg|AVE|overall", regex=True)].copy()
    rows["task"] = rows["dataset"].str.split(" ").str[0].str.lower().replace(TASKS) + np.where(
        rows["metric"] == "acc_norm", " (norm)", ""
    )
    rows["chance"] = rows["task"].str.removesuffix(" (norm)").map(CHANCE)
    rows = rows[rows["chance"].notna()]
    dense = rows[rows["method_as_printed"] == "dense"].groupby(["paper", "model", "dataset", "metric"])["value"].median()
    rows = rows.join(dense.rename("accuracy0"), on=["paper", "model", "dataset", "metric"])
    rows = rows[rows["accuracy0"].notna()].sort_values("task")
    asked = {"line": ("line", "min"), "tasks": ("task", "+".join), "accuracy": ("value", "mean")}
    asked |= {"accuracy0": ("accuracy0", "mean"), "chance": ("chance", "mean")}
    return rows.groupby(KEY, dropna=False, as_index=False).agg(**asked)


def shares(shapes: pd.DataFrame):
    """A function of a row: the share of all parameters removed, and what it follows from; NaN where it cannot be derived."""
    known = {shape.model: shape for shape in shapes.itertuples()}

    def share(row) -> tuple[float, str]:
        printed, shape = row.ratio_as_printed, known.get(row.model)
        if row.method_as_printed == "dense":
            return 0.0, "uncompressed"
        if (
            row.ratio_of == "params"
            and "nominal " not in printed
            and "keep ratio" not in printed
            and "compressed" not in printed
        ):
            about = "about" in printed or "nominal" in printed or "rounded" in printed
            return row.ratio, "the source, about" if about else "the source"
        if shape is None:
            return np.nan, ""
        parts = parts_of_shape(shape)
        if row.ratio_of == "hidden":
            return 1 - sliced_size(shape, row.ratio) / parts["all"], "shape: slicing level"
        axis = {"layers": "blocks", "nonembedding": "linear", "ffn": "ffn"}.get(row.ratio_of)
        axis = axis or ("linear" if "keep ratio" in printed or "compressed" in printed else None)
        return (row.ratio * parts[axis] / parts["all"], f"shape: {axis}") if axis else (np.nan, "")

    return share


def _apart(row) -> str:
    """Why a row is not comparable with the others; empty if it is."""
    if row.ratio_of == "experts":
        return "experts of a mixture removed"
    if "dynamic" in row.method_as_printed:
        return "pruned anew for each input"
    if "RTN" in row.method_as_printed:
        return "quantised as well"
    if row.model.lower().startswith(("hymba", "mamba", "nemotron")):
        return "not a transformer decoder"
    if "nominal " in row.ratio_as_printed:
        return "ratio of another size than the model's"
    if np.isnan(row.ratio_params):
        return "share of parameters unknown"
    if row.method_as_printed != "dense" and (np.isnan(row.loss0) if not np.isnan(row.loss) else np.isnan(row.accuracy)):
        return "no figure of the uncompressed model"
    return ""


def disagreements(points: pd.DataFrame) -> pd.DataFrame:
    """Uncompressed models whose published figures on one data set differ by more than 2 %: each figure with its line."""
    dense = points[points["method"] == "dense"].assign(line=points.index[points["method"] == "dense"] + 2)
    place = ["model", "metric", "dataset"]
    spread = dense.groupby(place)["value"].transform("max") / dense.groupby(place)["value"].transform("min") - 1
    wide = dense[(spread > DISAGREE)].assign(spread=spread)
    return wide[[*place, "paper", "line", "value", "spread"]].sort_values([*place, "value"], ignore_index=True)


def read() -> tuple[pd.DataFrame, pd.DataFrame]:
    """Raw points, and shapes."""
    text = dict.fromkeys(
        "paper where model family method ratio_of ratio_as_printed metric dataset recovery_tokens".split(), str
    )
    points = pd.read_csv(HERE / "points.csv", dtype=text, keep_default_na=False, na_values={"value": [""]})
    return points, pd.read_csv(HERE / "shapes.csv")


def main() -> None:
    points, shapes = read()
    table = tidy(points, shapes)
    table.to_csv(HERE.parent / "published.csv", index=False, lineterminator="\n", float_format="%.6g")
    disagreements(points).to_csv(HERE / "disagreements.csv", index=False, lineterminator="\n", float_format="%.4g")
    law = new_models(published_law(HERE.parent / "published.csv"), (HERE.parent / "published.csv").read_bytes())
    text = json.dumps(law.to_dict(), separators=(",", ":"), allow_nan=False)
    (HERE.parent / "published_law.json").write_text(text + "\n", encoding="utf-8")
    common = table[table["apart"] == ""]
    print(f"{len(points)} figures of {points['model'].nunique()} models from {points['paper'].nunique()} sources")
    among = f"{common['model'].nunique()} models, {common['method'].nunique()} methods"
    print(f"{len(table)} rows, {len(common)} of them comparable: {among}")
    print(table["apart"].replace("", "comparable").value_counts().to_string())


if __name__ == "__main__":
    main()
