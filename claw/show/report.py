"""One HTML page that tells a study: a slider over its laws, its figures, its tables. It opens from disk without network."""

import html
import json
from collections.abc import Sequence
from importlib import resources
from pathlib import Path
from string import Template

import pandas as pd

from claw import files
from claw.laws import Laws

COLUMNS = "model method ratio ratio_params recovery_tokens loss loss_stderr accuracy accuracy_stderr".split()
"""What a reader wants to see of a table, in this order."""


def write_report(
    path: Path, title: str, laws: Laws, table: pd.DataFrame, *, figures: Sequence[Path] = (), notebooks: Sequence[Path] = ()
) -> Path:
    """Write the page to `path`; figures are embedded, notebooks are linked."""
    measured = table[[name for name in COLUMNS if name in table]].copy()
    if "recovery_tokens" in measured:
        measured["recovery_tokens"] = measured["recovery_tokens"].map("{:,.0f}".format, na_action="ignore")
    svgs = [(figure.stem, figure.read_text(encoding="utf-8")) for figure in figures if figure.suffix == ".svg"]
    embedded = (
        f"<figure>{svg[svg.index('<svg') :]}<figcaption>{html.escape(name)}</figcaption></figure>" for name, svg in svgs
    )
    page = _template("report.html").substitute(
        title=html.escape(title),
        slider=slider(laws),
        laws=laws._repr_html_(),
        table=measured.to_html(index=False, border=0, na_rep="", float_format="{:.4g}".format),
        figures="\n".join(embedded),
        notebooks="\n".join(_link(notebook, path.parent) for notebook in notebooks),
    )
    files.write_own(path, page)
    return path


def slider(laws: Laws) -> str:
    """HTML of the portable slider: the laws as data and a script that evaluates them. It can stand in any page."""
    data = json.dumps(laws.slider_json(), separators=(",", ":"), allow_nan=False).replace("<", "\\u003c")
    return _template("slider.html").substitute(data=data)


def _template(name: str) -> Template:
    return Template(resources.files("claw.show").joinpath(name).read_text(encoding="utf-8"))


def _link(notebook: Path, start: Path) -> str:
    name = html.escape(str(notebook.relative_to(start) if notebook.is_relative_to(start) else notebook))
    return f'<li><a href="{name}">{name}</a></li>'
