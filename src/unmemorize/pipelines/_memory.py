"""Results that are remembered while they are among the last few."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Hashable
from typing import Any, TypeVar, cast

import torch

Found = TypeVar("Found")
_SIZE = 12
"""How many results are kept. The largest are matrices of the text's width."""


class Memory:
    """Keeps the results that were asked for last.

    Examples:
        >>> memory = Memory()
        >>> memory.recall("a", lambda: 1), memory.recall("a", lambda: 2)
        (1, 1)
    """

    def __init__(self) -> None:
        self._found: OrderedDict[Hashable, Any] = OrderedDict()

    def recall(self, key: Hashable, make: Callable[[], Found]) -> Found:
        """Return what ``make`` returned for a key before, if that is still known."""
        if key not in self._found:
            with torch.inference_mode(False):  # tensors of that mode can never be differentiated
                self._found[key] = make()
        self._found.move_to_end(key)
        while len(self._found) > _SIZE:
            self._found.popitem(last=False)
        return cast(Found, self._found[key])
