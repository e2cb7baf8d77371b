"""Findings of a table in words and tables, as Markdown: every sentence and number is generated, none is typed by hand.

`claw findings results/reference.csv` writes findings.md (verdicts on the claims of the original paper, laws with intervals, what
to do at 10 to 90 %, what these data cannot say) and README.md (what was run, see `claw.advice.datasheet`) beside the table, and
laws.json where it is not there yet.

Notable choices:
- Each claim is judged twice: against the ratio that was asked for, and against the share of parameters truly removed.
"""

import math
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from claw import files, laws, records
from claw.advice import recommend
from claw.advice.recommend import TRUE
from claw.errors import InputError
from claw.laws import Laws, tables
from claw.laws.points import DEFAULTS, is_dense
from claw.laws.verdicts import CONTRADICTED, OPEN, SUPPORTED, Verdict
from claw.models import sources
from claw.words import markdown, quantity

WORDS = {SUPPORTED: "reproduced", CONTRADICTED: "not reproduced", OPEN: "cannot be said"}
OURS = "of ours"


def on_true_share(table: pd.DataFrame) -> pd.DataFrame:
    """The table with the share of parameters truly removed in place of the ratio that was asked for."""
    return table.assign(ratio=table[TRUE]).drop(columns=TRUE)


def claims(found: Sequence[Verdict], true: Sequence[Verdict], ours: bool = False) -> pd.DataFrame:
    """One row per claim: the verdict against the nominal ratio and against the true share, with the numbers of both."""
    beside = {verdict.claim: verdict for verdict in true}
    rows = []
    for verdict in found:
        if (OURS in verdict.claim) != ours:
            continue
        row = {"claim": verdict.claim, "against the nominal ratio": _judged(verdict)}
        if true:
            row["against the share of parameters removed"] = _judged(beside[verdict.claim]) if verdict.claim in beside else "–"
        rows.append(row)
    return pd.DataFrame(rows)


def _judged(verdict: Verdict) -> str:
    numbers = verdict.sentence.partition(f" is {verdict.verdict}: ")[2] or verdict.sentence
    return f"**{WORDS[verdict.verdict]}**: {numbers}"


def exponents(found: Laws) -> pd.DataFrame:
    """Laws across models on both axes, with bias-reduced clustered intervals."""
    parts = []
    for response in found.points.responses:
        for axis in found.points.axes:
            frame = tables.across_table(found, response, axis)
            if len(frame):
                frame.insert(0, "of", response)
                frame.insert(1, "against", "nominal ratio" if axis == "ratio" else "true share")
                parts.append(frame.drop(columns=["R² uncentred", "BIC"]))
    return pd.concat(parts, ignore_index=True) if parts else pd.DataFrame()


def speeds(found: Laws) -> pd.DataFrame:
    """Speed laws of prefill and decode against the share removed that each follows, and the speed-up they give at half of it."""
    parts = []
    for response in laws.speed_law.responses(found.points):
        axis = laws.speed_law.speed_axis(found.points, response)
        frame = tables.across_table(found, response, axis)
        for number, name in enumerate(frame["law"] if len(frame) else ()):
            law = found.law(name, response, axis=axis, group="speed")
            if "size" in laws.catalogue.find_form(name, "speed").needs:  # says another speed-up for each size
                continue
            half = law.predict([0.5], 1.0).iloc[0]
            frame.loc[number, "half of it removed"] = (
                f"{half['mean']:.2f} [{half['confidence_low']:.2f}, {half['confidence_high']:.2f}]"
            )
        frame.insert(0, "of", response.removeprefix("speedup_").replace("_", " "))
        frame.insert(1, "against", axis)
        parts.append(frame.drop(columns=["R² uncentred", "BIC", "anchor error"], errors="ignore").fillna("–"))
    return pd.concat(parts, ignore_index=True) if parts else pd.DataFrame()


def critical(found: Laws, threshold: float) -> pd.DataFrame:
    """How far for `threshold` × the dense loss, as nominal ratio and as share of parameters: by the law across models, by curve."""
    rows = []
    models, budgets = sorted(set(found.points.rows["model"])), sorted(set(found.points.rows["recovery_tokens"]))
    for tokens in dict.fromkeys((0.0, budgets[-1])):  # the anchored law is the same for every model
        after = f", {laws.curves.tokens_text(tokens)} of recovery" if tokens else ""
        row = {"curve": f"law across all{after}"}
        for axis, name in (("ratio", "nominal ratio"), (TRUE, "share of parameters")):
            row[name] = "–"
            if axis not in found.points.axes:
                continue
            try:
                row[name] = str(found.critical_ratio(threshold, models[0], laws.ALL, tokens, axis=axis, law="anchored"))
            except InputError:
                continue
        rows.append(row)
    for law in found.curves_of("loss"):
        if not math.isfinite(law.dense):
            continue
        row = {"curve": law.curve.title, "nominal ratio": str(law.critical_ratio(threshold))}
        true = next((one for one in found.curves_of("loss", TRUE) if one.curve == law.curve), None)
        row["share of parameters"] = str(true.critical_ratio(threshold)) if true else "–"
        rows.append(row)
    return pd.DataFrame(rows)


def limits(found: Laws, table: pd.DataFrame) -> list[str]:
    """What these data cannot say, each with the number that limits it."""
    rows = found.points.rows
    models = found.points.by_size(set(rows["model"]))
    words = []
    known = [sources.models().get(name) for name in models]
    notes = {source.name: source.note for source in known if source and source.note}
    if notes:
        listed = "; ".join(f"{name} {note}" for name, note in notes.items())
        words.append(
            f"**Quantised once.** {listed}. Their numbers are a little below those published for the original weights, and how much of a "
            "compressed model's loss comes from the first quantisation is not in these data."
        )
    families = set(rows["family"]) - {DEFAULTS["family"]}
    sizes = rows.groupby("model")["parameters0"].first() if "parameters0" in rows else pd.Series(dtype=float)
    kinds = f" of {len(families)} famil{'ies' if len(families) != 1 else 'y'}" if families else ""
    tail = ["the model is the unit of inference, not the run"]
    if len(families) == len(models) > 1:
        tail.append("each is of another family, so an effect of size cannot be told from one of family")
    if len(sizes.dropna()) and sizes.max() < 7e9:
        tail.append("nothing here speaks of 7B and above")
    words.append(
        f"**Few models.** {len(models)} model{'s' if len(models) != 1 else ''}{kinds}"
        + (f", {quantity(sizes.min())} to {quantity(sizes.max())} parameters" if len(sizes.dropna()) > 1 else "")
        + "".join(f"; {sentence}" for sentence in tail)
        + "."
    )
    if not found.points.one_tokenizer:
        words.append(
            "**Different tokenizers.** Losses per token do not compare between models; laws are relative to each model's own dense loss, "
            "and where models compete they do so in bits per byte."
        )
    methods = rows[~is_dense(rows)].groupby("method")["model"].nunique()
    everywhere, alone = methods[methods == len(models)], methods[methods == 1]
    if len(models) > 1:
        words.append(
            f"**Unequal designs.** {len(everywhere)} of {len(methods)} methods were run on every model, {len(alone)} on one only; "
            "leaving a model out judges only what others share with it."
        )
    seeds = rows[~is_dense(rows)].groupby(["model", "method", "ratio", "recovery_tokens"])["seed"].nunique()
    words.append(f"**Few seeds.** {int((seeds > 1).sum())} of {len(seeds)} points have more than one seed.")
    most = rows["recovery_tokens"].max()
    if most > 0:
        tried = rows[rows["recovery_tokens"] > 0]
        words.append(
            f"**Little recovery.** At most {laws.curves.tokens_text(most)}, on {tried['model'].nunique()} model"
            f"{'s' if tried['model'].nunique() != 1 else ''}, {len(tried)} experiments; the original study went to 25M."
        )
    else:
        words.append("**No recovery** was measured, so nothing is said about it.")
    if "accuracy" in found.points.responses:
        error = rows["accuracy_stderr"].median() if "accuracy_stderr" in rows else math.nan
        limited = f" (limit: {table['limit'].dropna().iloc[0]})" if "limit" in table and table["limit"].notna().any() else ""
        words.append(
            "**Accuracy without its noise.** The table has no standard errors of accuracy."
            if math.isnan(error)
            else f"**Accuracy is noisy.** The standard error of a mean accuracy is {error:.3f}{limited}; smaller differences are not seen."
        )
    if not laws.speed_law.responses(found.points):
        words.append("**No speed** was measured in this table.")
    return words


def findings_page(table: pd.DataFrame, found: Laws, name: str, published: pd.DataFrame | None = None) -> str:
    """findings.md as text. `published`: dense accuracies of others, columns model, task, metric, value, shots, source."""
    true: Sequence[Verdict] = ()
    if TRUE in table and table[TRUE].notna().any():
        try:
            true = laws.judge_table(on_true_share(table), found.level)
        except InputError:
            true = ()
    judged = claims(found.verdicts, true)
    counts = pd.Series([verdict.verdict for verdict in found.verdicts if OURS not in verdict.claim]).value_counts()
    tally = ", ".join(f"{counts.get(key, 0)} {word}" for key, word in WORDS.items())
    parts: list[tuple[str, str]] = [
        ("", f"Generated from `{name}` by `claw findings {name}`; nothing here is typed by hand. "
            + " ".join(remark if remark.endswith(".") else f"{remark}." for remark in tables.remarks(found))),
        (
            "Claims of the original paper",
            f"Of {len(judged)} claims (Sengupta, Chaudhary, Chakraborty 2025, arXiv 2504.04342), against the ratio asked for: {tally}. "
            "*Reproduced* and *not reproduced* follow the rules in `claw/laws/verdicts.py`; intervals are "
            f"{found.level:.0%}.\n\n{markdown(judged)}",
        ),
        *_ours(found, true),
        *_optional(
            "Laws across models", exponents(found),
            "Coefficients with bias-reduced clustered intervals. α, β, γ are the exponents of L = L0^α (1+r)^β (1+1/(D+1))^γ, D in "
            "millions of tokens. *anchor error*: how far the law misses the dense model at r = 0, D = 0.",
        ),
        *_optional(
            "How much faster", speeds(found),
            "Speed-up S over the dense model on the machine that measured it, against the share ρ truly removed: κ = 1 and f = 1 would be all "
            "that FLOPs (prefill) or bytes (decode) allow, λ is the change of κ per tenfold size. Bias-reduced clustered intervals.",
        ),
        *_optional(
            "How far for 10 % more loss", critical(found, 1.1), "The largest ratio with its interval (where the law's band meets 1.1 × L0)."
        ),
        *_optional(
            "Nominal and true ratio tell different stories", recommend.orders(found),
            f"{tables.conversion_text(found)} Methods in the order of the loss that their laws predict, least first, within the measured "
            "range of both axes.",
        ),
        *_optional(
            "What to do at 10, 30, 50, 70 and 90 %", recommend.advice(found),
            "To remove this share of a model's *parameters* (not the nominal ratio), to within half a point of rounding, at the least "
            "loss. The interval is of a new run, and the advice is the cut whose interval ends best: a law that hardly knows its curve "
            "promises nothing. The probability of being the best of the measured methods knows the noise of laws and runs, and nothing of "
            "other methods.",
        ),
    ]  # fmt: skip
    sentences = recommend.across(found)
    if sentences:
        parts.append(
            ("Compress the large model, or take the smaller one?", "\n".join(f"- {sentence}" for sentence in sentences))
        )
    if published is not None:
        parts += _optional("Dense models beside published numbers", beside(table, published), _BESIDE)
    parts.append(("What these data cannot say", "\n".join(f"- {sentence}" for sentence in limits(found, table))))
    return "\n\n".join(["# Findings", *(f"## {title}\n\n{body}" if title else body for title, body in parts)]) + "\n"


_BESIDE = (
    "Measured here with lm-eval's prompts and metrics on the official rows; *gap* is in standard errors of the measurement here. The "
    "weights here were quantised once, our tasks may be limited to their first documents, and others may use other prompts or shots."
)


def _optional(title: str, frame: pd.DataFrame, words: str) -> Iterator[tuple[str, str]]:
    if len(frame):
        yield title, f"{words}\n\n{markdown(frame)}"


def _ours(found: Laws, true: Sequence[Verdict]) -> Iterator[tuple[str, str]]:
    yield from _optional("Our own claim", claims(found.verdicts, true, ours=True), "Judged by the same rules.")


def beside(table: pd.DataFrame, published: pd.DataFrame) -> pd.DataFrame:
    """Dense accuracies of this table beside published ones of the same model, task and metric."""
    dense = table[(table["method"] == "dense")].drop_duplicates("model").set_index("model")
    rows = []
    for one in published.itertuples():
        column = f"{one.task}_{one.metric}"
        if one.model not in dense.index or column not in dense or not np.isfinite(dense.loc[one.model, column]):
            continue
        value, error = float(dense.loc[one.model, column]), float(dense.loc[one.model, f"{column}_stderr"])
        gap = f"{(value - one.value) / error:+.1f}" if error > 0 else "–"
        rows.append({
            "model": one.model, "task": one.task, "metric": one.metric, "here": f"{value:.3f} ± {error:.3f}",
            "n": int(dense.loc[one.model, f"{one.task}_n"]), "published": f"{one.value:.3f}", "shots": one.shots, "gap": gap,
            "source": one.source,
        })  # fmt: skip
    return pd.DataFrame(rows)


def write_findings(source: Path, study: Path | None = None) -> list[Path]:
    """Write laws.json (if it is not there), findings.md and README.md beside a table; their paths.

    `study`: the YAML file that planned the table, for completeness. Published dense accuracies are read from
    `published_dense.csv` beside the table, where there is one.
    """
    from claw.advice import datasheet

    source = Path(source)
    table = records.table(source)
    folder = source if source.is_dir() else source.parent
    plan = datasheet.planned(study) if study else None  # before the fit: a wrong study costs no minute
    found = laws.fit_or_read(table, source)
    table = table.assign(**{name: value for name, value in DEFAULTS.items() if name not in table})
    found.to_json(folder / "laws.json")
    elsewhere = folder / "published_dense.csv"
    published = pd.read_csv(elsewhere) if elsewhere.is_file() else None
    files.write_text(folder / "findings.md", findings_page(table, found, source.as_posix(), published))
    files.write_text(folder / "README.md", datasheet.datasheet_page(table, found, source.as_posix(), study, plan))
    return [folder / name for name in ("laws.json", "findings.md", "README.md")]
