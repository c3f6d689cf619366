"""Stages of a mitigation in which what the detector and the images say is known."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from records import SMALL_MITIGATION
from unmemorize import Detection, Prompt
from unmemorize.detection import DetectTask
from unmemorize.mitigation import Part
from unmemorize.mitigation._images import Asked, ImagesRecord

COPY, CLOSE = 0.8, 0.3
"""Mean scores of copies, and of images that are almost copies."""


class Known:
    """Stands in for `Stages` where captions are looked for that a prompt may read like.

    Args:
        level: of the screen.
        called: captions that the detector calls.
        means: the mean score of the images of a caption, 0 where none is given. Each image lies .1
            above or below it. Those above .5 are copies.
        again: the same of a second look at the caption, where it differs.
        part: what is edited.
    """

    def __init__(
        self,
        level: float,
        called: Sequence[str] = (),
        means: Mapping[str, float] | None = None,
        again: Mapping[str, float] | None = None,
        part: Part = "text-encoder",
    ) -> None:
        self.settings = replace(SMALL_MITIGATION, search_images=4, part=part)
        self.level, self.called, self.means, self.again = level, called, means or {}, again or {}
        self.run: Any = self
        self.folder = "RUN"
        self.model: Any = self
        self.fingerprint = "v2-1"
        self.scored: dict[str, dict[int, str]] = {}
        self.instead = ""
        """What the records are about, in place of what was asked."""
        self.drawn: list[tuple[str, list[str]]] = []
        self.seeds: list[tuple[int, ...]] = []

    def work(self, title: str, task: DetectTask, items: Sequence[tuple[int, Prompt]]) -> None:
        assert (title, task.stop) == (task.kind, "never")
        self.scored[title] = {number: prompt.text for number, prompt in items}

    def typed(self, kind: str, *_: Any) -> Iterator[tuple[int, Detection]]:
        for index, text in self.scored[kind].items():
            score = self.level + (0.01 if text in self.called else 0.0)
            yield (
                index,
                Detection(
                    prompt=self.instead or text, group="", score=score, tau=9.0, memorized=False,
                    seeds=2, evaluations=2, seconds=0.0,
                ),
            )  # fmt: skip

    def images(
        self, _title: str, kind: str, edit: None, asked: Sequence[Asked], *, stop: int
    ) -> dict[int, ImagesRecord]:
        assert edit is None
        assert stop == 1
        self.drawn.append((kind, [each.text for each in asked]))
        self.seeds += [each.seeds for each in asked]
        return {each.index: self._record(each, kind.endswith("-again")) for each in asked}

    def _record(self, asked: Asked, again: bool) -> ImagesRecord:
        mean = self.means.get(asked.text, 0.0)
        mean = self.again.get(asked.text, mean) if again else mean
        scores = tuple(mean + (0.1, -0.1)[place % 2] for place in range(len(asked.seeds)))
        copies = sum(score > 0.5 for score in scores)
        return ImagesRecord(prompt=asked.text, seeds=asked.seeds, scores=scores, copies=copies)
