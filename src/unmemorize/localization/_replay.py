"""Replay what runs before a value layer: while only neurons of that layer or of later ones are switched, its inputs stay the same.

The outputs of the modules that have finished when the layer begins are recorded once and returned by these modules afterwards, whatever
the architecture: no forward of diffusers is copied, the ``forward`` of module instances is replaced for the time of one pass.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode, sdpa_flop_count

from unmemorize._errors import ModelError
from unmemorize.neurons import Neurons

LARGEST = 4 * 1024**3
"""Bytes of recorded outputs beyond which less is recorded, or nothing."""


def _attention(
    query: tuple[int, ...], key: tuple[int, ...], value: tuple[int, ...], *_: object, **__: object
) -> int:
    return int(sdpa_flop_count(query, key, value))


_UNCOUNTED = {torch.ops.aten._scaled_dot_product_flash_attention_for_cpu: _attention}
"""Attention on the CPU, which torch's counter passes over."""


@dataclass
class Plan:
    """What one forward of a denoiser showed.

    Args:
        before: layer -> the outermost modules that have finished when it begins, each called once.
        share: module -> its share of the multiply-adds of a forward.
        exact: whether replaying gave the same output to the last bit; None until it was tried.
        roomy: whether the outputs for two sets of neurons at a time fit into `LARGEST`.
    """

    before: Mapping[str, tuple[str, ...]]
    share: Mapping[str, float]
    exact: bool | None = None
    roomy: bool = True

    @property
    def recorded(self) -> tuple[str, ...]:
        """Every module that is replayed for some layer."""
        return tuple(dict.fromkeys(name for names in self.before.values() for name in names))

    def cost(self, layer: str | None) -> float:
        """The share of a forward's multiply-adds that runs when everything before the layer is replayed."""
        return 1.0 - (
            sum(self.share.get(name, 0.0) for name in self.before[layer]) if layer else 0.0
        )


@dataclass(frozen=True)
class Recording:
    """Outputs of modules with some neurons off, for some seeds; each output has the seeds, once or more often, as its first dimension."""

    off: Neurons
    seeds: tuple[int, ...]
    outputs: dict[str, Any]

    @property
    def bytes(self) -> int:
        """What the outputs take; several modules may return one tensor."""
        storages = {
            tensor.data_ptr(): tensor.nbytes
            for output in self.outputs.values()
            for tensor in _tensors(output)
        }
        return sum(storages.values())

    def of(self, seeds: Sequence[int], names: Iterable[str]) -> dict[str, Any]:
        """The outputs of some modules for some of the seeds, in their order."""
        places = [self.seeds.index(seed) for seed in seeds]
        return {
            name: _map(lambda tensor: _take(tensor, places, len(self.seeds)), self.outputs[name])
            for name in names
        }


_PLANS: WeakKeyDictionary[nn.Module, dict[Hashable, Plan]] = WeakKeyDictionary()


def plan_for(denoiser: nn.Module, layers: Sequence[str], forward: Callable[[], object]) -> Plan:
    """The plan of a denoiser for these layers, from one call of ``forward`` on one sample; made once for a denoiser as it is.

    What may change whether replaying is exact makes another plan: the modules, their hooks and replaced forwards, device and type.

    Raises:
        ModelError: a layer does not run.
    """
    plans = _PLANS.setdefault(denoiser, {})
    key = (tuple(layers), _state(denoiser))
    if key not in plans:
        plans[key] = _make_plan(denoiser, layers, forward)
    return plans[key]


def _state(denoiser: nn.Module) -> Hashable:
    first = next(denoiser.parameters())
    hooks = [
        (
            name,
            type(module),
            tuple(module._forward_hooks),
            tuple(module._forward_pre_hooks),
            id(vars(module).get("forward")) if name else 0,
        )
        for name, module in denoiser.named_modules()  # the forward of the denoiser itself is never replayed, and model offload renews it
    ]
    return first.device, first.dtype, tuple(hooks)


def _make_plan(denoiser: nn.Module, layers: Sequence[str], forward: Callable[[], object]) -> Plan:
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
            if not _by_sample(output):
                calls[name] = 0  # how to take some samples of such an output is not known

        return hook

    with ExitStack() as stack, FlopCounterMode(display=False, custom_mapping=_UNCOUNTED) as counter:
        for name, module in denoiser.named_modules():
            stack.callback(module.register_forward_pre_hook(at_begin(name)).remove)
            stack.callback(module.register_forward_hook(at_end(name)).remove)
        forward()
    root = type(denoiser).__name__
    counted = {
        name.removeprefix(f"{root}."): sum(counts.values())
        for name, counts in counter.get_flop_counts().items()
    }
    total = counted[root]
    before = {}
    for layer in layers:
        if layer not in began:
            raise ModelError(
                f"{layer}: is not called. If the projections are fused, call pipe.unfuse_qkv_projections() first."
            )
        done = {
            name for name, end in ended.items() if name and end < began[layer] and calls[name] == 1
        }
        before[layer] = tuple(
            name for name in sorted(done, key=began.__getitem__) if not done & set(_ancestors(name))
        )
    return Plan(before, {name: count / total for name, count in counted.items()})


def _ancestors(name: str) -> Iterator[str]:
    while "." in name:
        name = name.rpartition(".")[0]
        yield name


@contextmanager
def recording(denoiser: nn.Module, names: Iterable[str]) -> Iterator[dict[str, Any]]:
    """The outputs of modules by name, filled in while the context lasts."""
    outputs: dict[str, Any] = {}

    def keep(name: str) -> Callable[..., None]:
        def hook(_module: nn.Module, _inputs: object, output: object) -> None:
            outputs[name] = output

        return hook

    with ExitStack() as stack:
        for name in names:
            stack.callback(denoiser.get_submodule(name).register_forward_hook(keep(name)).remove)
        yield outputs


@contextmanager
def replaying(denoiser: nn.Module, outputs: Mapping[str, Any]) -> Iterator[None]:
    """The modules return these outputs, and compute nothing, while the context lasts."""

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


def joined(parts: Sequence[Recording]) -> Recording:
    """Recordings of different seeds, with the same neurons off, as one."""
    if len(parts) == 1:
        return parts[0]
    sizes = [len(part.seeds) for part in parts]
    outputs = {
        name: _join([part.outputs[name] for part in parts], sizes) for name in parts[0].outputs
    }
    return Recording(parts[0].off, tuple(seed for part in parts for seed in part.seeds), outputs)


def first_difference(layers: Sequence[str], one: Neurons, other: Neurons) -> str | None:
    """The first of the layers in which two sets of neurons differ; None where they do not."""
    return next(
        (layer for layer in layers if one.layers.get(layer) != other.layers.get(layer)), None
    )


def _take(tensor: Tensor, places: list[int], count: int) -> Tensor:
    if places == list(range(count)):
        return tensor
    copies = len(tensor) // count
    return tensor[[copy * count + place for copy in range(copies) for place in places]]


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
        return type(output)(_map(change, part) for part in output)
    return output


def _by_sample(output: Any) -> bool:
    """Whether an output for one sample consists of tensors whose first dimension is the samples."""
    if isinstance(output, (tuple, list)):
        return type(output) in (tuple, list) and all(map(_by_sample, output))
    return output is None or (isinstance(output, Tensor) and output.ndim > 0 and len(output) == 1)


def _tensors(output: Any) -> Iterator[Tensor]:
    if isinstance(output, Tensor):
        yield output
    elif isinstance(output, (tuple, list)):
        for part in output:
            yield from _tensors(part)
