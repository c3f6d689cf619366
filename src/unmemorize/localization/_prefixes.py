"""The recorded prefixes of one prompt: which recordings are kept, and which one a pass starts from.

A prefix is everything that runs before the first value layer in which a pass differs from the
recorded one.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from unmemorize.neurons import Neurons
from unmemorize.pipelines import Recording, ReplayPlan


@dataclass(frozen=True)
class RecordedPass:
    """What was recorded of one or more passes with the same neurons off."""

    off: Neurons
    recording: Recording


@dataclass(frozen=True)
class Prefix:
    """The layer at which a pass can start, with everything before it replayed from ``source``."""

    source: RecordedPass
    layer: str


class Prefixes:
    """At most two recordings: one with all neurons on, one with those off that passed a test last.

    Args:
        plan: what is replayed before each layer.
        layers: the value layers whose neurons may be switched, in the order in which they run.
        most: how many recordings may be held, see `ReplayPlan.recordings`.
    """

    def __init__(self, plan: ReplayPlan, layers: Sequence[str], most: int) -> None:
        self._plan = plan
        self._layers = list(layers)
        self._most = most
        self._unblocked: RecordedPass | None = None
        self._current: RecordedPass | None = None
        self.peak = 0
        """The most bytes that the recordings have taken at a time."""

    @property
    def bytes(self) -> int:
        """The memory that the recordings take."""
        return sum(kept.recording.bytes for kept in self._kept())

    def modules_to_record(self, off: Neurons) -> tuple[str, ...]:
        """Return the modules to record in a pass with these neurons off; none if it is not kept."""
        return self._plan.recorded if self._is_kept(off) else ()

    def keep(self, passed: RecordedPass) -> None:
        """Keep a recording of all seeds; one with neurons off replaces the previous such one."""
        if not self._is_kept(passed.off):
            return
        whole = self._completed(passed)
        if passed.off:
            self._current = whole
        else:
            self._unblocked = whole
        self.peak = max(self.peak, self.bytes)

    def longest(self, off: Neurons, seeds: Sequence[int]) -> Prefix | None:
        """Return the prefix that saves most for a pass, or None if nothing is recorded for it.

        Args:
            off: the neurons that are off in the pass.
            seeds: the seeds of the pass.
        """
        prefixes = [
            Prefix(kept, first_difference(self._layers, off, kept.off) or self._layers[-1])
            for kept in self._kept()
            if set(seeds) <= set(kept.recording.seeds)
        ]
        return max(prefixes, key=lambda prefix: self._layers.index(prefix.layer), default=None)

    def outputs(self, prefix: Prefix | None, seeds: Sequence[int]) -> dict[str, object]:
        """Return what the modules before the start of a pass give back, for its seeds."""
        if prefix is None:
            return {}
        return prefix.source.recording.of_seeds(seeds, self._plan.before[prefix.layer])

    def _is_kept(self, off: Neurons) -> bool:
        return self._most >= (2 if off else 1)

    def _kept(self) -> Iterator[RecordedPass]:
        return (kept for kept in (self._unblocked, self._current) if kept is not None)

    def _completed(self, passed: RecordedPass) -> RecordedPass:
        """Add the outputs of modules that did not run because a module around them was replayed."""
        seeds = passed.recording.seeds
        prefix = self.longest(passed.off, seeds)
        if prefix is None:
            return passed
        before = prefix.source.recording
        missing = before.outputs.keys() - passed.recording.outputs.keys()
        outputs = {**passed.recording.outputs, **before.of_seeds(seeds, missing)}
        return RecordedPass(passed.off, Recording(seeds, outputs))


def first_difference(layers: Sequence[str], one: Neurons, other: Neurons) -> str | None:
    """Return the first of the layers in which two sets of neurons differ, None if there is none.

    Examples:
        >>> first_difference(["a", "b"], Neurons({"a": [1]}), Neurons({"a": [1], "b": [2]}))
        'b'
    """
    return next(
        (layer for layer in layers if one.layers.get(layer) != other.layers.get(layer)), None
    )
