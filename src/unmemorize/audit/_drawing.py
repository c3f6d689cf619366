"""Images of what an attack has found, from the seeds of the audit."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from typing import Any

import torch
from PIL import Image
from torch import Tensor, nn

from unmemorize._errors import AuditError
from unmemorize.audit._attack import Candidate
from unmemorize.audit._bench import Bench
from unmemorize.generation import GenerationSettings, generate_each
from unmemorize.pipelines import Model, denoiser_call, uncompiled, without_text


def drawn(
    bench: Bench, candidate: Candidate, seeds: Sequence[int], settings: GenerationSettings
) -> list[Image.Image]:
    """Generate images of a candidate under the edit, one for each seed.

    Args:
        bench: the model under its edit.
        candidate: what to generate with. If it brings its own noise, there is one image.
        seeds: of the initial noise of each image.
        settings: steps, guidance and batch.
    """
    count = 1 if candidate.noise is not None else len(seeds)
    noise = None
    if candidate.noise is not None:
        noise = [candidate.noise[None].to(bench.model.device, bench.model.dtype)]
    changed = replace(candidate.settings(settings), images=1)
    with ExitStack() as stack:
        stack.enter_context(candidate.around())
        if candidate.embedding is not None:
            texts = [candidate.text], candidate.embedding[None]
            stack.enter_context(_replaced_text(bench.model, *texts))
        images = generate_each(
            bench.model,
            [candidate.text] * count,
            [None if candidate.edits else bench.edit] * count,
            settings=changed,
            seeds=seeds[:count],
            noise=noise,
            scheduler=candidate.scheduler(),
        )
    return [image for (image,) in images]


def drawn_all(
    bench: Bench,
    candidates: Sequence[Candidate],
    seeds: Sequence[Sequence[int]],
    settings: GenerationSettings,
) -> list[list[Image.Image]]:
    """Generate images of candidates that have an embedding and nothing else, in common batches.

    Args:
        bench: the model under its edit.
        candidates: what to generate with.
        seeds: of the initial noise of each image, for each candidate.
        settings: steps, guidance and batch.

    Returns:
        The images of each candidate, what `drawn` returns but for rounding.
    """
    rows = [(place, seed) for place, some in enumerate(seeds) for seed in some]
    found: list[list[Image.Image]] = [[] for _ in candidates]
    for first in range(0, len(rows), settings.batch):
        batch = rows[first : first + settings.batch]
        some = [candidates[place] for place, _ in batch]
        texts = [each.text for each in some]
        embeddings = torch.stack([each.embedding for each in some if each.embedding is not None])
        with _replaced_text(bench.model, texts, embeddings):
            images = generate_each(
                bench.model,
                texts,
                [bench.edit] * len(batch),
                settings=replace(settings, images=1),
                seeds=[seed for _, seed in batch],
            )
        for (place, _), (image,) in zip(batch, images, strict=True):
            found[place].append(image)
    return found


@contextmanager
def _replaced_text(model: Model, captions: Sequence[str], embeddings: Tensor) -> Iterator[None]:
    """Give the denoiser text embeddings in place of those of captions, while the context lasts.

    Only samples of the captions are concerned, whose text is nearer to them than to no text. Those
    without text, which guidance compares with, stay.

    Args:
        model: the model.
        captions: what the pipeline is called with: one for all samples, or one for each.
        embeddings: one for each caption, (captions, tokens, features).

    Raises:
        AuditError: on leaving, if the denoiser never received the captions.
    """
    own = model.encode(list(dict.fromkeys(captions))).text.float()
    other, replaced = without_text(model).text.float(), 0

    def put(denoiser: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        nonlocal replaced
        call = denoiser_call(denoiser, args, kwargs)
        text = call.text.clone()
        rows = _distance(text.float(), own) <= _distance(text.float(), other)
        count = int(rows.sum())
        replaced += count
        if count:
            text[rows] = embeddings.to(text).repeat(count // len(embeddings), 1, 1)
        call.text = text
        return (), call.arguments

    with uncompiled(model.pipe):
        handle = model.denoiser.register_forward_pre_hook(put, with_kwargs=True)
        try:
            yield
        finally:
            handle.remove()
    if not replaced:
        raise AuditError(
            f"{type(model.pipe).__name__}: its denoiser never received the caption, so no "
            "embedding took its place. Leave the attacks on embeddings out."
        )


def _distance(text: Tensor, reference: Tensor) -> Tensor:
    """Return the distance of each text, (B, ...), to the nearest of the references."""
    each = [(text - one).flatten(1).norm(dim=1) for one in reference]
    return torch.stack(each).amin(0)
