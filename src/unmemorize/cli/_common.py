"""What commands share: the files of the bundled model, thresholds, and what is said at the end."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from pathlib import Path

from unmemorize import testbed
from unmemorize._bundled import is_bundled, usual_for
from unmemorize._errors import PromptError, RunError, ThresholdError, UnmemorizeError
from unmemorize._files import temporary_file
from unmemorize._prompt_files import iter_prompts
from unmemorize._prompts import Prompt
from unmemorize.cli._console import (
    console,
    make_table,
    print_line,
    show_progress,
)
from unmemorize.cli._execution_options import EngineOptions
from unmemorize.cli._settings_options import OptionsOf
from unmemorize.detection import (
    SEED_SIMILARITY,
    Calibration,
    DetectionLevel,
    NoiseSettings,
    Threshold,
    as_detector,
    default_detector,
    default_threshold,
    default_threshold_path,
)
from unmemorize.export import Exported
from unmemorize.generation import GenerationSettings
from unmemorize.pipelines import Model
from unmemorize.report import Truth
from unmemorize.runs import Run, Tally
from unmemorize.statistics import Statistics, default_statistics

NO_SUSPECTS = "Name a prompt file behind the command."
"""The way out for commands whose first argument it is."""


def prompts_or_bundled(
    model: Model,
    path: Path | None,
    bundled: Callable[[], Iterable[Prompt]],
    way_out: str = "Name a prompt file with --prompts.",
) -> Iterable[Prompt]:
    """Stream the prompts of a file, or those that the bundled model brings.

    Args:
        model: the model.
        path: the file, if one is named.
        bundled: returns the prompts of the bundled model.
        way_out: how the command names a file.

    Raises:
        PromptError: no file is named, and the model is another one.
    """
    if path is not None:
        return iter_prompts(path)
    if not is_bundled(model.pipe):
        raise PromptError(f"no prompts given. {way_out}")
    return bundled()


def planted_prompts() -> list[Prompt]:
    """Return the prompts that the bundled model has memorized."""
    return [entry.prompt for entry in testbed.planted()]


def choose_statistics(model: Model, path: Path | None, workers: EngineOptions) -> Statistics:
    """Return the statistics of a file, or those kept for the model, which are made if need be."""
    if path is not None:
        return Statistics.load(path)
    with show_progress("statistics") as progress:
        return default_statistics(model, execution=workers.execution(progress))


def generation_settings(
    model: Model, batch: int, *, steps: int | None = None, guidance: float | None = None
) -> GenerationSettings:
    """Return how a command generates: as it was told to, else as the bundled model is used."""
    given = {"steps": steps, "guidance": guidance}
    chosen = {name: value for name, value in given.items() if value is not None}
    usual = usual_for(model.pipe, "steps", "guidance")
    return GenerationSettings(batch=batch, **{**usual, **chosen})


def print_counts(name: str, counted: str, counts: Mapping[str, int]) -> None:
    """Print a table of two columns: the names, and how many of what is counted."""
    table = make_table(name, counted)
    for each, count in counts.items():
        table.add_row(each, str(count))
    console.print(table)


def refuse_without_output(error: type[UnmemorizeError], **options: object) -> None:
    """Refuse options whose result cannot be kept for the model, where no file is named.

    Raises:
        UnmemorizeError: the given ``error``.
    """
    for name, value in options.items():
        if value is not None:
            option = f"--{name.replace('_', '-')}"
            raise error(f"{option} is given, but no file for the result. Name one with -o.")


def choose_threshold(
    model: Model,
    path: Path | None,
    tau: float | None,
    noise: OptionsOf[NoiseSettings],
    workers: EngineOptions,
    *,
    published: bool = False,
    detector: str | None = None,
) -> Threshold:
    """Return the threshold of a file, the one that ``tau`` names, or one kept for the model.

    Args:
        model: the model it is used on.
        path: a threshold file.
        tau: a published threshold.
        noise: options that were set. They must agree with the file.
        workers: who calibrates a threshold where none is kept.
        published: whether everything must be as in the published code.
        detector: the name of the detector; by default that of the file, or the one of the model.

    Raises:
        ThresholdError: the threshold belongs to another model, detector or other settings, a
            published number is named for another similarity or detector, or both a file and a
            number are named.
    """
    if tau is not None:
        if path is not None:
            raise ThresholdError("both --tau and --threshold are given. Use one of them.")
        if detector not in (None, SEED_SIMILARITY):
            raise ThresholdError(
                f"--tau {tau:g}: published thresholds are similarities of seeds, not scores of "
                f"{detector}. Calibrate one: unmemorize threshold --detector {detector}"
            )
        settings = noise.published() if published else noise.settings()
        if settings.similarity != "published":
            raise ThresholdError(
                f"--tau {tau:g}: published thresholds belong to the similarity of the published "
                f"code, whose values differ from those of similarity={settings.similarity}. Add "
                "--published, or calibrate a threshold of your own: unmemorize threshold"
            )
        return Threshold.given(model, tau, settings)
    if path is None:
        with show_progress("threshold") as progress:
            return default_threshold(
                model,
                detector=detector,
                settings=noise.published() if published else noise.settings(),
                calibration=Calibration.published() if published else None,
                execution=workers.execution(progress),
            )
    threshold = Threshold.load(path)
    if detector is not None:
        threshold.detect.check(as_detector(detector))
    if published:
        _refuse_unpublished(model, threshold, noise)
    threshold.check(model, replace(threshold.settings, **noise.values))
    return threshold


def expected_threshold(
    model: Model,
    path: Path | None,
    tau: float | None,
    noise: OptionsOf[NoiseSettings],
    *,
    published: bool = False,
    detector: str | None = None,
) -> tuple[NoiseSettings, str]:
    """Return what is known of the threshold that `choose_threshold` returns, before it is made.

    Args:
        model, path, tau, noise, published, detector: as in `choose_threshold`.

    Returns:
        Its noise settings, and the name of its detector.
    """
    if path is not None:
        threshold = Threshold.load(path)
        return threshold.settings, threshold.detect.detector
    settings = noise.published() if published else noise.settings()
    if tau is not None:
        return settings, SEED_SIMILARITY
    calibration = Calibration.published() if published else None
    return settings, detector or default_detector(model, settings, calibration).name


def kept_threshold(
    model: Model, detector: str, noise: OptionsOf[NoiseSettings], *, published: bool
) -> Path | None:
    """Return the file of the threshold that `choose_threshold` keeps for a detector.

    Returns:
        None for the default detector, whose threshold every command finds by itself.
    """
    settings = noise.published() if published else noise.settings()
    calibration = Calibration.published() if published else Calibration()
    if detector == default_detector(model, settings, calibration).name:
        return None
    return default_threshold_path(model, detector, settings, calibration)


def threshold_words(
    path: Path | None, tau: float | None, noise: OptionsOf[NoiseSettings], *, published: bool
) -> tuple[str | Path, ...]:
    """Return how a next command names the threshold that these options chose.

    Args:
        path, tau, noise, published: as in `choose_threshold`. A file knows its noise settings.
    """
    way = ("--published",) if published else ()
    if path is not None:
        return ("--threshold", path, *way)
    number = () if tau is None else (f"--tau {tau}",)
    return (*number, *way, noise.arguments)


def _refuse_unpublished(
    model: Model, threshold: Threshold, noise: OptionsOf[NoiseSettings]
) -> None:
    """Refuse a threshold that was not calibrated in the published way."""
    wanted = noise.published()
    found = threshold.settings
    differing = [
        f"{name}={getattr(found, name)}"
        for name in ("similarity", "protocol")
        if getattr(found, name) != getattr(wanted, name)
    ]
    if threshold.detect.reduction not in ("pairs", "given"):
        differing.append(f"reduction={threshold.detect.reduction}")
    deviations = threshold.localize.deviations
    if threshold.detect.reduction == "pairs" and deviations != Calibration.published().deviations:
        differing.append(f"deviations={deviations:g}")
    if differing:
        raise ThresholdError(
            f"--published: the threshold was calibrated with {', '.join(differing)}, which is not "
            "the published way. Make one with: unmemorize threshold --published --model "
            f"{model.name}"
        )


def bounded_rate(level: DetectionLevel) -> str:
    """Say which rate of false positives a level bounds, and for which prompts."""
    if level.max_fpr is None:
        return f"tau ({level.reduction}) bounds no rate of false positives"
    return (
        f"at most {level.max_fpr:.3g} of unmemorized prompts like the {len(level.scores)} of its "
        "calibration are expected above tau; of other prompts it may be more"
    )


def refuse_unwritable(path: Path, error: type[UnmemorizeError]) -> None:
    """Check that a file can be written, before the work.

    Raises:
        UnmemorizeError: the given ``error``.
    """
    with temporary_file(path, error):
        pass


def partial_of(output: Path) -> Path:
    """Return the run folder in which an output file is made, and resumed."""
    return output.with_name(f".{output.name}.partial")


def is_run_of_bundled(run: Run) -> bool:
    """Tell whether a run was made with the bundled model."""
    bundled = Threshold.load(testbed.threshold_path())
    return bool(run.manifest.inputs.fingerprint == bundled.fingerprint)


def known_neurons(run: Run) -> Truth | None:
    """Return the neurons that were planted for each prompt, for a run of the bundled model."""
    if not is_run_of_bundled(run):
        return None
    return {entry.prompt.text: entry.neurons for entry in testbed.planted()}


def report_missing(*tallies: Tally) -> None:
    """Say which prompts are missing, after everything else was written.

    Raises:
        RunError: prompts failed.
    """
    for tally in tallies:
        if not tally.complete and not tally.failed:
            print_line(
                f"{tally.done} of {tally.total} prompts are done; the other shards do the rest."
            )
    failures = [
        f"{len(tally.failed)} of {tally.total} prompts failed, such as number {index} ({error}). "
        f"All errors are in {tally.run.folder}/{tally.kind}*.jsonl; the same command tries these "
        "prompts again."
        for tally in tallies
        for index, error in list(tally.failed.items())[:1]
    ]
    if failures:
        raise RunError("\n".join(failures))


def print_exported(exported: Exported) -> dict[str, str]:
    """Print what was exported, and what was not and why; return the files for an answer."""
    for path, what in exported.files.items():
        print_line(f"{what}: {path}")
    for reason in exported.refused:
        print_line(reason)
    return {str(path): what for path, what in exported.files.items()}
