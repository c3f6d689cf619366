"""How far captions are from each other, which ranks what a memorized one may be read like."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from unmemorize.mitigation._stages import Stages

_EXACT = "donot_use_mm_for_euclid_dist"


def distances(stages: Stages, texts: Sequence[str], captions: Sequence[str]) -> Tensor:
    """Return how far each caption is from each text, (texts, captions), float32, on the CPU.

    A CLIP tells what images of two captions have in common, so its directions count where there is
    one. Else the encodings of the model do, over all tokens.

    Args:
        stages: what all stages share.
        texts: the memorized captions, at least one.
        captions: what they may be read like.
    """
    own = _embedded(stages, texts)
    batch = stages.settings.generation.batch
    parts = [
        torch.cdist(own, _embedded(stages, captions[start : start + batch]), compute_mode=_EXACT)
        for start in range(0, len(captions), batch)
    ]
    return torch.cat(parts, 1) if parts else own.new_empty(len(texts), 0)


def _embedded(stages: Stages, texts: Sequence[str]) -> Tensor:
    if stages.clip is not None:
        return F.normalize(stages.clip.texts(texts), dim=1)
    batch = stages.settings.generation.batch
    starts = range(0, len(texts), batch)
    parts = [stages.model.encode(texts[start : start + batch]).text.flatten(1) for start in starts]
    return torch.cat([part.float().cpu() for part in parts])
