"""Stages of a mitigation in which what the detector and the images say is known."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from records import SMALL_MITIGATION
from unmemorize import Detection, Prompt
from unmemorize.detection import DetectTask
from unmemorize.mitigation._images import Asked, ImagesRecord

COPY, CLOSE = 0.8, 0.3
"""Mean scores of copies, and of images that are almost copies."""


class Known:
    """Stands in for `Stages` where captions are looked for that a prompt may read like.

    Args:
        kind: of the records of the detector.
        called: captions that the detector calls.
        means: the mean score of the images of a caption, 0 where none is given. Each image lies .1
            above or below it. Those above .5 are copies.
    """

    settings = replace(SMALL_MITIGATION, search_images=4)

    def __init__(
        self,
        level: float,
        called: Sequence[str] = (),
        means: Mapping[str, float] | None = None,
        kind: str = "starts",
    ) -> None:
        self.level, self.called, self.means, self.kind = level, called, means or {}, kind
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
        return {each.index: self._record(each) for each in asked}

    def _record(self, asked: Asked) -> ImagesRecord:
        mean = self.means.get(asked.text, 0.0)
        scores = tuple(mean + offset for offset in (0.1, -0.1, 0.1, -0.1))
        copies = sum(score > 0.5 for score in scores)
        return ImagesRecord(prompt=asked.text, seeds=asked.seeds, scores=scores, copies=copies)
