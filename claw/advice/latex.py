"""Tables that a paper prints, as LaTeX with booktabs: main results, and laws with their intervals.

Every number comes from the laws of a table and its points. The preamble needs \\usepackage{booktabs}; long tables also need
\\usepackage{longtable}.
"""

import math
from pathlib import Path

import pandas as pd

from claw import words
from claw.errors import InputError
from claw.files import write_text
from claw.laws import Laws, conversion, tables
from claw.laws.points import is_dense

LONG = 40  # rows above which a table may break over pages
SIGNS = {
    "α": r"$\alpha$", "β": r"$\beta$", "γ": r"$\gamma$", "δ": r"$\delta$", "κ": r"$\kappa$", "λ": r"$\lambda$", "ω": r"$\omega$",
    "ρ": r"$\rho$", "²": r"$^2$", "±": r"$\pm$", "×": r"$\times$", "·": r"$\cdot$", "∞": r"$\infty$", "–": "--", "≤": r"$\leq$", "|": r"$|$",
}  # fmt: skip
"""What LaTeX writes for signs that pdflatex does not know."""
DIGITS = {"loss": 2, "accuracy": 3}


def results(laws: Laws, response: str = "loss") -> pd.DataFrame:
    """Mean over seeds by model and method (rows) and nominal ratio (columns), ± the standard deviation of seeds where there are some.

    `share / r` is the mean share of all parameters that one unit of the nominal ratio truly removes.
    """
    if response not in laws.points.responses:
        raise InputError(
            f"No {response} was measured, so there is no table of it. Measure it with notebooks/30_evaluate.ipynb."
        )
    rows = laws.points.of(response, dense=True)
    rows = rows[rows["recovery_tokens"] == 0]
    dense, cut = rows[is_dense(rows)], rows[~is_dense(rows)]
    ratios = sorted(cut["ratio"].unique())
    shares = conversion.conversion_table(laws.points).set_index(["model", "method"])["mean"]
    found = []
    for model in laws.points.by_size(set(rows["model"])):
        zero = dense.loc[dense["model"] == model, response]
        own = cut[cut["model"] == model]
        best = own.groupby(["ratio", "method"])[response].mean().groupby("ratio").agg("min" if response == "loss" else "max")
        for method, part in own.groupby("method", sort=True):
            row = {"model": model, "method": method, "share / r": words.number(shares.get((model, method), math.nan), 2)}
            row["0"] = words.number(float(zero.mean()) if len(zero) else math.nan, DIGITS[response])
            for r in ratios:
                row[f"{r:g}"] = _cell(part.loc[part["ratio"] == r, response], best.get(r), DIGITS[response])
            found.append(row)
    return pd.DataFrame(found)


def _cell(values: pd.Series, best: float, digits: int) -> str:
    """3.42 ± 0.01, with a star on the best of its model and ratio."""
    if not len(values):
        return "–"
    spread = f" ± {values.std(ddof=1):.{digits}f}" if len(values) > 1 else ""
    return f"{values.mean():.{digits}f}{spread}" + ("*" if values.mean() == best else "")


def curve_laws(laws: Laws, response: str = "loss") -> pd.DataFrame:
    """The law of each curve with its intervals; see `claw.laws.tables.curve_table`."""
    frame = tables.curve_table(laws, response)
    if frame.empty:
        raise InputError(
            f"No curve has enough ratios for a law of {response}: measure four or more, the dense model among them."
        )
    return frame


def pooled_laws(laws: Laws, response: str = "loss") -> pd.DataFrame:
    """The laws across models with bias-reduced clustered intervals; see `claw.laws.tables.across_table`."""
    frame = tables.across_table(laws, response)
    if frame.empty:
        raise InputError(f"No law of {response} could be fitted across curves: laws.unfitted says why.")
    return frame


def code(frame: pd.DataFrame, caption: str, label: str) -> str:
    """LaTeX of a table of text with booktabs rules; names and signs are written so that pdflatex takes them."""
    shown = frame.rename(columns=str)
    style = shown.style.format(escape="latex").format_index(escape="latex", axis="columns").hide(axis="index")
    environment = "longtable" if len(frame) > LONG else None
    wide = "l" * sum(column in ("model", "method", "curve", "law", "coefficients") for column in shown)
    written = style.to_latex(
        hrules=True, caption=_escape(caption), label=label, position=None if environment else "t", environment=environment,
        column_format=wide + "r" * (shown.shape[1] - len(wide)), position_float=None if environment else "centering",
    )  # fmt: skip
    return "".join(SIGNS.get(letter, letter) for letter in written)


def _escape(sentence: str) -> str:
    return sentence.replace("%", r"\%").replace("_", r"\_").replace("&", r"\&")


def write_tables(laws: Laws, folder: Path) -> list[Path]:
    """Write every table that these laws have as .tex and .csv to `folder`; the paths."""
    level = f"{laws.level:.0%}"
    found = []
    for response in laws.points.responses:
        for make, name, caption in (
            (results, f"table_{response}", f"{response.capitalize()} by model, method and nominal ratio. * is the best of its model and "
             "ratio; ± is the standard deviation over seeds."),
            (curve_laws, f"table_{response}_curves", f"Law of {response} of each curve with {level} intervals."),
            (pooled_laws, f"table_{response}_laws", f"Laws of {response} across curves with bias-reduced clustered {level} intervals."),
        ):  # fmt: skip
            try:
                frame = make(laws, response)
            except InputError:
                continue
            path = Path(folder) / f"paper_{name}.tex"
            write_text(path, code(frame, caption, f"tab:{name.removeprefix('table_').replace('_', '-')}"))
            write_text(path.with_suffix(".csv"), frame.to_csv(index=False, lineterminator="\n"))
            found += [path, path.with_suffix(".csv")]
    return found
