"""Ladders of edits, least invasive first, and the one edit in which all prompts are joined."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import product
from typing import Literal

from unmemorize._files import hash_texts
from unmemorize.generation import (
    ClosedFormEdit,
    ClosedFormNeuronEdit,
    CombinedEdit,
    Edit,
    Erased,
    NeuronEdit,
    Reread,
    has_closed_form,
)
from unmemorize.localization import Localization, candidates_at, neurons_of
from unmemorize.methods import why_not_fine_tuned
from unmemorize.mitigation._guides import Guide
from unmemorize.mitigation._settings import Part
from unmemorize.neurons import Neurons
from unmemorize.pipelines import Model, select_value_layers
from unmemorize.statistics import Statistics, activations

NeuronChoice = Literal["complete", "initial", "all"]
_CHOICES: tuple[NeuronChoice, ...] = ("complete", "initial", "all")
"""From the narrowest to the widest."""
SCALES = (0.0, -0.25, -0.5, -1.0)
WEIGHTS = (1.0, 3.0, 10.0)
_FEW = 16
"""The most neurons of a prompt that are tried first."""
_LOWER = 1.0
"""How far theta falls below the one of the localization, for a wider set of the same layers."""
FINE_TUNING = "fine-tuning"
"""The name of the ladder that trains the denoiser."""
TEXT_ENCODER = "text encoder"
"""The name of the ladder that edits no denoiser."""
_TRAINED: Mapping[Part, str] = {"denoiser": FINE_TUNING, "text-encoder": TEXT_ENCODER}
"""What the training of a part is called."""


@dataclass(frozen=True)
class Rung:
    """How one prompt is edited.

    Args:
        neurons: "complete" (those that localization found), "initial" (candidates of the same
            layers at a lower theta), "all" (candidates of all value layers), or None for no
            neurons.
        scale: what the outputs of these neurons are multiplied by.
        weight: of the prompt in the closed-form edit; None leaves it out of that edit.
        reach: None for a closed form of all projections, beside which the neurons are scaled. Else
            it is a closed form of these neurons alone, and this is how far they go to the empty
            prompt, see `Reread`.
        guided: whether the prompt reads like its guide in the closed form of all projections, or is
            encoded like it. Else it does so like the empty prompt.
        trained: what is trained with the prompt at this weight, in place of a closed form.
    """

    neurons: NeuronChoice | None = None
    scale: float = 0.0
    weight: float | None = None
    reach: float | None = None
    guided: bool = False
    trained: Part | None = None

    def __str__(self) -> str:
        return self.named(None)

    def named(self, guide: Guide | None) -> str:
        """Say what the rung does, with the guide of a prompt if it is known.

        Examples:
            >>> Rung(weight=3.0, guided=True).named(Guide("start", "a cat"))
            'closed form to the start “a cat”, weight 3'
        """
        if self.reach is not None:
            return f"closed form of {self.neurons} neurons, reach {self.reach:g}"
        parts = []
        if self.neurons is not None:
            parts.append(f"{self.neurons} neurons at {self.scale:g}")
        if self.weight is not None:
            goal = f"the {guide.kind} “{guide.text}”" if guide else "the guide"
            kind = _TRAINED[self.trained] if self.trained else "closed form"
            parts.append(f"{kind}{f' to {goal}' if self.guided else ''}, weight {self.weight:g}")
        return " and ".join(parts) or "nothing"

    @property
    def scales_neurons(self) -> bool:
        """Whether neurons are scaled, so that as many random ones are a control."""
        return self.neurons is not None and self.reach is None

    def includes(self, other: Rung) -> bool:
        """Whether this rung does all that another one does.

        A closed form of all projections counts as doing what one of neurons does at its weight, and
        the empty prompt as leaving less than a guide.

        Examples:
            >>> Rung("complete", 0.0, weight=1.0).includes(Rung("complete", 0.0))
            True
            >>> Rung(weight=1.0).includes(Rung("complete", 0.0))
            False
        """
        if (self.weight or 0.0) < (other.weight or 0.0) or self.trained != other.trained:
            return False
        if other.weight and self.guided and not other.guided:
            return False
        if other.reach is not None:
            return self.reach is None or self.reach >= other.reach
        if other.neurons is None:
            return self.reach is None
        if self.neurons is None or self.reach is not None:
            return False
        is_as_wide = _CHOICES.index(self.neurons) >= _CHOICES.index(other.neurons)
        return is_as_wide and self.scale <= other.scale


_TO_GUIDE = tuple(Rung(weight=weight, guided=True) for weight in (3.0, 10.0))
"""Those leave most of what a prompt asks for, and change ordinary images least."""


def _with_closed_form(weight: float) -> tuple[Rung, Rung]:
    """Make the rungs of a closed form alone, and with the found neurons off."""
    return Rung(weight=weight), Rung("complete", 0.0, weight)


LADDERS: Mapping[str, tuple[Rung, ...]] = {
    "both": (
        Rung("complete", 0.0),
        *_TO_GUIDE,
        *(replace(rung, neurons="complete") for rung in _TO_GUIDE),
        *_with_closed_form(1.0),
        *_with_closed_form(3.0),
        *(Rung("complete", scale) for scale in (-0.25, -1.0)),
        *_with_closed_form(10.0),
        *(Rung("complete", scale, 10.0) for scale in (-0.25, -1.0)),
        *(Rung(choice, -0.25, 10.0) for choice in _CHOICES[1:]),
    ),
    FINE_TUNING: (
        *(Rung(weight=weight, guided=True, trained="denoiser") for weight in (1.0, 3.0)),
        Rung(weight=3.0, trained="denoiser"),
    ),
    "neurons": tuple(Rung(choice, scale) for choice, scale in product(_CHOICES, SCALES)),
    "closed form": (
        *_TO_GUIDE,
        *(Rung(weight=weight) for weight in WEIGHTS),
        *(Rung("complete", scale, 10.0) for scale in (0.0, -0.25, -1.0)),
    ),
}
"""Ladders by name. Combinations are worth most and come first. A prompt that still copies climbs to
the next rung of its ladder. Where neurons at 0 do not end a copy, a closed form to the guide of the
prompt comes next, then a gentle one to the empty prompt, each without them and with them: inverted
neurons change ordinary images more where they are many, and end copies that no closed form does
where they are few."""
SPREAD = (
    *_TO_GUIDE,
    *(Rung("all", weight=10.0, reach=reach) for reach in (1.0, 1.5, 2.0)),
    Rung(weight=10.0),
    *(Rung("complete", scale, 10.0) for scale in (0.0, -0.25, -1.0)),
)
"""What a prompt of which many neurons were found climbs in place of the ladder "both". To the empty
prompt, a closed form of all projections at a lower weight than 10 ends fewer copies than the rungs
before it."""
ENCODER = (
    *(Rung(weight=weight, guided=True, trained="text-encoder") for weight in (10.0, 100.0)),
    Rung(weight=100.0, trained="text-encoder"),
)
"""The ladder of the text encoder. The denoiser stays as it is. At weight 10 a caption is encoded
almost as its guide is, so copies that are left are those of the guide: the empty prompt comes last,
since a model without a text may draw a training image, too."""


def ladder_names(part: Part) -> tuple[str, ...]:
    """Return the names of the ladders that edit a part of the model, in their order."""
    return (TEXT_ENCODER,) if part == "text-encoder" else tuple(LADDERS)


LADDERS_DIGEST = hash_texts(
    f"{name}: {rung!r}"
    for name, ladder in {**LADDERS, "spread": SPREAD, TEXT_ENCODER: ENCODER}.items()
    for rung in ladder
)
"""Stands for all ladders: a search on others finds other edits."""
Rungs = Mapping[int, Rung]
"""The rung of each prompt, by its index in the run."""
Teach = Callable[[Part, tuple[Erased, ...]], Edit]
"""Trains a part of the model with prompts, their weights and guides."""


@dataclass(frozen=True)
class Findings:
    """What is known about one confirmed prompt.

    Args:
        text: the prompt.
        neurons: the sets of neurons that rungs choose from.
        closed_form: whether the model has closed forms, see `text_projections`.
        trainable: whether its denoiser can be trained.
        guide: what the prompt may read like, if there is something but the empty prompt.
    """

    text: str
    neurons: Mapping[NeuronChoice, Neurons]
    closed_form: bool = True
    trainable: bool = False
    guide: Guide | None = None

    @property
    def is_spread(self) -> bool:
        """Whether many neurons carry the memory."""
        return len(self.neurons["complete"]) > _FEW

    def ladder(self, name: str) -> tuple[Rung, ...]:
        """Return the rungs that the prompt climbs in a ladder.

        Few neurons change few ordinary images. Where memory is spread over many, those carry other
        images, too. In place of the ladder "both", such a prompt climbs one that begins with a
        closed form to its guide, then one of its neurons. Rungs that are not possible are left out.
        If none is, the prompt stays as it is. Without closed forms, "both" is "neurons".
        """
        if name == TEXT_ENCODER:
            return tuple(filter(self._has_guide, ENCODER))
        if name == "both" and not self.closed_form:
            name = "neurons"
        ladder = SPREAD if name == "both" and self.is_spread else LADDERS[name]
        return tuple(filter(self._is_possible, ladder)) or (Rung(),)

    def _has_guide(self, rung: Rung) -> bool:
        return not rung.guided or self.guide is not None

    def _is_possible(self, rung: Rung) -> bool:
        has_neurons = rung.neurons is None or bool(self.neurons[rung.neurons])
        can_move = self.trainable if rung.trained else rung.weight is None or self.closed_form
        return has_neurons and self._has_guide(rung) and can_move

    @classmethod
    def of(
        cls,
        model: Model,
        record: Localization,
        statistics: Statistics,
        layers: str,
        guide: Guide | None,
    ) -> Findings:
        """Collect the sets of neurons of a localized prompt.

        Args:
            model: the model.
            record: the localization of the prompt.
            statistics: of all value layers of the model.
            layers: the layers that were searched.
            guide: what the prompt may read like.
        """
        text = model.encode([record.prompt])
        activation = {path: rows[0].cpu() for path, rows in activations(model, text).items()}
        z_scores = statistics.z_scores(activation)
        theta = 5.0 if record.theta is None else record.theta
        searched = select_value_layers(model.value_layers, layers)
        within = {path: scores for path, scores in z_scores.items() if path in searched}
        return cls(
            record.prompt,
            {
                "complete": record.neurons,
                "initial": neurons_of(candidates_at(within, activation, theta - _LOWER, 0)),
                "all": neurons_of(candidates_at(z_scores, activation, theta, 0)),
            },
            has_closed_form(model),
            # models without closed forms have no guides
            has_closed_form(model) and not why_not_fine_tuned(model),
            guide,
        )


def joint_edit(
    rungs: Rungs, findings: Mapping[int, Findings], keep: Sequence[str], teach: Teach | None = None
) -> Edit | None:
    """Join the edits of all prompts into one, which is what is exported.

    A neuron that several prompts have gets the lowest of their scales. One closed-form edit takes
    each of its prompts at its own weight, and so does one of neurons.

    Args:
        rungs: the rung of each prompt.
        findings: of each prompt.
        keep: ordinary captions that the closed-form edit leaves alone.
        teach: trains a part of the model, for rungs that ask for it.

    Returns:
        The edit, or None if it would change nothing.
    """
    scales: dict[tuple[str, int], float] = {}
    erased, reread = list[Erased](), list[Reread]()
    taught: dict[Part, list[Erased]] = defaultdict(list)
    for index, rung in sorted(rungs.items()):
        text = findings[index].text
        chosen = findings[index].neurons[rung.neurons] if rung.neurons else Neurons()
        if rung.reach is not None and rung.weight is not None:
            reread += [Reread(text, chosen, rung.weight, rung.reach)] if chosen else []
            continue
        if rung.weight is not None:
            guide = findings[index].guide if rung.guided else None
            erase = Erased(text, rung.weight, guide.text if guide else "")
            (taught[rung.trained] if rung.trained else erased).append(erase)
        for neuron in chosen:
            scales[neuron] = min(rung.scale, scales.get(neuron, rung.scale))
    by_scale: dict[float, set[tuple[str, int]]] = defaultdict(set)
    for neuron, scale in scales.items():
        by_scale[scale].add(neuron)
    edits: list[Edit] = []
    for part, texts in taught.items():
        assert teach is not None  # only ladders of their own have such rungs
        edits.append(teach(part, tuple(texts)))
    if erased:
        edits.append(ClosedFormEdit(tuple(erased), tuple(keep)))
    if reread:
        edits.append(ClosedFormNeuronEdit(tuple(reread), tuple(keep)))
    edits += [
        NeuronEdit(Neurons.of(neurons), scale)
        for scale, neurons in sorted(by_scale.items(), reverse=True)
    ]
    if len(edits) < 2:
        return edits[0] if edits else None
    return CombinedEdit(tuple(edits))


def climb(
    rungs: Rungs, ladders: Mapping[int, Sequence[Rung]], prompts: Sequence[int]
) -> dict[int, Rung]:
    """Move prompts to the next rung of their ladders; those at the top stay there.

    Examples:
        >>> ladder = LADDERS["closed form"]
        >>> climb({0: ladder[0]}, {0: ladder}, [0])[0] == ladder[1]
        True
    """
    climbed = dict(rungs)
    for index in prompts:
        ladder = ladders[index]
        climbed[index] = ladder[min(ladder.index(rungs[index]) + 1, len(ladder) - 1)]
    return climbed


def stronger(rung: Rung, ladder: Sequence[Rung]) -> Rung:
    """Return the next rung of a ladder that does all that this one does, or this one if none does.

    Examples:
        >>> print(stronger(Rung("complete", 0.0), LADDERS["both"]))
        complete neurons at 0 and closed form to the guide, weight 3
    """
    later = ladder[ladder.index(rung) + 1 :]
    return next((each for each in later if each.includes(rung)), rung)
