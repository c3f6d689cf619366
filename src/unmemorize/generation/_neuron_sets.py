"""Named choices of the neurons that are off while images are generated."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from unmemorize._errors import NeuronError
from unmemorize.localization import Localization
from unmemorize.neurons import NeuronFile, Neurons, random_control
from unmemorize.pipelines import Model

Choice = Literal["original", "initial", "refined", "top", "top-per-layer", "top-groups", "file"]
Localizations = Mapping[int, Localization]
"""Localizations of memorized prompts by index of the prompt."""

_PER_PROMPT: dict[str, Choice] = {
    "original": "original",
    "initial": "initial",
    "refined": "refined",
}
_BY_SUFFIX: dict[str | None, Choice] = {
    None: "top",
    "-per-layer": "top-per-layer",
    "-groups": "top-groups",
}
_TOP = re.compile(r"top-([1-9]\d*)(-per-layer|-groups)?")
_RANDOM = "random-"
_SYNTAX = (
    "original, initial, refined, top-K, top-K-per-layer, top-K-groups "
    "(K neurons or groups, such as top-10), or a neuron file .json"
)


@dataclass(frozen=True)
class NeuronSet:
    """A choice of neurons. Users type its name, and the folder of its images is called after it.

    Args:
        choice: "original" (none), "initial" or "refined" (what was localized for each prompt),
            "top" (the refined neurons of most prompts), "top-per-layer" (those of each layer),
            "top-groups" (the most frequent groups, a group being all refined neurons of a prompt)
            or "file" (those of a neuron file).
        count: number of neurons or groups for the three "top" choices.
        random: whether as many random other neurons of the same layers are taken instead.
        file: the neuron file.
    """

    choice: Choice
    count: int = 0
    random: bool = False
    file: Path | None = None

    @classmethod
    def parse(cls, name: str) -> NeuronSet:
        """Read the name of a choice.

        Args:
            name: "original", "initial", "refined", "top-10", "top-10-per-layer", "top-10-groups"
                or the path of a neuron file. All but "original" may begin with "random-".

        Raises:
            NeuronError: the name is unknown.

        Examples:
            >>> NeuronSet.parse("random-top-10-per-layer")
            NeuronSet(choice='top-per-layer', count=10, random=True, file=None)
        """
        random, plain = name.startswith(_RANDOM), name.removeprefix(_RANDOM)
        if plain.endswith(".json"):
            return cls("file", random=random, file=Path(plain))
        if plain in _PER_PROMPT and name != "random-original":
            return cls(_PER_PROMPT[plain], random=random)
        match = _TOP.fullmatch(plain)
        if match is None:
            raise NeuronError(
                f"neurons {name!r}: unknown. Use {_SYNTAX}. "
                "With random- in front, as many random other neurons are taken."
            )
        return cls(_BY_SUFFIX[match[2]], int(match[1]), random)

    @property
    def name(self) -> str:
        """The name that `parse` reads; for a file "file-" and its stem."""
        plain = {
            "top": f"top-{self.count}",
            "top-per-layer": f"top-{self.count}-per-layer",
            "top-groups": f"top-{self.count}-groups",
            "file": f"file-{self.file.stem}" if self.file else "",
        }.get(self.choice, self.choice)
        return f"{_RANDOM}{plain}" if self.random else plain

    @property
    def is_shared(self) -> bool:
        """Whether all prompts get the same neurons."""
        return self.choice not in _PER_PROMPT

    def shared(self, localizations: Localizations, model: Model, scale: float) -> Neurons:
        """Return the neurons that this choice stands for if all prompts get the same ones.

        For "initial" and "refined" these are the neurons of all prompts together. A random choice
        gives the neurons that it is the control of.

        Args:
            localizations: the memorized prompts of the run that count.
            model: the model.
            scale: what the outputs of the neurons will be multiplied by.

        Raises:
            NeuronError: the neuron file is malformed, of another model, or for another scale.
        """
        if self.choice == "file":
            return _read_neurons(self.file or Path(), model, scale)
        if self.choice == "top":
            return Neurons.of(most_frequent(localizations)[: self.count])
        if self.choice == "top-per-layer":
            return _most_frequent_per_layer(localizations, model, self.count)
        if self.choice == "top-groups":
            return _most_frequent_groups(localizations, self.count)
        return Neurons.of(
            pair for record in localizations.values() for pair in self._of_prompt(record)
        )

    def assign(
        self,
        indices: Iterable[int],
        localizations: Localizations,
        model: Model,
        *,
        shared: Neurons | None,
        excluded: Neurons,
    ) -> dict[int, Neurons]:
        """Return the neurons for each prompt, by index.

        Random controls are drawn for each prompt separately, with its index as the seed.

        Args:
            indices: the prompts.
            localizations: the memorized prompts of the run.
            model: the model.
            shared: the neurons that all prompts get, see `shared`; None if each prompt of the run
                gets those localized for it.
            excluded: neurons that random controls never contain, usually all localized ones. They
                never contain the initial neurons of their own prompt either.
        """
        if shared is not None:
            neurons = dict.fromkeys(indices, shared)
        else:
            neurons = {index: self._of_prompt(localizations[index]) for index in indices}
        if not self.random:
            return neurons
        controls = {}
        for index, replaced in neurons.items():
            exclude = excluded if shared is not None else excluded | localizations[index].initial
            controls[index] = random_control(replaced, model.widths, index, exclude=exclude)
        return controls

    def _of_prompt(self, record: Localization) -> Neurons:
        if self.choice == "initial":
            return record.initial
        if self.choice == "refined":
            return record.neurons
        return Neurons()


def most_frequent(localizations: Localizations) -> list[tuple[str, int]]:
    """Rank refined neurons by the number of their prompts, then by their highest z-score."""
    frequency: Counter[tuple[str, int]] = Counter()
    highest: dict[tuple[str, int], float] = {}
    for record in localizations.values():
        for path, indices in record.neurons.layers.items():
            z_scores = record.z_scores.get(path, (0.0,) * len(indices))
            for index, z_score in zip(indices, z_scores, strict=True):
                frequency[path, index] += 1
                highest[path, index] = max(z_score, highest.get((path, index), 0.0))
    return sorted(frequency, key=lambda neuron: (-frequency[neuron], -highest[neuron], neuron))


def _most_frequent_per_layer(localizations: Localizations, model: Model, count: int) -> Neurons:
    ranked = most_frequent(localizations)
    return Neurons(
        {
            path: [index for layer, index in ranked if layer == path][:count]
            for path in model.value_layers
        }
    )


def _most_frequent_groups(localizations: Localizations, count: int) -> Neurons:
    groups = Counter(record.neurons for record in localizations.values() if record.neurons)
    return Neurons.of(pair for group, _ in groups.most_common(count) for pair in group)


def _read_neurons(path: Path, model: Model, scale: float) -> Neurons:
    file = NeuronFile.load(path)
    file.check(model)
    if file.scale != scale:
        raise NeuronError(
            f"{path}: these neurons are meant for scale {file.scale:g}, not {scale:g}. "
            f"Give --scale {file.scale:g}."
        )
    return file.neurons
