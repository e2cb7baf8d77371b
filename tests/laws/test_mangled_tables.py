"""A good table mangled at random, as owners mangle them, is read as the same table; so are its files in every format."""

import gzip
import json
from dataclasses import dataclass, field

import numpy as np
import pandas as pd
from hypothesis import given, settings
from hypothesis import strategies as st

from claw import laws

MODELS = ["Llama-3.2-1B", "OPT-125M", "my model", "nan", "None", "Qwen2.5-0.5B", "Phi-1.5"]
METHODS = ["MAW", "Wanda", "SliceGPT", "flap+ridge", "2:4", "NA"]
RATIOS = {
    "ratio": ["sparsity", "Pruning Ratio", "prune_ratio", "compression", "target sparsity", "ratio", "Sparsity Level", "r"]
}
RATIOS |= {"percent": ["pruning_pct", "Sparsity (%)", "compression %", "ratio", "sparsity", "percent_removed"]}
RATIOS |= {"kept": ["keep_ratio", "ratio", "remaining", "Density", "kept"]}
LOSSES = {"loss": ["loss", "val_loss", "Eval Loss", "NLL", "cross_entropy", "test/loss"]}
LOSSES |= {
    "ppl": ["ppl", "Perplexity", "PPL ↓", "WikiText2 PPL", "wikitext2", "token_perplexity", "word_perplexity", "C4", "eval_ppl"]
}
ACCURACIES = ["accuracy", "Acc", "Avg. Acc", "mean accuracy", "acc_norm", "zero-shot accuracy"]
MODEL_HEADINGS, METHOD_HEADINGS = (
    ["model", "Model", "base_model", "LLM", "model name"],
    ["method", "Method", "Pruning method", "algorithm"],
)
DENSE = ["dense", "none", "None", "baseline", "Original", "full model", "BF16", "-", "/", "Unpruned", "no pruning", "own", ""]


@dataclass
class Table:
    """A good table, and how it is to be written."""

    rows: pd.DataFrame  # model, method, ratio, ppl, accuracy
    said: dict = field(default_factory=dict)

    @property
    def tidy(self) -> pd.DataFrame:
        return self.rows.assign(loss=np.log(self.rows["ppl"]))


@st.composite
def good_tables(draw) -> Table:
    models = draw(st.lists(st.sampled_from(MODELS), min_size=1, max_size=3, unique=True))
    methods = draw(st.lists(st.sampled_from(METHODS), min_size=1, max_size=3, unique=True))
    ratios = draw(st.lists(st.sampled_from([5, 10, 12.5, 20, 25, 30, 40, 50, 70]), min_size=2, max_size=5, unique=True))
    rows = []
    for i, model in enumerate(models):
        rows.append((model, "dense", 0.0, round(6.5 + 7.3 * i, 3), 0.67))
        for j, method in enumerate(methods):
            for r in sorted(ratios):
                worse = (1 + r / 40) ** (1.5 + j / 3)
                rows.append((model, method, r / 100, round((6.5 + 7.3 * i) * worse, 3), round(0.67 / (1 + r / 100), 4)))
    return Table(pd.DataFrame(rows, columns=["model", "method", "ratio", "ppl", "accuracy"]))


def written(value: float, percent: str) -> object:
    """A share as its owner writes it."""
    if percent == "fraction":
        return float(round(value, 6))
    return f"{round(100 * value, 6):g}%" if percent == "sign" else float(round(100 * value, 6))


@st.composite
def mangled(draw) -> tuple[pd.DataFrame, pd.DataFrame]:
    """The good table, and the same one with other headings, units, names of the dense rows and order."""
    good = draw(good_tables()).tidy
    bad = pd.DataFrame({"model": good["model"], "method": good["method"]}, dtype=object)
    is_dense = good["method"] == "dense"
    name = draw(st.sampled_from(DENSE))
    bad["method"] = [
        (model if name == "own" else name) if d else m for model, m, d in zip(*bad.T.to_numpy(), is_dense, strict=True)
    ]
    percent = draw(st.sampled_from(["fraction", "number", "sign"]))
    kept = draw(st.booleans())
    heading = draw(st.sampled_from(RATIOS["kept" if kept else "ratio" if percent != "number" else "percent"]))
    ratio = [written(1 - r if kept else r, percent) for r in good["ratio"]]
    says_kept = not kept or heading not in ("ratio",)
    if says_kept and draw(st.booleans()):  # a blank ratio in the dense rows
        ratio = [draw(st.sampled_from([None, "-", "/", ""])) if d else r for r, d in zip(ratio, is_dense, strict=True)]
    bad["ratio"] = pd.Series(ratio, dtype=object)
    as_loss = draw(st.booleans())
    bad["loss"] = good["loss"] if as_loss else good["ppl"]
    names = {"model": draw(st.sampled_from(MODEL_HEADINGS)), "method": draw(st.sampled_from(METHOD_HEADINGS)), "ratio": heading}
    names["loss"] = draw(st.sampled_from(LOSSES["loss" if as_loss else "ppl"]))
    if draw(st.booleans()):
        unit = draw(st.sampled_from(["fraction", "number", "sign"]))
        bad["accuracy"] = [written(a, unit) for a in good["accuracy"]]
        names["accuracy"] = draw(st.sampled_from(ACCURACIES))
    if draw(st.booleans()) and not kept and percent == "sign":  # the ratio at the end of the model's or the method's name
        column = draw(st.sampled_from(["model", "method"]))
        form = draw(st.sampled_from(["{} ({})", "{}-{}", "{} {}", "{}-pruned-{}", "{}_{}"]))
        bad[column] = [n if d else form.format(n, r) for n, r, d in zip(bad[column], ratio, is_dense, strict=True)]
    bad = bad.rename(columns=names)
    order = draw(st.permutations(list(bad.columns)))
    return good, bad[order].sample(frac=1, random_state=draw(st.integers(0, 99))).reset_index(drop=True)


def check_same(reading: laws.OwnTable, good: pd.DataFrame) -> None:
    columns = ["model", "method", "ratio", "loss"] + ["accuracy"] * ("accuracy" in reading.table)
    by = ["model", "method", "ratio"]
    here = reading.table[columns].sort_values(by, ignore_index=True)
    there = good[columns].sort_values(by, ignore_index=True)
    pd.testing.assert_frame_equal(here, there, check_dtype=False, rtol=1e-9)


@settings(max_examples=60, deadline=None)
@given(mangled())
def test_a_mangled_frame_is_read_as_the_good_one(tables):
    good, bad = tables
    check_same(laws.read(bad), good)


@settings(max_examples=30, deadline=None)
@given(mangled(), st.sampled_from([(",", "."), (";", ","), ("\t", "."), (";", "."), ("\t", ","), ("|", ".")]), st.data())
def test_a_mangled_file_is_read_as_the_good_one(tmp_path_factory, tables, marks, data):
    good, bad = tables
    path = tmp_path_factory.mktemp("mangled") / "t.csv"
    separator, decimal = marks
    text = bad.map(lambda cell: "" if cell is None else repr(cell) if isinstance(cell, float) else cell)
    text = text.map(lambda cell: cell.replace(".", decimal) if isinstance(cell, str) and cell[:1].isdigit() else cell)
    lines = text.to_csv(
        sep=separator, index=data.draw(st.booleans()), lineterminator=data.draw(st.sampled_from(["\n", "\r\n", "\r"]))
    )
    content = lines.encode(data.draw(st.sampled_from(["utf-8", "utf-8-sig", "utf-16"])))
    path.write_bytes(gzip.compress(content, mtime=0) if data.draw(st.booleans()) else content)
    check_same(laws.read(path), good)


@settings(max_examples=25, deadline=None)
@given(mangled(), st.sampled_from(["jsonl", "json", "parquet", "jsonl.gz"]))
def test_other_formats_are_read_as_the_good_one(tmp_path_factory, tables, form):
    good, bad = tables
    path = tmp_path_factory.mktemp("mangled") / f"t.{form}"
    rows = [json.dumps(row) for row in bad.to_dict("records")]
    if form == "parquet":
        bad.map(lambda cell: None if cell is None else str(cell)).to_parquet(path)
    elif form == "jsonl.gz":
        path.write_bytes(gzip.compress("\n".join(rows).encode(), mtime=0))
    else:
        path.write_text("\n".join(rows) if form == "jsonl" else f"[{','.join(rows)}]", encoding="utf-8")
    check_same(laws.read(path), good)


@settings(max_examples=40, deadline=None)
@given(
    good_tables(),
    st.sampled_from(["model", "method", "ratio"]),
    st.sampled_from(["Dense", "BF16", "-", "original"]),
    st.booleans(),
)
def test_a_wide_table_is_read_as_the_long_one(table, wide, dense, named):
    good = table.tidy[table.tidy["method"] != "NA"]  # beside another name of the dense model it is refused, without a ratio
    if wide == "model":  # one row per method and ratio, which stands in a column or in the method's name
        method = [
            dense if m == "dense" else f"{m} ({100 * r:g}%)" if named else m
            for m, r in zip(good["method"], good["ratio"], strict=True)
        ]
        keys = ["method"] if named else ["method", "ratio"]
        bad = good.assign(method=method).pivot(index=keys, columns="model", values="ppl").reset_index()
    elif wide == "method":  # one row per model and ratio, the dense model in a row or a column of its own
        good = good[good["ratio"].isin([0, good["ratio"].max()])]
        bad = (
            good.assign(method=good["method"].replace("dense", dense))
            .pivot(index="model", columns="method", values="ppl")
            .reset_index()
        )
    else:
        method = good["method"].mode()[0] if len(good["method"].unique()) > 2 else good["method"].iloc[-1]
        good = good[good["method"].isin(["dense", method])]
        bad = good.assign(ratio=[f"{100 * r:g}%" for r in good["ratio"]], method=method)
        bad = bad.pivot(index=["model", "method"], columns="ratio", values="ppl").reset_index()
        good = good.assign(method=method)
    said = {"ratio": float(good["ratio"].max())} if wide == "method" else {}
    if bad.shape[1] - (1 if wide == "method" or (wide == "model" and named) else 2) < 2:
        return  # one column of values only: not a wide table
    check_same(laws.read(bad, values="perplexity", **said), good)
