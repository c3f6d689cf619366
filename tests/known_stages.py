"""Stages of a mitigation in which what the detector and the images say is known."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

from records import SMALL_MITIGATION
from unmemorize import Detection, Prompt
from unmemorize.detection import DetectTask
from unmemorize.mitigation._images import Asked, ImagesRecord


class Known:
    """Stands in for `Stages` where captions are looked for that a prompt may read like.

    Args:
        kind: of the records of the detector.
        called: captions that the detector calls.
        copies: captions whose images are copies.
    """

    settings = replace(SMALL_MITIGATION, search_images=4)

    def __init__(
        self,
        level: float,
        called: Sequence[str] = (),
        copies: Sequence[str] = (),
        kind: str = "starts",
    ) -> None:
        self.level, self.called, self.copies, self.kind = level, called, copies, kind
        self.run: Any = self
        self.model: Any = self
        self.fingerprint = "v2-1"
        self.scored: dict[int, str] = {}
        self.drawn: list[tuple[str, list[str]]] = []
        self.seeds: list[tuple[int, ...]] = []

    def work(self, title: str, task: DetectTask, items: Sequence[tuple[int, Prompt]]) -> None:
        assert (title, task.kind, task.stop) == (self.kind, self.kind, "never")
        self.scored = {number: prompt.text for number, prompt in items}

    def typed(self, kind: str, *_: Any) -> Iterator[tuple[int, Detection]]:
        assert kind == self.kind
        for index, text in self.scored.items():
            score = self.level + (0.01 if text in self.called else 0.0)
            yield (
                index,
                Detection(
                    prompt=text, group="", score=score, tau=9.0, memorized=False, seeds=2,
                    evaluations=2, seconds=0.0,
                ),
            )  # fmt: skip

    def images(
        self, _title: str, kind: str, edit: None, asked: Sequence[Asked], *, stop: int
    ) -> dict[int, ImagesRecord]:
        assert edit is None
        assert stop == 1
        self.drawn.append((kind, [each.text for each in asked]))
        self.seeds += [each.seeds for each in asked]
        return {
            each.index: ImagesRecord(
                prompt=each.text, seeds=each.seeds, copies=int(each.text in self.copies)
            )
            for each in asked
        }
