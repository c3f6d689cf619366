"""What is known before an edit is searched, and the images that judge edits."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from unmemorize._prompts import Prompt
from unmemorize.detection import Detection
from unmemorize.generation import Edit
from unmemorize.mitigation._confirmation import Confirmation
from unmemorize.mitigation._images import ImagesRecord, Keep
from unmemorize.mitigation._ordinary import OrdinaryChange, OrdinaryImages, ordinary_change
from unmemorize.mitigation._run_settings import OrdinaryCaptions
from unmemorize.mitigation._stages import Stages, asked, digest

SEARCH = "search"
"""How records of the search begin. What follows is the digest of the edit."""
CERTIFICATE, COUNT = "certificate", "count"
"""How records of fresh images begin, see `fresh_kind`: those that certify, and those in which all
copies are counted after a certificate failed."""


def fresh_kind(stage: str, attempt: int, edit: Edit) -> str:
    """Return the name of the records of fresh images of one attempt under an edit."""
    return f"{stage}-{attempt}-{digest(edit)}"


@dataclass(frozen=True)
class Work:
    """What is known before an edit is searched.

    Args:
        stages: what all stages share.
        captions: ordinary captions. No memorized prompt is among those that edits leave alone.
        before: unedited images of ordinary captions.
        other: the same from other noise, where they are needed.
        prompts: the suspects by index.
        detections: of all suspects.
        confirmations: of those that passed the screen.
    """

    stages: Stages
    captions: OrdinaryCaptions
    before: OrdinaryImages
    other: OrdinaryImages | None
    prompts: Mapping[int, Prompt]
    detections: Mapping[int, Detection]
    confirmations: Mapping[int, Confirmation]

    @property
    def confirmed(self) -> dict[int, Prompt]:
        """The memorized prompts by index."""
        return {
            index: self.prompts[index]
            for index, confirmation in self.confirmations.items()
            if confirmation.confirmed
        }

    def judged(
        self,
        title: str,
        kind: str,
        edit: Edit,
        indices: Sequence[int],
        seeds: Callable[[str], tuple[int, ...]],
        *,
        stop: int | None = None,
        keep: Keep = "none",
    ) -> dict[int, ImagesRecord]:
        """Generate images of confirmed prompts under an edit and look for copies."""
        texts = {index: self.prompts[index].text for index in indices}
        tests = {index: self.confirmations[index].test for index in indices}
        wanted = asked(texts, tests, seeds)
        return self.stages.images(title, kind, edit, wanted, stop=stop, keep=keep)

    def change(self, edit: Edit, images: int, title: str) -> OrdinaryChange:
        """Measure what an edit changes in images of ordinary captions that are not memorized."""
        after = self.stages.ordinary(
            title,
            f"ordinary-{digest(edit)}",
            edit,
            self.captions.ordinary,
            images,
        )
        other = self.other if self.stages.compares_distributions else None
        memorized = {prompt.text for prompt in self.confirmed.values()}
        return ordinary_change(self.stages.run, self.before, after, other, memorized=memorized)
