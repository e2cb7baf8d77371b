"""One HTML page that tells a study: how far one can go, and behind that its figures, laws and measurements.

It opens from disk, without network, Python or a server.
"""

import html
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from claw import files, words
from claw.advice.task_names import few_tasks
from claw.errors import InputError
from claw.figures.captions import caption
from claw.laws import Laws, speed_law
from claw.laws.fitted import POOLED
from claw.laws.points import is_dense
from claw.laws.storage import COLUMNS, STEP, plain_json
from claw.show import how_far, unseen
from claw.show.page_parts import embedded, part, shared

MEASURED = {
    "recovery_tokens": ("recovery", "{:,.0f} tokens"),
    "loss": ("loss", "{:.3f}"),
    "loss_stderr": ("± loss", "{:.3f}"),
    "accuracy": ("accuracy", "{:.1%}"),
    "accuracy_stderr": ("± accuracy", "{:.1%}"),
    "speedup_decode": ("decoding, times", "{:.2f}"),
}
"""What a reader wants to see of a table beside model, method and share: column, heading, how it is written."""


def write_report(
    path: Path, title: str, laws: Laws, table: pd.DataFrame, *, figures: Sequence[Path] = (), notebooks: Sequence[Path] = ()
) -> Path:
    """Write the page to `path`; figures are embedded, notebooks are linked. `title` is the name of the study."""
    svgs = [(figure.stem, figure.read_text(encoding="utf-8")) for figure in figures if figure.suffix == ".svg"]
    drawn = (
        f"<figure>{svg[svg.index('<svg') :]}<figcaption>{html.escape(caption(n))}</figcaption></figure>" for n, svg in svgs
    )
    models = sorted(set(laws.points.rows["model"].astype(str)))
    page = part(
        "report.html",
        title=html.escape(f"How far can {models[0] if len(models) == 1 else f'these {len(models)} models'} be compressed?"),
        study=html.escape(title),
        about=_about(title, laws),
        style=shared("pages.css"),
        plot=shared("plot.js"),
        question=_or_why(how_far.how_far_page, laws),
        slider=slider(laws),
        unseen=unseen.unseen_fold(),
        laws=laws._repr_html_(),
        table=measured_table(table),
        figures="\n".join(drawn),
        count=str(len(svgs)),
        notebooks=_links(notebooks, path.parent),
    )
    files.write_own(path, page)
    return path


def _about(title: str, laws: Laws) -> str:
    """What the page is, in a sentence."""
    cut = laws.points.rows[~is_dense(laws.points.rows)]
    methods = words.plural(cut["method"].nunique(), "method")
    return (
        f"Study <b>{html.escape(title)}</b>: {words.plural(len(cut), 'compressed model')} of {methods}, measured. "
        "Say what you accept; the page answers from the measurements."
    )


def _or_why(draw: Any, laws: Laws) -> str:
    try:
        return draw(laws)
    except InputError as error:
        return f"<p>{html.escape(str(error))}</p>"


def slider(laws: Laws) -> str:
    """HTML of the portable slider over every curve: what was measured as data, and a script that draws it."""
    data = slider_curves(laws)
    if not data:
        return "<p>No curve was measured.</p>"
    return part("slider.html", data=embedded(data))


def slider_curves(laws: Laws) -> list[dict[str, Any]]:
    """The curves of `Laws.slider_json`, the true share first, each with the end of its slider; and those of measured speed.

    `own` pairs shares with the method's own ratio.
    """
    lead, carried = laws.points.leading_axis, list[dict[str, Any]]()
    tasks = few_tasks(laws.points.rows)
    for one in laws.slider_json():
        own = how_far.own_ratios(laws, one["model"], one["method"], one["ratio_of"], one["axis"])
        carried.append(one | {"own": own, "tasks": tasks, "end": how_far.end_of(one["axis"], one["range"][1], own)})
    carried += _speeds(laws, carried)
    order = laws.points.by_size({one["model"] for one in carried})
    carried.sort(key=lambda one: (order.index(one["model"]), one["axis"] != lead))
    return plain_json(carried)


def _speeds(laws: Laws, carried: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Measured speed-ups of each curve on the axis of the speed law, with the law's band."""
    made = list[dict[str, Any]]()
    rows = laws.points.rows[~is_dense(laws.points.rows)]
    for response in speed_law.responses(laws.points):
        axis = speed_law.speed_axis(laws.points, response)
        law = next((law for law in laws.across(response, axis) if law.form == POOLED["speed"]), None)
        timed = rows[rows[response].notna() & rows[axis].notna()]
        for key, own in timed.groupby(["model", "method", "ratio_of"]):
            what = dict(zip(("model", "method", "ratio_of", "axis"), (*key, axis), strict=True))
            like = next((one for one in carried if what.items() <= one.items()), None)
            means = own.groupby(axis)[response].mean()
            points = [[0.0, 1.0, 0.0], *([float(r), float(times), 0.0] for r, times in means.items())]
            end = like["end"] if like else float(means.index.max())
            steps = np.arange(math.floor(float(means.index.max()) / STEP + 1e-9) + 1) * STEP
            band = law.predict(steps, 1.0, model=str(key[0])) if law else pd.DataFrame({"mean": np.full(len(steps), np.nan)})
            grid = {name: band.get(column, pd.Series(np.nan, band.index)).tolist() for name, column in COLUMNS.items()}
            curve = what | {"recovery": "none", "tokens": 0.0, "response": response, "dense": 1.0}
            curve |= {
                "unit": "times as fast as dense",
                "level": laws.level,
                "step": STEP,
                "range": [0.0, float(means.index.max())],
            }
            made.append(
                curve
                | {"grid": grid, "points": points, "beyond": [], "law": "", "end": end, "own": like["own"] if like else []}
            )
    return made


def measured_table(table: pd.DataFrame) -> str:
    """What was measured as an HTML table: the true share first, the method's own ratio in brackets."""
    columns = {name: how for name, how in MEASURED.items() if name in table and table[name].notna().any()}
    write = lambda value, form: "" if pd.isna(value) else form.format(value)
    lines = []
    for _, row in table.iterrows():
        cells = [write(row[name], form) for name, (_, form) in columns.items()]
        lines.append((str(row["model"]), str(row["method"]), _removed(row), *cells))
    return words.html_table(lines, ("model", "method", "removed", *(heading for heading, _ in columns.values())))


def _removed(row: pd.Series) -> str:
    share, ratio = row.get("ratio_params", math.nan), row["ratio"]
    own = f"r = {ratio:g}"
    return own if pd.isna(share) else "0 %" if ratio == 0 else f"{100 * share:.1f} % ({own})"


def _links(notebooks: Sequence[Path], start: Path) -> str:
    """Links to executed notebooks beside the page; nothing without any."""
    if not notebooks:
        return ""
    lines = "\n".join(_link(notebook, start) for notebook in notebooks)
    return f"<details><summary>Executed notebooks ({len(notebooks)})</summary>\n<ul>\n{lines}\n</ul>\n</details>"


def _link(notebook: Path, start: Path) -> str:
    name = html.escape(str(notebook.relative_to(start) if notebook.is_relative_to(start) else notebook))
    return f'<li><a href="{name}">{name}</a></li>'
