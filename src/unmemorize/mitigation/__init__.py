"""Ways to take memorized images out: each turns what localization found into an `Edit`."""

from unmemorize.mitigation._certificate import (
    QUICK,
    Attempt,
    Certification,
    Copies,
    Plan,
    Status,
    Verdict,
    certify,
    fresh_seeds,
    holm,
    pooled,
    seeds_needed,
    verdict,
)
from unmemorize.mitigation._mitigation import MITIGATIONS, Mitigation

__all__ = [
    "MITIGATIONS",
    "QUICK",
    "Attempt",
    "Certification",
    "Copies",
    "Mitigation",
    "Plan",
    "Status",
    "Verdict",
    "certify",
    "fresh_seeds",
    "holm",
    "pooled",
    "seeds_needed",
    "verdict",
]
