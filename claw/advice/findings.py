"""Findings of a table in words and tables, as Markdown: every sentence and number is generated, none is typed by hand.

`claw findings mine.csv` writes findings.md (a figure, a table and a few lines to act on, what to do at 10 to 90 %, what these
data cannot say, and behind folds the verdicts on the claims of the original paper and the laws with their intervals),
README.md (what was run, see `claw.advice.datasheet`) and laws.json into the folder `mine-findings`, or into the one that
`--out` names.

Notable choices:
- Each claim is judged twice: against the ratio that was asked for, and against the share of parameters truly removed.
"""

import contextlib
import math
import os
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from claw import files
from claw.advice import answers, datasheet, judged_claims, recommend
from claw.advice.judged_claims import fold
from claw.advice.sharpness import sharpness
from claw.advice.task_names import few_tasks
from claw.advice.true_shares import TRUE
from claw.csv_tables import TEXT, read_table
from claw.errors import InputError
from claw.laws import ALL, Laws, OwnTable, catalogue, fitting, read, speed_law, tables
from claw.laws.points import DEFAULTS, is_dense, unrecovered
from claw.laws.verdicts import Verdict
from claw.models import sources
from claw.project import REFERENCE, project_folder
from claw.words import code_span, markdown, markdown_text, plural, quantity, tokens_text, with_interval

PICTURES = ("readme.png", "paper_loss.png", "loss*.png", "*loss*.png")
"""Figures that show losses against what was removed, the first that is there."""
AXES = {"ratio": "nominal ratio", TRUE: "share of parameters"}
SHARES = {"ratio": "nominal ratio", TRUE: "true share"}
HOW_FAR = (
    "**How far?** {what} that can go without retraining for so much more loss, with its "
    "interval, and the method that goes furthest. For 10 % also how much of {tasks} the model then answers, and how fast it is "
    "beside the dense one."
)
OWN_RATIO = "The method's own ratio (the table does not say which share of the parameters that is)"

INTRODUCTIONS = {
    "Our own claim": "Judged by the same rules.",
    "Laws across models": "Coefficients with bias-reduced clustered intervals. α, β, γ are the exponents of "
    "L = L0^α (1+r)^β (1+1/(D+1))^γ, D in millions of tokens. *anchor error*: how far the law misses the dense model, at r = 0 "
    "and D = 0.",
    "How much faster": "Speed-up S over the dense model on the machine that measured it, against the share ρ truly removed. "
    "κ = 1 and f = 1 are the ideal, all that FLOPs (prefill) or bytes (decode) allow; λ is the change of κ per tenfold size. "
    "Bias-reduced clustered intervals.",
    "How far for 10 % more loss": "The largest ratio with its interval, read off the measured points beside it; of all curves "
    "together, where the law's band meets 1.1 × L0.",
    "Nominal and true ratio tell different stories": "{conversion} Methods in the order of the loss read off their measured "
    "points, lowest first, within the measured range of both axes; beside it the order that the laws of their curves predict "
    "at an equal share. τ compares the measured order at an equal share with the other (1 is the same order).",
    "What to do at 10, 30, 50, 70 and 90 %": "How to remove this share of a model's *parameters*, to within half a point of "
    "rounding, at the lowest loss, read off measured points. The interval is that of a new run. Advised is the likeliest to be "
    "the best among those whose interval ends well (within 10 % of the best end), and what cannot be told apart from it is "
    "named. The probability covers the noise of points and runs, and says nothing of methods that were not measured. *Accuracy "
    "kept* is of that above guessing. The last column has the rank as measured and the rank that the curves' "
    "laws predict.",
    "Dense models beside published numbers": "Measured here with lm-eval's prompts and metrics on the official rows; *gap* is "
    "in standard errors of the measurement here. The weights here were quantised once, our tasks may be limited to their first "
    "documents, and others may use other prompts or shots.",
}
"""What stands below a heading, before its table."""


def _stacked(frames: dict[tuple[str, str], pd.DataFrame], *without: str) -> pd.DataFrame:
    """Tables of laws below each other, beside what each is of and against; without columns for specialists."""
    if not frames:
        return pd.DataFrame()
    frame = pd.concat(frames, names=["of", "against"]).reset_index(["of", "against"])
    return frame.drop(columns=["R² uncentred", "BIC", *without], errors="ignore").reset_index(drop=True)


def speed_table(laws: Laws) -> pd.DataFrame:
    """Speed laws of prefill and decode against the share removed that each follows, and the speed-up at half of it."""
    parts = {}
    for response in speed_law.responses(laws.points):
        axis = speed_law.speed_axis(laws.points, response)
        frame = tables.across_table(laws, response, axis)
        for number, name in enumerate(frame["law"] if len(frame) else ()):
            law = laws.law(name, response, axis=axis, group="speed")
            if "size" not in catalogue.find_form(name, "speed").needs:  # which gives another speed-up for each size
                half = law.predict([0.5], 1.0).iloc[0]
                text = with_interval(half["mean"], (half["confidence_low"], half["confidence_high"]), 2)
                frame.loc[number, "half of it removed"] = text
        parts[response.removeprefix("speedup_").replace("_", " "), axis] = frame.fillna("–")
    return _stacked(parts, "anchor error")


def critical_ratios(laws: Laws, threshold: float) -> pd.DataFrame:
    """How far for `threshold` × the dense loss, as nominal ratio and share of parameters: law across models, then curves."""
    rows = []
    model, budgets = min(laws.points.rows["model"]), laws.points.rows["recovery_tokens"]
    for tokens in dict.fromkeys((0.0, max(budgets))):  # the anchored law is the same for every model
        cells = dict.fromkeys(AXES, "–")
        for axis in set(AXES) & set(laws.points.axes):
            with contextlib.suppress(InputError):
                cells[axis] = str(laws.critical_ratio(threshold, model, ALL, tokens, axis=axis, law="anchored"))
        recovery = f", {tokens_text(tokens)} of recovery" if tokens else ""
        rows.append((f"law across all{recovery}", *cells.values()))
    true = {one.curve: str(one.critical_ratio(threshold)) for one in laws.readings("loss", TRUE)}
    for one in laws.readings("loss"):
        if math.isfinite(one.dense):
            rows.append((one.curve.title, str(one.critical_ratio(threshold)), true.get(one.curve, "–")))
    return pd.DataFrame(rows, columns=["curve", *AXES.values()])


def limitations(laws: Laws, table: pd.DataFrame) -> Iterator[str]:
    """What these data cannot say, each with the number that limits it."""
    rows = laws.points.rows
    models = laws.points.by_size(set(rows["model"]))
    notes = {name: source.note for name in models if (source := sources.models().get(name)) and source.note}
    if notes:
        yield (
            f"**Quantised once.** {'; '.join(f'{name} {note}' for name, note in notes.items())}. Their numbers are a little "
            "below those published for the original weights, and these data do not say how much of a compressed model's loss "
            "comes from the first quantisation."
        )
    yield f"**Few models.** {'; '.join(_few_models(rows, models))}."
    if not laws.points.one_tokenizer:
        yield (
            "**Different tokenizers.** Losses per token do not compare between models; laws are relative to each model's own "
            "dense loss, and where models compete they do so in bits per byte."
        )
    cut = rows[~is_dense(rows)]
    recovered = cut[cut["recovery_tokens"] > 0]
    if len(models) > 1:
        spread = cut.groupby("method")["model"].nunique()
        yield (
            f"**Unequal designs.** {(spread == len(models)).sum()} of {len(spread)} methods were run on every model, "
            f"{(spread == 1).sum()} on one only; leaving a model out judges only what others share with it."
        )
    seeds = cut.groupby(["model", "method", "ratio", "recovery_tokens"])["seed"].nunique()
    yield f"**Few seeds.** {(seeds > 1).sum()} of {len(seeds)} points have more than one seed."
    if len(recovered):
        yield (
            f"**Little recovery.** At most {tokens_text(recovered['recovery_tokens'].max())}, on "
            f"{plural(recovered['model'].nunique(), 'model')}, {plural(len(recovered), 'experiment')}; the original study went "
            "to 25M."
        )
    else:
        yield "**No recovery** was measured, so nothing is said about it."
    if "accuracy" in laws.points.responses:
        error = rows["accuracy_stderr"].median() if "accuracy_stderr" in rows else math.nan
        documents = [] if "limit" not in table else table["limit"].dropna().tolist()
        limited = f" (limit: {documents[0]})" if documents else ""
        noise = f"The standard error of a mean accuracy is {error:.3f}{limited}; smaller differences cannot be seen."
        unknown = "**Accuracy without its noise.** The table has no standard errors of accuracy."
        yield unknown if math.isnan(error) else f"**Accuracy is noisy.** {noise}"
    yield from sharpness(table)
    if not speed_law.responses(laws.points):
        yield "**No speed** was measured in this table."


def _few_models(rows: pd.DataFrame, models: list[str]) -> Iterator[str]:
    """How many models of which families and sizes, and what follows."""
    families = len(set(rows["family"]) - {DEFAULTS["family"]})
    sizes = rows.groupby("model")["parameters0"].first().dropna() if "parameters0" in rows else pd.Series(dtype=float)
    of = f" of {plural(families, 'family', 'families')}" if families else ""
    between = f", {quantity(sizes.min())} to {quantity(sizes.max())} parameters" if len(sizes) > 1 else ""
    yield f"{plural(len(models), 'model')}{of}{between}"
    yield "the model is the unit of inference, not the run"
    if families == len(models) > 1:
        yield "each is of another family, so an effect of size cannot be told from one of family"
    if len(sizes) and sizes.max() < 7e9:
        yield "nothing here speaks of 7B and above"


def findings_page(
    table: pd.DataFrame, laws: Laws, name: str, published: pd.DataFrame | None = None, *, figure: str = ""
) -> str:
    """findings.md as text: a figure, a row a model and a few lines first, then advice, limits, and statistics behind folds.

    `published`: dense accuracies of others, columns model, task, metric, value, shots, source. `figure`: path of a picture from
    where the page lies.
    """
    true: Sequence[Verdict] = ()
    if TRUE in table and table[TRUE].notna().any():
        with contextlib.suppress(InputError):
            true = fitting.judge_table(table.assign(ratio=table[TRUE]).drop(columns=TRUE), laws.level)
    told = answers.shared_out(laws)
    pairs = {(response, SHARES[axis]): axis for response in laws.points.responses for axis in laws.points.axes}
    opened = {
        "What to do at 10, 30, 50, 70 and 90 %": _as_far_as_measured(recommend.advice_table(told)).fillna("–"),
        "Compress the large model, or take the smaller one?": recommend.large_or_small(told),
        "What these data cannot say": list(limitations(laws, table)),
    }
    folded = {
        "How far for 10 % more loss": critical_ratios(told, 1.1),
        "Nominal and true ratio tell different stories": recommend.method_orders(told),
        "Laws across models": _stacked({key: tables.across_table(laws, key[0], axis) for key, axis in pairs.items()}),
        "How much faster": speed_table(laws),
        "Our own claim": judged_claims.claim_table(laws.verdicts, true, ours=True),
        "Dense models beside published numbers": pd.DataFrame() if published is None else beside(table, published),
    }
    parts = ["# Findings", *([f"![Held-out loss against what was removed]({figure})"] if figure else [])]
    far = answers.how_far_table(laws)
    what = "The share of each model's parameters" if TRUE in told.points.axes else OWN_RATIO
    said = HOW_FAR.format(what=what, tasks=few_tasks(told.points.rows) or "its tasks")
    parts += [] if far.empty else [said, markdown(far)]
    parts += ["\n".join(f"- {line}" for line in answers.first_lines(laws))]
    parts += [
        f"Read off the measured points of {code_span(name)} by {code_span(f'claw findings {name}')}; nothing here is typed by "
        f"hand. Shares are of all parameters, intervals are {laws.level:.0%}; [README.md](README.md) says what was run."
    ]
    for title, body in opened.items():
        if isinstance(body, list) and body:
            parts += [f"## {title}", "\n".join(f"- {sentence}" for sentence in body)]
        elif len(body):
            parts += [f"## {title}", INTRODUCTIONS[title], markdown(body)]
    parts += ["## Claims of the original paper", *judged_claims.claims_section(laws, true)]
    for title, body in folded.items():
        if len(body):
            introduction = INTRODUCTIONS[title].format(conversion=tables.conversion_text(laws)).strip()
            parts += [f"## {title}", *fold("Show the table", introduction, markdown(body))]
    remarks = "\n".join(f"- {remark.removesuffix('.')}." for remark in tables.remarks(laws))
    parts += ["## What the laws rest on", *fold("Show the remarks", remarks)]
    return "\n\n".join(parts) + "\n"


def _as_far_as_measured(table: pd.DataFrame) -> pd.DataFrame:
    """Of the shares that nothing measured removes, the smallest of each model stands for those above it."""
    if table.empty or "removes" not in table:
        return table
    nothing = table["removes"].isna()
    first = nothing & ~table["model"].where(nothing).duplicated()
    return table[~nothing | first].assign(remove=table["remove"].where(~first, table["remove"] + " and more"))


def figure_of(source: Path, folder: Path) -> str:
    """Path from `folder` to the committed or drawn figure of this very table that shows its losses; empty if there is none."""
    whole = source.resolve()
    reference = whole == (project_folder() / REFERENCE).resolve()
    run = whole if whole.is_dir() else whole.parent
    places = [project_folder() / "figures"] if reference else [run / "figures"] if whole.is_dir() else []
    places += [run / "figures"] if whole.name == "table.csv" else []
    pictures = [path for place in places for name in PICTURES for path in sorted(place.glob(name))]
    return Path(os.path.relpath(pictures[0].resolve(), Path(folder).resolve())).as_posix() if pictures else ""


def beside(table: pd.DataFrame, published: pd.DataFrame) -> pd.DataFrame:
    """Dense accuracies of this table beside published ones of the same model, task and metric."""
    dense = table[table["method"] == "dense"]
    dense = unrecovered(dense) if "recovery_tokens" in dense else dense
    dense = dense.drop_duplicates("model").set_index("model")
    rows = []
    for other in published.itertuples():
        column = f"{other.task}_{other.metric}"
        if other.model not in dense.index or column not in dense or not np.isfinite(dense.loc[other.model, column]):
            continue
        value, error, n = dense.loc[other.model, [column, f"{column}_stderr", f"{other.task}_n"]]
        gap = f"{(value - other.value) / error:+.1f}" if error > 0 else "–"
        here = (f"{value:.3f} ± {error:.3f}", int(n), f"{other.value:.3f}")
        rows.append((other.model, other.task, other.metric, *here, other.shots, gap, other.source))
    return pd.DataFrame(rows, columns="model task metric here n published shots gap source".split())


def findings_folder(source: Path) -> Path:
    """Where the findings of a table go: beside a CSV file, in the folder of a run."""
    return source / "findings" if source.is_dir() else source.with_name(f"{source.stem}-findings")


def write_findings(
    source: Path, study: Path | None = None, out: Path | None = None, reading: OwnTable | None = None
) -> list[Path]:
    """Write laws.json, findings.md and README.md of a table to the folder `out`, else `findings_folder`; their paths.

    `reading`: the table as `claw.laws.read` read it, if it was read with choices of its own. `study`: the YAML file that
    planned the table, for completeness. Published dense accuracies are read from `published_dense.csv` beside the table, where
    there is one. InputError over files that claw did not write.
    """
    source = Path(source)
    as_read = reading or read(source)
    folder = out or findings_folder(source)
    paths = [folder / name for name in ("laws.json", "findings.md", "README.md")]
    files.check_own(paths)
    plan = datasheet.planned(study) if study else None  # before the fit: a wrong study costs no minute
    laws = fitting.fit_or_read(as_read, folder if paths[0].is_file() else source)
    laws.to_json(paths[0])
    table = as_read.table.assign(**{name: value for name, value in DEFAULTS.items() if name not in as_read.table})
    elsewhere = (source if source.is_dir() else source.parent) / "published_dense.csv"
    published = _shown(read_table(elsewhere)) if elsewhere.is_file() else None
    shown = _shown(table)
    if not shown[["model", "method"]].equals(table[["model", "method"]]):  # sentences are made of the names in the laws
        laws = fitting.fit(shown)
    files.write_own(paths[1], findings_page(shown, laws, source.as_posix(), published, figure=figure_of(source, folder)))
    file = Path(os.path.relpath(source, folder)).as_posix()
    files.write_own(paths[2], datasheet.datasheet_page(shown, laws, source.as_posix(), study, plan, file=file))
    return paths


def _shown(table: pd.DataFrame) -> pd.DataFrame:
    """A table whose names Markdown shows as they are."""
    plain = lambda cell: markdown_text(cell) if isinstance(cell, str) else cell
    return table.assign(
        **{name: table[name].map(plain) for name in TEXT if name in table and table[name].dtype.kind not in "iufb"}
    )
