"""Tables that a paper prints, as LaTeX with booktabs: main results, and laws with their intervals.

Every number comes from the laws of a table and its points. The preamble needs \\usepackage{booktabs}; long tables also need
\\usepackage{longtable}.
"""

import math
import re
from pathlib import Path

import pandas as pd

from claw.csv_tables import table_text
from claw.errors import InputError
from claw.files import write_own
from claw.laws import Laws, conversion, tables
from claw.laws.points import is_dense
from claw.words import number

LONG = 40  # rows above which a table may break over pages
_COMMANDS = "alpha beta gamma delta kappa lambda omega rho pm times cdot infty leq".split()
SIGNS = {sign: rf"$\{command}$" for sign, command in zip("αβγδκλωρ±×·∞≤", _COMMANDS, strict=True)}
SIGNS |= {"²": "$^2$", "–": "--", "|": "$|$"}
"""What LaTeX writes for signs that pdflatex does not know."""
DIGITS = {"loss": 2, "accuracy": 3}


def results_table(laws: Laws, response: str = "loss") -> pd.DataFrame:
    """Mean over seeds by model and method (rows) and nominal ratio (columns), ± the standard deviation where there are several.

    `share / r` is the mean share of all parameters that one unit of the nominal ratio truly removes.
    """
    if response not in laws.points.responses:
        raise InputError(
            f"No {response} was measured, so there is no table of it. Measure it with notebooks/30_evaluate.ipynb."
        )
    digits = DIGITS[response]
    measured = laws.points.of(response, dense=True, recovered=False)
    shares = conversion.conversion_table(laws.points).set_index(["model", "method"])["mean"]
    cut = measured[~is_dense(measured)]
    means = cut.groupby(["model", "ratio", "method"])[response].mean().groupby(["model", "ratio"])
    best = means.min() if response == "loss" else means.max()
    rows = []
    for model in laws.points.by_size(set(measured["model"])):
        dense = measured.loc[is_dense(measured) & (measured["model"] == model), response].mean()
        for method, own in cut[cut["model"] == model].groupby("method", sort=True):
            row = {"model": model, "method": method, "share / r": number(shares.get((model, method), math.nan), 2)}
            row |= {"0": number(dense, digits)} | dict.fromkeys(map("{:g}".format, sorted(cut["ratio"].unique())), "–")
            for ratio, values in own.groupby("ratio")[response]:
                spread = f" ± {values.std(ddof=1):.{digits}f}" if len(values) > 1 else ""
                star = "*" if values.mean() == best[model, ratio] else ""
                row[f"{ratio:g}"] = f"{values.mean():.{digits}f}{spread}{star}"
            rows.append(row)
    return pd.DataFrame(rows)


def to_latex(frame: pd.DataFrame, caption: str, label: str) -> str:
    """LaTeX of a table of text with booktabs rules; names and signs are written so that pdflatex takes them."""
    frame = frame.rename(columns=str)
    style = frame.style.format(escape="latex").format_index(escape="latex", axis="columns").hide(axis="index")
    wide = len({"model", "method", "curve", "law", "coefficients"} & set(frame))
    place = {"environment": "longtable"} if len(frame) > LONG else {"position": "t", "position_float": "centering"}
    caption = re.sub("[%_&]", r"\\\g<0>", caption)
    columns = "l" * wide + "r" * (frame.shape[1] - wide)
    code = style.to_latex(hrules=True, caption=caption, label=label, column_format=columns, **place)
    return code.translate(str.maketrans(SIGNS))


def write_tables(laws: Laws, folder: Path) -> list[Path]:
    """Write every table that these laws have as .tex and .csv to `folder`; the paths."""
    paths = []
    for response in laws.points.responses:
        results = (
            f"{response.capitalize()} by model, method and nominal ratio. * is the best of its model and ratio; ± is the "
            "standard deviation over seeds."
        )
        curves = f"Law of {response} of each curve with {laws.level:.0%} intervals."
        across = f"Laws of {response} across curves with bias-reduced clustered {laws.level:.0%} intervals."
        for name, caption, frame in (
            (response, results, results_table(laws, response)),
            (f"{response}_curves", curves, tables.curve_table(laws, response)),
            (f"{response}_laws", across, tables.across_table(laws, response)),
        ):
            if frame.empty:
                continue
            path = Path(folder) / f"paper_table_{name}.tex"
            write_own(path, to_latex(frame, caption, f"tab:{name.replace('_', '-')}"))
            write_own(path.with_suffix(".csv"), table_text(frame))
            paths += [path, path.with_suffix(".csv")]
    return paths
