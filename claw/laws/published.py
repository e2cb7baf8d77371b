"""What the published measurements say of the original paper's claims: β by method and paper, size, retention, recovery.

The table is `results/published.csv` (`results/published/tidy.py` says what its columns mean). A curve is one method on one
model, one text and one paper; every figure here compares a compressed model with the uncompressed one of the same curve.
"""

from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import statsmodels.api as sm
from scipy import stats
from statsmodels.stats.meta_analysis import combine_effects

from claw.errors import InputError, unknown
from claw.laws.hierarchical import NEW, Excess, HierarchicalLaw, coverage, excess_points, fit_hierarchical
from claw.project import inside_project, project_folder
from claw.words import plural

PUBLISHED = Path("results") / "published.csv"
FEWEST_DF = 3  # degrees of freedom below which no interval is given
HALF = 0.5


def read_published(path: str | Path | None = None) -> pd.DataFrame:
    """The published measurements of this project, or of a file in the same columns. InputError if there is none."""
    file = Path(path) if path else project_folder() / PUBLISHED
    if not file.is_file():
        raise InputError(
            f"There is no {file}. It comes with the project's folder; make it with `python results/published/tidy.py`."
        )
    return pd.read_csv(file, dtype={"apart": str, "tasks": str, "loss0_from": str}, keep_default_na=True)


@cache
def published_law(path: Path | None = None) -> HierarchicalLaw:
    """The hierarchical law of the published measurements, fitted once in a process (some ten seconds)."""
    return fit_hierarchical(read_published(path))


def predict_new(
    model: str | float | Any,
    method: str,
    ratio: Any,
    tokens: float = 0,
    *,
    family: str = NEW,
    text: str = NEW,
    law: HierarchicalLaw | None = None,
) -> pd.DataFrame:
    """What the published measurements foretell of a model that nobody measured: frame over r of L/L0 with its band.

    `model`: a name of the published table, a number of parameters, or anything with `parameters` (a shape of `claw.models`).
    `ratio`: share of all parameters removed. `tokens` above 0 stands for recovery as papers do it: too few say on how much to
    tell budgets apart. `family` and `text` of the table narrow the band. InputError: a name without a known size.
    """
    law = law or published_law()
    rows = law.points.rows
    options: dict[str, Any] = {"family": family, "text": text, "trained": tokens > 0}
    if isinstance(model, str):
        own = rows[rows["model"] == model]
        if not len(own):
            raise unknown("model", model, rows["model"], "For another model give its number of parameters, such as 7e9.")
        options |= {"family": own["family"].iloc[0], "model": model}
        return law.predict(ratio, method, 1e9 * 10 ** float(own["size"].iloc[0]), **options)
    return law.predict(ratio, method, float(getattr(model, "parameters", model)), **options)


FAMILIES = {"gemma3": "Gemma-3", "gemma-3": "Gemma-3", "qwen2.5": "Qwen2.5", "qwen3": "Qwen3", "llama-3": "Llama-3"}
"""Beginnings of claw's model names and the families of the published table that they belong to."""


def own_measurements(table: pd.DataFrame, name: str = "this study") -> pd.DataFrame:
    """A tidy table of claw in the columns of the published one, so that both enter one law."""
    known = {row: family for row in table["model"].unique() for start, family in FAMILIES.items() if row.startswith(start)}
    family = table["model"].map(known).fillna(table["model"].str.partition("-")[0])
    recovery = pd.Series(np.where(table["recovery_tokens"] > 0, "trained", "none"), table.index)
    return table.assign(paper=name, family=family, recovery=recovery)


def foretold(law: HierarchicalLaw, table: pd.DataFrame) -> pd.DataFrame:
    """Each measurement of another table beside what the law foretells of it, its paper and text being new to the law.

    Columns as of `HierarchicalLaw.left_out`. Models and families that the law knows are used.
    """
    rows, parts = excess_points(table).rows, []
    for (paper, model, family, method, text, size, trained), own in rows.groupby(
        ["paper", "model", "family", "method", "text", "size", "trained"]
    ):
        known = {"model": model, "family": family, "text": text, "paper": paper, "trained": bool(trained)}
        band = law.predict(own["ratio_params"], method, 1e9 * 10**size, **known)
        frame = own[["paper", "model", "family", "method", "text", "ratio_params"]].reset_index(drop=True)
        frame = frame.assign(measured=(own["loss"] / own["loss0"]).to_numpy(), predicted=band["mean"])
        parts.append(frame.assign(low=band["low"], high=band["high"]))
    frame = pd.concat(parts, ignore_index=True)
    covered = frame["measured"].between(frame["low"], frame["high"])
    return frame.assign(covered=covered, error=(frame["predicted"] / frame["measured"] - 1).abs())


def both_ways(table: pd.DataFrame, ours: str | Path, law: HierarchicalLaw) -> pd.DataFrame:
    """Our own measurements foretold by the published law, and the published ones by a law of ours: coverage and error of L.

    Only shares up to a half, which is as far as most published curves go. InputError: there is no such table.
    """
    path = inside_project(str(ours))
    if not path.is_file():
        raise InputError(f"There is no table {ours}. Name a table measured with claw, or none.")
    own = own_measurements(pd.read_csv(path))
    near, alike = own[own["ratio_params"] <= HALF], table[table["ratio_params"] <= HALF]
    judged = coverage(foretold(law, near), "model")
    try:
        back = fit_hierarchical(near, level=law.level)
    except (InputError, np.linalg.LinAlgError):
        return judged
    return pd.concat(
        [judged, coverage(foretold(back, alike), "paper").tail(1).assign(model="published, by ours").drop(columns="paper")]
    )


def measured_by_family(table: pd.DataFrame) -> pd.DataFrame:
    """Number of comparable compressed points by method (rows, the most measured first) and family of models (columns)."""
    rows = table[(table["method"] != "dense") & (table["apart"].fillna("") == "")]
    counts = rows.pivot_table(index="method", columns="family", values="line", aggfunc="count", fill_value=0)
    counts = counts.assign(papers=rows.groupby("method")["paper"].nunique(), all=counts.sum(axis=1))
    return counts.sort_values("all", ascending=False)


def slopes(points: Excess) -> pd.DataFrame:
    """β of log(L/L0) = β log(1+r), the original paper's slope, of each curve: paper, method, model, family, text, beta, n."""
    rows = points.rows[points.rows["trained"] == 0]
    rows = rows.assign(a=np.log1p(rows["ratio_params"]), y=np.exp(rows["z"]))
    sums = rows.assign(ay=rows["a"] * rows["y"], aa=rows["a"] ** 2).groupby("curve")
    about = sums[["paper", "method", "model", "family", "text", "size"]].first()
    return about.assign(beta=sums["ay"].sum() / sums["aa"].sum(), n=sums.size()).reset_index(drop=True)


def forest(curves: pd.DataFrame, level: float = 0.95) -> pd.DataFrame:
    """Mean β of each method in each paper, and of each method over papers by a random-effects model.

    Within a paper its curves are the observations; over papers DerSimonian and Laird's estimate (iterated) with the interval of
    Hartung and Knapp. Columns method, paper ("all" for the method), beta, low, high, df, curves, i2 (share of the variance that
    is between papers). Below three degrees of freedom there is no interval: NaN.
    """
    rows = []
    for method, own in curves.groupby("method"):
        papers = own.groupby("paper")["beta"].agg(["mean", "var", "count"])
        pooled_variance = own.groupby("paper")["beta"].transform(lambda beta: beta - beta.mean()).pow(2).sum()
        spare = int((papers["count"] - 1).sum())
        for paper, row in papers.iterrows():
            error = np.sqrt(row["var"] / row["count"])
            half = _half(level, row["count"] - 1) * error
            place = {
                "method": method,
                "paper": paper,
                "beta": row["mean"],
                "low": row["mean"] - half,
                "high": row["mean"] + half,
            }
            rows.append(place | {"df": row["count"] - 1, "curves": row["count"], "i2": np.nan})
        total = {"method": method, "paper": "all", "curves": len(own)}
        if len(papers) < 2 or not spare:
            rows.append(
                total | {"beta": own["beta"].mean(), "low": np.nan, "high": np.nan, "df": len(papers) - 1, "i2": np.nan}
            )
            continue
        variance = (pooled_variance / spare / papers["count"]).to_numpy()
        both = combine_effects(papers["mean"].to_numpy(), variance, method_re="iterated")
        half = _half(level, len(papers) - 1) * both.sd_eff_w_re_hksj
        interval = {"beta": both.mean_effect_re, "low": both.mean_effect_re - half, "high": both.mean_effect_re + half}
        rows.append(total | interval | {"df": len(papers) - 1, "i2": max(0.0, both.i2)})
    return pd.DataFrame(rows).astype({"curves": int, "df": int})


def sizes_within(curves: pd.DataFrame, level: float = 0.95) -> pd.DataFrame:
    """Change of β per tenfold size, within families: method, paper and text are held, so only size differs.

    Least squares with a constant for each (method, paper, text), clustered by method and paper. Columns family, models,
    smallest, largest, change, low, high, df; a last row over all families. Below three degrees of freedom no interval: NaN.
    """
    rows = []
    for family, own in [*curves.groupby("family"), ("all, within families", curves)]:
        cell = own[["family", "method", "paper", "text"]].agg(" · ".join, axis=1)
        own = own.assign(cell=cell)[cell.map(own.assign(cell=cell).groupby("cell")["size"].nunique()) > 1]
        if not len(own):
            continue
        centred = own[["size", "beta"]] - own.groupby("cell")[["size", "beta"]].transform("mean")
        clusters = (own["method"] + own["paper"]).astype("category").cat.codes
        count = clusters.nunique()
        covariance = {"cov_type": "cluster", "cov_kwds": {"groups": clusters}, "use_t": True} if count > 1 else {}
        fit = sm.OLS(centred["beta"], centred[["size"]]).fit(**covariance)
        half = _half(level, count - 1) * fit.bse["size"]
        change = float(fit.params["size"])
        size = own.groupby("model")["size"].first()
        row = {"family": family, "models": len(size), "smallest": 10 ** size.min(), "largest": 10 ** size.max()}
        rows.append(row | {"change": change, "low": change - half, "high": change + half, "df": count - 1})
    return pd.DataFrame(rows)


def _half(level: float, df: float) -> float:
    """Student quantile of an interval; NaN below `FEWEST_DF`."""
    return float(stats.t.ppf(0.5 + level / 2, df)) if df >= FEWEST_DF else np.nan


def kept_below_half(table: pd.DataFrame, level: float = 0.95) -> pd.DataFrame:
    """Share of accuracy and of accuracy above guessing kept when less than half of the parameters is removed, by method.

    Each (paper, model) is one observation: the mean over its ratios. Columns method, recovery, kept, above (guessing), low,
    high (of above), models, points, mean_ratio.
    """
    rows = table[(table["method"] != "dense") & (table["apart"].fillna("") == "") & table["accuracy0"].notna()]
    rows = rows[(rows["ratio_params"] > 0.02) & (rows["ratio_params"] < HALF) & (rows["accuracy0"] > rows["chance"])]
    above = (rows["accuracy"] - rows["chance"]) / (rows["accuracy0"] - rows["chance"])
    rows = rows.assign(kept=rows["accuracy"] / rows["accuracy0"], above=above)
    groups = rows.groupby(["recovery", "method", "paper", "model"])
    each = groups.agg(kept=("kept", "mean"), above=("above", "mean"), points=("kept", "size"), r=("ratio_params", "mean"))
    out = []
    for recovery, method in [*each.groupby(["recovery", "method"]).groups, ("none", "all"), ("trained", "all")]:
        own = each.loc[recovery] if method == "all" else each.loc[(recovery, method)]
        half = _half(level, len(own) - 1) * own["above"].sem()
        mean = own["above"].mean()
        row = {"method": method, "recovery": recovery, "kept": own["kept"].mean(), "above": mean, "low": mean - half}
        row |= {"high": mean + half, "models": len(own), "points": own["points"].sum(), "mean_ratio": own["r"].mean()}
        out.append(row)
    return pd.DataFrame(out)


def gains_by_tokens(table: pd.DataFrame) -> pd.DataFrame:
    """What training after compression wins back, paired: the same paper, model, method, share and text with and without it.

    Columns paper, model, method, ratio_params, recovery_tokens, before, after, dense (losses), gain (relative fall of the
    loss) and won_back: the share (before - after) / (before - dense) of the lost loss.
    """
    rows = table[
        (table["method"] != "dense") & table["loss"].notna() & table["loss0"].notna() & (table["apart"].fillna("") == "")
    ]
    key = ["paper", "model", "method", "ratio", "ratio_of", "heldout", "context"]
    rows = rows.assign(context=rows["context"].fillna(0))
    before = rows[rows["recovery"] == "none"].groupby(key)["loss"].median().rename("before")
    trained = rows[rows["recovery"] == "trained"].join(before, on=key).dropna(subset="before")
    trained = trained.rename(columns={"loss": "after", "loss0": "dense"})
    trained = trained.assign(gain=1 - trained["after"] / trained["before"])
    lost = trained["before"] - trained["dense"]
    trained["won_back"] = (trained["before"] - trained["after"]) / lost.where(lost > 0)
    columns = "paper model method method_as_printed ratio_params heldout recovery_tokens before after dense gain won_back"
    return trained[columns.split()].reset_index(drop=True)


def curvature(table: pd.DataFrame, response: str = "loss", level: float = 0.95) -> dict[str, float]:
    """Mean c of L/L0 = 1 + b r + c r² (or of accuracy above guessing kept) over untrained curves of three ratios or more.

    Papers are the observations: each is the mean of its curves. Keys mean, low, high, df, papers, curves.
    """
    rows = table[(table["method"] != "dense") & (table["recovery"] == "none") & (table["apart"].fillna("") == "")]
    if response == "loss":
        y = rows["loss"] / rows["loss0"] - 1
    else:
        y = (rows["accuracy"] - rows["chance"]) / (rows["accuracy0"] - rows["chance"]) - 1
    rows = rows.assign(y=y, r=rows["ratio_params"], text=rows["heldout"].fillna("") + rows["context"].fillna(0).astype(str))
    rows = rows[np.isfinite(rows["y"]) & (rows["r"] > 0)]
    bends = []
    for (paper, *_), own in rows.groupby(["paper", "model", "method_as_printed", "text"]):
        if own["r"].nunique() >= 3:
            bends.append((paper, np.linalg.lstsq(own["r"].to_numpy()[:, None] ** [1, 2], own["y"], rcond=None)[0][1]))
    each = pd.DataFrame(bends, columns=["paper", "bend"]).groupby("paper")["bend"].mean()
    half = _half(level, len(each) - 1) * each.sem()
    edges = {"mean": each.mean(), "low": each.mean() - half, "high": each.mean() + half}
    return edges | {"df": len(each) - 1, "papers": len(each), "curves": len(bends)}


def claims(table: pd.DataFrame, law: HierarchicalLaw, level: float = 0.95) -> pd.DataFrame:
    """The original paper's claims on this evidence: claim, verdict, evidence in words."""
    bend, straight, kept = curvature(table, "loss", level), curvature(table, "accuracy", level), kept_below_half(table, level)
    gains, law_half = gains_by_tokens(table), _half(level, law.df)
    size = np.exp(law.fixed["size"] + law_half * law.stderr["size"] * np.array([-1, 0, 1]))
    span = lambda edges: f"{edges['mean']:.2f} [{edges['low']:.2f}, {edges['high']:.2f}], {plural(edges['papers'], 'paper')}"
    all_methods = kept[kept["method"] == "all"].set_index("recovery")
    rows = [
        (
            "loss grows faster than linearly in the ratio",
            _sign(bend["low"], bend["high"]),
            f"mean curvature of L/L0 {span(bend)}, {bend['curves']} curves",
        ),
        (
            "accuracy falls linearly in the ratio",
            _zero(straight["low"], straight["high"]),
            f"mean curvature of the accuracy above guessing that is kept {span(straight)}, {straight['curves']} curves",
        ),
        (
            "one slope β serves every method",
            "contradicted",
            f"methods differ by a factor of {np.exp(law.spread['method']):.2f} either way, models of one family by "
            f"{np.exp(law.spread['model']):.2f}",
        ),
        (
            "larger models lose less",
            {"supported": "contradicted", "contradicted": "supported"}.get(_sign(*np.log(size[[0, 2]])), "undecided"),
            f"ten times the size leaves {size[1]:.2f} [{size[0]:.2f}, {size[2]:.2f}] of the excess log(L/L0)",
        ),
    ]
    for recovery, claimed, words in (("none", 0.57, "without recovery"), ("trained", 0.84, "with recovery")):
        own = all_methods.loc[recovery]
        inside = own["low"] <= claimed <= own["high"]
        evidence = (
            f"above guessing {own['above']:.0%} [{own['low']:.0%}, {own['high']:.0%}] of {own['models']:.0f} models at a mean "
        )
        evidence += f"share of {own['mean_ratio']:.0%}; of plain accuracy {own['kept']:.0%}"
        rows.append((f"below 50 % models keep {claimed:.0%} {words}", "supported" if inside else "contradicted", evidence))
    best = gains.loc[gains["gain"].idxmax()]
    where = f"{best['model']}, {best['method_as_printed']}, {best['paper']}"
    evidence = (
        f"the largest of {len(gains)} pairs is {best['gain']:.0%} ({where}); the median {gains['gain'].median():.0%}, which is "
    )
    evidence += f"{gains['won_back'].median():.0%} of the loss that compression cost"
    verdict = "contradicted" if best["gain"] > 0.55 else "not reached"
    rows.append(("recovery improves loss by up to 55 %", verdict, evidence))
    return pd.DataFrame(rows, columns=["claim", "verdict", "evidence"])


def _zero(low: float, high: float) -> str:
    """Verdict on a curvature that should be zero, where a curvature of one would be strong."""
    return "contradicted" if low > 0 or high < 0 else "supported" if high - low < 1 else "undecided"


def _sign(low: float, high: float) -> str:
    return "supported" if low > 0 else "contradicted" if high < 0 else "undecided"
