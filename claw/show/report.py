"""One HTML page that tells a study: a slider over its laws, its figures, its tables. It opens from disk without network."""

import html
import json
from importlib import resources
from pathlib import Path
from string import Template

import pandas as pd

from claw import files
from claw.laws import Laws

SHOWN = ("model", "method", "ratio", "ratio_params", "recovery_tokens", "loss", "loss_stderr", "accuracy", "accuracy_stderr")


def write_report(path: Path, title: str, laws: Laws, table: pd.DataFrame, figures: list[Path], notebooks: list[Path]) -> Path:
    """Write the page to `path`; figures are embedded, notebooks are linked."""
    template = Template(resources.files("claw.show").joinpath("report.html").read_text(encoding="utf-8"))
    page = template.substitute(
        title=html.escape(title),
        slider=slider(laws),
        laws=laws._repr_html_(),
        table=frame_html(table),
        figures="\n".join(_figure(figure) for figure in figures if figure.suffix == ".svg"),
        notebooks="\n".join(_link(notebook, path.parent) for notebook in notebooks),
    )
    files.write_text(path, page)
    return path


def slider(laws: Laws) -> str:
    """HTML of the portable slider: the laws as data and a script that evaluates them. It can stand in any page."""
    template = Template(resources.files("claw.show").joinpath("slider.html").read_text(encoding="utf-8"))
    data = json.dumps(laws.slider_json(), separators=(",", ":"), allow_nan=False).replace("</", "<\\/")
    return template.substitute(data=data)


def frame_html(table: pd.DataFrame) -> str:
    """A table as HTML with the columns a reader wants first, rounded for reading."""
    shown = table[[name for name in SHOWN if name in table]].copy()
    if "recovery_tokens" in shown:
        shown["recovery_tokens"] = shown["recovery_tokens"].map(lambda tokens: "" if pd.isna(tokens) else f"{tokens:,.0f}")
    for name in shown.select_dtypes("float"):
        shown[name] = shown[name].map(lambda value: "" if pd.isna(value) else f"{value:.4g}")
    return shown.to_html(index=False, border=0, escape=True)


def _figure(path: Path) -> str:
    svg = path.read_text(encoding="utf-8")
    return f"<figure>{svg[svg.index('<svg') :]}<figcaption>{html.escape(path.stem)}</figcaption></figure>"


def _link(notebook: Path, start: Path) -> str:
    name = html.escape(str(notebook.relative_to(start) if notebook.is_relative_to(start) else notebook))
    return f'<li><a href="{name}">{name}</a></li>'
