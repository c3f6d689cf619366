"""Differences of weights, as training leaves them.

An edit of weights names its tensors by their SHA-256. They lie in a file of their own, beside
whatever holds the edit: an edit file, a LoRA, a checkpoint or a single file.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from unmemorize._errors import EditError
from unmemorize._files import from_json, read_tensors, refuse_other_type, write_tensors
from unmemorize.generation._added_outputs import added_outputs, layer_of
from unmemorize.generation._layer_changes import LayerChange
from unmemorize.generation._low_rank import Difference, LowRank, whole
from unmemorize.pipelines import Model, weights_of

WEIGHTS_FILE = "unmemorize-edit-{}.safetensors"
"""The file with the tensors of an edit, named by the beginning of their SHA-256."""
_NAMES = ("weight", "bias")
_UP, _DOWN = ".up", ".down"
_DIGEST = re.compile("[0-9a-f]{64}")


@dataclass(frozen=True, eq=False)
class WeightEdit:
    """Something is added to weights and biases of layers.

    Args:
        differences: path of a layer followed by ".weight" or ".bias" -> what is added, float32 of
            the same shape: a tensor, or the factors of one, which are kept as they are.
        source: how the differences were made, for people, such as "esd".

    Raises:
        EditError: there is no difference, or one of them is no tensor, or holds NaN or infinity.

    Examples:
        >>> edit = WeightEdit({"mid_block.attn2.to_k.weight": torch.ones(2, 3)}, "esd")
        >>> edit.file_name
        'unmemorize-edit-737dec571c.safetensors'
    """

    kind: ClassVar[str] = "weights"

    differences: Mapping[str, Difference]
    source: str = ""

    def __post_init__(self) -> None:
        way_out = "Give the name of a weight -> a tensor or its factors."
        refuse_other_type("differences", self.differences, Mapping, EditError, way_out)
        for name, difference in self.differences.items():
            if not isinstance(difference, LowRank):
                refuse_other_type(name, difference, Tensor, EditError, way_out)
        kept = {
            name: difference
            if isinstance(difference, LowRank)
            else difference.detach().to("cpu", torch.float32).contiguous()
            for name, difference in sorted(self.differences.items())
        }
        object.__setattr__(self, "differences", kept)
        if not kept:
            raise EditError("differences={}: nothing is added to any weight. Name at least one.")
        for name in kept:
            if name.rpartition(".")[2] not in _NAMES:
                raise EditError(f"{name}: not the name of a weight or bias. End it with .weight.")
        for name, tensor in self._tensors.items():
            if not bool(torch.isfinite(tensor).all()):
                raise EditError(
                    f"{name}: its difference holds NaN or infinity. Train with smaller steps."
                )

    @property
    def rank(self) -> int | None:
        """The highest rank of the factors; None where a difference is not in factors."""
        ranks = [each.rank for each in self.differences.values() if isinstance(each, LowRank)]
        return max(ranks) if len(ranks) == len(self.differences) else None

    @cached_property
    def digest(self) -> str:
        """SHA-256 of the names, shapes and values of all tensors."""
        return _digest(self._tensors)

    @property
    def file_name(self) -> str:
        """The name of the file with the tensors."""
        return _file_name(self.digest)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, WeightEdit):
            return NotImplemented
        return (self.digest, self.source) == (other.digest, other.source)

    def __hash__(self) -> int:
        return hash((self.digest, self.source))

    def changes(self, model: Model) -> dict[str, LayerChange]:
        """See `Edit`.

        Raises:
            EditError: the model has no such layer, or the layer another shape.
        """
        return {path: LayerChange(added=added) for path, added in self._by_layer(model).items()}

    def applied(self, model: Model, rows: Sequence[bool]) -> AbstractContextManager[None]:
        """See `Edit`.

        Raises:
            EditError: the model has no such layer, or the layer another shape.
        """
        added = {
            path: {kind: whole(difference) for kind, difference in differences.items()}
            for path, differences in self._by_layer(model).items()
        }
        return added_outputs(model, added, rows)

    def to_json(self) -> dict[str, Any]:
        """Return kind, source, and the digest of the tensors, which `save_tensors` keeps."""
        return {"kind": self.kind, "source": self.source, "sha256": self.digest}

    def save_tensors(self, folder: Path) -> None:
        """Write the file of the tensors into a folder.

        It is a safetensors file. A tensor is named as the weight that it is added to; factors B and
        A are named as the weight with ".up" and ".down" behind it.

        Raises:
            EditError: the folder cannot be written.
        """
        write_tensors(folder / self.file_name, self._tensors, EditError)

    @classmethod
    def from_json(cls, value: Any, folder: Path) -> WeightEdit:
        """Make an edit from what `to_json` returned.

        Args:
            value: the JSON object.
            folder: where the file of the tensors lies.

        Raises:
            EditError: the value is another kind of edit, or the file is missing or damaged.
        """
        problem, way_out = "not a valid edit of weights", "Make the edit again."
        if isinstance(value, dict) and "differences" in value:
            raise EditError(
                f"{problem}: it holds its tensors as text, as it did before they had a file of "
                "their own. Delete it and repeat the command that made it."
            )
        content = from_json(_Content, value, EditError, problem, way_out)
        if not _DIGEST.fullmatch(content.sha256):
            raise EditError(f"{problem} (sha256 {content.sha256!r:.80}). {way_out}")
        path = folder / _file_name(content.sha256)
        if not path.is_file():
            raise EditError(
                f"{path}: not there, and it holds the tensors of the edit. Put it beside the file "
                "that names it."
            )
        tensors = read_tensors(path, EditError, "file of an edit")
        same_type = all(tensor.dtype == torch.float32 for tensor in tensors.values())
        if not same_type or _digest(tensors) != content.sha256:
            raise EditError(
                f"{path}: its tensors have changed since the edit was made. Take the original "
                "file, or make the edit again."
            )
        return cls(_differences(tensors), content.source)

    @cached_property
    def _tensors(self) -> dict[str, Tensor]:
        tensors: dict[str, Tensor] = {}
        for name, difference in self.differences.items():
            if isinstance(difference, LowRank):
                tensors |= {f"{name}{_UP}": difference.up, f"{name}{_DOWN}": difference.down}
            else:
                tensors[name] = difference
        return tensors

    def _by_layer(self, model: Model) -> dict[str, dict[str, Difference]]:
        layers: dict[str, dict[str, Difference]] = {}
        for name, difference in self.differences.items():
            path, _, kind = name.rpartition(".")
            weights = weights_of(layer_of(model, path))
            if kind not in weights or weights[kind].shape != difference.shape:
                there = tuple(weights[kind].shape) if kind in weights else "none"
                raise EditError(
                    f"{name}: the edit has the shape {tuple(difference.shape)}, {model.name} has "
                    f"{there}. Load the model that the edit belongs to."
                )
            layers.setdefault(path, {})[kind] = difference
        return layers


@dataclass(frozen=True)
class _Content:
    kind: Literal["weights"]
    source: str
    sha256: str


def _digest(tensors: Mapping[str, Tensor]) -> str:
    digest = hashlib.sha256()
    for name, tensor in sorted(tensors.items()):
        digest.update(f"{name} {tuple(tensor.shape)}\n".encode())
        digest.update(tensor.numpy().data)
    return digest.hexdigest()


def _file_name(digest: str) -> str:
    return WEIGHTS_FILE.format(digest[:10])


def _differences(tensors: Mapping[str, Tensor]) -> dict[str, Difference]:
    """Put factors together again. One without the other is no name of a weight."""
    ups = {name.removesuffix(_UP) for name in tensors if name.endswith(_UP)}
    pairs = {name for name in ups if f"{name}{_DOWN}" in tensors}
    factors = {name: LowRank(tensors[f"{name}{_UP}"], tensors[f"{name}{_DOWN}"]) for name in pairs}
    others = {
        name: tensor
        for name, tensor in tensors.items()
        if name.removesuffix(_UP).removesuffix(_DOWN) not in pairs
    }
    return {**others, **factors}
