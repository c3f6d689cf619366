"""What a mitigation reached as a whole, to be compared with another one."""

from __future__ import annotations

from dataclasses import dataclass

from unmemorize.mitigation import Copies, MitigationResult, pooled


@dataclass(frozen=True)
class Totals:
    """The numbers of a mitigation as a whole. They are None where nothing was counted.

    Args:
        headline: what was reached, in one sentence.
        copies: copies per 1,000 fresh images, all memorized prompts together.
        changed: of 1,000 ordinary images, those that the edit changes.
        paraphrases: copies per 1,000 images of paraphrases under the edit.
    """

    headline: str
    copies: float | None
    changed: float | None
    paraphrases: float | None

    @classmethod
    def of(cls, result: MitigationResult) -> Totals:
        """Sum up a mitigation."""
        rephrased = [each.paraphrases_after for each in result.outcomes if each.paraphrases_after]
        return cls(
            headline=result.headline,
            copies=_per_1000(result.after),
            changed=1000 * result.ordinary.share if result.ordinary else None,
            paraphrases=_per_1000(pooled(rephrased)),
        )


def _per_1000(counted: Copies) -> float | None:
    return 1000 * counted.copies / counted.seeds if counted.seeds else None
