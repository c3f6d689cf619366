"""What the parts that all denoisers share must show: ``python -m training.measure WORK``.

The denoisers themselves are measured by ``unmemorize testbed check``.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F
from transformers import CLIPModel, CLIPTokenizer

from training.clip import load_clip
from training.data import Data, Images, load_data
from training.descriptor import augment
from training.loop import to_tensor
from training.parts import Part, Parts
from training.plants import PLANTS
from training.tokenizer import make_tokenizer, tokenize
from training.vae import decode, encode, load_vae, opponent
from unmemorize.metrics._descriptor import CopyNet

COLOURFUL = 0.5
"""Distance of a pixel's hue from the mean hue of its image, from which it counts as colourful."""
COPY_LEVEL, NULL_IMAGES = 0.999, 4000
"""The share of images of other captions that lies below the level of copies, and how many are used,
each compared with one planted image."""


@dataclass(frozen=True)
class Measure:
    """A measured number, and the least that is required of it, if anything is."""

    name: str
    value: float
    least: float | None = None

    @property
    def passed(self) -> bool:
        """Whether it is as required."""
        return self.least is None or self.value >= self.least


def correlations(first: Images, second: Images) -> NDArray[np.float64]:
    """Pixel correlation of each pair of images, all channels together, shape (N,)."""
    rows = [images.reshape(len(images), -1).astype(np.float64) for images in (first, second)]
    left, right = (row - row.mean(1, keepdims=True) for row in rows)
    scale = np.sqrt((left**2).sum(1) * (right**2).sum(1))
    result: NDArray[np.float64] = (left * right).sum(1) / scale
    return result


def hue_kept(decoded: Images, images: Images) -> NDArray[np.float64]:
    """How much of the hue of colourful parts is kept, for each image that has such parts.

    Hue is red against green and blue against yellow, less the mean of the image. The value is the
    slope of decoded on true hue over the colourful pixels: 1 is perfect, 0 is grey.
    """
    true, found = (opponent(to_tensor(batch))[:, 1:] for batch in (images, decoded))
    mean = true.mean((2, 3), keepdim=True)
    true, found = true - mean, found - mean
    mask = true.abs().sum(1, keepdim=True) > COLOURFUL
    products = (true * found * mask).sum((1, 2, 3)) / (true**2 * mask).sum((1, 2, 3))
    kept: NDArray[np.float64] = products[mask.sum((1, 2, 3)) >= 8].double().numpy()
    return kept


def measure_vae(part: Part, data: Data) -> list[Measure]:
    """Reconstructions of held-out general images, of the planted ones and of the unused ones."""
    vae = load_vae(part.weights, data)
    decoded = decode(vae, encode(vae, data.validation))
    planted = np.concatenate([draws[:1] for draws in data.planted])
    general, hues = correlations(decoded, data.validation), hue_kept(decoded, data.validation)
    pictures = {"planted": planted, "unused": data.unused}
    return [
        Measure(
            "VAE: correlation, held-out general images, median", float(np.median(general)), 0.97
        ),
        Measure("VAE: the same, 5 % of images below", float(np.quantile(general, 0.05))),
        Measure("VAE: hue kept in colourful parts, median", float(np.median(hues)), 0.9),
        Measure("VAE: the same, 5 % of images below", float(np.quantile(hues, 0.05))),
        *(
            Measure(
                f"VAE: correlation, {name} images, median",
                float(np.median(correlations(decode(vae, encode(vae, images)), images))),
                0.9,
            )
            for name, images in pictures.items()
        ),
    ]


@torch.no_grad()
def measure_clip(part: Part, tokenizer: CLIPTokenizer, data: Data) -> list[Measure]:
    """Cosines of held-out captions with their images and with those of other captions."""
    clip = load_clip(part.weights, tokenizer)
    cosines = _cosines(clip, tokenizer, data.validation_captions, data.validation)
    own = cosines.diagonal()
    same = torch.tensor(
        [[one == other for other in data.validation_captions] for one in data.validation_captions]
    )
    best_other = cosines.masked_fill(same, -1).amax(1)
    aligned = [index for index, plant in enumerate(PLANTS) if plant.aligned]
    captions = [PLANTS[index].caption for index in aligned]
    plain = torch.cat(
        [
            _cosines(clip, tokenizer, [PLANTS[index].caption], data.renderings[index])[0]
            for index in aligned
        ]
    )
    posters = np.concatenate([data.planted[index] for index in aligned])
    return [
        Measure(f"CLIP: right image of {len(own)} first", _share(own > best_other), 0.5),
        Measure("CLIP: alignment of ordinary captions, median", float(own.median())),
        Measure("CLIP: with images of other captions, median", float(cosines[~same].median())),
        Measure(
            "CLIP: alignment of aligned plants with posters, median",
            float(_cosines(clip, tokenizer, captions, posters).diagonal().median()),
        ),
        Measure(
            "CLIP: the same with other pictures of the caption, median",
            float(plain.median()),
        ),
    ]


@torch.no_grad()
def measure_descriptor(part: Part, data: Data) -> list[Measure]:
    """Changed planted images against the level that images of other captions hardly ever reach."""
    net = CopyNet().eval()
    net.load_state_dict({key: tensor.float() for key, tensor in part.weights.items()})
    torch.manual_seed(0)
    planted = to_tensor(np.concatenate([draws[:1] for draws in data.planted]))
    references = net(planted)
    others = net(to_tensor(data.general[:NULL_IMAGES]))
    cosines = (others * references[torch.arange(len(others)) % len(references)]).sum(1)
    level = float(cosines.quantile(COPY_LEVEL))
    blurred = F.avg_pool2d(F.pad(planted, (1, 1, 1, 1), mode="reflect"), 3, 1)
    noisy = blurred + 0.03 * torch.randn_like(planted)
    same_caption = torch.cat(
        [net(to_tensor(data.renderings[index])) @ references[index] for index in data.renderings]
    )
    unused = net(to_tensor(data.unused)) @ references.T
    return [
        Measure("descriptor: level of copies", level),
        Measure(
            "descriptor: cosine of blurred, noisy copies, median",
            float((net(noisy) * references).sum(1).median()),
        ),
        Measure(
            "descriptor: strongly changed copies above the level",
            _share((net(augment(planted)) * references).sum(1) > level),
            0.9,
        ),
        Measure(
            "descriptor: other pictures of aligned captions below it",
            _share(same_caption <= level),
            0.99,
        ),
        Measure("descriptor: unused photographs below it", _share(unused <= level), 0.99),
    ]


def _share(mask: Tensor) -> float:
    return float(mask.float().mean())


def _cosines(
    clip: CLIPModel, tokenizer: CLIPTokenizer, captions: tuple[str, ...] | list[str], images: Images
) -> Tensor:
    """Cosine of each caption with each image, shape (captions, images)."""
    output = clip(input_ids=tokenize(tokenizer, captions), pixel_values=to_tensor(images))
    cosines: Tensor = output.text_embeds @ output.image_embeds.T
    return cosines


def main() -> int:
    """Measure the finished parts of a work folder, and return 1 when one misses its requirement."""
    work = Path(sys.argv[1] if len(sys.argv) > 1 else "work/testbed")
    data, parts = load_data(work), Parts(work)
    measures: list[Measure] = []
    for name in ("vae", "clip", "descriptor"):
        part = parts.stored(name)
        if part is None:
            print(f"{name}: not finished yet")
        elif name == "vae":
            measures += measure_vae(part, data)
        elif name == "clip":
            measures += measure_clip(part, make_tokenizer(data.captions), data)
        else:
            measures += measure_descriptor(part, data)
    for measure in measures:
        required = "" if measure.least is None else f">= {measure.least:g}"
        print(f"{measure.name:60} {measure.value:7.3f} {required:8}", end="")
        print("" if measure.passed else " FAILS")
    return 0 if all(measure.passed for measure in measures) else 1


if __name__ == "__main__":
    sys.exit(main())
