"""Whether held-out text occurs in training text, by hashing runs of tokens.

Every run of 32 tokens is hashed with a polynomial modulo 2^64. Quotations and boilerplate are shared by honest texts too, so
a small share is accepted; copied text shows as a large one.
"""

import numpy as np

from claw.errors import InputError
from claw.texts.token_blocks import Blocks

RUN = 32  # tokens
ACCEPTED = 0.01  # share of held-out runs
_BASE = np.uint64(0x9E3779B97F4A7C15)


def hashes(blocks: Blocks, run: int = RUN) -> np.ndarray:
    """uint64 hashes of all runs of `run` tokens inside blocks, as one array."""
    ids = blocks.ids.numpy().astype(np.uint64)
    run = min(run, ids.shape[1])
    places = ids.shape[1] - run + 1
    hashed = np.zeros((ids.shape[0], places), np.uint64)
    for step in range(run):
        hashed *= _BASE
        hashed += ids[:, step : step + places] + np.uint64(1)
    return hashed.ravel()


def shared(training: Blocks, heldout: Blocks, run: int = RUN) -> float:
    """Share of the held-out runs that also occur in the training blocks."""
    run = min(run, training.length, heldout.length)
    return float(np.isin(np.unique(hashes(heldout, run)), hashes(training, run)).mean())


def check_no_overlap(training: Blocks, heldout: Blocks) -> float:
    """Share of held-out runs in the training text; InputError when it is too large for honest texts."""
    share = shared(training, heldout)
    if share > ACCEPTED:
        raise InputError(
            f"{share:.0%} of the held-out text ({heldout.corpus!r}) is also in the training text ({training.corpus!r}): runs "
            f"of {RUN} tokens were compared, and {ACCEPTED:.0%} is accepted for quotations. A model must not be tested on what "
            "it was trained on: use another held-out text, or take these documents out of the training text."
        )
    return share
