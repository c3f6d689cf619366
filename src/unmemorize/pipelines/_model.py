"""A loaded diffusers pipeline as the method sees it: encode text, draw latents, predict the noise once."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Hashable, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, cast
from weakref import WeakKeyDictionary

import torch
from diffusers import DDIMScheduler, DiffusionPipeline
from torch import Tensor, nn

from unmemorize._errors import ModelError
from unmemorize.pipelines._conditioning import Conditioning, Layout, first_call, layout_of
from unmemorize.pipelines._denoiser import adapters_of, denoiser_of, uncompiled, weights_of
from unmemorize.pipelines._loading import Loading
from unmemorize.pipelines._sampler import sampler
from unmemorize.pipelines._value_layers import find_value_layers


class Model:
    """A text-to-image pipeline with the few operations that localization needs.

    Making one reads the weights of the value layers once, to see that they are finite; it changes nothing in the pipeline.

    Args:
        pipe: a loaded pipeline whose denoiser reads text by cross-attention or joint attention.

    Raises:
        ModelError: the pipeline is of another kind, has no value layers, or a value layer holds NaN or infinity.
    """

    def __init__(self, pipe: DiffusionPipeline) -> None:
        self.pipe: Any = pipe
        self.denoiser = denoiser_of(pipe)
        self.value_layers = find_value_layers(self.denoiser)
        for path, layer in self.value_layers.items():
            if not all(
                bool(torch.isfinite(weights).all()) for weights in weights_of(layer).values()
            ):
                raise ModelError(
                    f"{self.name}: the weights of {path} hold NaN or infinity. The checkpoint is damaged; load another one."
                )
        self._fingerprint: str | None = None
        self._timesteps: dict[int, Tensor] = {}

    @property
    def name(self) -> str:
        """The id or folder that the pipeline was loaded from."""
        name = self.pipe.config.get("_name_or_path") or type(self.pipe).__name__
        return Path(name).name if Path(name).is_absolute() else str(name)

    @property
    def revision(self) -> str | None:
        """The branch, tag or commit of the Hub that was asked for in `load_pipeline`."""
        loading = Loading.found(self.pipe)
        return loading.revision if loading else None

    @property
    def variant(self) -> str | None:
        """The weight variant that was asked for in `load_pipeline`."""
        loading = Loading.found(self.pipe)
        return loading.variant if loading else None

    @property
    def device(self) -> torch.device:
        device: torch.device = self.pipe._execution_device
        return device

    @property
    def dtype(self) -> torch.dtype:
        dtype: torch.dtype = cast(Any, self.denoiser).dtype
        return dtype

    @property
    def layout(self) -> Layout:
        """How the pipeline calls its denoiser; seen once per denoiser, type and size."""
        sizes = (
            getattr(self.pipe, "default_sample_size", None),
            getattr(self.denoiser, "config", {}).get("sample_size"),
        )
        known, key = _LAYOUTS.setdefault(self.denoiser, {}), (self.dtype, *sizes)
        if key not in known:
            known[key] = layout_of(self.pipe)
        return known[key]

    @cached_property
    def _sampler(self) -> Any:
        """Made once: a scheduler computes its whole noise schedule."""
        return sampler(self.pipe)

    @property
    def latent_shape(self) -> tuple[int, int, int]:
        """Shape (C, H, W) of one latent, or image where the model works on pixels."""
        if self.layout.packed:
            tokens, features = self.layout.shape
            side = 2 * math.isqrt(tokens)
            return features // 4, side, side
        channels, height, width = self.layout.shape
        return channels, height, width

    @property
    def widths(self) -> dict[str, int]:
        """How many neurons each value layer has, by path."""
        return {path: layer.out_features for path, layer in self.value_layers.items()}

    @property
    def fingerprint(self) -> str:
        """SHA-256 over the paths, shapes and weights of all value layers, in float16, so that loading in float16 changes nothing.

        A model in bfloat16 has another one, since its weights are rounded otherwise. A LoRA that is loaded into value layers counts, with
        its strength, and whether it is enabled.
        """
        if self._fingerprint is None:
            digest = hashlib.sha256()
            for path, layer in sorted(self.value_layers.items()):
                weights = weights_of(layer)
                digest.update(
                    f"{path} {tuple(weights['weight'].shape)}{adapters_of(layer)}\n".encode()
                )
                for tensor in weights.values():
                    digest.update(
                        tensor.detach().to("cpu", torch.float16).contiguous().numpy().tobytes()
                    )
            self._fingerprint = digest.hexdigest()
        return self._fingerprint

    def matches(self, fingerprint: str) -> bool:
        """Whether a fingerprint is this model's; an empty one, of published files that name no weights, says nothing and passes."""
        return not fingerprint or fingerprint == self.fingerprint

    @torch.no_grad()
    def encode(self, texts: Sequence[str]) -> Conditioning:
        """What the denoiser is given for these prompts, encoded, padded and cut as the pipeline does for generation."""
        return self.layout.conditioning(first_call(self.pipe, texts, 2))

    @torch.no_grad()
    def encode_empty(self) -> Conditioning:
        """What classifier-free guidance sets against a prompt.

        Raises:
            ModelError: the pipeline has no guidance in one pass.
        """
        layout = self.layout
        both = layout.conditioning(first_call(self.pipe, [""], 2, guidance=2.0))
        if len(both) != 2:
            raise ModelError(
                f"{type(self.pipe).__name__}: it has no classifier-free guidance. Use guidance 0."
            )
        return both.take([0])

    def draw_latents(self, count: int, seed: int) -> Tensor:
        """Initial noise (count, C, H, W): one draw from one CPU generator, the same on every device."""
        generator = torch.Generator().manual_seed(seed)
        return torch.randn((count, *self.latent_shape), generator=generator).to(
            self.device, self.dtype
        )

    def as_given(self, latents: Tensor) -> Tensor:
        """Latents (B, C, H, W) in the shape in which the denoiser takes them."""
        return pack(latents) if self.layout.packed else latents

    def timesteps(self, steps: int) -> Tensor:
        """The timesteps, shape (steps,), largest first: of DDIM with the model's own noise schedule, or of its own flow matching."""
        scheduler = self._sampler
        if isinstance(scheduler, DDIMScheduler):
            scheduler.set_timesteps(steps)
            return cast(Tensor, scheduler.timesteps)
        if steps not in self._timesteps:
            self._timesteps[steps] = first_call(
                self.pipe, [""], steps
            ).timesteps  # a shift that depends on the size is the pipeline's
        return self._timesteps[steps]

    def predict(
        self, latents: Tensor, timestep: Tensor, text: Conditioning, *, gradient: bool = False
    ) -> Tensor:
        """The denoiser's output for latents (B, C, H, W) and B prompts, float32 of shape (B, C, H, W).

        Args:
            latents, timestep, text: what the denoiser sees.
            gradient: keep what a backward pass needs. Without, it is no inference mode either: weights that an offloaded pipeline moves
                meanwhile could not be differentiated afterwards.

        Raises:
            ModelError: the output is not finite.
        """
        layout = self.layout
        time = (
            timestep.to(self.device)
            if layout.scale == 1
            else (timestep.to(self.device) * layout.scale)
        )
        arguments = text.arguments() | {
            "timestep": time.to(layout.dtype).expand(len(latents))
            if layout.repeated
            else time.to(layout.dtype),
            "return_dict": False,
        }
        with torch.set_grad_enabled(gradient), uncompiled(self.pipe):
            output: Tensor = self.denoiser(self.as_given(latents), **arguments)[0].float()
        output = unpack(output) if layout.packed else output
        if not bool(torch.isfinite(output).all()):
            raise ModelError(
                f"{self.name}: the denoiser returns NaN or infinity in {self.dtype}. Load it with --dtype float32."
            )
        return output[:, : latents.shape[1]]  # what is behind is a learned variance

    def difference(self, prediction: Tensor, latents: Tensor, timestep: Tensor) -> Tensor:
        """In what the denoiser's output leads away from the noise that it was given, up to sign and size; see docs/method.md.

        For a model that predicts noise it is the paper's: predicted minus initial noise. For others the negative of the clean image that
        the prediction implies.
        """
        scheduler = self._sampler
        noise = latents.float()
        if not isinstance(scheduler, DDIMScheduler):
            level = float(timestep) / float(scheduler.config.num_train_timesteps)
            return prediction * level - noise
        kind = scheduler.config.prediction_type
        if kind == "epsilon":
            return prediction - noise
        signal = float(scheduler.alphas_cumprod[int(timestep)])
        if kind == "v_prediction":
            return math.sqrt(1 - signal) * prediction - math.sqrt(signal) * noise
        return -prediction


_LAYOUTS: WeakKeyDictionary[nn.Module, dict[Hashable, Layout]] = WeakKeyDictionary()


def pack(latents: Tensor) -> Tensor:
    """Patches of 2 x 2 as tokens: (B, C, H, W) to (B, H W / 4, 4 C)."""
    count, channels, height, width = latents.shape
    patches = latents.reshape(count, channels, height // 2, 2, width // 2, 2)
    return patches.permute(0, 2, 4, 1, 3, 5).reshape(count, height * width // 4, channels * 4)


def unpack(tokens: Tensor) -> Tensor:
    """The inverse of `pack` for square latents."""
    count, length, features = tokens.shape
    side = math.isqrt(length)
    patches = tokens.reshape(count, side, side, features // 4, 2, 2)
    return patches.permute(0, 3, 1, 4, 2, 5).reshape(count, features // 4, 2 * side, 2 * side)
