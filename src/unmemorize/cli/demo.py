"""The command ``demo``."""

import time
from pathlib import Path
from typing import Annotated

import typer

from unmemorize import testbed
from unmemorize._prompts import UNMEMORIZED as UNMEMORIZED_GROUP
from unmemorize._prompts import Prompt
from unmemorize.cli._common import known_neurons, tell_of_the_rest
from unmemorize.cli._console import console, progress_bar
from unmemorize.cli._summary import evaluate_and_print
from unmemorize.detection import Calibration, Threshold, calibrate_threshold
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
NEURONS = ("original", "refined", "random-refined")


def command(
    run: Annotated[
        Path,
        typer.Option(
            "--run", "-o", help="Run folder; the same command again does only what is missing."
        ),
    ] = Path("demo-run"),
    full: Annotated[
        bool,
        typer.Option(
            "--full",
            help="Also make the statistics and the threshold again, instead of using those in the package.",
        ),
    ] = False,
    images: Annotated[int, typer.Option(min=2, help="Images per prompt.")] = 2,
) -> None:
    """The whole method on the bundled model: find memorized prompts, localize their neurons, switch them off, show what is left.

    The bundled model has memorized photographs and product templates for known captions; 100 captions that it has not memorized are the
    controls. Some minutes on two cores. Ends with a table and a report.
    """
    began = time.perf_counter()
    pipe = Model.load("testbed")
    memorized = [entry.prompt for entry in testbed.planted()]
    prompts = [
        *memorized,
        *(Prompt(text, group=UNMEMORIZED_GROUP) for text in testbed.captions("test")[:UNMEMORIZED]),
    ]
    own = testbed.defaults()
    if full:
        with progress_bar("statistics") as progress:
            statistics = compute_statistics(
                pipe, testbed.captions("train"), execution=Execution(progress=progress)
            )
        with progress_bar("threshold") as progress:
            threshold = calibrate_threshold(
                pipe,
                testbed.captions("calibration"),
                calibration=Calibration(reduction=own["reduction"]),
                execution=Execution(progress=progress),
            )
    else:
        statistics, threshold = (
            Statistics.load(testbed.statistics_path()),
            Threshold.load(testbed.threshold_path()),
        )
    settings = LocalizationSettings(noise=threshold.settings, criterion=own["criterion"])
    config = LocalizationRun.of(pipe, settings, statistics, threshold)
    folder = open_run(run, pipe, prompts, config)
    with progress_bar("localize") as progress:
        tallies = [
            localize_all(
                folder,
                pipe,
                statistics=statistics,
                threshold=threshold,
                settings=settings,
                execution=Execution(progress=progress),
            )
        ]
    save_neurons(folder, pipe, threshold, settings)
    generation = GenerationSettings(
        images=images, steps=own["steps"], guidance=own["guidance"], batch=16
    )
    for name in NEURONS:
        with progress_bar(f"generate {name}") as progress:
            tallies.append(
                generate_all(
                    folder,
                    pipe,
                    ImageSet(neurons=NeuronSet.parse(name)),
                    generation,
                    execution=Execution(progress=progress),
                )
            )
    evaluate_and_print(folder, descriptor=BundledDescriptor(), alignment=ClipAlignment())
    console.print(f"{time.perf_counter() - began:.0f} s in all")
    console.print(f"report: {write_report(folder, known_neurons(folder))}")
    tell_of_the_rest(*tallies)
