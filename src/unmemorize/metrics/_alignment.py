"""Alignment A_CLIP: the cosine between the CLIP embeddings of an image and of its prompt."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F
from transformers import CLIPModel, CLIPTokenizer

from unmemorize._errors import MetricError


class ClipAlignment:
    """Image-text cosines by a CLIP of the transformers library.

    Args:
        source: a folder or Hub id; by default the CLIP of the bundled model, which is for that model's images only.

    Raises:
        MetricError: the CLIP cannot be loaded.
    """

    def __init__(self, source: str | Path | None = None) -> None:
        if source is None:
            from unmemorize import testbed

            source = testbed.clip_path()
        from transformers import CLIPImageProcessor  # here, as it warns on import where torchvision is missing

        self.name = Path(source).name
        try:
            self._clip = CLIPModel.from_pretrained(source, dtype=torch.float32, use_safetensors=True).eval()
            self._tokenizer = CLIPTokenizer.from_pretrained(source)
            self._processor = CLIPImageProcessor.from_pretrained(source)
        except (OSError, ValueError) as problem:
            reason = str(problem).strip().split("\n")[0]
            raise MetricError(
                f"{source}: no CLIP can be loaded from there ({reason}). Give a folder or Hub id of a CLIP model."
            ) from problem

    @torch.inference_mode()
    def __call__(self, images: Sequence[Image.Image], text: str) -> Tensor:
        """Cosines in [-1, 1] between each image and the text, shape (N,)."""
        pixels = self._processor(images=[image.convert("RGB") for image in images], return_tensors="pt").pixel_values
        tokens = self._tokenizer([text], padding="max_length", truncation=True, return_tensors="pt")
        output = self._clip(input_ids=tokens.input_ids, attention_mask=tokens.attention_mask, pixel_values=pixels)
        return F.cosine_similarity(output.image_embeds, output.text_embeds)
