"""A CLIP: cosines between images and texts for A_CLIP, and image features for CLIP-FID."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Literal

import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F
from transformers import CLIPModel, CLIPTokenizer

from unmemorize import _bundled
from unmemorize._errors import MetricError, first_line
from unmemorize.metrics._read_image import to_rgb


class ClipAlignment:
    """A CLIP model of the transformers library, on the CPU.

    Args:
        source: a folder or Hub id. The default is the CLIP of the bundled model, which knows only
            that model's images.

    Raises:
        MetricError: the CLIP cannot be loaded.

    Examples:
        >>> from PIL import Image
        >>> ClipAlignment()([Image.new("RGB", (64, 64))], "a cat").shape
        torch.Size([1])
    """

    kind: Literal["FID", "CLIP-FID"] = "CLIP-FID"

    def __init__(self, source: str | Path | None = None) -> None:
        if source is None:
            source = _bundled.clip_path()
        from unmemorize.pipelines import quiet_loading

        self.name = Path(source).name
        try:
            with quiet_loading():
                # imported here, since it warns on import if torchvision is missing
                from transformers import CLIPImageProcessor

                self._clip = CLIPModel.from_pretrained(
                    source, dtype=torch.float32, use_safetensors=True
                ).eval()
                self._tokenizer = CLIPTokenizer.from_pretrained(source)
                self._processor = CLIPImageProcessor.from_pretrained(source)
        except (OSError, ValueError) as problem:
            reason = first_line(problem)
            raise MetricError(
                f"{source}: no CLIP can be loaded from there ({reason}). "
                "Give a folder or Hub id of a CLIP model."
            ) from problem

    @cached_property
    def digest(self) -> str:
        """SHA-256 of the weights, as hexadecimal."""
        digest = hashlib.sha256()
        for name, tensor in sorted(self._clip.state_dict().items()):
            digest.update(name.encode())
            digest.update(tensor.contiguous().numpy().tobytes())
        return digest.hexdigest()

    @torch.inference_mode()
    def features(self, images: Sequence[Image.Image]) -> Tensor:
        """Return image embeddings before normalisation, (N, D), as CLIP-FID needs them."""
        pixels = self._pixels(images)
        projected: Tensor = self._clip.visual_projection(
            self._clip.vision_model(pixel_values=pixels).pooler_output
        )
        return projected

    @torch.inference_mode()
    def __call__(self, images: Sequence[Image.Image], text: str) -> Tensor:
        """Return the cosine in [-1, 1] between each image and the text, (N,)."""
        return self.alignment(self.features(images), [text])

    @torch.inference_mode()
    def alignment(self, features: Tensor, texts: Sequence[str]) -> Tensor:
        """Return the cosine in [-1, 1] between images and texts, (N,).

        Args:
            features: of the images, as `features` returns them, (N, D).
            texts: one for each image, or one for all.
        """
        return F.cosine_similarity(features, self.texts(texts))

    @torch.inference_mode()
    def texts(self, texts: Sequence[str]) -> Tensor:
        """Return text embeddings before normalisation, (N, D). Longer texts are cut."""
        positions = self._clip.config.text_config.max_position_embeddings
        tokens = self._tokenizer(
            list(texts),
            padding="max_length",
            truncation=True,
            # a tokenizer whose files state no length takes it for endless
            max_length=min(self._tokenizer.model_max_length, positions),
            return_tensors="pt",
        )
        projected: Tensor = self._clip.text_projection(
            self._clip.text_model(
                input_ids=tokens.input_ids, attention_mask=tokens.attention_mask
            ).pooler_output
        )
        return projected

    def _pixels(self, images: Sequence[Image.Image]) -> Tensor:
        pixels: Tensor = self._processor(
            images=[to_rgb(image) for image in images], return_tensors="pt"
        ).pixel_values
        return pixels
