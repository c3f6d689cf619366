"""Quality: how far the distribution of generated images lies from that of others (FID, CLIP-FID, KID), as clean-fid computes it.

Sources: Heusel et al. 2017 (FID), Binkowski et al. 2018 (KID), Parmar et al. 2022 (clean-fid: resizing by PIL's antialiased bicubic).
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
from unmemorize._progress import Progress, silent
from unmemorize.metrics._images import read_image
from unmemorize.metrics._scripted import load_script

SUBSETS, SUBSET_SIZE = 100, 1000
_SIDE = 299


class FeatureExtractor(Protocol):
    """Anything that turns images into feature vectors; ``name`` and ``digest`` (of its weights) stand beside each number it gives."""

    @property
    def name(self) -> str: ...

    @property
    def digest(self) -> str: ...

    @property
    def kind(self) -> Literal["FID", "CLIP-FID"]:
        """How the Fréchet distance of its features is called."""
        ...

    def features(self, images: Sequence[Image.Image]) -> Tensor:
        """Features of shape (N, D)."""
        ...


@dataclass(frozen=True)
class Quality:
    """Distances between two sets of images.

    Args:
        fid: Fréchet distance of two Gaussians fitted to the features; biased upwards for few images, so compare equal numbers only.
        kid: squared maximum mean discrepancy under the kernel (x.y / D + 1)^3, mean over subsets; unbiased.
        kid_std: standard deviation over the subsets: 100 of 1,000 images, or of half of the images where there are not more than 1,000.
        generated, real: how many images.
    """

    fid: float
    kid: float
    kid_std: float
    generated: int
    real: int


def quality(generated: Tensor, real: Tensor) -> Quality:
    """FID and KID from features (N, D) and (M, D), by torchmetrics; the subsets of KID are drawn with a fixed seed.

    Raises:
        MetricError: fewer than two images, or features that are not finite.
    """
    if min(len(generated), len(real)) < 2:
        raise MetricError(
            f"{len(generated)} generated and {len(real)} other images: distances between distributions need more."
        )
    if not bool(torch.isfinite(generated).all() and torch.isfinite(real).all()):
        raise MetricError(
            "the features of some image are not finite. Look at the images, or use another extractor."
        )
    frechet = FrechetInceptionDistance(_Given(generated.shape[1])).set_dtype(torch.float64)
    frechet.update(real.double(), real=True)
    frechet.update(generated.double(), real=False)
    fewest = min(len(generated), len(real))
    mean, deviation = _kernel_distance(generated, real, min(SUBSET_SIZE, fewest))
    if fewest <= SUBSET_SIZE:  # every subset is the whole
        _, deviation = _kernel_distance(generated, real, max(2, fewest // 2))
    return Quality(float(frechet.compute()), mean, deviation, len(generated), len(real))


def _kernel_distance(generated: Tensor, real: Tensor, subset_size: int) -> tuple[float, float]:
    with warnings.catch_warnings():
        warnings.filterwarnings(
            "ignore", message="Metric `Kernel Inception Distance` will save all extracted features"
        )
        kernel = KernelInceptionDistance(
            _Given(generated.shape[1]), subsets=SUBSETS, subset_size=subset_size
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
    """Features (N, D) of image files.

    Raises:
        MetricError: a file is missing or no image.
    """
    parts = []
    for start in range(0, len(paths), batch):
        parts.append(
            extractor.features([read_image(path) for path in paths[start : start + batch]])
        )
        progress(min(start + batch, len(paths)), len(paths))
    return torch.cat(parts)


class InceptionFeatures:
    """Features by the Inception TorchScript that clean-fid uses, ``inception-2015-12-05.pt``: 2,048 numbers per image.

    Args:
        path: the file; like any TorchScript it is code, so only a file with the expected hash is loaded.
        sha256: the expected hash, as hexadecimal; without it the file is refused.

    Raises:
        MetricError: the file is missing, has another hash, or holds no such network.
    """

    kind: Literal["FID", "CLIP-FID"] = "FID"

    def __init__(self, path: str | Path, sha256: str | None) -> None:
        self.name = Path(path).stem
        script, self.digest = load_script(path, sha256)
        if not hasattr(script, "layers"):
            raise MetricError(
                f"{path}: no part called layers in it, as the Inception network of clean-fid has. Name that file."
            )
        self._layers = script.layers

    @torch.inference_mode()
    def features(self, images: Sequence[Image.Image]) -> Tensor:
        """Features (N, D), float32."""
        pixels = torch.stack([clean_resize(image, _SIDE) for image in images])
        found: Tensor = self._layers((pixels - 128) / 128)
        return found.flatten(1).float()


def clean_resize(image: Image.Image, side: int) -> Tensor:
    """An image squashed to a square, (3, side, side) in [0, 255]: PIL's antialiased bicubic filter on each channel as floats, unrounded."""
    channels = [
        np.asarray(Image.fromarray(channel).resize((side, side), Image.Resampling.BICUBIC))
        for channel in np.moveaxis(np.asarray(image.convert("RGB"), dtype=np.float32), 2, 0)
    ]
    return torch.from_numpy(np.stack(channels)).clamp(0, 255)


class _Given(nn.Module):
    """Features that are features already."""

    def __init__(self, num_features: int) -> None:
        super().__init__()
        self.num_features = num_features

    def forward(self, features: Tensor) -> Tensor:
        return features
