"""The first denoising step of a call of a pipeline, with and without text."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from unmemorize._errors import ModelError
from unmemorize.pipelines import DenoiserCall, GuidedCalls, Key, Model


@dataclass(eq=False)
class RepeatableCall:
    """A call of a denoiser that can be computed again.

    Args:
        denoiser: the denoiser.
        call: what it is called with.
    """

    denoiser: nn.Module
    call: DenoiserCall
    output: Tensor = field(init=False)
    """What it returned, (B, channels, H, W) or, packed, (B, tokens, features)."""

    @property
    def is_complete(self) -> bool:
        """Whether the denoiser has returned."""
        return hasattr(self, "output")

    def repeat(self, signs: Tensor | None) -> None:
        """Run the denoiser once more and put the new output in the place of the old one.

        Args:
            signs: what the noise is multiplied by, (images, ...) for B or a divisor of it.
        """
        call = self.call
        if signs is not None:
            copies = call.size // len(signs)
            call.sample = call.sample * torch.cat([signs] * copies)
        self.output.copy_(self.denoiser(**call.arguments)[0])

    def at(self, timestep: float) -> Tensor:
        """Run the denoiser on the same samples as if they were at another timestep.

        Args:
            timestep: as the denoiser receives it.

        Returns:
            What it returns, in the shape of `output`.
        """
        output: Tensor = self.denoiser(**self.call.at(timestep).arguments)[0]
        return output

    def first_rows(self, count: int, replaced: Mapping[Key, Tensor], timestep: float) -> Tensor:
        """Do the same as `at` for the first samples alone, with other arguments.

        Args:
            count: how many samples.
            replaced: arguments, one row each, which all samples get.
            timestep: as the denoiser receives it.

        Returns:
            What it returns, (count, ...).
        """
        arguments = self.call.at(timestep).taken(list(range(count)))
        for key, value in replaced.items():
            inner = arguments if len(key) == 1 else arguments[key[0]]
            repeats = (count, *[1] * (value.ndim - 1))
            inner[key[-1]] = value.to(self.call.sample.device).repeat(repeats)
        output: Tensor = self.denoiser(**arguments)[0]
        return output


@dataclass(frozen=True)
class GuidedStep:
    """The calls of the denoiser that make the first step: one, or one with and one without text.

    Args:
        calls: the calls.
        images: how many images are drawn.
        without: the arguments of no text, where the call has a negative prompt in its place.
    """

    calls: tuple[RepeatableCall, ...]
    images: int
    without: Mapping[Key, Tensor] | None = None

    @property
    def timestep(self) -> float:
        """The timestep at which the call begins, as the denoiser receives it."""
        return self.calls[0].call.received_time

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of one sample as the denoiser receives it."""
        return tuple(self.noise.shape[1:])

    @property
    def noise(self) -> Tensor:
        """The initial noise of each image as the denoiser receives it, (images, ...)."""
        return self.calls[0].call.sample[: self.images]

    def scores(self, model: Model, timestep: float) -> list[float]:
        """Return how much the text changes what the denoiser makes of the noise at a later step.

        The denoiser expects some of an image in its sample there and finds none, so what it draws
        comes from the text. The score is the 2-norm of the change of predicted noise, or of the
        clean image that other models predict, see `NoiseLevel.apart`. It is that of
        `LateNoiseMagnitude` for this noise. It takes two denoiser samples for each image, and three
        where the call has a negative prompt.

        Args:
            model: the model.
            timestep: the later one, as the denoiser receives it.

        Returns:
            One score for each image.

        Raises:
            ModelError: the denoiser returns NaN or infinity.
        """
        if len(self.calls) == 1:
            without, with_text = self.calls[0].at(timestep).split(self.images)[:2]
            if self.without is not None:
                without = self.calls[0].first_rows(self.images, self.without, timestep)
        else:
            with_text, without = (call.at(timestep) for call in self.calls)
        change = with_text.float() - without.float()
        change = change[:, : self.shape[0]]  # further channels are a learned variance
        scheduled = torch.tensor(timestep / model.layout.scale, dtype=torch.float32)
        norms = model.noise_level(scheduled).apart(change)
        if not bool(torch.isfinite(norms).all()):
            raise ModelError(f"{model.name}: the denoiser returns NaN or infinity. {model.remedy}")
        return [float(norm) for norm in norms]

    def repeat(self, signs: Tensor | None = None) -> None:
        """Compute the step again, with signs (images, ...) on the noise; see `RepeatableCall`."""
        for call in self.calls:
            call.repeat(signs)


def guided_step(
    guided: GuidedCalls, calls: Sequence[RepeatableCall], *, may_be_negative: bool
) -> GuidedStep | None:
    """Make a step of the calls so far; None if the call without text is still to come.

    Where one call computes both halves, the half with a negative prompt is known by its noise,
    which is that of the other half.

    Args:
        guided: how the pipeline guides.
        calls: the calls of the first step.
        may_be_negative: whether the pipeline says that it guides, or says nothing.

    Raises:
        ModelError: there is no prediction without text.
    """
    first = calls[0].call
    if not guided.together:
        if len(calls) == 1:
            return None
        if guided.lacks_text(calls[1].call.text):
            return GuidedStep(tuple(calls), first.size)
        raise unguided()
    # perturbed-attention guidance adds a third part
    halves = [first.size // parts for parts in (2, 3) if not first.size % parts]
    for images in halves:
        if guided.lacks_text(first.text[:images]):
            return GuidedStep(tuple(calls), images)
    for images in halves if may_be_negative else ():
        if torch.equal(first.sample[:images], first.sample[images : 2 * images]):
            return GuidedStep(tuple(calls), images, guided.without)
    raise unguided()


def unguided() -> ModelError:
    """Make the error for a call that a guard cannot judge."""
    return ModelError(
        "this call computes no prediction for the empty prompt, with which a guard compares: its "
        "guidance is off, or it guides by two calls and has a negative prompt. Use a "
        'guidance_scale above 1 (or a true_cfg_scale above 1 with negative_prompt="").'
    )
