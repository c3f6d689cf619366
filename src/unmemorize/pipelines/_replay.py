"""Replay what runs before a value layer.

While only neurons of one layer and of later layers are switched, everything that runs before that
layer returns what it returned last time. The outputs of the modules that have finished when the
layer begins are recorded once, and these modules return them afterwards without computing. This
works for every architecture: no forward of diffusers is copied, only the ``forward`` of module
instances is replaced for the time of one pass.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode, sdpa_flop_count

from unmemorize._errors import ModelError
from unmemorize.pipelines._value_inputs import observed_noise

if TYPE_CHECKING:
    from unmemorize.pipelines._model import Model

log = logging.getLogger(__name__)

LARGEST = 4 * 1024**3
"""Bytes that all recordings of one prompt may take together: small beside a full-size model."""
_MOST_RECORDINGS = 2
"""One with all neurons on, and one with the neurons that are off at the moment."""
_TEXTS = ("a", "b", "c")
"""What the few samples of a plan are prompted with. They differ, so that exchanged samples show."""
_ROUNDING = 0.05
"""The largest difference, relative to the range of a channel, that another batch size may make.
Half precision stays below it; the output of another sample does not."""

Predict = Callable[[Sequence[int]], Tensor]
"""Runs a denoiser for some of a few samples, given by their positions, and returns its output."""


@dataclass(frozen=True)
class ReplayPlan:
    """What can be replayed for each value layer, what that saves, and whether it may be used.

    Args:
        before: layer -> the outermost modules that have finished when it begins, each of which is
            called once per pass.
        shares: module -> its share of the multiply-adds of a forward pass, in [0, 1].
        exact: whether replaying gives the same output to the last bit.
        bytes_per_sample: size of the recorded outputs of one sample.

    Examples:
        >>> plan = ReplayPlan({"b": ("a",)}, {"a": 0.25, "b": 0.75}, True, bytes_per_sample=1024)
        >>> plan.cost(None), plan.cost("b"), plan.recordings(samples=10)
        (1.0, 0.75, 2)
    """

    before: Mapping[str, tuple[str, ...]]
    shares: Mapping[str, float]
    exact: bool
    bytes_per_sample: int

    @property
    def recorded(self) -> tuple[str, ...]:
        """Every module that is replayed for some layer."""
        return _union(self.before)

    def cost(self, layer: str | None) -> float:
        """Return the share of a forward pass that runs when everything before a layer is replayed.

        Args:
            layer: a value layer; None when nothing is replayed.
        """
        replayed = self.before[layer] if layer else ()
        return 1.0 - sum(self.shares.get(name, 0.0) for name in replayed)

    def recordings(self, samples: int) -> int:
        """Return how many recordings of this many samples may be held at a time: 0, 1 or 2."""
        if not self.exact:
            return 0
        each = samples * self.bytes_per_sample
        return min(_MOST_RECORDINGS, LARGEST // each) if each else _MOST_RECORDINGS


@dataclass(frozen=True)
class Recording:
    """Outputs of modules in one or more passes over samples of one prompt.

    Args:
        seeds: what the samples are called, in their order.
        outputs: module -> output. The first dimension of each tensor is the samples, or a multiple
            of them: conditional and unconditional halves.
    """

    seeds: tuple[int, ...]
    outputs: Mapping[str, Any]

    @property
    def bytes(self) -> int:
        """The memory of the outputs. Modules that return the same tensor count once."""
        storages = {
            tensor.data_ptr(): tensor.nbytes
            for output in self.outputs.values()
            for tensor in _tensors(output)
        }
        return sum(storages.values())

    def of_seeds(self, seeds: Sequence[int], modules: Iterable[str]) -> dict[str, Any]:
        """Return the outputs of some modules for some of the seeds, in the order of ``seeds``."""
        rows = [self.seeds.index(seed) for seed in seeds]
        return {
            name: _map(lambda tensor: _take(tensor, rows, len(self.seeds)), self.outputs[name])
            for name in modules
        }

    @classmethod
    def join(cls, recordings: Sequence[Recording]) -> Recording:
        """Make one recording of several, which hold the same modules for different seeds."""
        if len(recordings) == 1:
            return recordings[0]
        sizes = [len(recording.seeds) for recording in recordings]
        outputs = {
            name: _join([recording.outputs[name] for recording in recordings], sizes)
            for name in recordings[0].outputs
        }
        return cls(tuple(seed for recording in recordings for seed in recording.seeds), outputs)


def plan_for_model(model: Model, layers: Sequence[str], samples: int) -> ReplayPlan:
    """Make the plan of a model by running it for three samples, see `Model.replay_plan`."""
    text = model.encode(_TEXTS)
    latents, timestep = observed_noise(model, len(_TEXTS))

    def predict(rows: Sequence[int]) -> Tensor:
        return model.predict(latents[list(rows)], timestep, text.take(rows))

    plan = make_plan(model.denoiser, layers, predict, len(_TEXTS))
    reason = ""
    if not plan.exact:
        reason = "a replayed prefix does not give the same output"
    elif not plan.recordings(samples):
        size = samples * plan.bytes_per_sample / 1024**3
        reason = f"{size:.1f} GiB of recorded outputs are too many"
    if reason:
        log.warning("%s: %s, so the denoiser always runs whole", model.name, reason)
    return plan


def make_plan(
    denoiser: nn.Module, layers: Sequence[str], predict: Predict, samples: int
) -> ReplayPlan:
    """Make the plan of a denoiser from five passes over a few samples.

    Args:
        denoiser: the module whose inner modules are replayed.
        layers: paths of value layers, in the order in which they run.
        predict: runs the denoiser.
        samples: how many samples ``predict`` has, at least 2.

    Raises:
        ModelError: a layer does not run.
    """
    everyone = tuple(range(samples))
    before, shares = _examine(denoiser, layers, lambda: predict(everyone), samples)
    with recording(denoiser, _union(before)) as outputs:
        expected = predict(everyone)
    recorded = Recording(everyone, outputs)

    def replayed(layer: str, rows: Sequence[int]) -> Tensor:
        with replaying(denoiser, recorded.of_seeds(rows, before[layer])):
            return predict(rows)

    some = everyone[:0:-1]
    exact = (
        torch.equal(replayed(layers[0], everyone), expected)
        and torch.equal(replayed(layers[-1], everyone), expected)
        # another batch may round differently, the same one may not
        and _alike(replayed(layers[-1], some), expected[list(some)])
    )
    return ReplayPlan(before, shares, exact, recorded.bytes // samples)


def state_of(denoiser: nn.Module) -> Hashable:
    """Return what may change whether replaying is exact.

    These are the modules, their hooks and replaced forwards, device and type. The forward of the
    denoiser itself does not count: it is never replayed, and model offload renews it.
    """
    first = next(denoiser.parameters())
    hooks = [
        (
            name,
            type(module),
            tuple(module._forward_hooks),
            tuple(module._forward_pre_hooks),
            id(vars(module).get("forward")) if name else 0,
        )
        for name, module in denoiser.named_modules()
    ]
    return first.device, first.dtype, tuple(hooks)


@contextmanager
def recording(denoiser: nn.Module, modules: Iterable[str]) -> Iterator[dict[str, Any]]:
    """Fill a dictionary with the outputs of modules, by name, while the context lasts."""
    outputs: dict[str, Any] = {}

    def keep(name: str) -> Callable[..., None]:
        def hook(_module: nn.Module, _inputs: object, output: object) -> None:
            outputs[name] = output

        return hook

    with ExitStack() as stack:
        for name in modules:
            stack.callback(denoiser.get_submodule(name).register_forward_hook(keep(name)).remove)
        yield outputs


@contextmanager
def replaying(denoiser: nn.Module, outputs: Mapping[str, Any]) -> Iterator[None]:
    """Let modules return these outputs, and compute nothing, while the context lasts."""

    def returning(output: object) -> Callable[..., object]:
        return lambda *_args, **_kwargs: output

    modules = [(denoiser.get_submodule(name), output) for name, output in outputs.items()]
    saved = [vars(module).get("forward") for module, _ in modules]
    try:
        for module, output in modules:
            module.forward = returning(output)
        yield
    finally:
        for (module, _), forward in zip(modules, saved, strict=True):
            if forward is None:
                vars(module).pop("forward", None)
            else:
                module.forward = forward


def _examine(
    denoiser: nn.Module, layers: Sequence[str], forward: Callable[[], object], samples: int
) -> tuple[dict[str, tuple[str, ...]], dict[str, float]]:
    """Return `ReplayPlan.before` and `ReplayPlan.shares`, seen in one forward pass."""
    began: dict[str, int] = {}
    ended: dict[str, int] = {}
    calls: dict[str, int] = {}
    clock = iter(range(10**9))

    def at_begin(name: str) -> Callable[..., None]:
        def hook(*_: object) -> None:
            began.setdefault(name, next(clock))
            calls[name] = calls.get(name, 0) + 1

        return hook

    def at_end(name: str) -> Callable[..., None]:
        def hook(_module: nn.Module, _inputs: object, output: object) -> None:
            ended[name] = next(clock)
            if not _by_sample(output, samples):
                calls[name] = 0  # nobody knows how to take some samples of such an output

        return hook

    with ExitStack() as stack, FlopCounterMode(display=False, custom_mapping=_UNCOUNTED) as counter:
        for name, module in denoiser.named_modules():
            stack.callback(module.register_forward_pre_hook(at_begin(name)).remove)
            stack.callback(module.register_forward_hook(at_end(name)).remove)
        forward()
    before = {}
    for layer in layers:
        if layer not in began:
            raise ModelError(
                f"{layer}: is not called. If the projections are fused, "
                "call pipe.unfuse_qkv_projections() first."
            )
        finished = {
            name for name, end in ended.items() if name and end < began[layer] and calls[name] == 1
        }
        before[layer] = tuple(
            name
            for name in sorted(finished, key=began.__getitem__)
            if finished.isdisjoint(_ancestors(name))
        )
    return before, _shares(counter, type(denoiser).__name__)


def _shares(counter: FlopCounterMode, root: str) -> dict[str, float]:
    counted = {
        name.removeprefix(f"{root}."): sum(counts.values())
        for name, counts in counter.get_flop_counts().items()
    }
    total = counted[root]
    return {name: count / total for name, count in counted.items()} if total else {}


def _attention_flops(
    query: tuple[int, ...], key: tuple[int, ...], value: tuple[int, ...], *_: object, **__: object
) -> int:
    return int(sdpa_flop_count(query, key, value))


_UNCOUNTED = {torch.ops.aten._scaled_dot_product_flash_attention_for_cpu: _attention_flops}
"""Attention on the CPU, which torch's counter passes over."""


def _union(before: Mapping[str, tuple[str, ...]]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(name for names in before.values() for name in names))


def _ancestors(name: str) -> Iterator[str]:
    while "." in name:
        name = name.rpartition(".")[0]
        yield name


def _alike(one: Tensor, other: Tensor) -> bool:
    """Compare two outputs (B, C, ...) up to `_ROUNDING`."""
    inner = tuple(range(2, other.ndim))
    allowed = _ROUNDING * (other.amax(inner) - other.amin(inner))
    return bool(((one - other).abs().amax(inner) <= allowed).all())


def _take(tensor: Tensor, rows: list[int], count: int) -> Tensor:
    """Take samples of a tensor that holds ``count`` of them, once or several times over."""
    if rows == list(range(count)):
        return tensor
    copies = len(tensor) // count
    return tensor[[copy * count + row for copy in range(copies) for row in rows]]


def _join(outputs: Sequence[Any], sizes: Sequence[int]) -> Any:
    first = outputs[0]
    if isinstance(first, Tensor):
        copies = len(first) // sizes[0]
        split = [
            tensor.unflatten(0, (copies, size)) for tensor, size in zip(outputs, sizes, strict=True)
        ]
        return torch.cat(split, 1).flatten(0, 1)
    if isinstance(first, (tuple, list)):
        return type(first)(_join(group, sizes) for group in zip(*outputs, strict=True))
    return first


def _map(change: Callable[[Tensor], Tensor], output: Any) -> Any:
    if isinstance(output, Tensor):
        return change(output)
    if isinstance(output, (tuple, list)):
        return type(output)(_map(change, element) for element in output)
    return output


def _by_sample(output: Any, samples: int) -> bool:
    """Tell whether an output consists of tensors whose first dimension is the samples."""
    if isinstance(output, (tuple, list)):
        return type(output) in (tuple, list) and all(
            _by_sample(element, samples) for element in output
        )
    return output is None or (
        isinstance(output, Tensor) and output.ndim > 0 and len(output) == samples
    )


def _tensors(output: Any) -> Iterator[Tensor]:
    if isinstance(output, Tensor):
        yield output
    elif isinstance(output, (tuple, list)):
        for element in output:
            yield from _tensors(element)
