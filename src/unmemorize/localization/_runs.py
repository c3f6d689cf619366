"""Detection and localization of many prompts in a run folder.

RUN/manifest.json, prompts.jsonl      what was asked
RUN/similarities.jsonl                step `calibrate_in`
RUN/detections.jsonl                  step `detect_all`
RUN/localizations.jsonl               step `localize_all`
RUN/neurons.json                      what `save_neurons` makes of them
RUN/differences/00003.png             noise differences of prompt 3, to look at
"""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from PIL import Image
from torch import Tensor

from unmemorize._errors import RunError
from unmemorize._prompts import Prompt
from unmemorize.detection import (
    Threshold,
)
from unmemorize.engines import Execution, Finished, UnitFunction
from unmemorize.localization._localize import localize_prompt
from unmemorize.localization._records import Localization
from unmemorize.localization._settings import LocalizationSettings
from unmemorize.neurons import NeuronFile, Neurons
from unmemorize.pipelines import Model, select_value_layers
from unmemorize.runs import Run, Tally, drive, prompt_count, stream_prompts
from unmemorize.statistics import Statistics

LOCALIZATIONS = "localizations"
NEURONS = "neurons.json"


DIFFERENCES = "differences"


@dataclass(frozen=True, kw_only=True)
class LocalizationRun:
    """What determines localizations, besides the model and the prompts.

    Args:
        localization: how neurons are searched.
        tau, tau_seeds: the thresholds.
        threshold_prompts, statistics_prompts: hashes of the prompts these were made on.
        searched: the value layers that are searched, in their order.
    """

    kind: ClassVar[str] = "localization"

    localization: LocalizationSettings
    tau: float
    tau_seeds: float | None
    threshold_prompts: str
    statistics_prompts: str
    searched: tuple[str, ...]

    @classmethod
    def of(
        cls,
        model: Model,
        settings: LocalizationSettings,
        statistics: Statistics,
        threshold: Threshold,
    ) -> LocalizationRun:
        """Make the settings of a run with this model, these statistics and this threshold."""
        return cls(
            localization=settings,
            tau=threshold.tau,
            tau_seeds=threshold.tau_seeds,
            threshold_prompts=threshold.prompts,
            statistics_prompts=statistics.prompts,
            searched=tuple(select_value_layers(model.value_layers, settings.layers)),
        )


@dataclass(frozen=True)
class LocalizeTask:
    """`localize_prompt` as a `Task`; its items are index and prompt."""

    statistics: Statistics
    threshold: Threshold
    settings: LocalizationSettings
    kind: str = LOCALIZATIONS
    size: int = 1

    def prepare(self, model: Model) -> UnitFunction:
        """See `Task`."""
        self.statistics.check(model, select_value_layers(model.value_layers, self.settings.layers))
        self.threshold.check(model, self.settings.noise)
        self.threshold.of_criterion(self.settings.criterion)

        def work(items: Sequence[tuple[int, Prompt]]) -> list[Finished]:
            return [
                _finished(
                    index,
                    localize_prompt(model, prompt, self.statistics, self.threshold, self.settings),
                )
                for index, prompt in items
            ]

        return work


def _finished(index: int, found: Localization) -> Finished:
    return Finished(
        found.to_json(),
        {} if found.differences is None else {difference_file(index): _picture(found.differences)},
    )


def record_localization(run: Run, index: int, found: Localization) -> None:
    """Add what was localized elsewhere for a prompt of the run."""
    finished = _finished(index, found)
    for name, content in finished.files.items():
        run.write(name, content)
    run.append(LOCALIZATIONS, index, finished.record)


def localize_all(
    run: Run,
    model: Model,
    *,
    statistics: Statistics,
    threshold: Threshold,
    settings: LocalizationSettings,
    execution: Execution | None = None,
) -> Tally:
    """Localize each prompt of a run, see `read_localizations`.

    Args:
        run: a run with prompts, see `open_run`.
        model: the model.
        statistics, threshold, settings: as in `localize`.
        execution: who does the work.
    """
    task = LocalizeTask(statistics, threshold, settings)
    items = ((index, (index, prompt)) for index, prompt in enumerate(stream_prompts(run)))
    return drive(run, model, task, items, prompt_count(run), execution)


def difference_file(index: int) -> str:
    """Where the run keeps a picture of the noise differences of a localized prompt: a row for all neurons on, one for those found off."""
    return f"{DIFFERENCES}/{index:05d}.png"


def _picture(differences: Tensor) -> bytes:
    """Rows and columns as one PNG file; of latents the first three channels are shown as red, green and blue."""
    rows, columns, channels, height, width = differences.shape
    shown = (
        differences[:, :, :3] if channels >= 3 else differences[:, :, :1].expand(-1, -1, 3, -1, -1)
    )
    sheet = shown.permute(0, 3, 1, 4, 2).reshape(rows * height, columns * width, 3)
    buffer = io.BytesIO()
    Image.fromarray((sheet * 255).round().to(torch.uint8).numpy()).save(buffer, "PNG")
    return buffer.getvalue()


def stream_localizations(run: Run) -> Iterator[Localization]:
    """The finished localizations of a run one by one, in the order of the prompts."""
    return (Localization.from_json(record) for _, record in run.stream(LOCALIZATIONS))


def save_neurons(
    run: Run, model: Model, threshold: Threshold, settings: LocalizationSettings
) -> NeuronFile:
    """Write the neurons of all memorized prompts of a run together to RUN/neurons.json; the file also says of how many prompts."""
    count, memorized, together = 0, 0, set()
    for record in stream_localizations(run):
        count, memorized = count + 1, memorized + record.memorized
        together |= set(record.neurons)
    found: dict[str, Any] = {"prompts": count, "memorized": memorized, "tau": threshold.tau}
    found |= {name: getattr(settings, name) for name in ("criterion", "layers", "refinement")}
    found |= {"protocol": threshold.settings.protocol, "seeds": threshold.settings.seeds}
    file = NeuronFile.of(model, Neurons.of(together), scale=settings.scale, found=found)
    file.save(run.folder / NEURONS)
    return file


def read_localizations(run: Run, *, only_memorized: bool = False) -> dict[int, Localization]:
    """The finished localizations of a run, by index of the prompt.

    Args:
        run: as `localize_all` leaves it.
        only_memorized: those of memorized prompts, of which there may be none.

    Raises:
        RunError: nothing is localized.
    """
    found, empty = {}, True
    for index, record in run.stream(LOCALIZATIONS):
        localization, empty = Localization.from_json(record), False
        if localization.memorized or not only_memorized:
            found[index] = localization
    if empty:
        raise RunError(
            f"{run.folder}: nothing is localized there. Localize into a folder of its own: unmemorize localize -o FOLDER"
        )
    return found
