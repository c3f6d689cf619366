"""What commands share: the files of the bundled model, thresholds, and what is said at the end."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

from unmemorize import testbed
from unmemorize._errors import PromptError, RunError, ThresholdError, UnmemorizeError
from unmemorize._files import temporary_file
from unmemorize._prompt_files import iter_prompts
from unmemorize._prompts import Prompt
from unmemorize.cli._console import print_line
from unmemorize.cli._settings_options import OptionsOf
from unmemorize.detection import NoiseSettings, Threshold
from unmemorize.pipelines import Model
from unmemorize.report import Truth
from unmemorize.runs import Run, Tally


def is_bundled(model: Model) -> bool:
    """Tell whether a model is the bundled one."""
    return Path(model.pipe.config.get("_name_or_path") or "") == testbed.path()


def prompts_or_bundled(
    model: Model, path: Path | None, bundled: Callable[[], Iterable[Prompt]]
) -> Iterable[Prompt]:
    """Stream the prompts of a file, or those that the bundled model brings.

    Raises:
        PromptError: no file is named, and the model is another one.
    """
    if path is not None:
        return iter_prompts(path)
    if not is_bundled(model):
        raise PromptError("no prompts given. Name a prompt file with --prompts.")
    return bundled()


def bundled_defaults(model: Model, *names: str) -> dict[str, Any]:
    """Return the settings of these names that suit the bundled model; nothing for other models."""
    return {name: testbed.defaults()[name] for name in names} if is_bundled(model) else {}


def planted_prompts() -> list[Prompt]:
    """Return the prompts that the bundled model has memorized."""
    return [entry.prompt for entry in testbed.planted()]


def file_or_bundled(
    model: Model, path: Path | None, bundled: Callable[[], Path], option: str
) -> Path:
    """Return the file an option names, or the one that the bundled model brings.

    Raises:
        PromptError: no file is named, and the model is another one.
    """
    if path is not None:
        return path
    if not is_bundled(model):
        raise PromptError(
            f"no {option} given. Make it with unmemorize {option}, then name it with --{option}."
        )
    return bundled()


def choose_threshold(
    model: Model,
    path: Path | None,
    tau: float | None,
    noise: OptionsOf[NoiseSettings],
    *,
    published: bool = False,
) -> Threshold:
    """Return the threshold of a file, or the one that ``tau`` names.

    Args:
        model: the model it is used on.
        path: a threshold file; by default the bundled model's.
        tau: a published threshold.
        noise: options that were set. They must agree with the file.
        published: whether everything must be as in the published code.

    Raises:
        ThresholdError: the threshold belongs to another model or other settings, a published
            number is named for another similarity, or both a file and a number are named.
    """
    if tau is not None:
        if path is not None:
            raise ThresholdError("both --tau and --threshold are given. Use one of them.")
        settings = noise.published() if published else noise.settings()
        if settings.similarity != "published":
            raise ThresholdError(
                f"--tau {tau:g}: published thresholds belong to the similarity of the published "
                f"code, whose values differ from those of similarity={settings.similarity}. Add "
                "--published, or calibrate a threshold of your own: unmemorize threshold"
            )
        return Threshold.given(model, tau, settings)
    threshold = Threshold.load(file_or_bundled(model, path, testbed.threshold_path, "threshold"))
    if published:
        _refuse_unpublished(model, threshold, noise)
    threshold.check(model, replace(threshold.settings, **noise.values))
    return threshold


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
    if threshold.reduction not in ("pairs", "given"):
        differing.append(f"reduction={threshold.reduction}")
    if differing:
        raise ThresholdError(
            f"--published: the threshold was calibrated with {', '.join(differing)}, which is not "
            "the published way. Make one with: unmemorize threshold --published --model "
            f"{model.name}"
        )


def refuse_unwritable(path: Path, error: type[UnmemorizeError]) -> None:
    """Check that a file can be written, before the work.

    Raises:
        UnmemorizeError: the given ``error``.
    """
    if path.is_dir():
        raise error(f"{path}: is a folder. Name a file.")
    with temporary_file(path, error):
        pass


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
