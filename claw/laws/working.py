"""Which rows belong in a law that is pooled: not those of controls, not those of models that no longer work.

A control (units at random, or by magnitude) shows what a method must beat; a model whose loss is above that of guessing at
random among the tokens of its vocabulary, log V, has stopped being a language model, and how far above says nothing of the
method. Either would bend a law of working methods. Rows are flagged, never deleted: laws are fitted without and with them.

Where V is not known, or not in which unit the losses are, a model counts as destroyed above 3.5 times its dense loss, because
log V is 3.3 to 8.7 times the dense loss of published models (OPT-125M to Llama-2-70B). A table without losses flags what is
at or below the accuracy of guessing.
"""

import numpy as np
import pandas as pd

from claw.specs.methods import DENSE, is_control

CONTROL, DESTROYED = "control", "destroyed"
FLAGS = {CONTROL: "controls, which methods must beat", DESTROYED: "models that no longer work: no better than guessing"}
"""Values of the column `flag`, beside the empty one of rows that work, and what they mean."""
COLLAPSED = 3.5  # times the dense loss
UNIT_SPREAD = 1e-3  # relative spread of loss / log(perplexity) up to which the two are one number in two units
VOCABULARIES = {
    "gemma-3": 262_144,
    "gemma": 256_000,
    "llama-3": 128_256,
    "llama": 32_000,
    "mistral": 32_000,
    "opt": 50_272,
    "phi-2": 51_200,
    "pythia": 50_304,
    "qwen": 151_936,
    "smollm2": 49_152,
}
"""Entries of the embedding, by how the names of a family of models start; the first that fits counts."""


def flagged(rows: pd.DataFrame) -> pd.Series:
    """The flag of each row: "", "control" or "destroyed". What is destroyed is so whatever the method."""
    flag = np.where(rows["method"].map(is_control), CONTROL, "")
    return pd.Series(np.where(destroyed(rows), DESTROYED, flag), rows.index, dtype=object).where(rows["method"] != DENSE, "")


def destroyed(rows: pd.DataFrame) -> np.ndarray:
    """(rows,) whether the model guesses: its loss is above log V, or above `COLLAPSED` times the dense loss."""
    nothing = pd.Series(np.nan, rows.index)
    if "loss" in rows and rows["loss"].notna().any():
        loss, dense = rows["loss"].astype(float), rows.get("loss0", nothing).astype(float)
        limit = (np.log(vocabulary(rows)) * nat(rows)).fillna(COLLAPSED * dense)
        return (loss > limit).to_numpy(bool)
    accuracy, chance = (rows.get(name, nothing).astype(float) for name in ("accuracy", "chance"))
    return (accuracy <= chance).to_numpy(bool)


def vocabulary(rows: pd.DataFrame) -> pd.Series:
    """V of each row's model: the column `vocabulary`, else what models of this name have; NaN if neither is known."""
    told = pd.to_numeric(rows["vocabulary"], errors="coerce") if "vocabulary" in rows else pd.Series(np.nan, rows.index)
    plain = {name: str(name).lower().replace("gemma3", "gemma-3").replace("llama3", "llama-3") for name in set(rows["model"])}
    known = {
        name: next((v for start, v in VOCABULARIES.items() if text.startswith(start)), np.nan) for name, text in plain.items()
    }
    return told.where(told > 1, rows["model"].map(known).astype(float))


def nat(rows: pd.DataFrame) -> pd.Series:
    """What one nat per token is in the unit of the column `loss`; NaN where the table does not tell.

    A column `token_perplexity` tells it; a column `vocabulary` says that losses are in nats per token, as they should be. The
    loss alone does not: it may be per byte, in bits, or multiplied by anything, and no law should depend on that.
    """
    unit = pd.Series(1.0 if "vocabulary" in rows else np.nan, rows.index)
    if "token_perplexity" not in rows:
        return unit
    perplexity = pd.to_numeric(rows["token_perplexity"], errors="coerce")
    with np.errstate(divide="ignore", invalid="ignore"):
        each = (rows["loss"].astype(float) / np.log(perplexity.where(perplexity > 1))).replace(np.inf, np.nan)
    typical = each.groupby(rows["model"]).transform("median")
    spread = ((each / typical - 1).abs() <= UNIT_SPREAD).where(each.notna()).groupby(rows["model"]).transform("mean")
    return typical.where(spread > 0.5, unit)


def pooled_together(rows: pd.DataFrame, *, alone: bool = False) -> pd.Series:
    """Whether each row belongs in a law: it works, and it is no control, unless there is nothing else.

    `alone`: the law is of one method, which then may be a control.
    """
    flag = rows["flag"] if "flag" in rows else flagged(rows)
    works = flag != DESTROYED
    methods = flag == "" if not alone else works
    return next((mask for mask in (methods, works) if mask.any()), pd.Series(True, rows.index))
