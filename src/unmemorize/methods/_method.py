"""The interface of mitigations: what they are made for, and what they give back."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field, fields, is_dataclass, replace
from typing import Any, ClassVar, Protocol, Self, cast

from unmemorize._checked import check_fields
from unmemorize._errors import MitigationError
from unmemorize._files import from_json, to_json
from unmemorize._prompts import Prompt, as_prompt
from unmemorize._registry import Registry
from unmemorize.generation import Change, GenerationSettings, Intervention
from unmemorize.localization import Localization
from unmemorize.pipelines import Model


@dataclass(frozen=True, kw_only=True)
class Suspect:
    """A memorized prompt, and what is known about it. Each method takes what it needs.

    Args:
        prompt: the prompt. `Prompt.images` names its training images. A text becomes a prompt.
        localizations: what localization found for it, one record for each refinement.
        ordinary: captions of ordinary images, which an edit should leave alone.
        settings: how images are generated: steps, guidance and batch.

    Raises:
        PromptError: the prompt is none.

    Examples:
        >>> Suspect(prompt=Prompt("a cat")).localizations
        ()
    """

    prompt: Prompt
    localizations: tuple[Localization, ...] = ()
    ordinary: tuple[str, ...] = ()
    settings: GenerationSettings = field(default_factory=GenerationSettings)

    def __post_init__(self) -> None:
        object.__setattr__(self, "prompt", as_prompt(self.prompt))


class Mitigation(Protocol):
    """Makes what keeps a model from copying the image of one prompt.

    It is made with one number, ``Class(strength=...)``, that says how strongly it acts. Add one by
    a class in a module of its own and an entry point of the group ``unmemorize.mitigations``; see
    docs/extending.md.
    """

    @property
    def name(self) -> str:
        """The name in records and options."""
        ...

    @property
    def grid(self) -> tuple[float, ...]:
        """Strengths to compare, the weakest first. docs/methods.md says which are published."""
        ...

    @property
    def strength(self) -> float:
        """How strongly it acts, in the units of the method."""
        ...

    def fit(self, model: Model, suspect: Suspect) -> Change:
        """Make an edit, which changes weights and can be exported, or an intervention.

        Args:
            model: the model. It is left as it is.
            suspect: the prompt and what is known about it.

        Raises:
            MitigationError: the method does not work on this kind of model, or the suspect lacks
                something that it needs.
        """
        ...


class WhileDrawing(Intervention):
    """A method that acts while images are drawn, and needs nothing but the prompt.

    Derive a frozen dataclass whose fields are numbers, texts or truth values. It is the mitigation
    and the intervention in one, named by ``kind``.

    Raises:
        MitigationError: the strength lies outside of ``span``, or is no whole number where it must
            be one.
    """

    grid: ClassVar[tuple[float, ...]]
    """See `Mitigation`."""
    span: ClassVar[tuple[float, float]] = (0.0, math.inf)
    """The lowest and the highest strength."""
    whole: ClassVar[bool] = False
    """Whether the strength is a whole number."""
    strength: float

    def __post_init__(self) -> None:
        check_fields(self, MitigationError)
        object.__setattr__(self, "strength", float(self.strength))
        refuse_outside(self.kind, self.strength, *self.span, whole=self.whole)

    @property
    def name(self) -> str:
        """See `Mitigation`."""
        return self.kind

    def check(self, model: Model) -> None:
        """Refuse a model on which the method does not work.

        Raises:
            MitigationError: it is one.
        """

    def fit(self, model: Model, suspect: Suspect) -> Self:  # noqa: ARG002
        """See `Mitigation`."""
        self.check(model)
        return self

    def to_json(self) -> dict[str, Any]:
        """Return kind and settings."""
        return {"kind": self.kind, **to_json(self)}

    @classmethod
    def from_json(cls, value: Any) -> Self:
        """Make a method from what `to_json` returned.

        Raises:
            MitigationError: the value is another kind of method, or damaged.
        """
        problem, way_out = f"not valid settings of the method {cls.kind}", "Make them again."
        if not isinstance(value, dict) or value.get("kind") != cls.kind:
            raise MitigationError(f"{problem} (it names another kind). {way_out}")
        content = {name: given for name, given in value.items() if name != "kind"}
        missing = {each.name for each in fields(cls)} - content.keys()  # type: ignore[arg-type]
        if missing:
            raise MitigationError(f"{problem} ({min(missing)} is missing). {way_out}")
        return from_json(cls, content, MitigationError, problem, way_out)


MITIGATIONS: Registry[Callable[..., Mitigation]] = Registry(
    "unmemorize.mitigations",
    {
        "neurons": "unmemorize.methods._neurons:SwitchNeuronsOff",
        "neurons-bisect": "unmemorize.methods._neurons:BisectedNeurons",
        "neurons-greedy": "unmemorize.methods._neurons:GreedyNeurons",
        "closed-form": "unmemorize.methods._closed_form:MoveCaption",
        "wanda": "unmemorize.methods._wanda:Wanda",
        "esd": "unmemorize.methods._esd:Esd",
        "siss": "unmemorize.methods._siss:Siss",
        "random-tokens": "unmemorize.methods._random_tokens:RandomTokens",
        "embedding": "unmemorize.methods._embedding:OptimizedEmbedding",
        "attention": "unmemorize.methods._attention:RescaledAttention",
        "attenuation": "unmemorize.methods._attenuation:AttenuatedAttention",
        "guard": "unmemorize.methods._guard:RepelledGuidance",
        "pads": "unmemorize.methods._pads:ZeroedPads",
        "repad": "unmemorize.methods._repad:OtherPads",
        "static-guidance": "unmemorize.methods._static_guidance:StaticGuidance",
        "opposite-guidance": "unmemorize.methods._static_guidance:OppositeGuidance",
        "dynamic-guidance": "unmemorize.methods._dynamic_guidance:DynamicGuidance",
        "opposite-dynamic": "unmemorize.methods._dynamic_guidance:OppositeDynamicGuidance",
        "noise-batch": "unmemorize.methods._initial_noise:FlattenedNoise",
        "noise-sample": "unmemorize.methods._initial_noise:OptimizedNoise",
        "delayed-guidance": "unmemorize.methods._delayed_guidance:DelayedGuidance",
    },
    MitigationError,
)


def method_of(text: str) -> Mitigation:
    """Make a method from ``NAME`` or ``NAME=STRENGTH``.

    Raises:
        MitigationError: the name is unknown, or the strength is no number.

    Examples:
        >>> method_of("random-tokens=10").strength
        10.0
    """
    name, given, strength = text.partition("=")
    make = MITIGATIONS.get(name)
    if not given:
        return make()
    try:
        return make(strength=float(strength))
    except ValueError as problem:
        raise MitigationError(
            f"{text}: {strength!r} is no number. Write NAME=STRENGTH, such as {name}=1."
        ) from problem


def at_strength(method: Mitigation, strength: float) -> Mitigation:
    """Return a method with another strength and its other settings.

    A method that is no dataclass is made with the strength alone, as all methods can be.
    """
    made: Any = method
    if is_dataclass(type(made)):
        return cast(Mitigation, replace(made, strength=strength))
    return cast(Mitigation, type(made)(strength=strength))


def refinement_of(method: Mitigation | None) -> str:
    """Return the refinement whose neurons a method needs; empty for none.

    Such a method has it as ``refinement``.
    """
    return str(getattr(method, "refinement", ""))


def intervention_from_json(value: Any) -> Intervention:
    """Make an intervention of any registered method from what its `to_json` returned.

    Raises:
        MitigationError: the kind is unknown, or the content is damaged.
    """
    kind = value.get("kind") if isinstance(value, dict) else None
    if not isinstance(kind, str):
        raise MitigationError(f"method of kind {kind!r:.60}: unknown. Make the record again.")
    read: Callable[[Any], Intervention] | None = getattr(MITIGATIONS.get(kind), "from_json", None)
    if read is None:
        raise MitigationError(f"{kind}: it edits weights, see edit_from_json. Read an edit file.")
    return read(value)


def refuse_outside(
    name: str, strength: float, low: float, high: float = math.inf, *, whole: bool = False
) -> None:
    """Refuse a strength outside of a range.

    Raises:
        MitigationError: it is below ``low``, above ``high`` or not finite, or no whole number
            where ``whole`` asks for one.
    """
    if math.isfinite(strength) and low <= strength <= high and not (whole and strength % 1):
        return
    kind = "a whole number" if whole else "a number"
    span = f"from {low:g} up" if high == math.inf else f"from {low:g} to {high:g}"
    raise MitigationError(f"{name}: strength {strength:g} is not possible. Use {kind} {span}.")
