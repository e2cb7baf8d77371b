"""The claims of the original paper as the findings page shows them: a tally, a line of what was not judged, the rest folded."""

from collections.abc import Sequence

import pandas as pd

from claw.laws import Laws
from claw.laws.verdicts import CONTRADICTED, NOT_JUDGED, OPEN, SUPPORTED, Verdict
from claw.words import markdown

WORDS = {SUPPORTED: "reproduced", CONTRADICTED: "not reproduced", OPEN: "cannot be said", NOT_JUDGED: "not judged here"}
OURS = "of ours"


def claim_table(nominal: Sequence[Verdict], true: Sequence[Verdict], *, ours: bool = False) -> pd.DataFrame:
    """One row per claim that was judged: the verdicts against the nominal ratio and the true share, with their numbers."""
    chosen = [verdict for verdict in nominal if (OURS in verdict.claim) == ours]
    told = {verdict.claim for verdict in (*nominal, *true) if verdict.verdict != NOT_JUDGED}
    rows = [(verdict.claim, _judged(verdict)) for verdict in chosen if verdict.claim in told]
    table = pd.DataFrame(rows, columns=["claim", "against the nominal ratio"])
    shares = {verdict.claim: _judged(verdict) for verdict in true}
    return table.assign(**{"against the share of parameters removed": table["claim"].map(shares)} if true else {})


def not_judged_line(nominal: Sequence[Verdict], true: Sequence[Verdict] = ()) -> str:
    """One line for every claim that was judged on neither axis, with the reasons; empty if there is none."""
    told = {verdict.claim for verdict in (*nominal, *true) if verdict.verdict != NOT_JUDGED}
    reasons = dict[str, list[str]]()
    for verdict in nominal:
        if verdict.claim not in told:
            reasons.setdefault(str(verdict.evidence["reason"]), []).append(verdict.claim)
    parts = [f"{', '.join(claims)} ({reason})" for reason, claims in reasons.items()]
    return f"Not judged here: {'; '.join(parts)}." if parts else ""


def _judged(verdict: Verdict) -> str:
    numbers = verdict.sentence.partition(f" is {verdict.verdict}: ")[2] or verdict.sentence
    return f"**{WORDS[verdict.verdict]}**: {numbers}"


def claims_section(laws: Laws, true: Sequence[Verdict]) -> list[str]:
    """The claims of the original paper: a tally, what was not judged in a line, the verdicts with their numbers in a fold."""
    judged = claim_table(laws.verdicts, true)
    counts = pd.Series([verdict.verdict for verdict in laws.verdicts if OURS not in verdict.claim]).value_counts()
    tally = ", ".join(f"{counts.get(verdict, 0)} {word}" for verdict, word in WORDS.items())
    introduction = (
        f"Of {counts.sum()} claims (Sengupta, Chaudhary, Chakraborty 2025, arXiv 2504.04342), against the ratio asked for: "
        f"{tally}. *Reproduced* and *not reproduced* follow the rules in `claw/laws/verdicts.py`."
    )
    line = not_judged_line(laws.verdicts, true)
    return [introduction, *([line] if line else []), *(fold("Show the verdicts", markdown(judged)) if len(judged) else [])]


def fold(title: str, *body: str) -> list[str]:
    """Markdown that a reader opens."""
    return [f"<details><summary>{title}</summary>", *body, "</details>"]
