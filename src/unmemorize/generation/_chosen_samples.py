"""Which samples of a batch an edit concerns."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from unmemorize._errors import ModelError


class ChosenSamples:
    """Finds the samples that an edit concerns in batches of the denoiser.

    Their indices are copied to a device once. A copy in each pass would stop a GPU, and so would a
    mask, since its true values must be counted before a tensor of that size can be made.

    Args:
        rows: see `Edit.applied`.
    """

    def __init__(self, rows: Sequence[bool]) -> None:
        self._rows = list(rows)
        self._placed: dict[tuple[int, torch.device], Tensor] = {}

    @property
    def are_all(self) -> bool:
        """Whether the edit concerns every sample."""
        return all(self._rows)

    def of(self, batch: Tensor) -> Tensor | slice:
        """Return where the samples are in a batch, to index its first dimension with.

        Raises:
            ModelError: the batch is no multiple of the rows.
        """
        copies, rest = divmod(len(batch), len(self._rows))
        if rest:
            raise ModelError(
                f"an edit of {len(self._rows)} samples does not fit a batch of {len(batch)}. "
                "Say for each sample whether it applies."
            )
        if self.are_all:
            return slice(None)
        place = copies, batch.device
        if place not in self._placed:
            indices = [index for index, row in enumerate(self._rows * copies) if row]
            with torch.inference_mode(False):  # or no later pass could be differentiated
                self._placed[place] = torch.tensor(indices, device=batch.device)
        return self._placed[place]
