"""Which neurons are off when images are generated: those of each prompt, the most frequent ones of a whole run, those of a file, or
as many random others.
"""

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

Source = Literal["original", "initial", "refined", "top", "top-per-layer", "top-groups", "file"]
Localizations = Mapping[int, Localization]
"""Localizations of memorized prompts by index of the prompt."""

NAMES = "original, initial, refined, top-K, top-K-per-layer, top-K-groups (K neurons or groups, such as top-10), or a neuron file .json"
_RANDOM = "random-"
_TOP = re.compile(r"top-([1-9]\d*)(-per-layer|-groups)?")


@dataclass(frozen=True)
class NeuronSet:
    """A choice of neurons, by the name that users type and that the folder of its images bears.

    Args:
        source: "original" (none), "initial" or "refined" (what was localized for each prompt), "top" (the most frequent refined neurons
            of the run), "top-per-layer" (those of each layer), "top-groups" (the most frequent groups, a group being all refined neurons
            of one prompt) or "file" (a neuron file).
        count: how many neurons or groups for the three "top" sources.
        random: as many random other neurons of the same layers instead.
        file: the neuron file.
    """

    source: Source
    count: int = 0
    random: bool = False
    file: Path | None = None

    @classmethod
    def parse(cls, name: str) -> NeuronSet:
        """The set of a name: see `NAMES`, each also with ``random-`` in front.

        Raises:
            NeuronError: the name is unknown.
        """
        random, plain = name.startswith(_RANDOM), name.removeprefix(_RANDOM)
        if plain.endswith(".json"):
            return cls("file", random=random, file=Path(plain))
        own: dict[str, Source] = {
            "original": "original",
            "initial": "initial",
            "refined": "refined",
        }
        if plain in own and name != "random-original":
            return cls(own[plain], random=random)
        found = _TOP.fullmatch(plain)
        if found is None:
            raise NeuronError(
                f"neurons {name!r}: unknown. Use {NAMES}; random-NAME takes as many random others."
            )
        sources: dict[str | None, Source] = {
            None: "top",
            "-per-layer": "top-per-layer",
            "-groups": "top-groups",
        }
        return cls(sources[found[2]], int(found[1]), random)

    @property
    def name(self) -> str:
        """As users type it; for a file its stem."""
        plain = {
            "top": f"top-{self.count}",
            "top-per-layer": f"top-{self.count}-per-layer",
            "top-groups": f"top-{self.count}-groups",
            "file": f"file-{self.file.stem}" if self.file else "",
        }.get(self.source, self.source)
        return f"{_RANDOM}{plain}" if self.random else plain

    @property
    def pooled(self) -> bool:
        """Whether all prompts get the same neurons."""
        return self.source not in ("original", "initial", "refined")

    def assign(
        self,
        indices: Iterable[int],
        found: Localizations,
        model: Model,
        *,
        pool: Neurons | None,
        barred: Neurons,
    ) -> dict[int, Neurons]:
        """The neurons for each prompt, by index; random ones are drawn anew for each, the index being their seed.

        Args:
            indices: of the prompts.
            found: the memorized prompts of the run.
            model: the model.
            pool: the neurons that all prompts get, see `pool`; None where each prompt of the run gets its own.
            barred: what random controls never contain: all neurons that were found; a prompt's own initial ones are barred, too.
        """
        if pool is not None:
            own = dict.fromkeys(indices, pool)
            initial = {}
        else:
            own = {index: self._own(found[index]) for index in indices}
            initial = {index: found[index].initial for index in own}
        if not self.random:
            return own
        return {
            index: random_control(
                neurons, model.widths, index, exclude=barred | initial.get(index, Neurons())
            )
            for index, neurons in own.items()
        }

    def pool(self, found: Localizations, model: Model, scale: float) -> Neurons:
        """The neurons of the whole run that this set stands for, or is the control of, at this scale.

        Raises:
            NeuronError: the neuron file is malformed, another model's, or meant for another scale.
        """
        records = found.values()
        if self.source == "file":
            file = NeuronFile.load(self.file or "")
            file.check(model)
            if file.scale != scale:
                raise NeuronError(
                    f"{self.file}: these neurons are meant for scale {file.scale:g}, not {scale:g}. Give --scale {file.scale:g}."
                )
            return file.neurons
        if self.source == "top":
            return Neurons.of(most_frequent(found)[: self.count])
        if self.source == "top-per-layer":
            ranked = most_frequent(found)
            layers = {
                path: [index for layer, index in ranked if layer == path][: self.count]
                for path in model.value_layers
            }
            return Neurons(layers)
        if self.source == "top-groups":
            groups = Counter(record.neurons for record in records if record.neurons)
            return Neurons.of(pair for group, _ in groups.most_common(self.count) for pair in group)
        return Neurons.of(pair for record in records for pair in self._own(record))

    def _own(self, record: Localization) -> Neurons:
        return {"initial": record.initial, "refined": record.neurons}.get(self.source, Neurons())


def most_frequent(found: Localizations) -> list[tuple[str, int]]:
    """Refined neurons, those of most prompts first; equally frequent ones by their highest z-score."""
    frequency: Counter[tuple[str, int]] = Counter()
    highest: dict[tuple[str, int], float] = {}
    for record in found.values():
        for path, indices in record.neurons.layers.items():
            scores = record.z_scores.get(path, (0.0,) * len(indices))
            for index, z in zip(indices, scores, strict=True):
                frequency[path, index] += 1
                highest[path, index] = max(z, highest.get((path, index), 0.0))
    return sorted(frequency, key=lambda neuron: (-frequency[neuron], -highest[neuron], neuron))
