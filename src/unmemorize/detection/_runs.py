"""Detection and calibration of many prompts in a run folder."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from diffusers import DiffusionPipeline

from unmemorize._errors import RunError, ThresholdError
from unmemorize._files import atomic_file
from unmemorize._progress import Progress, silent
from unmemorize._prompts import Prompt
from unmemorize.detection._calibration import Calibration, CalibrationTask
from unmemorize.detection._detect import detect_prompts
from unmemorize.detection._noise import NoiseSettings
from unmemorize.detection._records import Detection
from unmemorize.detection._threshold import Threshold
from unmemorize.engines import Engine, Finished, Shard, Work
from unmemorize.pipelines import Model
from unmemorize.runs import Run, Tally, drive, prompt_count, stream_prompts

DETECTIONS = "detections"


@dataclass(frozen=True)
class DetectTask:
    """`detect_prompts` as a `Task`."""

    threshold: Threshold
    cascade: bool
    batch: int
    kind: str = DETECTIONS

    @property
    def size(self) -> int:
        """Prompts whose first seeds fill a batch."""
        return max(1, self.batch // (2 if self.cascade else self.threshold.settings.seeds))

    def prepare(self, pipe: DiffusionPipeline) -> Work:
        """See `Task`."""
        model = Model(pipe)
        settings = self.threshold.settings
        self.threshold.check(model, settings)

        def work(prompts: Sequence[Prompt]) -> list[Finished]:
            found = detect_prompts(
                model, prompts, self.threshold, settings, cascade=self.cascade, batch=self.batch
            )
            return [Finished(detection.to_json()) for detection in found]

        return work


def detect_all(
    run: Run,
    pipe: DiffusionPipeline,
    threshold: Threshold,
    *,
    cascade: bool = False,
    batch: int = 16,
    engine: Engine | None = None,
    shard: Shard | None = None,
    progress: Progress = silent,
) -> Tally:
    """A `Detection` for each prompt of the run, see `read_detections`.

    Args:
        run: see `open_run`.
        pipe: the model.
        threshold: calibrated for it.
        cascade: as in `detect`.
        batch: seeds per denoiser pass, across prompts.
        engine, shard, progress: see `drive`.
    """
    task = DetectTask(threshold, cascade, batch)
    return drive(
        run,
        pipe,
        task,
        enumerate(stream_prompts(run)),
        prompt_count(run),
        engine=engine,
        shard=shard,
        progress=progress,
    )


def calibrate_in(
    run: Run,
    pipe: DiffusionPipeline,
    calibration: Calibration,
    settings: NoiseSettings,
    *,
    engine: Engine | None = None,
    progress: Progress = silent,
) -> Threshold:
    """`calibrate_threshold` on the prompts of a run, which the same call goes on with; ``engine`` and ``progress`` as in `drive`.

    Raises:
        ThresholdError: too few prompts, or a prompt fails.
    """
    count, task = prompt_count(run), CalibrationTask(settings)
    calibration.check(count)
    texts = [prompt.text for prompt in stream_prompts(run)]
    tally = drive(run, pipe, task, enumerate(texts), count, engine=engine, progress=progress)
    for index, error in tally.failed.items():
        raise ThresholdError(
            f"prompt {texts[index][:60]!r} fails ({error.rstrip('.')}). If it is that prompt, leave it out."
        )
    return calibration.threshold(
        Model(pipe), settings, texts, [record["pairs"] for _, record in run.stream(task.kind)]
    )


def read_detections(run: Run) -> Iterator[tuple[int, Prompt, Detection]]:
    """The finished detections of a run with index and prompt, one by one in the order of the prompts."""
    found = run.stream(DETECTIONS)
    index, record = next(found, (-1, {}))
    for number, prompt in enumerate(stream_prompts(run)):
        if number == index:
            yield number, prompt, Detection.from_json(record)
            index, record = next(found, (-1, {}))


def write_detections_csv(
    run: Run, each: Callable[[Prompt, Detection], None] = lambda *_: None
) -> Path:
    """Write RUN/detections.csv, one line per finished prompt in their order, for spreadsheets; ``each`` sees them pass by."""
    path = run.folder / "detections.csv"
    with atomic_file(path, RunError) as file:
        text = io.TextIOWrapper(file, encoding="utf-8", newline="")
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(
            ("prompt", "kind", "group", "score", "mean", "tau", "memorized", "seeds_above_tau")
        )
        for _, prompt, found in read_detections(run):
            each(prompt, found)
            writer.writerow(
                (
                    found.prompt,
                    prompt.kind or "",
                    found.group,
                    found.score,
                    found.mean,
                    found.tau,
                    int(found.memorized),
                    len(found.kept),
                )
            )
        text.detach()
    return path
