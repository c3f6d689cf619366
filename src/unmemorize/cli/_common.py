"""What the commands share: the files that the bundled model has of its own, its truth, and what is said of prompts that are missing."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

from unmemorize import testbed
from unmemorize._errors import PromptError, RunError, ThresholdError
from unmemorize._prompts import Prompt, iter_prompts
from unmemorize.cli._console import console
from unmemorize.detection import NoiseSettings, Protocol, Threshold
from unmemorize.pipelines import Model
from unmemorize.report import Truth
from unmemorize.runs import Run, Tally


def is_bundled(pipe: Model) -> bool:
    """Whether a pipeline was loaded from the bundled model."""
    return Path(pipe.pipe.config.get("_name_or_path") or "") == testbed.path()


def stream_or_default(
    pipe: Model, path: Path | None, default: Callable[[], Iterable[Prompt]]
) -> Iterable[Prompt]:
    """The prompts of a file one by one, or for the bundled model its own.

    Raises:
        PromptError: there is no file and the model is another one.
    """
    if path is not None:
        return iter_prompts(path)
    if not is_bundled(pipe):
        raise PromptError("no prompts given. Name a prompt file with --prompts.")
    return default()


def file_or_default(
    pipe: Model, path: Path | None, default: Callable[[], Path], option: str
) -> Path:
    """A file given by an option, or for the bundled model its own.

    Raises:
        PromptError: there is none and the model is another one.
    """
    if path is not None:
        return path
    if not is_bundled(pipe):
        raise PromptError(
            f"no {option} given. Make it with unmemorize {option}, then name it with --{option}."
        )
    return default()


def threshold_of(
    pipe: Model,
    path: Path | None,
    tau: float | None,
    *,
    seeds: int | None,
    seed: int | None,
    protocol: Protocol | None,
    guidance: float | None,
) -> Threshold:
    """The threshold of a file, or a known one for the noise settings given; those must be the file's own.

    Raises:
        ThresholdError: the threshold is another model's, was calibrated under other settings, or both ways are asked for.
    """
    options = {"seeds": seeds, "seed": seed, "protocol": protocol, "guidance": guidance}
    given: dict[str, Any] = {name: value for name, value in options.items() if value is not None}
    if tau is not None:
        if path is not None:
            raise ThresholdError("both --tau and --threshold are given. Use one of them.")
        return Threshold.given(pipe, tau, NoiseSettings(**given))
    threshold = Threshold.load(file_or_default(pipe, path, testbed.threshold_path, "threshold"))
    threshold.check(pipe, replace(threshold.settings, **given))
    return threshold


def is_run_of_bundled(run: Run) -> bool:
    """Whether a run is one of the bundled model."""
    return bool(
        run.manifest.inputs.fingerprint == Threshold.load(testbed.threshold_path()).fingerprint
    )


def known_neurons(run: Run) -> Truth | None:
    """The ground truth, when a run is one of the bundled model."""
    return (
        {entry.prompt.text: entry.neurons for entry in testbed.planted()}
        if is_run_of_bundled(run)
        else None
    )


def tell_of_the_rest(*tallies: Tally) -> None:
    """Say what is missing, after everything else was written.

    Raises:
        RunError: prompts failed.
    """
    for tally in tallies:
        if not tally.complete and not tally.failed:
            console.print(
                f"{tally.done} of {tally.total} prompts are done; the other shards have the rest"
            )
    failures = [
        f"{len(tally.failed)} of {tally.total} prompts failed, such as number {index} ({error}). All errors are in "
        f"{tally.run.folder}/{tally.kind}*.jsonl; the same command tries these prompts again."
        for tally in tallies
        for index, error in list(tally.failed.items())[:1]
    ]
    if failures:
        raise RunError("\n".join(failures))
