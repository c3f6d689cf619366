"""What a mitigation has spent: by stage, and for a prompt up to its certificate.

python benchmarks/mitigation_costs.py RUN

Prints how many images a prompt took up to a certificate that its first attempt gave, divided by
those of the certificate alone, as minimum, median and maximum. The run need not be finished.
"""

from __future__ import annotations

import statistics as stats
import sys
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from scale import flops_of_a_sample
from unmemorize.localization import read_localizations
from unmemorize.methods import fine_tuning_cost
from unmemorize.mitigation import MitigationRun
from unmemorize.mitigation._confirmation import read_confirmations
from unmemorize.runs import Run

STAGES = {
    "ordinary images, unedited": ("ordinary-before", "ordinary-other"),
    "confirmation": ("before",),
    "guides of prompts": ("guide-",),
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
    trained = len(list(run.folder.glob("denoiser-*.json")))
    confirmed = sum(record.confirmed for record in read_confirmations(run).values())
    drawn, samples = fine_tuning_cost(confirmed)
    yield StageCost(
        "fine-tuning",
        trained * drawn,
        trained * (drawn * generation.steps * halves + samples),
        trained * (drawn * FULL_SIZE_STEPS * halves + samples) * second,
    )


def up_to_certificates(run: Run) -> dict[int, float]:
    """Return prompts without a copy in the first attempt, by index.

    Returns:
        Images of the prompt up to this attempt, and of its guides, divided by those of the attempt.
    """
    spent, first = Counter[int](), {}
    for file in sorted(run.folder.glob("*.jsonl")):
        if file.stem.startswith(("before", "guide-", "search-", "certificate-1-")):
            for index, record in run.records(file.stem).items():
                spent[index] += len(record["seeds"])
                if file.stem.startswith("certificate-1-"):
                    first[index] = record
    return {
        index: spent[index] / len(record["seeds"])
        for index, record in first.items()
        if not record["copies"]
    }


def main(folder: Path) -> None:
    multiples = list(up_to_certificates(Run.load(folder)).values())
    shown = (min(multiples), stats.median(multiples), max(multiples))
    print(
        f"{len(multiples)} prompts have a first attempt without a copy; images up to it, divided "
        f"by its own: {', '.join(f'{one:.2f}' for one in shown)}"
    )


if __name__ == "__main__":
    main(Path(sys.argv[1]))
