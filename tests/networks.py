"""Small networks in files, in the place of the large ones that users name."""

import hashlib
import warnings
from pathlib import Path

import numpy as np
import onnx
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import Tensor, nn

WEIGHT = np.random.default_rng(0).normal(size=(5, 3)).astype(np.float32)


class Layers(nn.Module):
    """A small network in the place of Inception: 6 numbers per image."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.conv = nn.Conv2d(3, 6, 5, stride=7)

    def forward(self, pixels: Tensor) -> Tensor:
        found: Tensor = self.conv(pixels).relu().mean((2, 3))
        return found


class Network(nn.Module):
    """The form of the Inception network of clean-fid: a module with a part called layers."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = Layers()

    def forward(self, pixels: Tensor) -> Tensor:
        found: Tensor = self.layers(pixels)
        return found


def save_script(module: nn.Module, path: Path) -> str:
    """Write a TorchScript file; returns its SHA-256."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        torch.jit.save(torch.jit.script(module), path)
    return hashlib.sha256(path.read_bytes()).hexdigest()


class Colours(nn.Module):
    """Mean colour times a matrix: (B, 3, H, W) to (B, 5)."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.from_numpy(WEIGHT))

    def forward(self, images: Tensor) -> Tensor:
        return images.mean((2, 3)) @ self.weight.T


def save_onnx(path: Path) -> None:
    """Mean over the image and a matrix product."""
    nodes = [
        helper.make_node("GlobalAveragePool", ["images"], ["pooled"]),
        helper.make_node("Flatten", ["pooled"], ["flat"]),
        helper.make_node("Gemm", ["flat", "weight"], ["out"], transB=1),
    ]
    given = helper.make_tensor_value_info("images", TensorProto.FLOAT, ["B", 3, 16, 16])
    out = helper.make_tensor_value_info("out", TensorProto.FLOAT, ["B", 5])
    graph = helper.make_graph(
        nodes, "colours", [given], [out], [numpy_helper.from_array(WEIGHT, "weight")]
    )
    onnx.save(
        helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path
    )


def statistics_for(widths: list[int]) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
    """Means and standard deviations in the published form."""
    generator = torch.Generator().manual_seed(0)
    means, stds = ([torch.rand(width, generator=generator) for width in widths] for _ in range(2))
    return means, stds
