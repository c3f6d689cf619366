"""The command ``demo``."""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from unmemorize import testbed
from unmemorize._bundled import usual_for
from unmemorize._prompts import UNMEMORIZED, Prompt
from unmemorize.cli._common import generation_settings
from unmemorize.cli._console import print_hint, print_line
from unmemorize.cli._model_options import Flag
from unmemorize.cli.mitigate import run_and_print
from unmemorize.detection import Threshold
from unmemorize.engines import Execution
from unmemorize.localization import LocalizationSettings
from unmemorize.metrics import BundledDescriptor, ClipAlignment
from unmemorize.mitigation import (
    MitigationInputs,
    MitigationRun,
    MitigationSettings,
    OrdinaryCaptions,
)
from unmemorize.pipelines import Model
from unmemorize.runs import open_run
from unmemorize.statistics import Statistics

FEW = 6
"""Memorized prompts of the short demo."""
ORDINARY = 3
"""Suspects of the demo that are not memorized."""
BATCH = 16
"""Images per pass: small enough for a laptop."""
STEPS = 12
"""Denoising steps of the short demo: the copies are there, and two cores take minutes."""


def command(
    *,
    run: Annotated[Path, Parameter(alias="-o")] = Path("demo-run"),
    full: Flag = False,
) -> None:
    """Stop the bundled model from copying, and bound how often it still does.

    The bundled model has memorized photographs and product templates for known captions. The demo
    is unmemorize mitigate --quick with some of these captions and some ordinary ones as suspects.
    It takes some minutes on two cores and ends with a table and a report.

    Args:
        run: Run folder. The same command again does only what is missing there.
        full: Take all memorized captions, and do without --quick. This takes hours.
    """
    began = time.perf_counter()
    model = Model.load("testbed")
    settings = replace(
        MitigationSettings() if full else MitigationSettings.quick(),
        localization=LocalizationSettings(**usual_for(model.pipe, "criterion")),
        generation=generation_settings(model, BATCH, steps=None if full else STEPS),
    )
    inputs = MitigationInputs(
        statistics=Statistics.load(testbed.statistics_path()),
        threshold=Threshold.load(testbed.threshold_path()),
        captions=OrdinaryCaptions.of(model),
        descriptor=BundledDescriptor(),
        clip=ClipAlignment(),
    )
    opened = open_run(
        run,
        model,
        suspects(full=full),
        MitigationRun.of(settings, inputs),
        way_out="delete the folder, or name another one with -o",
    )
    run_and_print(model, opened, inputs, Execution(), "testbed")
    print_line(f"The demo took {time.perf_counter() - began:.0f} s.")
    print_hint("unmemorize mitigate SUSPECTS --model MODEL -o RUN, for a model of your own")


def suspects(*, full: bool) -> list[Prompt]:
    """Return memorized captions of every kind, and ordinary ones.

    Args:
        full: whether to take all memorized captions, or `FEW` that are spread over the kinds.
    """
    memorized = [entry.prompt for entry in testbed.planted() if entry.mode != "rare"]
    chosen = memorized if full else memorized[:: -(-len(memorized) // FEW)]
    ordinary = testbed.captions("test")[:ORDINARY]
    return [*chosen, *(Prompt(text, group=UNMEMORIZED) for text in ordinary)]
