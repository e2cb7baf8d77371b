"""What a model thinks of the right answer, document by document: a number where accuracy has a yes or a no.

`p_right` is the probability of the right choice, the softmax over a document's choices of their summed log-likelihoods: what
`acc` takes the largest of. `answer_bpb` is the bits that the right answer costs per byte of its text (UTF-8, with the space
before it, as lm-eval scores it). Both move with every log-likelihood, where accuracy moves when an answer changes sides, so
both tell models apart on far fewer documents. Where several choices are right their probabilities are summed and the cheapest
counts.
"""

import math
from typing import Any

import numpy as np
import pandas as pd

from claw.files import digest
from claw.paired import CONTINUOUS, error_of_mean, pack

DOCUMENT = ["task", "subtask", "document"]
LETTER = 2
"""Bytes of a letter with the space before it (mmlu): what it costs tells how a model likes letters, nothing of the answer."""


def document_scores(samples: pd.DataFrame) -> pd.DataFrame:
    """One row per document of `claw.evaluate.tasks.tidy_samples`, in their order: task, subtask, document, asked, CONTINUOUS.

    Without documents of which it is not known which choice is right (their task scores by code of its own, or has no
    choices).
    """
    choices = samples[samples["bytes"] > 0]
    documents = choices.drop_duplicates(DOCUMENT)[[*DOCUMENT, "asked"]].reset_index(drop=True)
    code = choices.groupby(DOCUMENT, sort=False).ngroup().to_numpy()
    logs, right = choices["loglikelihood"].to_numpy(float), choices["right"].to_numpy(bool)
    peak, cheapest = np.full(len(documents), -math.inf), np.full(len(documents), math.inf)
    with np.errstate(invalid="ignore"):  # a model that gives NaN has NaN here, too
        np.maximum.at(peak, code, logs)
        share = np.exp(logs - peak[code])
        np.minimum.at(cheapest, code[right], (-logs / choices["bytes"].to_numpy(float) / math.log(2))[right])
        sums = [np.bincount(code, values, len(documents)) for values in (share * right, share, right)]
        documents = documents.assign(p_right=sums[0] / sums[1], answer_bpb=cheapest)
    return documents[sums[2] > 0].reset_index(drop=True)


def continuous_rows(frame: pd.DataFrame, samples: pd.DataFrame) -> pd.DataFrame:
    """Rows for the CONTINUOUS metrics, mean and standard error over documents, in the columns of `frame` (`score_tasks`)."""
    rows = []
    for task, documents in document_scores(samples).groupby("task", sort=False):
        about: dict[str, Any] = frame[frame["task"] == task].iloc[0].to_dict()
        for metric in _metrics(samples, task):
            values = documents[metric].to_numpy(float)
            figures = {"value": float(values.mean()), "stderr": error_of_mean(values), "n": len(values), "chance": math.nan}
            rows.append(about | {"metric": metric} | figures)
    return pd.DataFrame(rows, columns=frame.columns)


def packed_scores(samples: pd.DataFrame) -> dict[str, dict[str, str]]:
    """By task the packed scores of its documents (`claw.paired.pack`), and in `documents` a hash of documents and prompts."""
    return {
        str(task): {metric: pack(rows[metric]) for metric in _metrics(samples, task)} | {"documents": digest(*rows["asked"])}
        for task, rows in document_scores(samples).groupby("task", sort=False)
    }


def _metrics(samples: pd.DataFrame, task: Any) -> tuple[str, ...]:
    """The metrics that say something of a task: not the bits of answers that are letters."""
    texts = samples.loc[samples["task"] == task, "bytes"].max() > LETTER
    return CONTINUOUS if texts else CONTINUOUS[:1]
