"""A loaded pipeline as the method sees it: encode text, draw latents, predict the noise once."""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any, Self, TypeVar, cast

import torch
from diffusers import DDIMScheduler, DiffusionPipeline
from torch import Tensor

from unmemorize._errors import ModelError
from unmemorize.pipelines._conditioning import Layout, first_call, layout_of
from unmemorize.pipelines._denoiser import denoiser_of, refuse_altered
from unmemorize.pipelines._denoising import denoised
from unmemorize.pipelines._encoded import Conditioning, Guidance, separate
from unmemorize.pipelines._fingerprint import fingerprint_of, is_first_edition
from unmemorize.pipelines._loading import Loading, in_words
from unmemorize.pipelines._loras import Lora, adapters_in, loras_in
from unmemorize.pipelines._memory import Memory
from unmemorize.pipelines._noise_level import NoiseLevel
from unmemorize.pipelines._packing import pack
from unmemorize.pipelines._replay import ReplayPlan, plan_for_model, state_of
from unmemorize.pipelines._sampler import sampler
from unmemorize.pipelines._truncation import Truncation
from unmemorize.pipelines._value_inputs import ValueInput, find_value_input
from unmemorize.pipelines._value_layers import find_value_layers
from unmemorize.pipelines._weights import refuse_unreadable, stored_dtype, weights_of

Found = TypeVar("Found")


class Model:
    """Everything that is known about a loaded pipeline; nothing is written on the pipeline.

    Make one per pipeline and hand it down: what it finds out (how the pipeline calls its denoiser,
    what the value layers read, its fingerprint) is found out once. After you have changed weights,
    make another one; functions that take a pipeline do.

    Args:
        pipe: a loaded pipeline whose denoiser reads text by cross-attention or joint attention.
        value_layers: a pattern with ``*`` over the denoiser's module paths, for an architecture
            whose value layers are not known. They must be linear layers that project text alone.
        loading: how the pipeline was loaded, if `Model.load` did it.

    Raises:
        ModelError: the pipeline is of another kind or has no value layers, its weights cannot be
            read, a value layer holds NaN or infinity, or something is enabled that changes
            predictions and no weights.

    Examples:
        >>> model = Model.load("testbed")
        >>> len(model.widths), model.latent_shape
        (16, (4, 16, 16))
    """

    def __init__(
        self,
        pipe: DiffusionPipeline,
        *,
        value_layers: str | None = None,
        loading: Loading | None = None,
    ) -> None:
        self.pipe: Any = pipe
        self.loading = loading
        self.denoiser = denoiser_of(pipe)
        self.value_layers = find_value_layers(self.denoiser, value_layers)
        refuse_unreadable(pipe)
        refuse_altered(pipe, self.denoiser)
        self._layouts: dict[tuple[object, ...], Layout] = {}
        self._flow_timesteps: dict[int, Tensor] = {}
        self._replay_plans: dict[Hashable, ReplayPlan] = {}
        self._memory = Memory()
        for path, layer in self.value_layers.items():
            if not all(bool(torch.isfinite(tensor).all()) for tensor in weights_of(layer).values()):
                raise ModelError(
                    f"{self.name}: the weights of {path} hold NaN or infinity. The checkpoint is "
                    "damaged; load another one."
                )

    @classmethod
    def load(
        cls,
        model: str,
        *,
        device: str | torch.device = "auto",
        dtype: str | torch.dtype = "auto",
        revision: str | None = None,
        variant: str | None = None,
        local_files_only: bool = False,
        value_layers: str | None = None,
        loras: Mapping[str, float] | None = None,
    ) -> Self:
        """Load a pipeline (see `load_pipeline`) and remember how, as engines with workers need it.

        Raises:
            ModelError: the model or a LoRA cannot be loaded, or it is of another kind.
        """
        loading = Loading(
            model,
            in_words(device),
            in_words(dtype),
            revision,
            variant,
            local_files_only,
            value_layers,
            loras or {},
        )
        return cls.from_loading(loading)

    @classmethod
    def from_loading(cls, loading: Loading) -> Self:
        """Load what ``loading`` describes."""
        pipe = loading.pipeline()
        return cls(pipe, value_layers=loading.value_layers, loading=loading.resolved())

    @classmethod
    def of(cls, pipe: DiffusionPipeline | Model) -> Model:
        """Turn what a public function was given into a `Model`; a `Model` stays itself.

        Raises:
            ModelError: it is neither a `Model` nor a diffusers pipeline.
        """
        if isinstance(pipe, Model):
            return pipe
        if not isinstance(pipe, DiffusionPipeline):
            raise ModelError(
                f"{type(pipe).__name__}: not a pipeline. Give a diffusers pipeline, such as "
                "load_pipeline(MODEL) returns, or a Model."
            )
        return cls(pipe)

    @property
    def name(self) -> str:
        """The Hub id or the folder's name, and the LoRAs in effect: "testbed with style at 0.8"."""
        loras = loras_in(self.pipe)
        return f"{self.base_name} with {' and '.join(map(str, loras))}" if loras else self.base_name

    @property
    def base_name(self) -> str:
        """The Hub id or the folder's name."""
        name = self.pipe.config.get("_name_or_path") or type(self.pipe).__name__
        return Path(name).name if Path(name).is_absolute() else str(name)

    @property
    def loras(self) -> tuple[Lora, ...]:
        """The LoRAs in effect at this moment, and adapters of other kinds."""
        adapters = loras_in(self.pipe)
        hashes = self._lora_hashes if adapters else {}
        return tuple(replace(lora, sha256=hashes.get(lora.name)) for lora in adapters)

    @cached_property
    def _lora_hashes(self) -> dict[str, str]:
        return self.loading.lora_hashes() if self.loading else {}

    @property
    def revision(self) -> str | None:
        """The branch, tag or commit of the Hub, if `load` was given one."""
        return self.loading.revision if self.loading else None

    @property
    def variant(self) -> str | None:
        """The weight variant, if `load` was given one."""
        return self.loading.variant if self.loading else None

    @property
    def device(self) -> torch.device:
        """Where the pipeline computes."""
        device: torch.device = self.pipe._execution_device
        return device

    @property
    def dtype(self) -> torch.dtype:
        """The type of the denoiser's weights."""
        dtype: torch.dtype = cast(Any, self.denoiser).dtype
        return dtype

    @property
    def widths(self) -> dict[str, int]:
        """How many neurons each value layer has, by path."""
        return {path: layer.out_features for path, layer in self.value_layers.items()}

    @property
    def layout(self) -> Layout:
        """How the pipeline calls its denoiser, observed once for each dtype and size.

        It is asked in each pass of the denoiser, so the dtype is that of a weight: `dtype` looks
        for hooks at each module.
        """
        config = getattr(self.denoiser, "config", {})
        size = getattr(self.pipe, "default_sample_size", None)
        key = (stored_dtype(self.denoiser), size, config.get("sample_size"))
        if key not in self._layouts:
            self._layouts[key] = layout_of(self.pipe)
        return self._layouts[key]

    @property
    def latent_shape(self) -> tuple[int, int, int]:
        """Shape (C, H, W) of one latent, or of one image where the model works on pixels."""
        if self.layout.packed:
            tokens, features = self.layout.shape
            side = 2 * math.isqrt(tokens)
            return features // 4, side, side
        channels, height, width = self.layout.shape
        return channels, height, width

    @cached_property
    def value_input(self) -> ValueInput:
        """What the value layers read, observed in one forward pass."""
        return find_value_input(self)

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 over all weights of denoiser, text encoders and VAE, and the noise schedule.

        Weights count by the values that the networks compute with, rounded to float16, wherever
        they are kept. So loading in float16 or offloading changes nothing. A model that is loaded
        in bfloat16 or quantized has another fingerprint, because its values are others. An adapter
        such as a LoRA counts with its strength, unless it has no effect.
        """
        return fingerprint_of(self.pipe)

    def matches(self, fingerprint: str) -> bool:
        """Whether a fingerprint is this model's.

        Published files name no weights. Their empty fingerprint matches every model.
        """
        return not fingerprint or fingerprint == self.fingerprint

    def contrast(self, fingerprint: str) -> str:
        """Say in an error message how another fingerprint differs from this model's."""
        other = f"fingerprint {fingerprint[:12]}"
        if is_first_edition(fingerprint):
            other += " of the first edition, which covered only the value layers"
        return f"{other}; {self.name} has {self.fingerprint[:12]}"

    @torch.no_grad()
    def encode(self, texts: Sequence[str]) -> Conditioning:
        """Encode, pad and truncate prompts as the pipeline does for generation.

        Where a pipeline pads the prompts of a batch to the longest of them, each is encoded alone.
        A warning names prompts that are truncated, and those that are equal after it.
        """
        self.warn_of_truncation(texts)
        batches = [[text] for text in texts] if self.layout.separate else [texts]
        return separate(
            [self.layout.conditioning(first_call(self.pipe, batch, 2)) for batch in batches]
        )

    def remembered(self, key: Hashable, make: Callable[[], Found]) -> Found:
        """Return what ``make`` returned for a key before, if that was among the last few keys.

        For what takes long, and follows from the model, its device and type, its adapters at their
        strengths of the moment, and the key alone.
        """
        state = (self.device, stored_dtype(self.denoiser), adapters_in(self.pipe))
        return self._memory.recall((key, *state), make)

    def warn_of_truncation(self, texts: Sequence[str]) -> None:
        """Name prompts that the pipeline reads only in part, once each."""
        self._truncation.warn(texts)

    @cached_property
    def _truncation(self) -> Truncation:
        return Truncation(self.pipe)

    @torch.no_grad()
    def guidance(self, scale: float) -> Guidance | None:
        """Classifier-free guidance of this scale against the empty prompt; None for scale 0.

        Raises:
            ModelError: the pipeline has no guidance in one pass.
        """
        if not scale:
            return None
        if self.layout.separate:
            raise ModelError(
                f"{type(self.pipe).__name__}: it encodes prompts at their own lengths, so the "
                "denoiser takes none together with the empty prompt, as guidance needs it. "
                "Use guidance 0."
            )
        both = self.layout.conditioning(first_call(self.pipe, [""], 2, guidance=2.0))
        if len(both) != 2:
            raise ModelError(
                f"{type(self.pipe).__name__}: it has no classifier-free guidance. Use guidance 0."
            )
        return Guidance(scale, both.take([0]))

    def draw_latents(self, count: int, *seeds: int) -> Tensor:
        """Initial noise (seeds * count, C, H, W): one draw from one CPU generator for each seed."""
        generators = [torch.Generator().manual_seed(seed) for seed in seeds]
        shape = (count, *self.latent_shape)
        drawn = [torch.randn(shape, generator=one, dtype=torch.float32) for one in generators]
        return torch.cat(drawn).to(self.device, self.dtype)

    def to_denoiser(self, latents: Tensor) -> Tensor:
        """Latents (B, C, H, W) in the shape that the denoiser takes."""
        return pack(latents) if self.layout.packed else latents

    @cached_property
    def _sampler(self) -> Any:
        return sampler(self.pipe)

    def timesteps(self, steps: int) -> Tensor:
        """The timesteps (steps,), largest first.

        They are those of DDIM under the model's own noise schedule, or of its own flow matching.
        """
        scheduler = self._sampler
        if isinstance(scheduler, DDIMScheduler):
            scheduler.set_timesteps(steps)
            return cast(Tensor, scheduler.timesteps)
        if steps not in self._flow_timesteps:  # the pipeline shifts them depending on the size
            self._flow_timesteps[steps] = first_call(self.pipe, [""], steps).timesteps
        return self._flow_timesteps[steps]

    def predict(
        self,
        latents: Tensor,
        timestep: Tensor,
        text: Conditioning,
        *,
        guidance: Guidance | None = None,
        gradient: bool = False,
    ) -> Tensor:
        """Run the denoiser once.

        Args:
            latents: (B, C, H, W).
            timestep: one for all samples, (), or one for each, (B,).
            text: B encoded prompts.
            guidance: classifier-free guidance, which runs 2 B samples; None runs B.
            gradient: whether to keep what a backward pass needs. Even without it this is not
                inference mode: weights that an offloaded pipeline moves in inference mode cannot
                be differentiated afterwards.

        Returns:
            The prediction, float32 of shape (B, C, H, W).

        Raises:
            ModelError: the output is not finite.
        """
        if guidance is None:
            return denoised(self, latents, timestep, text, gradient=gradient)
        both = guidance.unconditional.take([0] * len(latents)).join(text)
        times = timestep.repeat(2) if timestep.ndim else timestep
        prediction = denoised(self, latents.repeat(2, 1, 1, 1), times, both, gradient=gradient)
        unconditional, conditional = prediction.chunk(2)
        return unconditional + guidance.scale * (conditional - unconditional)

    @property
    def remedy(self) -> str:
        """What to do when results are not finite."""
        if self.dtype != torch.float32:
            return f"It is loaded in {self.dtype}. Load it with --dtype float32."
        config = self.pipe.scheduler.config
        ends_without_signal = config.get("rescale_betas_zero_snr")
        if ends_without_signal and config.get("prediction_type", "epsilon") == "epsilon":
            return (
                "Its noise schedule ends without a trace of the image (rescale_betas_zero_snr), "
                "from where predicted noise leads to none. Set a scheduler without it, or with "
                'timestep_spacing="leading".'
            )
        return "Load another checkpoint; this one is damaged, or was changed in memory."

    def replay_plan(self, layers: Sequence[str], samples: int) -> ReplayPlan:
        """Return what can be replayed while neurons of these layers are switched.

        The first call runs the denoiser five times for three samples, and a warning says if
        replaying cannot be used. Later calls return the same plan, until the modules, hooks, device
        or type of the denoiser change.

        Args:
            layers: paths of value layers, in the order in which they run.
            samples: how many samples the largest recording will hold.

        Raises:
            ModelError: a layer does not run.
        """
        key = (tuple(layers), samples, state_of(self.denoiser))
        if key not in self._replay_plans:
            self._replay_plans[key] = plan_for_model(self, layers, samples)
        return self._replay_plans[key]

    def difference(self, prediction: Tensor, latents: Tensor, timestep: Tensor) -> Tensor:
        """Where the prediction leads away from the noise, up to sign and size.

        For a model that predicts noise this is the paper's predicted minus initial noise. For
        others it is the negative of the clean image that the prediction implies; docs/method.md
        derives it.
        """
        return self.noise_level(timestep).difference(prediction, latents.float())

    def noise_level(self, timestep: Tensor) -> NoiseLevel:
        """Return what predictions mean at a timestep, ()."""
        return NoiseLevel.of(self._sampler, timestep)
