"""Load a pipeline, and know afterwards how, so that another process can load the same."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

import torch
from diffusers import DiffusionPipeline
from safetensors import SafetensorError

from unmemorize import _bundled
from unmemorize._errors import ModelError
from unmemorize.pipelines._value_layers import name_value_layers, named_value_layers

_LOADING = "_unmemorize_loading"
_DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}


@dataclass(frozen=True)
class Loading:
    """How a pipeline was loaded; the arguments are those of `load_pipeline`, and ``value_layers`` is the pattern of `name_value_layers`."""

    model: str
    device: str
    dtype: str
    revision: str | None
    variant: str | None
    local_files_only: bool
    value_layers: str | None = None

    @classmethod
    def found(cls, pipe: DiffusionPipeline) -> Loading | None:
        """How this pipeline was loaded; None when that was not by `load_pipeline`."""
        loading: Loading | None = getattr(pipe, _LOADING, None)
        return loading

    @classmethod
    def of(cls, pipe: DiffusionPipeline) -> Loading:
        """How other processes load the same pipeline.

        Raises:
            ModelError: it was loaded by something else.
        """
        loading = cls.found(pipe)
        if loading is None:
            raise ModelError(
                "other processes cannot load this pipeline. Load it with unmemorize.load_pipeline, or work in this process."
            )
        return replace(loading, value_layers=named_value_layers())

    def load(self, number: int) -> DiffusionPipeline:
        """Load the pipeline in another process, on the GPU of this number where any GPU will do.

        Raises:
            ModelError: as `load_pipeline`.
        """
        name_value_layers(self.value_layers)
        device = self.device
        if device in ("auto", "cuda") and torch.cuda.is_available():
            device = f"cuda:{number % torch.cuda.device_count()}"
        return load_pipeline(
            self.model,
            device=device,
            dtype=self.dtype,
            revision=self.revision,
            variant=self.variant,
            local_files_only=self.local_files_only,
        )


def load_pipeline(
    model: str,
    *,
    device: str = "auto",
    dtype: str = "auto",
    revision: str | None = None,
    variant: str | None = None,
    local_files_only: bool = False,
) -> DiffusionPipeline:
    """Load a pipeline as diffusers does, safetensors only.

    Args:
        model: a Hub id, a folder, or "testbed" for the bundled model.
        device: "auto" (CUDA, then MPS, then CPU) or a torch device.
        dtype: "auto" (float16 on CUDA, else float32), "float32", "float16" or "bfloat16".
        revision: a branch, tag or commit of the Hub.
        variant: a weight variant such as "fp16".
        local_files_only: never ask the Hub.

    Raises:
        ModelError: the model cannot be loaded; the message says why.
    """
    place = (
        model if model == "testbed" or not Path(model).is_dir() else str(Path(model).absolute())
    )  # for processes in other folders
    asked = device
    if model == "testbed":
        model = str(_bundled.model_path())
    if device == "auto":
        device = (
            "cuda"
            if torch.cuda.is_available()
            else "mps"
            if torch.backends.mps.is_available()
            else "cpu"
        )
    if dtype == "auto":
        dtype = "float16" if device.startswith("cuda") else "float32"
    if dtype not in _DTYPES:
        raise ModelError(f"dtype {dtype!r}: unknown. Use auto, {', '.join(_DTYPES)}.")
    try:
        pipe: Any = DiffusionPipeline.from_pretrained(
            model,
            dtype=_DTYPES[dtype],
            revision=revision,
            variant=variant,
            local_files_only=local_files_only,
            use_safetensors=True,
        )
    except (
        OSError,
        ValueError,
        KeyError,
        TypeError,
        AttributeError,
        ArithmeticError,
        RuntimeError,
        ImportError,
        SafetensorError,
    ) as problem:
        reason = str(problem).strip().split("\n")[0]
        way_out = "Give a Hub id, a diffusers folder with safetensors, or testbed."
        if "safetensors" in reason and Path(model).is_dir() and any(Path(model).rglob("*.bin")):
            way_out = "Its weights are pickles, which can run code. If you trust them, load them with diffusers and save_pretrained again."
        raise ModelError(f"{model}: the model cannot be loaded ({reason}). {way_out}") from problem
    pipe.set_progress_bar_config(disable=True)
    setattr(
        pipe, _LOADING, Loading(place, asked, dtype, revision, variant, local_files_only)
    )  # one type, whatever devices others have
    try:
        return cast(DiffusionPipeline, pipe.to(device))
    except (RuntimeError, AssertionError) as problem:
        reason = str(problem).strip().split("\n")[0]
        raise ModelError(
            f"device {device}: the model cannot be put there ({reason}). Use --device auto or cpu."
        ) from problem
