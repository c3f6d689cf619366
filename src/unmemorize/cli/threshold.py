"""The command ``threshold``."""

import shutil
from pathlib import Path
from typing import Annotated, Literal

import typer

from unmemorize import testbed
from unmemorize._errors import ThresholdError
from unmemorize._files import atomic_write
from unmemorize._prompts import as_prompts
from unmemorize.cli._common import is_bundled, stream_or_default
from unmemorize.cli._console import console, progress_bar
from unmemorize.cli._model_options import PromptsOption, takes_model
from unmemorize.cli._options import takes_engine
from unmemorize.detection import Calibration, NoiseSettings, Protocol, calibrate_threshold
from unmemorize.engines import Engine, Execution
from unmemorize.pipelines import Model
from unmemorize.report import plot_threshold

_DEFAULTS = NoiseSettings()


@takes_engine
@takes_model
def command(
    pipe: Model,
    engine: Engine,
    output: Annotated[Path, typer.Option("--output", "-o", help="Where to write it (.json).")],
    prompts: PromptsOption = None,
    reduction: Annotated[
        Literal["pairs", "prompts"] | None,
        typer.Option(
            help="Over all pairs of seeds, or over each prompt's most similar pair. [default: pairs; the bundled model has its own]",
            show_default=False,
        ),
    ] = None,
    deviations: Annotated[
        float, typer.Option(help="tau = mean + this many standard deviations.")
    ] = 1.0,
    max_fpr: Annotated[
        float | None,
        typer.Option(
            help="Choose tau so that at most this share of prompts like these is called memorized (split-conformal), instead of the mean.",
            show_default=False,
        ),
    ] = None,
    seeds: Annotated[int, typer.Option(min=2, help="Initial noises per prompt.")] = _DEFAULTS.seeds,
    seed: Annotated[int, typer.Option(help="Of the generator that draws them.")] = _DEFAULTS.seed,
    protocol: Annotated[
        Protocol, typer.Option(help="Which of the first two timesteps is evaluated.")
    ] = _DEFAULTS.protocol,
    guidance: Annotated[
        float, typer.Option(help="Classifier-free guidance; 0: none, as in the paper.")
    ] = _DEFAULTS.guidance,
) -> None:
    """Step 2: how similar the noise differences of different seeds are for prompts that are not memorized.

    Writes tau, above which a prompt counts as memorized, with the distribution it comes from, and beside it a histogram (.png). Detection
    and localization take the settings of the noise differences from this file, so that they always fit. The same command goes on after
    an interruption.
    """
    given = list(
        stream_or_default(pipe, prompts, lambda: as_prompts(testbed.captions("calibration")))
    )
    chosen = reduction or (testbed.defaults()["reduction"] if is_bundled(pipe) else "pairs")
    settings = NoiseSettings(seeds=seeds, seed=seed, protocol=protocol, guidance=guidance)
    calibration = Calibration(reduction=chosen, deviations=deviations, max_fpr=max_fpr)
    partial = output.with_name(f".{output.name}.partial")
    with progress_bar("threshold") as progress:
        threshold = calibrate_threshold(
            pipe,
            given,
            settings=settings,
            calibration=calibration,
            folder=partial,
            execution=Execution(engine=engine, progress=progress),
        )
    threshold.save(output)
    shutil.rmtree(partial)
    picture = output.with_suffix(".png")
    atomic_write(picture, plot_threshold(threshold), ThresholdError)
    made = (
        f"{threshold.mean:.4f} + {deviations:g} x {threshold.std:.4f} over {chosen} of {len(given)} prompts"
        if max_fpr is None
        else f"at most {max_fpr:g} of prompts like these {len(given)} are called memorized"
    )
    console.print(
        f"tau = {threshold.tau:.4f} ({made}), for the criterion seeds {threshold.tau_seeds:.4f}: {output}, {picture}"
    )
