"""Metrics by a copy descriptor: SSCD_Gen, SSCD_Orig and D_SSCD (section 4 of the paper)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from unmemorize._errors import MetricError
from unmemorize.metrics._medians import MEDIANS, MedianName
from unmemorize.metrics._metric import Instruments, PromptImages
from unmemorize.metrics._pixel_correlation import cosine
from unmemorize.metrics._read_image import to_rgb


class SscdOrig:
    """SSCD_Orig: for each seed the highest similarity in [-1, 1] to a training image."""

    name = "sscd-orig"
    label = "SSCD_Orig"

    def __init__(self, instruments: Instruments) -> None:
        self.measured_by = instruments.by_descriptor

    def __call__(self, images: PromptImages) -> tuple[float, ...] | None:
        """See `Metric`. There is no value without a training image."""
        if not images.training:
            return None
        scores = copy_scores(images.generated_embeddings, images.training_embeddings)
        return tuple(scores.tolist())


class SscdGen:
    """SSCD_Gen: for each seed the similarity in [-1, 1] to the image with nothing off."""

    name = "sscd-gen"
    label = "SSCD_Gen"

    def __init__(self, instruments: Instruments) -> None:
        self.measured_by = instruments.by_descriptor

    def __call__(self, images: PromptImages) -> tuple[float, ...] | None:
        """See `Metric`. There is no value without original images."""
        if not images.originals:
            return None
        similarity = seedwise_similarity(images.generated_embeddings, images.original_embeddings)
        return tuple(similarity.tolist())


class Diversity:
    """D_SSCD: the median similarity in [-1, 1] between the seeds of a prompt."""

    name = "d-sscd"
    label = "D_SSCD"

    def __init__(self, instruments: Instruments) -> None:
        self.measured_by = instruments.by_descriptor
        self._medians = instruments.medians

    def __call__(self, images: PromptImages) -> float | None:
        """See `Metric`. There is no value for a single image."""
        if len(images.generated) < 2:
            return None
        return diversity(images.generated_embeddings, self._medians)


def seedwise_similarity(first: Tensor, second: Tensor) -> Tensor:
    """Return the cosines between the embeddings of the same seeds.

    Args:
        first, second: unit vectors, (N, D).

    Returns:
        Cosines in [-1, 1], (N,).

    Raises:
        MetricError: the two have different shapes.

    Examples:
        >>> seedwise_similarity(torch.tensor([[1.0, 0.0]]), torch.tensor([[0.6, 0.8]]))
        tensor([0.6000])
    """
    if first.shape != second.shape:
        raise MetricError(
            f"{len(first)} and {len(second)} images cannot be compared seed by seed. "
            "Generate both with the same settings."
        )
    return (first * second).sum(1)


def copy_scores(generated: Tensor, references: Tensor) -> Tensor:
    """Return for each generated image the highest cosine to a training image.

    Args:
        generated: unit vectors, (N, D).
        references: unit vectors, (M, D).

    Returns:
        Cosines in [-1, 1], (N,).

    Raises:
        MetricError: there is no reference, or one of the two is no tensor of vectors.

    Examples:
        >>> copy_scores(torch.tensor([[1.0, 0.0]]), torch.tensor([[0.6, 0.8], [0.0, 1.0]]))
        tensor([0.6000])
    """
    for name, vectors in (("generated", generated), ("references", references)):
        if not isinstance(vectors, Tensor) or vectors.ndim != 2:
            raise MetricError(
                f"{name}={vectors!r:.60}: not unit vectors, (N, D). Describe the images first: "
                "FileDescriptor.sscd(PATH)(IMAGES)."
            )
    if not len(references):
        raise MetricError(
            "no training image to compare with. "
            "Name at least one in the column images of the prompt file."
        )
    return (generated @ references.T).amax(1)


def diversity(embeddings: Tensor, medians: MedianName = "middle") -> float:
    """Return the median cosine between the images of one prompt; lower is more diverse.

    Args:
        embeddings: unit vectors, (N, D).
        medians: which median of an even number of pairs is taken.

    Raises:
        MetricError: there are fewer than two images.

    Examples:
        >>> round(diversity(torch.tensor([[1.0, 0.0], [0.6, 0.8], [0.0, 1.0]])), 2)
        0.6
    """
    if len(embeddings) < 2:
        raise MetricError(
            f"{len(embeddings)} image(s): diversity needs at least 2. "
            "Generate more images per prompt."
        )
    rows, columns = torch.triu_indices(len(embeddings), len(embeddings), 1)
    return float(MEDIANS[medians]((embeddings[rows] * embeddings[columns]).sum(1).numpy()))


def pixel_correlation(first: Sequence[Image.Image], second: Sequence[Image.Image]) -> list[float]:
    """Return the Pearson correlation over pixels and channels, image by image.

    The colour of images counts. The metric `PixelCorrelation` removes it.

    Args:
        first: images.
        second: as many others, each resized to the size of its partner.

    Returns:
        Numbers in [-1, 1]; 0 where an image is constant.
    """
    correlations = []
    for one, other in zip(first, second, strict=True):
        image = to_rgb(one)
        resized = to_rgb(other).resize(image.size, Image.Resampling.BICUBIC)
        a, b = (np.asarray(pixels, dtype=np.float64) for pixels in (image, resized))
        correlations.append(cosine((a - a.mean()).ravel(), (b - b.mean()).ravel()))
    return correlations
