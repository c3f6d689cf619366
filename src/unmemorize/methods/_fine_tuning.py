"""A denoiser that is trained to predict for captions what it predicts for others.

What a closed-form edit asks of all key and value projections, which are linear, this asks of the
whole denoiser, which is not. The weight W of each layer becomes W + B A. With v the trained
prediction, v0 the one of before and w the weights of `Noising.error_weights`, the minimum is sought
of

    mean_i weight_i w |v(x, c_i) - v0(x, g_i)|^2 + 4 mean_k w |v(x, k) - v0(x, k)|^2

over the captions c_i with their guides g_i, ordinary captions k (the empty one among them), and
noisy latents x: of images that the unedited model draws for the guide, and for the caption itself,
or for the ordinary caption. No training image takes part.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from unmemorize._errors import EditError
from unmemorize._files import hash_texts, to_json
from unmemorize.engines import Progress, silent
from unmemorize.generation import Erased, GenerationSettings, WeightEdit
from unmemorize.methods._latents import drawn_in_batches
from unmemorize.methods._trained import LowRankWeights
from unmemorize.methods._training import training, weighted_layers, why_fixed
from unmemorize.methods._unfinished import Unfinished
from unmemorize.pipelines import Conditioning, Model, Noising, offloads_groups

SOURCE = "fine-tuning"
_RANK, _RATE = 32, 1e-3
STEPS = 600
_FORGOTTEN, _KEPT = 8, 16
"""Samples of a step that concern captions to edit, and ordinary ones."""
_KEPT_WEIGHT = 4.0
_EMPTY = 0.1
"""Share of ordinary samples without a text, with which guidance compares."""
_IMAGES = 2
"""Images that are drawn for each guide, and for each caption to edit."""
_MOST_KEPT = 320
"""The most ordinary captions of which an image is drawn."""
_OF_ONE = 3
"""Images of a batch that take as much memory as one sample of a training step."""
_TOGETHER = 20
"""Steps whose samples are made before they are taken, with the unedited model."""
_SEED = 13
LATENTS = "latents.safetensors"
"""The file of the images that an unfinished training has drawn."""


def why_not_fine_tuned(model: Model) -> str:
    """Say why the denoiser of a model cannot be trained; nothing if it can."""
    if model.layout.separate or model.layout.packed:
        return "it encodes captions at their own lengths, or packs latents"
    if getattr(model.pipe, "vae", None) is None:
        return "it works on pixels, and returns no image as its denoiser leaves it"
    if model.dtype not in (torch.float32, torch.float64):
        return f"{model.dtype} loses small training steps (load it in float32 for that)"
    if reason := why_fixed(model.denoiser, "denoiser"):
        return reason
    if any(weight.is_inference() for weight in model.denoiser.parameters()):
        return "it was loaded in inference mode, which forbids training"
    if hasattr(model.denoiser, "_hf_hook") or offloads_groups(model.denoiser):
        return "its denoiser is offloaded"
    return ""


def fine_tuning_cost(captions: int) -> tuple[int, int]:
    """Count what `fine_tuned_denoiser` takes.

    Args:
        captions: how many are edited, beside all ordinary captions that are taken.

    Returns:
        Images that are drawn, and denoiser samples of the training. A sample with its backward pass
        counts 3, and what the unedited model predicts counts 1.
    """
    return 2 * _IMAGES * captions + _MOST_KEPT, 4 * STEPS * (_FORGOTTEN + _KEPT)


@torch.inference_mode(False)  # the caller may have switched gradients off
def fine_tuned_denoiser(
    model: Model,
    erase: Sequence[Erased],
    keep: Sequence[str],
    settings: GenerationSettings | None = None,
    progress: Progress = silent,
    folder: Path | None = None,
) -> WeightEdit:
    """Train factors of all linear and convolutional layers. The model stays as it is.

    Args:
        model: the model, in float32.
        erase: the captions, each with its weight and its guide.
        keep: ordinary captions. The first 320 are taken.
        settings: how images are drawn: steps, guidance and batch.
        progress: called with images and steps.
        folder: where images (`LATENTS`) and steps are kept as they are done. The same call goes on
            from there and makes the same edit. Images of other captions are not used. None keeps
            nothing.

    Raises:
        EditError: the denoiser cannot be trained, or there are no captions.
        RunError: the folder cannot be written or read.
        MitigationError: as above, for a single layer.

    Source: after Kumari et al., ICCV 2023 (model-based concept ablation); factors in place of
        whole weights, the guides of `unmemorize.mitigate` as anchors, the weights of noise levels
        and the samples of copies are ours.

    Examples:
        >>> model = Model.load("testbed", dtype="float32")
        >>> why_not_fine_tuned(model)
        ''
    """
    if reason := why_not_fine_tuned(model):
        raise EditError(f"{model.name}: {reason}, so its denoiser is not trained.")
    if not erase or not keep:
        raise EditError(
            f"{len(erase)} captions to edit and {len(keep)} ordinary ones: give at least 1 of each."
        )
    settings = settings or GenerationSettings()
    generator = torch.Generator().manual_seed(_SEED)
    together = max(1, settings.batch // _OF_ONE)
    unfinished = Unfinished(folder)
    lesson = _Lesson.drawn(model, erase, keep[:_MOST_KEPT], settings, progress, unfinished)
    with torch.enable_grad(), training(model, weighted_layers(model), SOURCE) as weights:
        trained = LowRankWeights(weights, _RANK, SOURCE)

        def take(steps: range, optimizer: torch.optim.AdamW) -> None:
            with trained.untrained(), torch.no_grad():
                several = [lesson.batch(generator) for _ in steps]
            for step, batch in zip(steps, several, strict=True):
                for group in optimizer.param_groups:
                    group["lr"] = _RATE * (1 - step / STEPS)
                for number, loss in enumerate(batch.losses(model, together)):
                    trained.differentiate(loss, add=number > 0)
                optimizer.step()
                trained.write()
                progress(lesson.images + step + 1, lesson.images + STEPS)

        unfinished.train(trained, _RATE, STEPS, _TOGETHER, generator, take)
        return trained.edit()


@dataclass(frozen=True, eq=False)
class _Batch:
    """What one step sees: samples of captions to edit, then ordinary ones.

    Args:
        latents: noisy ones, (B, C, H, W).
        timesteps: one for each, (B,).
        text: B encoded captions.
        wanted: what should be predicted, (B, C, H, W).
        weights: how much the error of each counts, (B,).
    """

    latents: Tensor
    timesteps: Tensor
    text: Conditioning
    wanted: Tensor
    weights: Tensor

    def losses(self, model: Model, together: int) -> Iterator[Tensor]:
        """Yield parts of the loss, of so many samples each: their sum is the loss."""
        for start in range(0, len(self.latents), together):
            rows = list(range(start, min(start + together, len(self.latents))))
            predicted = model.predict(
                self.latents[rows], self.timesteps[rows], self.text.take(rows), gradient=True
            )
            errors = (predicted - self.wanted[rows]).square().mean((1, 2, 3))
            yield (self.weights[rows] * errors).sum()


@dataclass(frozen=True, eq=False)
class _Lesson:
    """What the denoiser is taught.

    Args:
        model: the model, unedited while images are drawn and batches are made.
        erase: the captions to edit.
        keep: ordinary captions.
        forgotten: latents of images of each caption's guide and of the caption itself,
            (captions, 2 x images, C, H, W).
        kept: latents of an image of each ordinary caption, (captions, C, H, W).
        places: of captions among encoded texts.
        texts: encoded.
    """

    model: Model
    erase: Sequence[Erased]
    keep: Sequence[str]
    forgotten: Tensor
    kept: Tensor
    places: Mapping[str, int]
    texts: Conditioning

    @classmethod
    def drawn(
        cls,
        model: Model,
        erase: Sequence[Erased],
        keep: Sequence[str],
        settings: GenerationSettings,
        progress: Progress,
        unfinished: Unfinished,
    ) -> _Lesson:
        """Draw the images of all captions with the model as it is."""
        pairs = [text for each in erase for text in (each.guide, each.caption)] * _IMAGES
        latents = _drawn(model, [*pairs, *keep], settings, progress, unfinished)
        forgotten = latents[: len(pairs)].unflatten(0, (_IMAGES, len(erase), 2))
        texts = list(dict.fromkeys(["", *keep, *pairs]))
        return cls(
            model,
            erase,
            keep,
            forgotten.transpose(0, 1).flatten(1, 2),
            latents[len(pairs) :],
            {text: place for place, text in enumerate(texts)},
            model.encode(texts),
        )

    @property
    def images(self) -> int:
        """How many images were drawn."""
        return self.forgotten.shape[0] * self.forgotten.shape[1] + len(self.kept)

    def batch(self, generator: torch.Generator) -> _Batch:
        """Make the samples of a step."""
        own = torch.randint(len(self.erase), (_FORGOTTEN,), generator=generator)
        image = torch.randint(self.forgotten.shape[1], (_FORGOTTEN,), generator=generator)
        ordinary = torch.randint(len(self.keep), (_KEPT,), generator=generator)
        empty = torch.rand(_KEPT, generator=generator, dtype=torch.float32) < _EMPTY
        clean = torch.cat([self.forgotten[own, image], self.kept[ordinary]])
        levels = torch.rand(len(clean), generator=generator, dtype=torch.float32)
        noise = torch.randn(clean.shape, generator=generator, dtype=torch.float32)
        edited = [self.erase[place] for place in own.tolist()]
        others = [
            "" if without else self.keep[place]
            for place, without in zip(ordinary.tolist(), empty.tolist(), strict=True)
        ]
        noising = Noising(self.model)
        noisy = noising.noisy(clean, noise, levels)
        guides = self._encoded([*(each.guide for each in edited), *others])
        weights = noising.error_weights(levels)
        weights[:_FORGOTTEN] *= torch.tensor([each.weight / _FORGOTTEN for each in edited])
        weights[_FORGOTTEN:] *= _KEPT_WEIGHT / _KEPT
        return _Batch(
            noisy.latents,
            noisy.timesteps,
            self._encoded([*(each.caption for each in edited), *others]),
            self.model.predict(noisy.latents, noisy.timesteps, guides),
            weights.to(self.model.device),
        )

    def _encoded(self, texts: Sequence[str]) -> Conditioning:
        return self.texts.take([self.places[text] for text in texts])


def _drawn(
    model: Model,
    texts: Sequence[str],
    settings: GenerationSettings,
    progress: Progress,
    unfinished: Unfinished,
) -> Tensor:
    """Draw one image of each text, as latents (texts, C, H, W), float32 on the CPU.

    The noise of an image follows from its place. So images of another training that asked for the
    same text at the same place stay.
    """
    noise = model.draw_latents(len(texts), _SEED)
    said = json.dumps(to_json(settings), sort_keys=True)
    hashes = [bytes.fromhex(hash_texts([text, said])) for text in texts]
    asked = torch.tensor([list(each) for each in hashes], dtype=torch.uint8)
    latents, drawn_for = torch.zeros(noise.shape, dtype=torch.float32), torch.zeros_like(asked)
    if known := unfinished.read(LATENTS):
        count = min(len(known["asked"]), len(asked))
        latents[:count], drawn_for[:count] = known["latents"][:count], known["asked"][:count]
    places = (drawn_for != asked).any(1).nonzero().flatten().tolist()
    missing = [texts[place] for place in places]
    for batch in drawn_in_batches(model, missing, noise[places], settings):
        drawn = places[: len(batch)]
        latents[drawn], drawn_for[drawn] = batch.float().cpu(), asked[drawn]
        del places[: len(batch)]
        unfinished.write(LATENTS, {"latents": latents, "asked": drawn_for})
        progress(len(texts) - len(places), len(texts) + STEPS)
    return latents
