"""The attention that a trace records in the passes that predictions take."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor, nn

from unmemorize._errors import ModelError
from unmemorize.detection._moment import Moment
from unmemorize.pipelines import Model, cross_attentions, refuse_unseen, watching_attention

Pair = tuple[int | None, int]


@dataclass(frozen=True)
class AttentionRecord:
    """Cross-attention probabilities of prompts and seeds at one moment, means over the heads.

    Args:
        tokens: for each layer the share of each token, the mean over the pixels: (prompts, seeds,
            layers, tokens). Layers are in the order in which they run.
        maps: for each layer of the first block with cross-attention the probabilities of each
            pixel, (prompts, seeds, layers, pixels, tokens).
    """

    tokens: Tensor
    maps: Tensor


def watchable_attentions(model: Model) -> dict[str, nn.Module]:
    """Return the cross-attentions of a model by path, in the order in which they run.

    Raises:
        ModelError: there is none.
    """
    attentions = cross_attentions(model)
    if not attentions:
        raise ModelError(
            f"{type(model.denoiser).__name__}: it attends to text and image jointly, so it has no "
            "cross-attention probabilities. Use a detector that reads predictions: "
            "seed-similarity, or late-noise-magnitude unless guidance is distilled into the model."
        )
    return attentions


class Watched:
    """Attention records of a trace.

    Args:
        model: the model.
        moments: when attention is recorded.
    """

    def __init__(self, model: Model, moments: set[Moment]) -> None:
        self._model, self.moments = model, moments
        self._records: dict[tuple[Moment, Pair], tuple[Tensor, Tensor]] = {}

    def has(self, moment: Moment, pair: Pair) -> bool:
        """Whether a pair was recorded."""
        return (moment, pair) in self._records

    def of(self, moment: Moment, pairs: Sequence[Pair], shape: tuple[int, int]) -> AttentionRecord:
        """Return the record of pairs, which form a grid (prompts, seeds)."""
        tokens, maps = zip(*(self._records[moment, pair] for pair in pairs), strict=True)
        return AttentionRecord(
            torch.stack(tokens).unflatten(0, shape), torch.stack(maps).unflatten(0, shape)
        )

    @contextmanager
    def watching(self, moment: Moment, jobs: Sequence[tuple[Pair, bool]]) -> Iterator[None]:
        """Record the samples with text of one pass, if their moment is watched."""
        if moment not in self.moments or not any(text for _, text in jobs):
            yield
            return
        with watching_attention(self._layers) as probabilities:
            yield
        refuse_unseen(probabilities, self._layers)
        tokens = torch.stack([probabilities[path].mean(1) for path in self._layers], 1)
        maps = torch.stack([probabilities[path] for path in self._first_block], 1)
        for row, (pair, text) in enumerate(jobs):
            if text:
                self._records[moment, pair] = tokens[row], maps[row].clone()

    @cached_property
    def _layers(self) -> dict[str, nn.Module]:
        return watchable_attentions(self._model)

    @cached_property
    def _first_block(self) -> list[str]:
        """The layers at the resolution of the first, which is the finest of a U-Net's way down."""
        first = next(iter(self._layers)).split(".")[:2]
        return [path for path in self._layers if path.split(".")[:2] == first]
