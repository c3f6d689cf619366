"""Thresholds and localization as the published code does them, in plain loops.

The package is measured against it and never imports it, and it calls nothing of the package: what
it needs from a `Model`, a `Threshold` and settings are the pipeline and plain values, and it makes
sets of neurons only to be compared with others. It saves nothing: the denoiser runs at the first
two timesteps though only the second is scored, activations cost passes of their own, every test
runs all seeds, and what was computed before is computed again.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn
from torch.nn import functional as F

import unmemorize as um

Listed = dict[str, list[int]]
"""Layer -> neurons in the order in which the published code lists them, doubled ones included."""


@dataclass(kw_only=True)
class Published:
    """What the published procedure says about a prompt, and what it cost by stage."""

    memorized_seeds: list[int]
    detection_score: float
    initial: um.Neurons = field(default_factory=um.Neurons)
    neurons: um.Neurons = field(default_factory=um.Neurons)
    initial_score: float = 1.0
    score: float = 1.0
    theta: float | None = None
    top_k: int | None = None
    evaluations: dict[str, int]
    seconds: dict[str, float]

    @property
    def memorized(self) -> bool:
        return bool(self.memorized_seeds)


class PublishedLocalization:
    """The procedure for one model, with the values of thresholds and settings of the package."""

    def __init__(
        self,
        model: um.Model,
        statistics: um.Statistics,
        threshold: um.Threshold,
        settings: um.LocalizationSettings,
        layers: list[str],
    ) -> None:
        self.pipe = model.pipe
        self.modules: dict[str, nn.Module] = {
            path: self.pipe.unet.get_submodule(path) for path in layers
        }
        self.statistics = statistics
        self.tau = threshold.localize.tau
        self.tau_seeds = threshold.localize.tau_seeds
        self.settings = settings
        self.layers = layers
        self.evaluations = 0

    def localize(self, prompt: str) -> Published:
        spent: dict[str, int] = {}
        clock: dict[str, float] = {}
        began, before = time.perf_counter(), self.evaluations

        def lap(stage: str) -> None:
            nonlocal began, before
            spent[stage], clock[stage] = self.evaluations - before, time.perf_counter() - began
            began, before = time.perf_counter(), self.evaluations

        text = self.encode(prompt)
        latents = self.initial_noise()
        unblocked = self.differences(latents, text, {})
        memorized_seeds, highest = self.filtered(unblocked)
        lap("detection")
        result = Published(
            memorized_seeds=memorized_seeds,
            detection_score=highest,
            evaluations=spent,
            seconds=clock,
        )
        if not memorized_seeds:
            return result
        tau = self.tau_seeds if self.settings.criterion == "seeds" else self.tau
        assert tau is not None
        ends_at, stays_below = self.settings.initial_threshold, self.settings.refinement_threshold
        ends_at = tau if ends_at is None else ends_at
        limit = tau if stays_below is None else stays_below
        theta, k = self.settings.theta, self.settings.top_k
        while True:
            activation = self.activations(latents[:1], text)
            listed = self.candidates(activation, theta, k)
            score = self.score(unblocked, self.differences(latents, text, listed), memorized_seeds)
            result.initial, result.initial_score = um.Neurons(listed), score
            result.theta, result.top_k = theta, k
            if score <= ends_at:
                break
            theta, k = theta - self.settings.theta_step, k + 1
            if theta <= self.settings.theta_floor:
                limit = score
                break
        lap("selection")
        unblocked = self.differences(latents, text, {})
        score = self.score(unblocked, self.differences(latents, text, listed), memorized_seeds)
        for layer in reversed(self.layers):
            if listed[layer]:
                trial = {**listed, layer: []}
                trial_score = self.score(
                    unblocked, self.differences(latents, text, trial), memorized_seeds
                )
                if trial_score < limit:
                    listed, score = trial, trial_score
        for layer in reversed(self.layers):
            for index in list(listed[layer]):
                fewer = list(listed[layer])
                fewer.remove(index)
                trial = {**listed, layer: fewer}
                trial_score = self.score(
                    unblocked, self.differences(latents, text, trial), memorized_seeds
                )
                if trial_score < limit:
                    listed, score = trial, trial_score
        score = self.score(unblocked, self.differences(latents, text, listed), memorized_seeds)
        lap("refinement")
        result.neurons, result.score = um.Neurons(listed), score
        return result

    def threshold(self, prompts: Sequence[str]) -> float:
        """Take the mean plus one standard deviation over all pairs of seeds of all prompts."""
        pairs = []
        for prompt in prompts:
            matrix = self.pairwise(
                self.differences(self.initial_noise(), self.encode(prompt), {})
            ).tolist()
            pairs += [matrix[i][j] for i in range(len(matrix)) for j in range(i + 1, len(matrix))]
        mean = sum(pairs) / len(pairs)
        return float(mean + (sum((pair - mean) ** 2 for pair in pairs) / (len(pairs) - 1)) ** 0.5)

    def filtered(self, unblocked: Tensor) -> tuple[list[int], float]:
        """Return the seeds that are alike, and the highest similarity of two seeds."""
        matrix = self.pairwise(unblocked).tolist()
        highest = [
            max(value for other, value in enumerate(row) if other != seed)
            for seed, row in enumerate(matrix)
        ]
        bound = self.settings.seed_threshold
        bound = self.tau if bound is None else bound
        return [seed for seed, value in enumerate(highest) if value > bound], max(highest)

    def encode(self, prompt: str) -> Tensor:
        text: Tensor = self.pipe.encode_prompt(prompt, self.pipe.device, 1, False)[0]
        return text

    def initial_noise(self) -> Tensor:
        unet, scheduler = self.pipe.unet, self.pipe.scheduler
        shape = (
            self.settings.noise.seeds,
            unet.config.in_channels,
            unet.config.sample_size,
            unet.config.sample_size,
        )
        generator = torch.Generator().manual_seed(self.settings.noise.seed)
        scheduler.set_timesteps(self.settings.noise.steps)
        noise = torch.randn(shape, generator=generator, dtype=unet.dtype).to(unet.device)
        scaled: Tensor = noise * scheduler.init_noise_sigma
        return scaled

    @torch.no_grad()
    def predict(self, latents: Tensor, text: Tensor) -> Tensor:
        """Make two passes, of which the second counts."""
        for timestep in self.pipe.scheduler.timesteps[:2]:
            given = self.pipe.scheduler.scale_model_input(latents, timestep)
            states = text.expand(len(latents), -1, -1)
            prediction: Tensor = self.pipe.unet(given, timestep, encoder_hidden_states=states)[0]
            self.evaluations += len(latents)
        return prediction

    def differences(self, latents: Tensor, text: Tensor, listed: Listed) -> Tensor:
        with self.blocked(listed):
            difference = self.predict(latents, text).float() - latents.float()
        flat = difference.flatten(2)
        low, high = flat.min(2).values[..., None, None], flat.max(2).values[..., None, None]
        return (difference - low) / (high - low)

    @contextmanager
    def blocked(self, listed: Listed) -> Iterator[None]:
        """Multiply the outputs of the listed neurons."""
        handles = []
        for layer, indices in listed.items():

            def hook(
                _module: object, _inputs: object, output: Tensor, indices: list[int] = indices
            ) -> Tensor:
                output = output.clone()
                output[..., indices] = self.settings.scale * output[..., indices]
                return output

            handles.append(self.modules[layer].register_forward_hook(hook))
        yield
        for handle in handles:
            handle.remove()

    def activations(self, latents: Tensor, text: Tensor) -> dict[str, Tensor]:
        """Hook the layers while the denoiser runs twice for one seed."""
        activation: dict[str, Tensor] = {}

        def keep(layer: str) -> torch.utils.hooks.RemovableHandle:
            def hook(_module: object, _inputs: object, output: Tensor) -> None:
                activation[layer] = output[0].float().abs().mean(0).cpu()

            return self.modules[layer].register_forward_hook(hook)

        handles = [keep(layer) for layer in self.layers]
        self.predict(latents, text)
        for handle in handles:
            handle.remove()
        return activation

    def candidates(self, activation: dict[str, Tensor], theta: float, k: int) -> Listed:
        """List neurons above theta, then the k most active; a neuron may be listed twice."""
        listed = {}
        for layer in self.layers:
            deviation = (activation[layer].double() - self.statistics.mean[layer]).abs()
            z = deviation / self.statistics.std[layer].clamp_min(1e-12)
            above = [index for index in range(len(z)) if z[index] > theta]
            listed[layer] = above + torch.topk(activation[layer], min(k, len(z))).indices.tolist()
        return listed

    def score(self, unblocked: Tensor, blocked: Tensor, seeds: list[int]) -> float:
        if self.settings.criterion == "seeds":
            matrix = self.pairwise(blocked[seeds])
            pairs = [float(matrix[i, j]) for i in range(len(seeds)) for j in range(i)]
            return sum(pairs) / len(pairs)
        return float(self.similarity(unblocked[seeds], blocked[seeds]).max())

    def pairwise(self, images: Tensor) -> Tensor:
        """Compare all pairs in one call."""
        count = len(images)
        places = [(i, j) for i in range(count) for j in range(i + 1, count)]
        rows, columns = [i for i, _ in places], [j for _, j in places]
        matrix = torch.eye(count)
        values = self.similarity(images[rows], images[columns])
        for i, j, value in zip(rows, columns, values.tolist(), strict=True):
            matrix[i, j] = matrix[j, i] = value
        return matrix

    def similarity(self, first: Tensor, second: Tensor) -> Tensor:
        side = min(first.shape[-2:])
        k = next(k for k in (11, 9, 7, 5, 3) if k - 1 < side // 4)
        data_range = None if self.settings.noise.similarity == "published" else 1.0
        return pinned_ms_ssim(first, second, k, data_range)


def pinned_ms_ssim(first: Tensor, second: Tensor, k: int, data_range: float | None) -> Tensor:
    """Compute the MS-SSIM of torchmetrics 1.3.2, step by step as it does."""
    border = (k - 1) // 2
    places = torch.arange((1 - k) / 2, (1 + k) / 2, dtype=first.dtype, device=first.device)
    line = torch.exp(-((places / (1.5 * k / 11)) ** 2) / 2)
    line = (line / line.sum())[None]
    channels = first.shape[1]
    kernel = (line.T @ line).expand(channels, 1, k, k)
    terms = []
    for _ in range(3):
        span = max(first.max() - first.min(), second.max() - second.min())
        span = span if data_range is None else torch.tensor(data_range)
        c1, c2 = (0.01 * span) ** 2, (0.03 * span) ** 2
        a, b = (F.pad(each, [border] * 4, mode="reflect") for each in (first, second))
        moments = F.conv2d(torch.cat((a, b, a * a, b * b, a * b)), kernel, groups=channels)
        mean_a, mean_b, square_a, square_b, product = moments.split(len(a))
        variance_a = (square_a - mean_a**2).clamp(min=0)
        variance_b = (square_b - mean_b**2).clamp(min=0)
        upper = 2 * (product - mean_a * mean_b) + c2
        lower = variance_a + variance_b + c2
        full = (2 * mean_a * mean_b + c1) * upper / ((mean_a**2 + mean_b**2 + c1) * lower)
        inner = slice(border, -border)
        contrast = (upper / lower)[..., inner, inner]
        terms.append((full[..., inner, inner].mean((1, 2, 3)), contrast.mean((1, 2, 3))))
        first, second = F.avg_pool2d(first, 2), F.avg_pool2d(second, 2)
    (_, one), (_, two), (three, _) = terms
    return torch.stack((one, two, three)).relu().pow(0.33).prod(0)
