"""Whether two texts use the same words: the distance of their token frequencies beside that within one of them.

Recovery on one kind of text is judged on another without a word of warning, and looks worse, or better, than it is. Frequencies
of few tokens differ by chance, so the distance of the two texts is set beside that of the two halves of the held-out text, both
between equally many tokens.
"""

import warnings

import numpy as np

from claw.texts.token_blocks import Blocks

FAR = 1.15  # times the distance within a text from which another is of a different kind: two Wikipedias 1.06, code 1.34
FEWEST = 2000  # tokens of a half below which nothing is said


def distances(training: Blocks, heldout: Blocks) -> tuple[float, float]:
    """Jensen-Shannon distances (0 to 1) of token frequencies: of the texts, and of the held-out text's halves."""
    own, other = heldout.ids[heldout.scored].numpy(), training.ids[training.scored].numpy()
    count = min(len(own) // 2, len(other))
    first, second, there = own[:count], own[-count:], other[:: len(other) // count][:count]
    across = max(_distance(first, there), _distance(second, there)) if count else 0.0
    return across, _distance(first, second) if count else 0.0


def _distance(a: np.ndarray, b: np.ndarray) -> float:
    counts = np.zeros((2, int(max(a.max(), b.max())) + 1))
    np.add.at(counts[0], a, 1 / len(a))
    np.add.at(counts[1], b, 1 / len(b))
    middle = counts.mean(0)
    logs = np.log2(np.divide(counts, middle, out=np.ones_like(counts), where=counts > 0))
    return float(np.sqrt(max(0.0, (counts * logs).sum() / 2)))


def warn_if_far(training: Blocks, heldout: Blocks) -> None:
    """Warn where the training text is of another kind than the held-out text, by its token frequencies."""
    across, within = distances(training, heldout)
    if min(heldout.tokens // 2, training.tokens) >= FEWEST and across > FAR * within:
        warnings.warn(
            f"The recovery text {training.corpus!r} is unlike the held-out text {heldout.corpus!r}: their token frequencies "
            f"are {across:.2f} apart (0 to 1), the halves of the held-out text {within:.2f}. What recovery wins on one says "
            "little of the other: name a held-out text of the kind that matters, or train on text like it.",
            stacklevel=3,
        )
