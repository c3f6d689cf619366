"""Detection of many prompts in a run folder.

RUN/detections.jsonl    a `Detection` for each prompt
RUN/detections.csv      the same for spreadsheets
"""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

from diffusers import DiffusionPipeline

from unmemorize._csv_files import CsvWriter
from unmemorize._errors import RunError
from unmemorize._files import atomic_file, from_json, to_json
from unmemorize._prompts import Prompt
from unmemorize.detection._cascade import Cascade, Stop
from unmemorize.detection._detect import detect_prompts
from unmemorize.detection._false_discovery import (
    Discoveries,
    conformal_p_value,
    discoveries,
)
from unmemorize.detection._noise import NoiseSettings
from unmemorize.detection._records import Detection
from unmemorize.detection._threshold import Threshold
from unmemorize.engines import Execution, Finished, UnitFunction
from unmemorize.pipelines import Model
from unmemorize.runs import Run, Tally, drive, prompt_count, stream_prompts, stream_with_prompts

DETECTIONS = "detections"
_COLUMNS = ("prompt", "kind", "group", "score", "mean", "tau", "memorized", "seeds_above_tau")
_DISCOVERY_COLUMNS = ("p_value", "discovery")


@dataclass(frozen=True, kw_only=True)
class DetectionRun:
    """What determines detections, besides the model and the prompts.

    Args:
        detector: the name of the detector.
        tau: the threshold.
        threshold_prompts: a hash of the prompts it was calibrated on.
        noise: how noise differences are made.
        cascade: which seeds are looked at first and when to stop; None where all are.
        settings: the settings of the detector.
        stop: when seeds are no longer looked at, see `detect`; "decided" where no cascade could
            stop, since it changes nothing there.
    """

    kind: ClassVar[str] = "detection"

    detector: str
    tau: float
    threshold_prompts: str
    noise: NoiseSettings
    cascade: Cascade | None
    settings: Mapping[str, Any] = field(default_factory=dict)
    stop: Stop = "decided"

    @classmethod
    def of(cls, threshold: Threshold, *, stop: Stop = "decided") -> DetectionRun:
        """Make the settings of a run with this threshold."""
        stop = stop if threshold.detect.cascade else "decided"
        return cls(
            detector=threshold.detect.detector,
            tau=threshold.detect.tau,
            threshold_prompts=threshold.prompts,
            noise=threshold.settings,
            cascade=None if stop == "never" else threshold.detect.cascade,
            settings=threshold.detect.settings,
            stop=stop,
        )


@dataclass(frozen=True)
class DetectTask:
    """`detect_prompts` as a `Task`; its items are prompts."""

    threshold: Threshold
    stop: Stop
    batch: int
    kind: str = DETECTIONS

    @property
    def size(self) -> int:
        """Prompts whose first seeds fill a batch."""
        level = self.threshold.detect
        seeds = level.settings.get("seeds", self.threshold.settings.seeds)
        whole = self.stop == "never" or level.cascade is None
        return max(1, self.batch // (seeds if whole else 2))

    def prepare(self, model: Model) -> UnitFunction:
        """See `Task`."""
        settings = self.threshold.settings
        self.threshold.check(model, settings)

        def work(prompts: Sequence[Prompt]) -> list[Finished]:
            found = detect_prompts(
                model, prompts, self.threshold, settings, stop=self.stop, batch=self.batch
            )
            return [Finished(to_json(detection)) for detection in found]

        return work


def detect_all(
    run: Run | str | Path,
    pipe: DiffusionPipeline | Model,
    threshold: Threshold,
    *,
    stop: Stop = "decided",
    batch: int = 16,
    execution: Execution | None = None,
) -> Tally:
    """Detect each prompt of a run, see `read_detections`.

    Args:
        run: a run with prompts, see `open_run`, or its folder.
        pipe: a loaded pipeline.
        threshold: calibrated for this model.
        stop: as in `detect`.
        batch: seeds per denoiser pass, across prompts.
        execution: who does the work.
    """
    run = Run.of(run)
    task = DetectTask(threshold, stop, batch)
    items = enumerate(stream_prompts(run))
    return drive(run, Model.of(pipe), task, items, prompt_count(run), execution)


def read_detections(run: Run | str | Path) -> Iterator[tuple[int, Prompt, Detection]]:
    """Yield index, prompt and detection of every finished prompt, in the order of the prompts.

    Args:
        run: a run in which prompts were detected, or its folder.

    Raises:
        RunError: a record is damaged.
    """
    run = Run.of(run)
    way_out = "Run the command again in a new folder."
    problem = f"{run.folder}: malformed detection record"
    for index, prompt, record in stream_with_prompts(run, DETECTIONS):
        yield index, prompt, from_json(Detection, record, RunError, problem, way_out)


def discoveries_of(run: Run, threshold: Threshold, rate: float) -> Discoveries:
    """Find the memorized prompts of a run, see `discoveries`.

    Args:
        run: a run in which no prompt above tau stopped early: one without a cascade, or with stop
            "cleared" or "never". Only then do its scores come from all seeds.
        threshold: the one that the run was made with.
        rate: the false discovery rate.

    Raises:
        ThresholdError: the rate is not in (0, 1), or the threshold has no calibration scores.
    """
    scores = (found.score for _, _, found in read_detections(run))
    return discoveries(scores, threshold.detect.scores, rate)


def write_detections_csv(
    run: Run,
    each: Callable[[Prompt, Detection], None] = lambda *_: None,
    discovered: Discoveries | None = None,
    calibration: Sequence[float] = (),
) -> Path:
    """Write RUN/detections.csv for spreadsheets, one line per finished prompt.

    Args:
        run: a run with detections.
        each: called with every prompt and its detection, so one pass over a large run is enough.
        discovered: the discoveries of the run. With them the table holds p-values, see
            `conformal_p_value`, and tells which prompts are discoveries.
        calibration: the calibration scores that p-values come from.
    """
    path = run.folder / "detections.csv"
    ordered = sorted(calibration)
    with atomic_file(path, RunError) as file:
        text = io.TextIOWrapper(file, encoding="utf-8", newline="")
        writer = CsvWriter(text)
        writer.row(*_COLUMNS, *(_DISCOVERY_COLUMNS if discovered else ()))
        for _, prompt, found in read_detections(run):
            each(prompt, found)
            row: tuple[object, ...] = (
                found.prompt,
                prompt.kind or "",
                found.group,
                found.score,
                found.mean,
                found.tau,
                int(found.memorized),
                len(found.memorized_seeds),
            )
            if discovered:
                p_value = conformal_p_value(found.score, ordered)
                row = (*row, p_value, int(p_value <= discovered.p_value))
            writer.row(*row)
        text.detach()
    return path
