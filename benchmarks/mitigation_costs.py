"""What a finished mitigation has spent, by stage: images, denoiser samples and time."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from scale import flops_of_a_sample
from unmemorize.localization import read_localizations
from unmemorize.mitigation import MitigationRun
from unmemorize.runs import Run

STAGES = {
    "ordinary images, unedited": ("ordinary-before", "ordinary-other"),
    "confirmation": ("before",),
    "search": ("search-",),
    "certificate": ("certificate-", "count-"),
    "images for the report, random neurons": ("after-", "control-"),
    "paraphrases": ("paraphrases-",),
    "ordinary images, edited": ("ordinary-",),
}
"""How the names of each stage's records begin. The first stage that fits has them."""
FULL_SIZE_STEPS = 50
TFLOPS = 100e12
"""What a GPU is assumed to sustain on a denoiser, in operations a second."""


@dataclass(frozen=True)
class StageCost:
    """What one stage has spent.

    Args:
        name: of the stage.
        images: that were generated; 0 where none are.
        samples: of the denoiser.
        full_size: seconds of Stable Diffusion 1.4 at 512 x 512 and 50 steps on one GPU that
            sustains 100 TFLOP/s. Nothing but the denoiser counts. Computed, not measured.
    """

    name: str
    images: int
    samples: int
    full_size: float

    def row(self, prompts: int, seconds_per_sample: float) -> str:
        """Return a row of the table, per prompt."""
        samples = self.samples / prompts
        return (
            f"| {self.name} | {self.images / prompts:.1f} | {samples:,.0f} | "
            f"{samples * seconds_per_sample:.1f} | {self.full_size / prompts:.1f} |"
        )


def stage_costs(run: Run) -> Iterator[StageCost]:
    """Count what each stage of a finished mitigation has spent."""
    generation = run.settings(MitigationRun).settings.generation
    halves = 2 if generation.guidance > 1 else 1
    second = flops_of_a_sample() / TFLOPS
    localized = sum(record.evaluations or 0 for record in read_localizations(run).values())
    yield StageCost("localization", 0, localized, localized * second)
    images = dict.fromkeys(STAGES, 0)
    for file in sorted(run.folder.glob("*.jsonl")):
        for stage, beginnings in STAGES.items():
            if file.stem.startswith(beginnings):
                records = run.records(file.stem).values()
                images[stage] += sum(len(record.get("seeds", [0])) for record in records)
                break
    for stage, count in images.items():
        yield StageCost(
            stage,
            count,
            count * generation.steps * halves,
            count * FULL_SIZE_STEPS * halves * second,
        )
