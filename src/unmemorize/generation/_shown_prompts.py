"""The prompts that a set of images shows."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePath

from unmemorize._errors import RunError
from unmemorize._paths import is_utf8
from unmemorize._prompts import OVERALL, Kind, Prompt
from unmemorize.generation._generate import GenerationSettings
from unmemorize.generation._neuron_sets import Localizations
from unmemorize.localization import Localization, LocalizationRun, read_localizations
from unmemorize.pipelines import Model
from unmemorize.runs import Run, refuse_other_model, stream_prompts


@dataclass(frozen=True)
class ShownPrompts:
    """The prompts of a set of images, and what is known about the run they belong to.

    Args:
        prompts: by index.
        are_others: whether they are other prompts than the memorized ones of the run.
        memorized: the memorized prompts of the run that count, by index.
        localizations: of all memorized prompts of the run, by index.
    """

    prompts: Mapping[int, Prompt]
    are_others: bool
    memorized: Mapping[int, Prompt]
    localizations: Localizations

    @property
    def texts(self) -> dict[int, str]:
        """The texts of the prompts by index."""
        return {index: prompt.text for index, prompt in self.prompts.items()}

    @property
    def chosen(self) -> dict[int, Localization]:
        """The localizations of the memorized prompts that count, by index."""
        return {index: self.localizations[index] for index in self.memorized}

    @property
    def end(self) -> int:
        """One more than the highest index."""
        return 1 + max(self.prompts, default=-1)


def shown_prompts(
    run: Run,
    model: Model,
    settings: GenerationSettings,
    *,
    only: Kind | None,
    prompts: Sequence[Prompt],
    label: str,
) -> ShownPrompts:
    """Return the memorized prompts of a run, or others in their place.

    Args:
        run: a run with localizations.
        model: the model.
        settings: how images are generated.
        only, prompts, label: see `ImageSet`.

    Raises:
        RunError: nothing is localized, the run is of another model, its localization used the same
            seed, or the label is no name of a folder, or that of a group.
    """
    refuse_other_model(run, model)
    _refuse_seed_of_localization(run, settings.seed)
    localizations = read_localizations(run, only_memorized=True)
    memorized, groups = _memorized_prompts(run, localizations)
    if prompts:
        _refuse_label(label, groups)
    chosen = {index: prompt for index, prompt in memorized.items() if only in (None, prompt.kind)}
    return ShownPrompts(
        prompts=dict(enumerate(prompts)) if prompts else chosen,
        are_others=bool(prompts),
        memorized=chosen,
        localizations=localizations,
    )


def _refuse_seed_of_localization(run: Run, seed: int) -> None:
    """Refuse to show only the noise that localization has already seen."""
    if run.manifest.kind != LocalizationRun.kind:
        return
    if seed == run.settings(LocalizationRun).localization.noise.seed:
        raise RunError(
            f"{run.folder}: seed {seed} was already used for localization. "
            "Generate with another seed, to see other noise."
        )


def _memorized_prompts(
    run: Run, localizations: Localizations
) -> tuple[dict[int, Prompt], frozenset[str]]:
    """Read the memorized prompts of a run by index, and the groups of all its prompts."""
    prompts, groups = {}, set()
    for index, prompt in enumerate(stream_prompts(run)):
        groups.add(prompt.group)
        if index in localizations:
            prompts[index] = prompt
    return prompts, frozenset(groups)


def _refuse_label(label: str, groups: Collection[str]) -> None:
    """Refuse a name for other prompts that means something else in folders or in summaries."""
    if not label or PurePath(label).name != label or not is_utf8(label):
        raise RunError(
            f"{label!r}: not a name for other prompts than the run's own. It becomes part of the "
            "name of a folder. Give one in UTF-8, without / in it."
        )
    if label == OVERALL or label in groups:
        raise RunError(
            f"{label}: the run has a group of this name, so other prompts need another name. "
            "Rename their file."
        )
