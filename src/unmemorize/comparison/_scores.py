"""The scores that a detector gives to suspects and ordinary captions, as records."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass

from unmemorize._errors import UnmemorizeError
from unmemorize._files import to_json
from unmemorize.comparison._settings import kind_of
from unmemorize.detection import Detector, NoiseSettings, Trace, settings_of, watched_by
from unmemorize.engines import Finished, UnitFunction
from unmemorize.pipelines import Model
from unmemorize.runs import Run

_USUAL = 16
"""Denoiser samples of a pass on a processor: more take longer in proportion."""


@dataclass(frozen=True, kw_only=True)
class ScoreRecord:
    """What a detector says of one prompt.

    Args:
        prompt: its text.
        refused: why the detector does not work on the model; empty where it does.
        value: the score.
        parts, samples, shared: see `unmemorize.detection.Score`.
        seconds: wall time of the prompts that were scored together, divided by their number.
    """

    prompt: str
    refused: str = ""
    value: float = 0.0
    parts: tuple[float, ...] = ()
    samples: int = 0
    shared: int = 0
    seconds: float = 0.0


@dataclass(frozen=True)
class ScoreTask:
    """The scores of a detector as a `Task`, whose items are texts.

    Args:
        detector: the detector.
        noise: see `ComparisonSettings`.
        batch: denoiser samples of a pass, where that is more than the usual number.
    """

    detector: Detector
    noise: NoiseSettings
    batch: int = _USUAL

    @property
    def size(self) -> int:
        """Prompts that are scored together.

        In a large batch it takes one seed of each, with text and without, to fill a pass.
        """
        return self.batch // 2 if self.batch > _USUAL else _USUAL // 4

    @property
    def kind(self) -> str:
        """The name of the records: another one for other settings of the detector."""
        return kind_of("detector", self.detector.name, settings_of(self.detector))

    def prepare(self, model: Model) -> UnitFunction:
        """See `Task`."""

        def work(texts: Sequence[str]) -> list[Finished]:
            began = time.perf_counter()
            try:
                trace = Trace(
                    model,
                    texts,
                    self.noise,
                    batch=max(_USUAL, self.batch),
                    watched=watched_by(self.detector),
                )
                scores = self.detector.score(trace)
            except UnmemorizeError as problem:  # the detector says why it cannot
                return [_refused(text, problem) for text in texts]
            seconds = (time.perf_counter() - began) / len(texts)
            records = [
                ScoreRecord(
                    prompt=text,
                    value=score.value,
                    parts=score.parts,
                    samples=score.samples,
                    shared=score.shared,
                    seconds=seconds,
                )
                for text, score in zip(texts, scores, strict=True)
            ]
            return [Finished(to_json(record)) for record in records]

        return work


def read_scores(run: Run, kind: str) -> list[ScoreRecord]:
    """Read the scores of a detector, in the order of its prompts.

    Raises:
        RunError: a record is damaged.
    """
    way_out = "Delete the file and repeat the command."
    return [record for _, record in run.typed(kind, ScoreRecord, way_out)]


def _refused(text: str, problem: UnmemorizeError) -> Finished:
    return Finished(to_json(ScoreRecord(prompt=text, refused=str(problem))))
