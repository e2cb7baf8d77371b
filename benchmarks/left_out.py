"""How far off is a loss at a ratio that was not measured? Each inner ratio of a curve left out and predicted from the others.

    python benchmarks/left_out.py [TABLE.csv ...]

Default: the reference study, and published curves (Table 1 of SliceGPT, ten models; Llama-3.2-1B without neurons, two texts).
"""

import argparse
from pathlib import Path

import numpy as np
import pandas as pd

from claw.laws import left_out_ratios, read_points

ROOT = Path(__file__).parents[1]
PUBLISHED = ROOT / "tests" / "laws" / "data"


def published() -> pd.DataFrame:
    """The published curves, a model and text each."""
    slicegpt, glu = (pd.read_csv(PUBLISHED / name) for name in ("slicegpt_table_1.csv", "glu_llama_3_2_1b.csv"))
    frame = pd.concat([slicegpt, glu.assign(model=glu["model"] + " " + glu["text"])]).drop(columns=["text", "family"])
    return frame.assign(loss=np.log(frame["perplexity"]))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("tables", nargs="*", type=Path)
    asked = parser.parse_args()
    tables = {str(path): pd.read_csv(path) for path in asked.tables}
    tables = tables or {"the reference study": pd.read_csv(ROOT / "results" / "reference.csv"), "published": published()}
    for name, table in tables.items():
        judged = left_out_ratios(read_points(table))
        shown = judged.assign(**{column: judged[column].map("{:.2%}".format) for column in ("error", "stderr", "median")})
        print(f"{name}\n{shown.to_string(index=False)}\n")


if __name__ == "__main__":
    main()
