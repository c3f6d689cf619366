"""What attacks work on: a model under its edit, noisy latents, and losses."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from functools import cached_property

import torch
from PIL import Image
from torch import Tensor

from unmemorize._errors import AuditError
from unmemorize.audit._latents import latent_of
from unmemorize.generation import Edit
from unmemorize.pipelines import Conditioning, Model, Noising

_SCALE_CAPTIONS = 24
"""Ordinary captions whose distances give the scale of embeddings."""


def content_of(image: Image.Image) -> str:
    """Return a hash of size and pixels, whatever the file is called and how it is packed."""
    rgb = image.convert("RGB")
    return hashlib.sha256(f"{rgb.size}".encode() + rgb.tobytes()).hexdigest()


@dataclass(frozen=True)
class Companion:
    """Another memorized image, for relearning.

    Args:
        prompt: its caption.
        image: the image.
        contents: of all images of the caption, see `content_of`: further ones of a template, too.
    """

    prompt: str
    image: Image.Image
    contents: frozenset[str]


@dataclass(frozen=True)
class Bench:
    """A model under its edit, as attacks see it.

    Args:
        model: the model that is attacked.
        edit: what is applied to it while an attack runs; None for nothing.
        captions: ordinary captions.
        batch: noisy latents per step of an attack.
        teacher: the model before any edit, for attacks without an image.
        companions: other memorized images.
    """

    model: Model
    edit: Edit | None
    captions: tuple[str, ...]
    batch: int = 8
    teacher: Model | None = None
    companions: tuple[Companion, ...] = ()
    _latents: dict[str, Tensor] = field(default_factory=dict, compare=False, repr=False)

    @cached_property
    def noising(self) -> Noising:
        """How the model's latents are made noisy."""
        return Noising(self.model)

    def latents(self, key: str, images: Sequence[Image.Image]) -> Tensor:
        """Return the latents of images, (M, C, H, W), float32."""
        if key not in self._latents:
            self._latents[key] = torch.stack([latent_of(self.model, image) for image in images])
        return self._latents[key]

    def predict(
        self,
        latents: Tensor,
        timesteps: Tensor,
        text: Conditioning,
        *,
        gradient: bool = False,
    ) -> Tensor:
        """Run the edited model once, without guidance; see `Model.predict`."""
        with self.edited():
            return self.model.predict(latents, timesteps, text, gradient=gradient)

    def edited(self) -> AbstractContextManager[None]:
        """Apply the edit while the context lasts."""
        return nullcontext() if self.edit is None else self.edit.applied(self.model, [True])

    def one_stream(self) -> None:
        """Refuse a model in which no single text embedding stands for a caption.

        Raises:
            AuditError: it encodes captions at their own lengths, or reads several text streams.
        """
        if self.model.layout.separate:
            raise AuditError(
                f"{self.model.name}: it encodes captions at their own lengths, so no embedding has "
                "a fixed number of positions. Audit it with L0, L1, L5 and L6."
            )
        encoded = self.model.encode([self.captions[0]])
        if encoded.all_tokens != encoded.text.shape[1]:
            raise AuditError(
                f"{self.model.name}: it reads several text streams, and attacks on embeddings know "
                "one. Audit it with L0, L1, L5 and L6."
            )

    def embedding(self, text: str) -> Tensor:
        """Encode a caption, (tokens, features), float32, on the CPU."""
        return self.model.encode([text]).text[0].float().cpu()

    def with_embeddings(
        self, captions: Sequence[str], embeddings: Tensor, count: int
    ) -> Conditioning:
        """Return what the denoiser receives for captions with other text embeddings.

        Pooled embeddings, masks and sizes stay those of the captions.

        Args:
            captions: the captions.
            embeddings: one for each, (captions, tokens, features); they may require gradients.
            count: how many times each, one after the other.
        """
        rows = [row for row in range(len(captions)) for _ in range(count)]
        encoded = self.model.remembered(
            ("captions", tuple(captions), count), lambda: self.model.encode(captions).take(rows)
        )  # an attack asks for the same in each of its steps
        text = embeddings.to(self.model.device, encoded.text.dtype)
        return encoded.with_text(text[:, None].expand(-1, count, -1, -1).flatten(0, 1))

    def with_embedding(self, caption: str, embedding: Tensor, count: int) -> Conditioning:
        """Do the same for one caption and its embedding, (tokens, features)."""
        return self.with_embeddings([caption], embedding[None], count)

    @cached_property
    def fixed(self) -> tuple[str, ...]:
        """What stays that of the caption while its embedding is attacked, such as pooled text."""
        return self.model.encode([self.captions[0]]).beside_text

    @cached_property
    def scale(self) -> float:
        """The median distance between the embeddings of two ordinary captions.

        Raises:
            AuditError: there is one. Audits refuse that before the work.
        """
        captions = list(dict.fromkeys(self.captions))[:_SCALE_CAPTIONS]
        rows = torch.stack([self.embedding(caption).flatten() for caption in captions])
        distances = torch.pdist(rows.double())
        if not len(distances):
            raise AuditError("one ordinary caption: at least 2 give the scale of embeddings.")
        return float(distances.median())

    def denoising_loss(
        self, clean: Tensor, noise: Tensor, levels: Tensor, text: Conditioning
    ) -> Tensor:
        """Return the squared error of the edited model for each sample, (B,).

        Args:
            clean: latents, (B, C, H, W).
            noise: normal noise of that shape.
            levels: noise levels, (B,), see `Noising.noisy`.
            text: B encoded captions.
        """
        noisy = self.noising.noisy(clean, noise, levels)
        predicted = self.predict(noisy.latents, noisy.timesteps, text)
        return (predicted - noisy.wanted).square().mean((1, 2, 3))
