"""A loaded diffusers pipeline as the method sees it: encode text, draw latents, predict the noise once."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

import torch
from diffusers import DDIMScheduler, DiffusionPipeline
from safetensors import SafetensorError
from torch import Tensor, nn

from unmemorize._errors import ModelError
from unmemorize._value_layers import find_value_layers


class Model:
    """A Stable Diffusion pipeline with the few operations that localization needs.

    Making one costs next to nothing: it holds the pipeline and changes nothing in it.

    Args:
        pipe: a loaded ``StableDiffusionPipeline``.

    Raises:
        ModelError: the pipeline is of another kind, does not predict noise, has no value layers, or a value layer holds NaN or infinity.
    """

    def __init__(self, pipe: DiffusionPipeline) -> None:
        from diffusers import StableDiffusionPipeline  # here, as it loads much of transformers

        if not isinstance(pipe, StableDiffusionPipeline):
            raise ModelError(f"{type(pipe).__name__}: only StableDiffusionPipeline is supported so far. Load the model with that class.")
        prediction = pipe.scheduler.config.get("prediction_type", "epsilon")
        if prediction != "epsilon":
            raise ModelError(f"prediction type {prediction}: only models that predict the noise (epsilon) are supported so far.")
        self.pipe: Any = pipe
        self.denoiser = cast(nn.Module, self.pipe.unet)
        self.value_layers = find_value_layers(self.denoiser)
        for path, layer in self.value_layers.items():
            if not bool(torch.isfinite(layer.weight).all()):
                raise ModelError(f"{self.name}: the weights of {path} hold NaN or infinity. The checkpoint is damaged; load another one.")
        self._fingerprint: str | None = None

    @property
    def name(self) -> str:
        """The id or folder that the pipeline was loaded from."""
        name = self.pipe.config.get("_name_or_path") or type(self.pipe).__name__
        return Path(name).name if Path(name).is_absolute() else str(name)

    @property
    def device(self) -> torch.device:
        device: torch.device = self.pipe._execution_device
        return device

    @property
    def dtype(self) -> torch.dtype:
        dtype: torch.dtype = self.pipe.unet.dtype
        return dtype

    @property
    def latent_shape(self) -> tuple[int, int, int]:
        """Shape (C, H, W) of one latent."""
        config = self.pipe.unet.config
        side: int | Sequence[int] = config.sample_size
        height, width = (side, side) if isinstance(side, int) else (side[0], side[1])
        return int(config.in_channels), height, width

    @property
    def widths(self) -> dict[str, int]:
        """How many neurons each value layer has, by path."""
        return {path: layer.out_features for path, layer in self.value_layers.items()}

    @property
    def fingerprint(self) -> str:
        """SHA-256 over the paths, shapes and weights of all value layers, in float16, so that loading in half precision changes nothing."""
        if self._fingerprint is None:
            digest = hashlib.sha256()
            for path, layer in sorted(self.value_layers.items()):
                digest.update(f"{path} {tuple(layer.weight.shape)}\n".encode())
                for tensor in (layer.weight, layer.bias):
                    if tensor is not None:
                        digest.update(tensor.detach().to("cpu", torch.float16).contiguous().numpy().tobytes())
            self._fingerprint = digest.hexdigest()
        return self._fingerprint

    def matches(self, fingerprint: str) -> bool:
        """Whether a fingerprint is this model's; an empty one, of published files that name no weights, says nothing and passes."""
        return not fingerprint or fingerprint == self.fingerprint

    @torch.inference_mode()
    def encode(self, texts: Sequence[str]) -> Tensor:
        """Text embeddings of shape (B, tokens, features), padded and cut as the pipeline does for generation."""
        embeddings: Tensor = self.pipe.encode_prompt(list(texts), self.device, 1, False)[0]
        return embeddings

    def draw_latents(self, count: int, seed: int) -> Tensor:
        """Initial noise (count, C, H, W): one draw from one CPU generator, the same on every device."""
        generator = torch.Generator().manual_seed(seed)
        return torch.randn((count, *self.latent_shape), generator=generator).to(self.device, self.dtype)

    def timesteps(self, steps: int) -> Tensor:
        """The timesteps of DDIM with the model's own noise schedule, shape (steps,), largest first; whatever scheduler is loaded."""
        scheduler = ddim(self.pipe)
        scheduler.set_timesteps(steps)
        return cast(Tensor, scheduler.timesteps)

    def predict(self, latents: Tensor, timestep: Tensor, text: Tensor, *, gradient: bool = False) -> Tensor:
        """The denoiser's output for latents (B, C, H, W) and text (B, tokens, features), float32 of shape (B, C, H, W).

        Args:
            latents, timestep, text: what the denoiser sees.
            gradient: keep what a backward pass needs; without, inference mode.

        Raises:
            ModelError: the output is not finite.
        """
        with torch.inference_mode(not gradient):
            output: Tensor = self.pipe.unet(latents, timestep.to(self.device), encoder_hidden_states=text, return_dict=False)[0].float()
        if not bool(torch.isfinite(output).all()):
            raise ModelError(f"{self.name}: the denoiser returns NaN or infinity in {self.dtype}. Load it with --dtype float32.")
        return output


def ddim(pipe: Any) -> DDIMScheduler:
    """A DDIM scheduler with the noise schedule that the pipeline's own scheduler is configured with."""
    scheduler: DDIMScheduler = DDIMScheduler.from_config(pipe.scheduler.config)
    return scheduler


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
    if model == "testbed":
        from unmemorize import testbed

        model = str(testbed.path())
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    dtypes = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}
    if dtype == "auto":
        dtype = "float16" if device.startswith("cuda") else "float32"
    if dtype not in dtypes:
        raise ModelError(f"dtype {dtype!r}: unknown. Use auto, {', '.join(dtypes)}.")
    try:
        pipe: Any = DiffusionPipeline.from_pretrained(
            model, dtype=dtypes[dtype], revision=revision, variant=variant, local_files_only=local_files_only, use_safetensors=True
        )
    except (OSError, ValueError, RuntimeError, ImportError, SafetensorError) as problem:
        reason = str(problem).strip().split("\n")[0]
        raise ModelError(
            f"{model}: the model cannot be loaded ({reason}). Give a Hub id, a diffusers folder with safetensors, or testbed."
        ) from problem
    pipe.set_progress_bar_config(disable=True)
    try:
        return cast(DiffusionPipeline, pipe.to(device))
    except (RuntimeError, AssertionError) as problem:
        reason = str(problem).strip().split("\n")[0]
        raise ModelError(f"device {device}: the model cannot be put there ({reason}). Use --device auto or cpu.") from problem
