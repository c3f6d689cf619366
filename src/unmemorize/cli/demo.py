"""The command ``demo``."""

import time
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter, validators

from unmemorize import testbed
from unmemorize._prompts import UNMEMORIZED as UNMEMORIZED_GROUP
from unmemorize._prompts import Prompt
from unmemorize.cli._common import known_neurons, planted_prompts, report_missing
from unmemorize.cli._console import print_hint, print_line, show_progress
from unmemorize.cli._model_options import Flag
from unmemorize.cli._summary import evaluate_and_print
from unmemorize.detection import Threshold, calibrate_threshold
from unmemorize.engines import Execution
from unmemorize.generation import GenerationSettings, ImageSet, NeuronSet, generate_all
from unmemorize.localization import (
    LocalizationRun,
    LocalizationSettings,
    localize_all,
    save_neurons,
)
from unmemorize.metrics import BundledDescriptor, ClipAlignment
from unmemorize.pipelines import Model
from unmemorize.report import write_report
from unmemorize.runs import open_run
from unmemorize.statistics import Statistics, compute_statistics

UNMEMORIZED = 100
"""Captions that serve as controls."""
NEURONS = ("original", "refined", "random-refined")
BATCH = 16
"""Images per pass: small enough for a laptop."""


def command(
    *,
    run: Annotated[Path, Parameter(alias="-o")] = Path("demo-run"),
    full: Flag = False,
    images: Annotated[int, Parameter(validator=validators.Number(gte=2))] = 2,
) -> None:
    """Run the whole method on the bundled model and show what is left.

    The bundled model has memorized photographs and product templates for known captions; 100
    captions that it has not memorized are the controls. The demo finds the memorized prompts,
    localizes their neurons and switches them off. It takes some minutes on two cores and ends with
    a table and a report.

    Args:
        run: Run folder. The same command again does only what is missing there.
        full: Also compute the statistics and the threshold, instead of reading those in the
            package.
        images: Images per prompt.
    """
    began = time.perf_counter()
    model = Model.load("testbed")
    controls = testbed.captions("test")[:UNMEMORIZED]
    prompts = [*planted_prompts(), *(Prompt(text, group=UNMEMORIZED_GROUP) for text in controls)]
    defaults = testbed.defaults()
    if full:
        statistics, threshold = _calibrate(model)
    else:
        statistics = Statistics.load(testbed.statistics_path())
        threshold = Threshold.load(testbed.threshold_path())
    settings = LocalizationSettings(noise=threshold.settings, criterion=defaults["criterion"])
    run_settings = LocalizationRun.of(model, settings, statistics, threshold)
    folder = open_run(run, model, prompts, run_settings)
    with show_progress("localize") as progress:
        tally = localize_all(
            folder,
            model,
            statistics=statistics,
            threshold=threshold,
            settings=settings,
            execution=Execution(progress=progress),
        )
    tallies = [tally]
    save_neurons(folder, model, threshold, settings)
    generation = GenerationSettings(
        images=images, steps=defaults["steps"], guidance=defaults["guidance"], batch=BATCH
    )
    for name in NEURONS:
        with show_progress(f"generate {name}") as progress:
            tally = generate_all(
                folder,
                model,
                ImageSet(neurons=NeuronSet.parse(name)),
                generation,
                execution=Execution(progress=progress),
            )
        tallies.append(tally)
    evaluate_and_print(folder, descriptor=BundledDescriptor(), alignment=ClipAlignment())
    print_line(f"The demo took {time.perf_counter() - began:.0f} s.")
    print_line(f"report: {write_report(folder, known_neurons(folder))}")
    report_missing(*tallies)
    print_hint("unmemorize ui, or unmemorize statistics --model MODEL for a model of your own")


def _calibrate(model: Model) -> tuple[Statistics, Threshold]:
    """Compute the statistics and the threshold of the bundled model."""
    with show_progress("statistics") as progress:
        statistics = compute_statistics(
            model, testbed.captions("train"), execution=Execution(progress=progress)
        )
    with show_progress("threshold") as progress:
        threshold = calibrate_threshold(
            model,
            testbed.captions("calibration"),
            execution=Execution(progress=progress),
        )
    return statistics, threshold
