"""Localization of many prompts in a run folder.

RUN/manifest.json, prompts.jsonl      what was asked, see `open_run`
RUN/localizations.jsonl               one record per prompt, from `localize_all`
RUN/differences/00003.png             noise differences of prompt 3, to look at
RUN/neurons.json                      the neurons of all prompts together, from `save_neurons`
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import torch
from diffusers import DiffusionPipeline
from PIL import Image
from torch import Tensor

from unmemorize._errors import RunError
from unmemorize._files import png_bytes
from unmemorize._prompts import Prompt
from unmemorize.detection import Threshold
from unmemorize.engines import Execution, Finished, UnitFunction
from unmemorize.localization._floor import fixed_criterion
from unmemorize.localization._localize import localize_prompt
from unmemorize.localization._records import Localization
from unmemorize.localization._settings import LocalizationSettings
from unmemorize.neurons import NeuronFile, Neurons
from unmemorize.pipelines import Model, select_value_layers
from unmemorize.runs import Run, Tally, drive, prompt_count, stream_prompts
from unmemorize.statistics import Statistics

LOCALIZATIONS = "localizations"
"""The step whose records are localizations."""
_NEURON_FILE = "neurons.json"
_DIFFERENCES = "differences"


@dataclass(frozen=True, kw_only=True)
class LocalizationRun:
    """What determines localizations, besides the model and the prompts.

    Args:
        localization: how neurons are searched.
        detector: what calls a prompt memorized.
        detection_tau: the level of its score.
        tau: the threshold of the criterion "unblocked".
        tau_seeds: the threshold of the criterion "seeds", if there is one.
        threshold_prompts: the hash of the prompts on which the threshold was calibrated.
        statistics_prompts: the hash of the prompts of the activation statistics.
        searched: the value layers that are searched, in the order in which they run.
    """

    kind: ClassVar[str] = "localization"

    localization: LocalizationSettings
    detector: str
    detection_tau: float
    tau: float
    tau_seeds: float | None
    threshold_prompts: str
    statistics_prompts: str
    searched: tuple[str, ...]

    @classmethod
    def of(
        cls,
        model: DiffusionPipeline | Model,
        settings: LocalizationSettings,
        statistics: Statistics,
        threshold: Threshold,
    ) -> LocalizationRun:
        """Make the settings of a run with this model, these statistics and this threshold."""
        model = Model.of(model)
        return cls(
            localization=settings,
            detector=threshold.detect.detector,
            detection_tau=settings.detection_level(threshold.detect).tau,
            tau=threshold.localize.tau,
            tau_seeds=threshold.localize.tau_seeds,
            threshold_prompts=threshold.prompts,
            statistics_prompts=statistics.prompts,
            searched=tuple(select_value_layers(model.value_layers, settings.layers)),
        )


@dataclass(frozen=True)
class LocalizeTask:
    """`localize_prompt` as a `Task`, whose items are (index, prompt)."""

    statistics: Statistics
    threshold: Threshold
    settings: LocalizationSettings
    kind: str = LOCALIZATIONS
    size: int = 1

    def prepare(self, model: Model) -> UnitFunction:
        """Check that statistics and threshold belong to the model, see `Task`."""
        self.settings.refuse_many_steps()
        self.statistics.check(model, select_value_layers(model.value_layers, self.settings.layers))
        self.threshold.check(model, self.settings.noise)
        fixed_criterion(self.settings, self.threshold.localize)

        def work(items: Sequence[tuple[int, Prompt]]) -> list[Finished]:
            finished = []
            for index, prompt in items:
                record = localize_prompt(
                    model, prompt, self.statistics, self.threshold, self.settings
                )
                finished.append(_finished(index, record))
            return finished

        return work


def _finished(index: int, record: Localization) -> Finished:
    files = {}
    if record.differences is not None:
        files[difference_file(index)] = _picture(record.differences)
    return Finished(record.to_json(), files)


def record_localization(run: Run, index: int, record: Localization) -> None:
    """Add the localization of a prompt of the run that was made elsewhere.

    Args:
        run: a run with prompts.
        index: the position of the prompt in the run.
        record: its localization.
    """
    finished = _finished(index, record)
    for name, content in finished.files.items():
        run.write(name, content)
    run.append(LOCALIZATIONS, index, finished.record)


def localize_all(
    run: Run | str | Path,
    pipe: DiffusionPipeline | Model,
    *,
    statistics: Statistics,
    threshold: Threshold,
    settings: LocalizationSettings,
    execution: Execution | None = None,
) -> Tally:
    """Localize every prompt of a run that has no localization yet.

    Args:
        run: a run with prompts, see `open_run`, or its folder.
        pipe: a loaded pipeline.
        statistics: as in `localize`.
        threshold: as in `localize`.
        settings: as in `localize`.
        execution: the engine, the shard and the progress callback.

    Returns:
        How many prompts are done, and which failed.
    """
    run = Run.of(run)
    task = LocalizeTask(statistics, threshold, settings)
    items = ((index, (index, prompt)) for index, prompt in enumerate(stream_prompts(run)))
    return drive(run, Model.of(pipe), task, items, prompt_count(run), execution)


def difference_file(index: int) -> str:
    """Return where the run keeps the picture of the noise differences of a prompt.

    The picture has one row with all neurons on, and one with the localized neurons off.

    Examples:
        >>> difference_file(3)
        'differences/00003.png'
    """
    return f"{_DIFFERENCES}/{index:05d}.png"


def _picture(differences: Tensor) -> bytes:
    """Make a PNG file of noise differences (rows, columns, C, H, W).

    The first three channels of latents are shown as red, green and blue.
    """
    rows, columns, channels, height, width = differences.shape
    shown = (
        differences[:, :, :3] if channels >= 3 else differences[:, :, :1].expand(-1, -1, 3, -1, -1)
    )
    sheet = shown.permute(0, 3, 1, 4, 2).reshape(rows * height, columns * width, 3)
    return png_bytes(Image.fromarray((sheet * 255).round().to(torch.uint8).numpy()))


def stream_localizations(run: Run) -> Iterator[Localization]:
    """Yield the finished localizations of a run one by one, in the order of the prompts."""
    return (Localization.from_json(record) for _, record in run.stream(LOCALIZATIONS))


def save_neurons(
    run: Run, model: Model, threshold: Threshold, settings: LocalizationSettings
) -> NeuronFile:
    """Write the neurons of all memorized prompts of a run together to RUN/neurons.json.

    The file also says of how many prompts they are, and how they were localized.
    """
    prompts = 0
    memorized = 0
    together: set[tuple[str, int]] = set()
    for record in stream_localizations(run):
        prompts += 1
        memorized += record.memorized
        together |= set(record.neurons)
    origin = {
        "prompts": prompts,
        "memorized": memorized,
        "detector": threshold.detect.detector,
        "detection_tau": settings.detection_level(threshold.detect).tau,
        "tau": threshold.localize.tau,
        "criterion": settings.criterion,
        "layers": settings.layers,
        "refinement": settings.refinement,
        "protocol": threshold.settings.protocol,
        "similarity": threshold.settings.similarity,
        "seeds": threshold.settings.seeds,
    }
    file = NeuronFile.of(model, Neurons.of(together), scale=settings.scale, found=origin)
    file.save(run.folder / _NEURON_FILE)
    return file


def read_localizations(
    run: Run | str | Path, *, only_memorized: bool = False
) -> dict[int, Localization]:
    """Return the finished localizations of a run, by the index of the prompt.

    Args:
        run: a run in which prompts were localized, or its folder.
        only_memorized: whether to leave out prompts that are not memorized. The result may then be
            empty.

    Raises:
        RunError: nothing is localized.
    """
    run = Run.of(run)
    localizations = {}
    is_empty = True
    for index, record in run.stream(LOCALIZATIONS):
        is_empty = False
        localization = Localization.from_json(record)
        if localization.memorized or not only_memorized:
            localizations[index] = localization
    if is_empty:
        raise RunError(
            f"{run.folder}: nothing is localized there. Localize into a folder of its own: "
            "unmemorize localize -o FOLDER"
        )
    return localizations
