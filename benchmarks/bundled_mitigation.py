"""The run of a mitigation of the bundled model, which `mitigation.py` and `rungs.py` share."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import unmemorize as um
from unmemorize.mitigation import MitigationInputs, MitigationRun, Part
from unmemorize.runs import Run, open_run

_BATCH = {"cuda": 120}
"""Images at once, where more of them take no longer."""


@dataclass(frozen=True)
class BundledMitigation:
    """A run with all planted captions and their paraphrases as suspects, opened or resumed."""

    run: Run
    model: um.Model
    settings: um.MitigationSettings
    inputs: MitigationInputs

    @classmethod
    def opened(
        cls, folder: Path, fresh_images: int = 0, part: Part = "denoiser"
    ) -> BundledMitigation:
        """Open a run folder, with the defaults of the bundled model."""
        model = um.Model.load("testbed", dtype="float32")
        defaults = um.testbed.defaults()
        generation = um.GenerationSettings(
            steps=defaults["steps"],
            guidance=defaults["guidance"],
            batch=_BATCH.get(model.device.type, um.GenerationSettings().batch),
        )
        settings = replace(
            um.MitigationSettings(part=part, fresh_images=fresh_images),
            localization=um.LocalizationSettings(criterion=defaults["criterion"]),
            generation=generation,
        )
        inputs = MitigationInputs(
            statistics=um.default_statistics(model),
            threshold=um.Threshold.load(um.testbed.threshold_path()),
            captions=um.OrdinaryCaptions.of(model),
            descriptor=um.BundledDescriptor(),
            clip=um.ClipAlignment(),
        )
        prompts = [
            replace(entry.prompt, paraphrases=entry.paraphrases) for entry in um.testbed.planted()
        ]
        run = open_run(folder, model, prompts, MitigationRun.of(settings, inputs))
        return cls(run, model, settings, inputs)
