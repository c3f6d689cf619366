"""Edits of weights that are cut to a low rank, so that a LoRA can hold most of them."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from unmemorize._errors import EditError
from unmemorize._files import refuse_other_type
from unmemorize.generation._edits import Edit
from unmemorize.generation._low_rank import LowRank, whole
from unmemorize.generation._weight_edit import WeightEdit


@dataclass(frozen=True)
class Truncation:
    """An edit of weights that was cut to a rank.

    Args:
        edit: what is left of it, in factors.
        left_off: how much is not: the norm of what was left off, relative to that of the edit.
    """

    edit: WeightEdit
    left_off: float


def truncate(edit: Edit, rank: int) -> Truncation:
    """Cut each difference of weights to the nearest one of a rank.

    Biases and weights of normalizations are left off, because LoRAs hold none. Factors of this rank
    or a lower one stay as they are. The result is another edit: judge it again.

    Args:
        edit: an edit of weights.
        rank: the highest rank that is kept.

    Raises:
        EditError: it is another kind of edit, holds no matrix, or the rank is no whole number from
            1 up.

    Examples:
        >>> edit = WeightEdit({"to_k.weight": torch.diag(torch.tensor([4.0, 3.0, 0.0]))}, "esd")
        >>> cut = truncate(edit, 1)
        >>> round(cut.left_off, 4), cut.edit.source
        (0.6, 'esd, cut to rank 1, 60.00 % left off')
    """
    refuse_other_type("rank", rank, int, EditError, "Give a whole number.")
    if rank < 1:
        raise EditError(f"rank={rank}: at least 1 is needed.")
    if not isinstance(edit, WeightEdit):
        raise EditError(
            f"edit of kind {edit.kind}: only trained weights are cut to a rank. Leave the rank "
            "out, or export a checkpoint."
        )
    kept: dict[str, LowRank] = {}
    before = after = 0.0
    for name, difference in edit.differences.items():
        tensor = whole(difference).double()
        before += float(tensor.square().sum())
        if isinstance(difference, LowRank) and difference.rank <= rank:
            kept[name] = difference
            continue
        if tensor.ndim > 1:
            kept[name] = _nearest(tensor, rank)
            tensor = tensor - kept[name].product()
        after += float(tensor.square().sum())
    if not kept:
        raise EditError(
            "the edit changes biases and normalizations alone, which no LoRA holds. Export a "
            "checkpoint."
        )
    left_off = (after / before) ** 0.5 if before else 0.0
    source = f"{edit.source or 'training'}, cut to rank {rank}, {100 * left_off:.2f} % left off"
    return Truncation(WeightEdit(kept, source), left_off)


def _nearest(tensor: Tensor, rank: int) -> LowRank:
    """Return the nearest matrix of a rank: the projection to the largest singular directions."""
    matrix, kernel = tensor.flatten(1), tensor.shape[1:]
    if len(matrix) <= matrix.shape[1]:
        up = _largest(matrix @ matrix.T, rank)
        down = up.T @ matrix
    else:
        down = _largest(matrix.T @ matrix, rank).T
        up = matrix @ down.T
    return LowRank(up, down.reshape(len(down), *kernel))


def _largest(squared: Tensor, rank: int) -> Tensor:
    """Return eigenvectors of the largest eigenvalues as columns."""
    vectors: Tensor = torch.linalg.eigh(squared).eigenvectors
    return vectors[:, -rank:]
