"""Neurons off by hooks and by edited weights, eager, in a CUDA graph and compiled."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial
from types import FrameType
from typing import Any

import torch
from torch import Tensor

import unmemorize as um
from real_shapes_timing import forward_of, peak_gib, readings, start_peak, synchronize
from unmemorize.neurons import scaled

Report = dict[str, Any]
Switch = Callable[[], AbstractContextManager[None]]
_OFF = 2
"""Neurons that are off in every value layer, so that each of them has a hook."""
_BATCHES = (1, 10)
"""One sample, and the seeds of a localization."""
COMPILED: dict[str, dict[str, Any]] = {
    "blocks": {"dynamic": False},
    "whole": {"dynamic": False},
    "whole, reduce-overhead": {"dynamic": False, "mode": "reduce-overhead"},
}
"""Ways to compile: the transformer blocks alone, which takes least, and the whole U-Net."""


@contextmanager
def edited_in_place(model: um.Model, neurons: um.Neurons) -> Iterator[None]:
    """Set the rows of neurons to 0 in the weights, and put the same bits back."""
    kept: list[tuple[Tensor, list[int], Tensor]] = []
    for path, indices in neurons.layers.items():
        rows = list(indices)
        for parameter in model.value_layers[path].parameters():
            kept.append((parameter.data, rows, parameter.data[rows].clone()))
            parameter.data[rows] = 0
    try:
        yield
    finally:
        for values, rows, before in kept:
            values[rows] = before


def some_neurons(model: um.Model) -> um.Neurons:
    return um.Neurons({path: range(_OFF) for path in model.value_layers})


def switches(model: um.Model) -> dict[str, Switch]:
    neurons = some_neurons(model)
    return {
        "nothing off": nullcontext,
        "off by hooks": lambda: scaled(model, [neurons], 0.0),
        "off by weights": lambda: edited_in_place(model, neurons),
    }


def neurons_off(model: um.Model, taken: Report) -> None:
    """Measure passes with nothing off, by hooks and by weights, and in a CUDA graph."""
    for batch in _BATCHES:
        forward = forward_of(model, batch)
        taken[f"eager, {batch}"], outputs = by_switch(model, forward)
        if model.device.type == "cuda":
            replay = captured(forward)
            taken[f"CUDA graph, {batch}"], replayed = by_switch(model, replay, "off by hooks")
            same = {name: equal(output, outputs[name]) for name, output in replayed.items()}
            taken[f"CUDA graph, {batch}, same bits as eager"] = same
        taken[f"hooks and weights, {batch}, same bits"] = equal(
            outputs["off by hooks"], outputs["off by weights"]
        )
        taken[f"after it, {batch}, same bits"] = equal(forward(), outputs["nothing off"])
    taken["switching alone"] = {
        name: {"seconds": readings(partial(entered, switch), model.device)}
        for name, switch in switches(model).items()
    }


def by_switch(
    model: um.Model, forward: Callable[[], Tensor], *without: str
) -> tuple[Report, dict[str, Tensor]]:
    """Measure a pass under each switch, and return what it computes."""
    taken: Report = {}
    outputs = {}
    for name, switch in switches(model).items():
        if name not in without:
            with switch():
                taken[name] = {"seconds": readings(forward, model.device, 5)}
                outputs[name] = forward().clone()
    return taken, outputs


def entered(switch: Switch) -> None:
    with switch():
        pass


def equal(one: Tensor, other: Tensor) -> str:
    if torch.equal(one, other):
        return "yes"
    return f"no, {float((one.float() - other.float()).abs().max()):.2g} apart"


def captured(forward: Callable[[], Tensor]) -> Callable[[], Tensor]:
    """Capture an eager pass in a CUDA graph."""
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(2):
            forward()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        output = forward()

    def replay() -> Tensor:
        graph.replay()
        return output

    return replay


@contextmanager
def within(seconds: float) -> Iterator[None]:
    """Interrupt what takes longer than this many seconds.

    Raises:
        TimeoutError: it did.
    """

    def stop(_signal: int, _frame: FrameType | None) -> None:
        raise TimeoutError(f"longer than {seconds:.0f} s")

    before = signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, max(1.0, seconds))
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def compiled(way: str, model: um.Model, taken: Report, backend: str = "inductor") -> None:
    """Measure the same with a denoiser that is compiled in one way, beside the eager one."""
    batch, plain = max(_BATCHES), model.pipe.unet
    forward = forward_of(model, batch)
    taken["eager"] = {"seconds": readings(forward, model.device, 5)}
    start_peak(model.device)
    try:
        if way == "blocks":
            plain.compile_repeated_blocks(backend=backend, **COMPILED[way])
        else:
            model.pipe.unet = torch.compile(plain, backend=backend, **COMPILED[way])
        began = time.perf_counter()
        forward()
        synchronize(model.device)
        taken["seconds to compile, one reading"] = time.perf_counter() - began
        rows, outputs = by_switch(model, forward)
        taken |= rows
        taken["peak GiB"] = peak_gib(model.device)
        taken["hooks and weights"] = equal(outputs["off by hooks"], outputs["off by weights"])
        taken["after it, same bits"] = equal(forward(), outputs["nothing off"])
    finally:
        model.pipe.unet = plain
        for module in plain.modules():
            module._compiled_call_impl = None
        torch._dynamo.reset()
