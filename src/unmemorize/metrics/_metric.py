"""The interface of metrics that look at the images of one prompt."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Protocol

from PIL import Image
from torch import Tensor

from unmemorize._prompts import Prompt
from unmemorize.metrics._alignment import ClipAlignment
from unmemorize.metrics._descriptor import Descriptor
from unmemorize.metrics._medians import MedianName

Values = tuple[float, ...] | float
"""One number for each seed, or one for the prompt."""


@dataclass(frozen=True)
class Instrument:
    """What a number was measured with.

    Args:
        name: of a network or a formula.
        sha256: the hash of the network's weights, as hexadecimal; empty for a formula.
    """

    name: str
    sha256: str = ""

    def __str__(self) -> str:
        return f"{self.name} (sha256 {self.sha256[:12]})" if self.sha256 else self.name


@dataclass(frozen=True)
class Instruments:
    """What metrics may use.

    Args:
        descriptor: compares images.
        clip: compares images with texts; None if there is none for these images.
        medians: which median of an even number of values is taken.
    """

    descriptor: Descriptor
    clip: ClipAlignment | None = None
    medians: MedianName = "middle"

    @property
    def by_descriptor(self) -> Instrument:
        """The descriptor as it is named in records."""
        return Instrument(self.descriptor.name, self.descriptor.digest)


@dataclass(frozen=True, kw_only=True)
class PromptImages:
    """The images of one prompt.

    Args:
        prompt: the prompt, with its kind where that is known.
        generated: the images to judge, one for each seed.
        originals: the images of the same seeds with nothing off; empty where there are none.
        training: the training images that could be read.
        descriptor: computes the embeddings, each of them once for all metrics.
    """

    prompt: Prompt
    generated: tuple[Image.Image, ...]
    originals: tuple[Image.Image, ...] = ()
    training: tuple[Image.Image, ...] = ()
    descriptor: Descriptor

    @cached_property
    def generated_embeddings(self) -> Tensor:
        """Unit vectors of the generated images, (seeds, D)."""
        return self.descriptor(self.generated)

    @cached_property
    def original_embeddings(self) -> Tensor:
        """Unit vectors of the original images, (seeds, D). There must be some."""
        return self.descriptor(self.originals)

    @cached_property
    def training_embeddings(self) -> Tensor:
        """Unit vectors of the training images, (images, D). There must be some."""
        return self.descriptor(self.training)


class Metric(Protocol):
    """A question about the images of one prompt."""

    @property
    def name(self) -> str:
        """The name under which the metric is registered, and the key of its values in records."""
        ...

    @property
    def label(self) -> str:
        """What summaries call it."""
        ...

    @property
    def measured_by(self) -> Instrument:
        """What it measures with. Records made with another instrument are measured again."""
        ...

    def __call__(self, images: PromptImages) -> Values | None:
        """Measure the images of a prompt.

        Returns:
            A number for each seed, in the order of ``images.generated``; or one number for the
            prompt; or None if the metric does not apply, such as for want of a training image.
        """
        ...


MetricFactory = Callable[[Instruments], Metric | None]
"""What is registered: makes a metric, or returns None if an instrument is missing."""
