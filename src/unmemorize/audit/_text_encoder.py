"""A text encoder that can be differentiated with respect to which tokens a caption has."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from unmemorize._errors import AuditError
from unmemorize.pipelines import Model

_SAME = 2e-2
"""Relative distance of two encodings that differ by rounding, in half precision at the most."""
_OUTPUTS: tuple[Callable[[Any], Tensor], ...] = (
    lambda output: output.last_hidden_state,
    lambda output: output.hidden_states[-2],
)
"""What pipelines take from a text encoder."""


@dataclass(frozen=True)
class _Call:
    """How a pipeline calls its text encoder: token numbers (1, tokens), and all else by name."""

    ids: Tensor
    others: Mapping[str, Any]


class TextEncoder:
    """The text encoder of a pipeline, with tokens put in front of a caption.

    The call of the encoder is observed while the pipeline encodes the caption. Which of its outputs
    the pipeline takes is found out by comparing them with what the denoiser receives.

    Args:
        model: the model.
        caption: the caption; it may be empty.
        count: how many tokens are put in front of it. As many are cut off at its end.

    Raises:
        AuditError: the denoiser does not receive one output of one text encoder, and that alone.
    """

    def __init__(self, model: Model, caption: str, count: int) -> None:
        self._encoder: Any = getattr(model.pipe, "text_encoder", None)
        self._tokenizer: Any = getattr(model.pipe, "tokenizer", None)
        encoded = model.encode([caption])
        if not isinstance(self._encoder, nn.Module) or encoded.beside_text:
            raise _unsuitable(model)
        call = self._observed(model, caption)
        empty, word = self._observed(model, ""), self._observed(model, "a")
        self.first = int((empty.ids[0] == word.ids[0]).int().cumprod(0).sum())
        """How many tokens every caption begins with."""
        self._take = self._matching(call, encoded.text, model)
        ids = call.ids
        places = ids[:, :1].repeat(1, count)
        self._ids = torch.cat([ids[:, : self.first], places, ids[:, self.first :]], 1)
        self._ids = self._ids[:, : ids.shape[1]].clone()
        self._ids[:, -1] = ids[:, -1]
        self._others, self._count = call.others, count

    @property
    def vectors(self) -> Tensor:
        """The embedding of each token, (vocabulary, features)."""
        weight: Tensor = self._encoder.get_input_embeddings().weight
        return weight

    @property
    def allowed(self) -> Tensor:
        """Which tokens may be used, (vocabulary,): all but the special ones."""
        allowed = torch.ones(len(self.vectors), dtype=torch.bool)
        special = [number for number in self._tokenizer.all_special_ids if number < len(allowed)]
        allowed[special] = False
        allowed[len(self._tokenizer) :] = False
        return allowed

    def encode(self, vectors: Tensor) -> Tensor:
        """Encode the caption behind tokens.

        Args:
            vectors: embeddings of the tokens, (count, features). They may require gradients.

        Returns:
            What the denoiser receives, (tokens, features).
        """

        def put(_layer: nn.Module, _inputs: object, output: Tensor) -> Tensor:
            start, end = self.first, self.first + self._count
            new = vectors[None].to(output.dtype)
            return torch.cat([output[:, :start], new, output[:, end:]], 1)

        handle = self._encoder.get_input_embeddings().register_forward_hook(put)
        try:
            with torch.enable_grad():
                return self._take(self._run(_Call(self._ids, self._others)))[0]
        finally:
            handle.remove()

    def typed(self, numbers: Tensor) -> str:
        """Return the text of tokens, as a user would type it."""
        return str(self._tokenizer.decode(numbers.tolist())).strip()

    def _run(self, call: _Call) -> Any:
        return self._encoder(call.ids, **call.others)

    def _observed(self, model: Model, caption: str) -> _Call:
        calls: list[_Call] = []

        def note(_encoder: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            names = ("input_ids", "attention_mask")
            values = {**dict(zip(names, args, strict=False)), **kwargs}
            ids = values.pop("input_ids")
            mask = values.get("attention_mask")
            values["attention_mask"] = None if mask is None else torch.ones_like(mask)
            values |= {"output_hidden_states": True, "return_dict": True}
            calls.append(_Call(ids, values))

        handle = self._encoder.register_forward_pre_hook(note, with_kwargs=True)
        try:
            model.encode([caption])
        finally:
            handle.remove()
        return calls[0]

    @torch.no_grad()
    def _matching(self, call: _Call, wanted: Tensor, model: Model) -> Callable[[Any], Tensor]:
        output = self._run(call)
        for take in _OUTPUTS:
            value = take(output).float()
            if value.shape == wanted.shape and bool(
                (value - wanted.float()).norm() <= _SAME * wanted.float().norm()
            ):
                return take
        raise _unsuitable(model)


def _unsuitable(model: Model) -> AuditError:
    return AuditError(
        f"{model.name}: hard tokens (L2) need a denoiser that receives one output of one text "
        "encoder and nothing else of the caption. Leave L2 out."
    )
