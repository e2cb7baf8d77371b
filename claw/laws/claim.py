"""A claim and its verdict: supported, not distinguishable, contradicted, or not judged here, with the reason in a sentence."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

SUPPORTED, OPEN, CONTRADICTED = "supported", "not distinguishable", "contradicted"
NOT_JUDGED = "not judged here"
"""What a table cannot answer, whatever its numbers: too few models, curves or pairs."""


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """One claim judged."""

    claim: str
    verdict: str
    sentence: str
    evidence: Mapping[str, Any]

    def __str__(self) -> str:
        return self.sentence


def judged(claim: str, verdict: str, why: str, evidence: Mapping[str, Any] | None = None) -> Verdict:
    """The verdict on a claim, with its sentence."""
    return Verdict(claim=claim, verdict=verdict, sentence=f"That {claim} is {verdict}: {why}.", evidence=evidence or {})


def cannot_judge(claim: str, why: str, wants: str = "") -> Verdict:
    """The verdict where the table has too little; `wants` names what more would help: models or curves."""
    return judged(claim, NOT_JUDGED, why, {"reason": why, "wants": wants})


def of_one_model(verdict: Verdict) -> Verdict:
    """A verdict on a table of one model: that is the reason for whatever could not be judged for want of models or curves."""
    return cannot_judge(verdict.claim, "one model") if verdict.evidence.get("wants") else verdict


def by_interval(low: float, high: float, bound: float) -> str:
    """The verdict on "more than `bound`" from an interval."""
    return SUPPORTED if low > bound else CONTRADICTED if high < bound else OPEN


def not_judged(verdicts: Iterable[Verdict]) -> list[str]:
    """One line per reason for which claims could not be judged, with the claims: "Not judged here (one model): …"."""
    claims: dict[str, list[str]] = {}
    for verdict in verdicts:
        if verdict.verdict == NOT_JUDGED:
            claims.setdefault(verdict.evidence["reason"], []).append(verdict.claim)
    return [f"Not judged here ({reason}): that {'; that '.join(names)}." for reason, names in claims.items()]
