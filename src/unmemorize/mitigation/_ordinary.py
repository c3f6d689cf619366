"""Images of ordinary captions: the null distribution of copies, and what an edit changes."""

from __future__ import annotations

import base64
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from itertools import islice

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from unmemorize._errors import RunError
from unmemorize._files import from_json, png_bytes, to_json
from unmemorize.engines import Finished, UnitFunction
from unmemorize.generation import Edit, GenerationSettings, generate_each
from unmemorize.metrics import ClipAlignment, Descriptor, centred_correlation, quality, read_image
from unmemorize.mitigation._copy_test import small_copy
from unmemorize.mitigation._seeds import derived_seed
from unmemorize.pipelines import Model
from unmemorize.runs import Run

SHOWN = 8
"""How many of the images that changed most are named."""
CHANGED = 0.5
"""Descriptor similarity to the image before, below which an image counts as changed."""


@dataclass(frozen=True, kw_only=True)
class OrdinaryRecord:
    """One image of an ordinary caption.

    Args:
        caption: its caption.
        seed: the seed of its initial noise.
        file: a small copy of it in the run folder.
        embedding: its copy descriptor, as `packed` stores it.
        features: its image features by CLIP, likewise; empty without a CLIP.
        alignment: its cosine with the caption by CLIP; None without a CLIP.
    """

    caption: str
    seed: int
    file: str
    embedding: str
    features: str
    alignment: float | None


@dataclass(frozen=True)
class OrdinaryTask:
    """Images of ordinary captions as a `Task`; its items are (index, caption, seed)."""

    kind: str
    edit: Edit | None
    settings: GenerationSettings
    descriptor: Descriptor
    clip: ClipAlignment | None

    @property
    def size(self) -> int:
        """Captions of a batch."""
        return self.settings.batch

    def prepare(self, model: Model) -> UnitFunction:
        """See `Task`."""

        def work(items: Sequence[tuple[int, str, int]]) -> list[Finished]:
            _, captions, seeds = zip(*items, strict=True)
            edits = [self.edit] * len(items)
            generated = generate_each(
                model, captions, edits, settings=replace(self.settings, images=1), seeds=seeds
            )
            images = [image for (image,) in generated]
            embeddings = self.descriptor(images)
            features = self.clip.features(images) if self.clip else None
            alignment: list[float | None] = [None] * len(items)
            if self.clip and features is not None:
                alignment = self.clip.alignment(features, captions).tolist()
            finished = []
            for place, (index, caption, seed) in enumerate(items):
                name = f"{self.kind}/{index:05d}.png"
                record = OrdinaryRecord(
                    caption=caption,
                    seed=seed,
                    file=name,
                    embedding=packed(embeddings[place]),
                    features="" if features is None else packed(features[place]),
                    alignment=alignment[place],
                )
                files = {name: png_bytes(small_copy(images[place]))}
                finished.append(Finished(to_json(record), files))
            return finished

        return work


@dataclass(frozen=True)
class OrdinaryImages:
    """Images of ordinary captions, in a fixed order.

    Args:
        captions: of each image.
        files: small copies of the images.
        embeddings: copy descriptors, unit vectors, (N, D).
        features: CLIP's image features, (N, F); (N, 0) without a CLIP.
        alignment: cosines with the captions; empty without a CLIP.
    """

    captions: tuple[str, ...]
    files: tuple[str, ...]
    embeddings: Tensor
    features: Tensor
    alignment: tuple[float, ...]

    def __len__(self) -> int:
        return len(self.captions)

    def first(self, count: int) -> OrdinaryImages:
        """Return the first images."""
        return self._chosen(range(min(count, len(self))))

    def without(self, captions: Collection[str]) -> OrdinaryImages:
        """Leave the images of some captions out, or none where there are no others."""
        others = [row for row, caption in enumerate(self.captions) if caption not in captions]
        return self._chosen(others) if others else self

    def _chosen(self, rows: Sequence[int]) -> OrdinaryImages:
        chosen = list(rows)
        return OrdinaryImages(
            captions=tuple(self.captions[row] for row in chosen),
            files=tuple(self.files[row] for row in chosen),
            embeddings=self.embeddings[chosen],
            features=self.features[chosen],
            alignment=tuple(self.alignment[row] for row in chosen) if self.alignment else (),
        )


@dataclass(frozen=True, kw_only=True)
class OrdinaryChange:
    """What an edit does to images of ordinary captions.

    Args:
        images: how many were made with the same noise before and after.
        changed: how many of them have a descriptor similarity to before below `CHANGED`.
        similarity: the median similarity to before.
        correlation: the median pixel correlation with before, without the mean of each channel.
        worst: the lowest similarity to before.
        shown: caption, file before and file after of the images that changed most.
        alignment_before, alignment_after: median cosines with the captions; None without a CLIP.
        clip_fid: distance of the images after to unedited images of another seed; None without a
            CLIP, and for a single image.
        clip_fid_before: the same for the images before.
        kid, kid_before: likewise, the kernel distance.
    """

    images: int
    changed: int
    similarity: float
    correlation: float
    worst: float
    shown: tuple[tuple[str, str, str], ...]
    alignment_before: float | None = None
    alignment_after: float | None = None
    clip_fid: float | None = None
    clip_fid_before: float | None = None
    kid: float | None = None
    kid_before: float | None = None

    @property
    def share(self) -> float:
        """The share of images that changed, in [0, 1]."""
        return self.changed / self.images


def ordinary_items(
    captions: Sequence[str], images: int, arm: str
) -> list[tuple[int, tuple[int, str, int]]]:
    """Return what to generate: captions in turn, each image from noise of its own.

    Args:
        captions: ordinary captions; where they are fewer than images, each has several.
        images: how many images.
        arm: images before and after an edit share the name of an arm, and so their noise.
    """
    items = []
    for index in range(images):
        caption = captions[index % len(captions)]
        seed = derived_seed("ordinary", arm, caption, index // len(captions))
        items.append((index, (index, caption, seed)))
    return items


def read_ordinary(run: Run, kind: str, images: int) -> OrdinaryImages:
    """Read the first images of an `OrdinaryTask`, in the order of their indices.

    Args:
        run: the run that holds them.
        kind: the name of their records.
        images: how many.

    Raises:
        RunError: a record is damaged, or there is none.
    """
    problem = f"{run.folder}: damaged record of an ordinary image"
    records = [
        from_json(OrdinaryRecord, record, RunError, problem, "Start a new run.")
        for _, record in islice(run.stream(kind), images)
    ]
    if not records:
        raise RunError(f"{run.folder}: there are no ordinary images there. Start a new run.")
    return OrdinaryImages(
        captions=tuple(record.caption for record in records),
        files=tuple(record.file for record in records),
        embeddings=torch.stack([unpacked(record.embedding) for record in records]),
        features=torch.stack([unpacked(record.features) for record in records]),
        alignment=tuple(record.alignment for record in records if record.alignment is not None),
    )


def ordinary_change(
    run: Run,
    before: OrdinaryImages,
    after: OrdinaryImages,
    other: OrdinaryImages | None = None,
    *,
    memorized: Collection[str] = (),
) -> OrdinaryChange:
    """Compare images of ordinary captions before and after an edit.

    Args:
        run: the run that holds the small copies.
        before, after: images from the same noise; ``before`` may hold more at its end.
        other: unedited images from other noise, for the distances between distributions.
        memorized: captions that the edit takes out. Their images should change, so they do not
            count, unless there are no others.
    """
    before, after = before.first(len(after)).without(memorized), after.without(memorized)
    similarity = (before.embeddings * after.embeddings).sum(1)
    worst = similarity.argsort()[:SHOWN].tolist()
    correlations = [
        centred_correlation(_open(run, one), _open(run, two))
        for one, two in zip(before.files, after.files, strict=True)
    ]
    change = OrdinaryChange(
        images=len(after),
        changed=int((similarity < CHANGED).sum()),
        similarity=float(similarity.median()),
        correlation=float(np.median(correlations)),
        worst=float(similarity.min()),
        shown=tuple((after.captions[i], before.files[i], after.files[i]) for i in worst),
    )
    if after.alignment:
        change = replace(
            change,
            alignment_before=float(np.median(before.alignment)),
            alignment_after=float(np.median(after.alignment)),
        )
    if other is not None and after.features.shape[1] and len(after) > 1:
        unedited = other.without(memorized).features
        edited, same = quality(after.features, unedited), quality(before.features, unedited)
        change = replace(
            change,
            clip_fid=edited.fid,
            clip_fid_before=same.fid,
            kid=edited.kid,
            kid_before=same.kid,
        )
    return change


def _open(run: Run, name: str) -> Image.Image:
    return read_image(run.folder / name)


def packed(vector: Tensor) -> str:
    """Store a vector of float32 as text."""
    return base64.b64encode(vector.float().cpu().numpy().tobytes()).decode()


def unpacked(text: str) -> Tensor:
    """Return the vector that `packed` stored."""
    return torch.from_numpy(np.frombuffer(base64.b64decode(text), dtype=np.float32).copy())
