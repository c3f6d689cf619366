"""FID, CLIP-FID and KID: distances between the distributions of two sets of images.

Sources: Heusel et al. 2017 (FID), Binkowski et al. 2018 (KID), Parmar et al. 2022 (clean-fid, whose
resizing by PIL's antialiased bicubic filter is used here).
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn
from torchmetrics.image.fid import FrechetInceptionDistance
from torchmetrics.image.kid import KernelInceptionDistance

from unmemorize._errors import MetricError
from unmemorize.engines import Progress, silent
from unmemorize.metrics._read_image import read_image, to_rgb
from unmemorize.metrics._scripted import load_script

SUBSETS = 100
"""The number of subsets over which KID is averaged, as in clean-fid."""
SUBSET_SIZE = 1000
"""The number of images in a subset of KID, as in clean-fid."""
_SIDE = 299
"""The side of the images that Inception takes."""


class FeatureExtractor(Protocol):
    """Anything that turns images into feature vectors."""

    @property
    def name(self) -> str:
        """The name that records and reports give with each number."""
        ...

    @property
    def digest(self) -> str:
        """SHA-256 of the weights, as hexadecimal."""
        ...

    @property
    def kind(self) -> Literal["FID", "CLIP-FID"]:
        """What the Fréchet distance of its features is called."""
        ...

    def features(self, images: Sequence[Image.Image]) -> Tensor:
        """Return features, (N, D)."""
        ...


@dataclass(frozen=True)
class Quality:
    """Distances between two sets of images.

    Args:
        fid: Fréchet distance of two Gaussians fitted to the features. It is biased upwards for few
            images, so compare it only at equal numbers of images.
        kid: squared maximum mean discrepancy under the kernel (x.y / D + 1)^3, the mean over
            subsets. It is unbiased.
        kid_std: standard deviation over the subsets: 100 of 1,000 images, or of half of the images
            if there are at most 1,000.
        generated, real: numbers of images.
    """

    fid: float
    kid: float
    kid_std: float
    generated: int
    real: int


def quality(generated: Tensor, real: Tensor) -> Quality:
    """Compute FID and KID from features. The subsets of KID are drawn with a fixed seed.

    Args:
        generated: features of generated images, (N, D).
        real: features of real images, (M, D).

    Raises:
        MetricError: there are fewer than two images, or a feature is not finite.

    Examples:
        >>> real = torch.rand(8, 2, generator=torch.Generator().manual_seed(0))
        >>> round(quality(real + 1, real).fid, 3)
        2.0
    """
    if min(len(generated), len(real)) < 2:
        raise MetricError(
            f"{len(generated)} generated and {len(real)} other images: "
            "a distance between distributions needs at least 2 of each. Add images."
        )
    if not bool(torch.isfinite(generated).all() and torch.isfinite(real).all()):
        raise MetricError(
            "the features of an image are not finite. Look at the images, or use another extractor."
        )
    frechet = FrechetInceptionDistance(_Identity(generated.shape[1])).set_dtype(torch.float64)
    frechet.update(real.double(), real=True)
    frechet.update(generated.double(), real=False)
    fewest = min(len(generated), len(real))
    mean, deviation = _kernel_distance(generated, real, min(SUBSET_SIZE, fewest))
    if fewest <= SUBSET_SIZE:  # every subset is the whole set, so nothing deviates
        _, deviation = _kernel_distance(generated, real, max(2, fewest // 2))
    return Quality(float(frechet.compute()), mean, deviation, len(generated), len(real))


def _kernel_distance(generated: Tensor, real: Tensor, subset_size: int) -> tuple[float, float]:
    with warnings.catch_warnings():
        warnings.filterwarnings(
            "ignore", message="Metric `Kernel Inception Distance` will save all extracted features"
        )
        kernel = KernelInceptionDistance(
            _Identity(generated.shape[1]), subsets=SUBSETS, subset_size=subset_size
        )
    kernel.update(real.double(), real=True)
    kernel.update(generated.double(), real=False)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        mean, deviation = kernel.compute()
    return float(mean), float(deviation)


def features_of(
    paths: Sequence[Path],
    extractor: FeatureExtractor,
    *,
    batch: int = 32,
    progress: Progress = silent,
) -> Tensor:
    """Return the features of image files, (N, D).

    Raises:
        MetricError: a file is missing or not an image.
    """
    features = []
    for start in range(0, len(paths), batch):
        images = [read_image(path) for path in paths[start : start + batch]]
        features.append(extractor.features(images))
        progress(min(start + batch, len(paths)), len(paths))
    return torch.cat(features)


class InceptionFeatures:
    """The Inception network of clean-fid, ``inception-2015-12-05.pt``: 2,048 features per image.

    Args:
        path: the file. Like any TorchScript it is code, so only a file with the expected hash is
            loaded.
        sha256: the expected hash, as hexadecimal. Without it the file is refused.

    Raises:
        MetricError: the file is missing, has another hash, or holds another network.
    """

    kind: Literal["FID", "CLIP-FID"] = "FID"

    def __init__(self, path: str | Path, sha256: str | None) -> None:
        self.name = Path(path).stem
        script, self.digest = load_script(path, sha256)
        if not hasattr(script, "layers"):
            raise MetricError(
                f"{path}: has no part called layers, unlike the Inception network of clean-fid. "
                "Name that file."
            )
        self._layers = script.layers

    @torch.inference_mode()
    def features(self, images: Sequence[Image.Image]) -> Tensor:
        """Return features, (N, D), float32."""
        pixels = torch.stack([clean_resize(image, _SIDE) for image in images])
        features: Tensor = self._layers((pixels - 128) / 128)
        return features.flatten(1).float()


def clean_resize(image: Image.Image, side: int) -> Tensor:
    """Squash an image to a square by PIL's antialiased bicubic filter on unrounded channels.

    Returns:
        Colours in [0, 255], (3, side, side), float32.
    """
    channels = [
        np.asarray(Image.fromarray(channel).resize((side, side), Image.Resampling.BICUBIC))
        for channel in np.moveaxis(np.asarray(to_rgb(image), dtype=np.float32), 2, 0)
    ]
    return torch.from_numpy(np.stack(channels)).clamp(0, 255)


class _Identity(nn.Module):
    """The feature extractor that torchmetrics asks for, when the features are already known."""

    def __init__(self, num_features: int) -> None:
        super().__init__()
        self.num_features = num_features

    def forward(self, features: Tensor) -> Tensor:
        return features
