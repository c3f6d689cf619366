"""What an audit and a hardening of Stable Diffusion 1.4 cost on one GPU, computed from samples.

Call: python benchmarks/audit_costs.py

Samples of the denoiser are what `--dry-run` counts, at 50 steps and guidance 7. Seconds of a sample
are those of records/real-shapes.json (one H100, float16, random weights of full size), in passes of
8 for single attacks and of 64 for attacks that run together. Nothing but the denoiser counts, and a
backward pass counts as two samples.
"""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from statistics import median

from unmemorize import (
    AuditSettings,
    GenerationSettings,
    HardeningSettings,
    Model,
    NeuronEdit,
    OrdinaryCaptions,
    testbed,
)
from unmemorize.audit import AuditInputs, forecast_audit, forecast_images, targets_of
from unmemorize.audit._targets import units_of
from unmemorize.hardening import HardeningInputs, forecast_hardening
from unmemorize.metrics import BundledDescriptor

RECORD = Path(__file__).parent / "records" / "real-shapes.json"
BATCHES = "batches, float16, contiguous_format"
CONTROLS = 24


def seconds_of_a_sample(size: int) -> float:
    """Return the median of the readings of passes of a size."""
    models = json.loads(RECORD.read_text())["models"]
    readings: list[float] = models["SD 1.4, 512 px"][BATCHES][str(size)]["seconds"]
    return median(readings) / size


def main() -> None:
    model = Model.load("testbed")
    generation = GenerationSettings(steps=50, guidance=7.0)
    planted = [entry.prompt for entry in testbed.planted()]
    units = units_of(targets_of(planted, whole=True))
    planted = [prompt for place, prompt in enumerate(planted) if units[place] == place]
    captions = OrdinaryCaptions.of(model)
    inputs = AuditInputs(
        edit=NeuronEdit(testbed.planted()[0].neurons),
        captions=captions.ordinary,
        descriptor=BundledDescriptor(),
        controls=tuple(Path(each.image) for each in testbed.unused()[:CONTROLS]),
    )
    alone, filled = (seconds_of_a_sample(size) for size in (8, 64))
    print("| what | memorized images | samples | hours, one by one | hours, 64 together |")
    print("|---|---|---|---|---|")

    def row(name: str, images: int, samples: int) -> None:
        hours = (samples * each / 3600 for each in (alone, filled))
        print(f"| {name} | {images} | {samples:,} | {' | '.join(f'{h:.1f}' for h in hours)} |")

    for name, settings in {"quick": AuditSettings.quick(), "usual": AuditSettings()}.items():
        asked = replace(settings, generation=generation)
        for images in (1, 24):
            cost = forecast_audit(model, asked, inputs, planted[:images])
            row(f"audit, --budget {name}", images, cost.total)
    for images in (1, 24):
        asked = replace(AuditSettings.quick(), generation=generation)
        cost = forecast_images(model, asked, images + len(inputs.controls))
        row("audit --image, --budget quick", images, cost.total)
    hardening = HardeningSettings()
    hardening = replace(hardening, audit=replace(hardening.audit, generation=generation))
    for images in (1, 24):
        found = forecast_hardening(
            model,
            hardening,
            HardeningInputs(audit=inputs, keep=captions.keep),
            planted[:images],
        )
        row("harden", images, found.total)


if __name__ == "__main__":
    main()
