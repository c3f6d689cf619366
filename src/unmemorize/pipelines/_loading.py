"""Load a pipeline, and remember how, so that other processes can load the same one."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, cast

import torch
from diffusers import DiffusionPipeline, UNet2DConditionModel

from unmemorize import _bundled
from unmemorize._errors import ModelError, TestbedError, first_line
from unmemorize._files import type_in_words
from unmemorize._paths import exists, is_folder
from unmemorize.pipelines._lora_files import adapter_names, load_loras, lora_file, sha256_of
from unmemorize.pipelines._quiet import quiet_loading

BUNDLED = "testbed"
"""The name under which the bundled model is loaded."""
_DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}


@dataclass(frozen=True)
class Loading:
    """How a model was loaded, so that another process can load it again.

    Args:
        model: a Hub id, an absolute folder, or "testbed".
        device: as the user asked for it, such as "auto".
        dtype: the type that was chosen. Workers must use it even on another device.
        revision: a branch, tag or commit of the Hub.
        variant: a weight variant such as "fp16".
        local_files_only: whether the Hub is never asked.
        value_layers: the pattern that names the value layers, see `Model`.
        loras: LoRAs to load: file, folder, or repository of the Hub -> strength.
        unet: a folder whose U-Net takes the place of the model's own, as for a twin.
    """

    model: str
    device: str = "auto"
    dtype: str = "auto"
    revision: str | None = None
    variant: str | None = None
    local_files_only: bool = False
    value_layers: str | None = None
    loras: Mapping[str, float] = field(default_factory=dict)
    unet: str | None = None

    def resolved(self) -> Loading:
        """Fix what another process would decide differently: relative paths and the dtype."""
        is_local = self.model != BUNDLED and is_folder(Path(self.model))
        model = str(Path(self.model).absolute()) if is_local else self.model
        loras = {_absolute(source): strength for source, strength in self.loras.items()}
        dtype = self.dtype
        if dtype == "auto":
            dtype = "float16" if self._torch_device().startswith("cuda") else "float32"
        return replace(self, model=model, dtype=dtype, loras=loras)

    def for_worker(self, number: int) -> Loading:
        """Spread workers over the GPUs of a machine, unless one device was asked for."""
        if self.device in ("auto", "cuda") and torch.cuda.is_available():
            return replace(self, device=f"cuda:{number % torch.cuda.device_count()}")
        return self

    def lora_hashes(self) -> dict[str, str]:
        """Return the SHA-256 of each LoRA's file, by the name of its adapter."""
        return {
            name: sha256_of(lora_file(source, local_files_only=True))
            for source, name in adapter_names(self.loras).items()
        }

    def pipeline(self) -> DiffusionPipeline:
        """Load the pipeline and its LoRAs, safetensors only.

        Raises:
            ModelError: it cannot be loaded; the message says why.
        """
        loading = self.resolved()
        if loading.dtype not in _DTYPES:
            raise ModelError(f"dtype {loading.dtype!r}: unknown. Use auto, {', '.join(_DTYPES)}.")
        source = str(_bundled.model_path()) if self.model == BUNDLED else loading.model
        read: dict[str, Any] = {"dtype": _DTYPES[loading.dtype], "use_safetensors": True}
        other: dict[str, Any] = {}
        try:
            with quiet_loading():
                if self.unet is not None:
                    other["unet"] = UNet2DConditionModel.from_pretrained(self.unet, **read)
                pipe: Any = DiffusionPipeline.from_pretrained(
                    source,
                    revision=self.revision,
                    variant=self.variant,
                    local_files_only=self.local_files_only,
                    **read,
                    **other,
                )
        except TestbedError:
            raise
        except Exception as problem:  # a damaged folder makes diffusers raise almost anything
            raise _cannot_be_loaded(self.model, problem) from problem
        pipe.set_progress_bar_config(disable=True)
        load_loras(pipe, loading.loras, local_files_only=self.local_files_only)
        device = self._torch_device()
        try:
            return cast(DiffusionPipeline, pipe.to(device))
        except (RuntimeError, AssertionError) as problem:
            raise ModelError(
                f"device {device}: the model cannot be put there ({first_line(problem)}). "
                'Use another one: --device cpu, or device="cpu" in Python.'
            ) from problem

    def _torch_device(self) -> str:
        if self.device != "auto":
            return self.device
        if torch.cuda.is_available():
            return "cuda"
        return "mps" if torch.backends.mps.is_available() else "cpu"


def load_pipeline(
    model: str,
    *,
    device: str | torch.device = "auto",
    dtype: str | torch.dtype = "auto",
    revision: str | None = None,
    variant: str | None = None,
    local_files_only: bool = False,
    loras: Mapping[str, float] | None = None,
) -> DiffusionPipeline:
    """Load a pipeline as diffusers does, safetensors only.

    Args:
        model: a Hub id, a folder, or "testbed" for the bundled model.
        device: "auto" (CUDA, then MPS, then CPU) or a torch device.
        dtype: "auto" (float16 on CUDA, else float32), "float32", "float16" or "bfloat16", or one
            of these of torch.
        revision: a branch, tag or commit of the Hub.
        variant: a weight variant such as "fp16".
        local_files_only: whether to use only files that are already on this machine.
        loras: LoRAs to load and their strengths, such as ``{"style.safetensors": 0.8}``: files,
            folders, or repositories of the Hub (OWNER/NAME, or OWNER/NAME/FILE).

    Raises:
        ModelError: the model or a LoRA cannot be loaded; the message says why.

    Examples:
        >>> pipe = load_pipeline("testbed")
        >>> type(pipe).__name__
        'StableDiffusionPipeline'
    """
    loading = Loading(
        model,
        in_words(device),
        in_words(dtype),
        revision,
        variant,
        local_files_only,
        loras=loras or {},
    )
    return loading.pipeline()


def in_words(choice: str | torch.device | torch.dtype) -> str:
    """Return a device or dtype as `Loading` names it.

    Raises:
        ModelError: it is neither a text nor one of torch.

    Examples:
        >>> in_words(torch.device("cuda", 1)), in_words(torch.float16)
        ('cuda:1', 'float16')
    """
    if not isinstance(choice, (str, torch.device, torch.dtype)):
        raise ModelError(
            f"{choice!r:.60}: {type_in_words(choice)}, not a device or dtype. Give a text or one "
            "of torch."
        )
    return str(choice).removeprefix("torch.")


def _absolute(source: str) -> str:
    path = Path(source).expanduser()
    return str(path.absolute()) if exists(path) else source


def _cannot_be_loaded(model: str, problem: Exception) -> ModelError:
    reason = first_line(problem)
    way_out = f"Give a Hub id, a diffusers folder with safetensors, or {BUNDLED}."
    if "safetensors" in reason and is_folder(Path(model)) and any(Path(model).rglob("*.bin")):
        way_out = (
            "Its weights are pickles, which can run code. If you trust them, load them with "
            "diffusers and save_pretrained again."
        )
    return ModelError(f"{model}: the model cannot be loaded ({reason}). {way_out}")
