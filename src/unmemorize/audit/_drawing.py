"""Images of what an attack has found, from the seeds of the audit."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from typing import Any

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
            stack.enter_context(_replaced_text(bench.model, candidate.text, candidate.embedding))
        images = generate_each(
            bench.model,
            [candidate.text] * count,
            [bench.edit] * count,
            settings=changed,
            seeds=seeds[:count],
            noise=noise,
            scheduler=candidate.scheduler(),
        )
    return [image for (image,) in images]


@contextmanager
def _replaced_text(model: Model, caption: str, embedding: Tensor) -> Iterator[None]:
    """Give the denoiser a text embedding in place of that of a caption, while the context lasts.

    Only samples of the caption are concerned, whose text is nearer to it than to no text. Those
    without text, which guidance compares with, stay.

    Args:
        model: the model.
        caption: what the pipeline is called with.
        embedding: (tokens, features).

    Raises:
        AuditError: on leaving, if the denoiser never received the caption.
    """
    own, other = model.encode([caption]).text.float(), without_text(model).text.float()
    replaced = 0

    def put(denoiser: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        nonlocal replaced
        call = denoiser_call(denoiser, args, kwargs)
        text = call.text.clone()
        rows = _distance(text.float(), own) <= _distance(text.float(), other)
        replaced += int(rows.sum())
        text[rows] = embedding.to(text)
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
    distance: Tensor = (text - reference).flatten(1).norm(dim=1)
    return distance
