"""Localization as the published code does it, in plain loops.

The package is measured against it and never imports it. It saves nothing: the denoiser runs at the
first two timesteps though only the second is scored, activations cost passes of their own, every
test runs all seeds, and what was computed before is computed again.
"""

from __future__ import annotations

import time
from dataclasses import dataclass

import torch
from torch import Tensor

import unmemorize as um
from unmemorize.detection import pairwise_similarity, similarity
from unmemorize.pipelines import Conditioning

Listed = dict[str, list[int]]
"""Layer -> neurons in the order in which the published code lists them, doubled ones included."""


@dataclass
class Published:
    """What the published procedure says about a prompt, and what it cost by stage."""

    memorized: bool
    neurons: um.Neurons
    score: float
    candidates: int
    evaluations: dict[str, int]
    seconds: dict[str, float]


class PublishedLocalization:
    """The procedure for one model, with the package's thresholds and settings."""

    def __init__(
        self,
        model: um.Model,
        statistics: um.Statistics,
        threshold: um.Threshold,
        settings: um.LocalizationSettings,
        layers: list[str],
    ) -> None:
        self.model = model
        self.statistics = statistics
        self.threshold = threshold
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

        text = self.model.encode([prompt])
        latents = self.model.draw_latents(self.settings.noise.seeds, self.settings.noise.seed)
        unblocked = self.differences(latents, text, {})
        matrix = pairwise_similarity(unblocked)
        memorized_seeds = [
            seed
            for seed in range(len(latents))
            if max(float(matrix[seed, other]) for other in range(len(latents)) if other != seed)
            > self.threshold.tau
        ]
        lap("detection")
        if not memorized_seeds:
            return Published(False, um.Neurons(), 1.0, 0, spent, clock)
        tau = self.threshold.of_criterion(self.settings.criterion)
        ends_at = (
            tau if self.settings.initial_threshold is None else self.settings.initial_threshold
        )
        stays_below = (
            tau
            if self.settings.refinement_threshold is None
            else self.settings.refinement_threshold
        )
        theta, k = self.settings.theta, self.settings.top_k
        while True:
            activation = self.activations(latents[:1], text)
            listed = self.candidates(activation, theta, k)
            score = self.score(unblocked, self.differences(latents, text, listed), memorized_seeds)
            if score <= ends_at:
                limit = stays_below
                break
            theta, k = theta - self.settings.theta_step, k + 1
            if theta <= self.settings.theta_floor:
                limit = score
                break
        candidates = um.Neurons(listed)
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
        return Published(True, um.Neurons(listed), score, len(candidates), spent, clock)

    def differences(self, latents: Tensor, text: Conditioning, listed: Listed) -> Tensor:
        """Make two passes, of which the second counts."""
        with um.switched_off(self.model, um.Neurons(listed)):
            for timestep in self.model.timesteps(self.settings.noise.steps)[:2]:
                prediction = self.model.predict(latents, timestep, text.take([0] * len(latents)))
                self.evaluations += len(latents)
        difference = prediction - latents.float()
        flat = difference.flatten(2)
        low, high = flat.min(2).values[..., None, None], flat.max(2).values[..., None, None]
        return (difference - low) / (high - low)

    def activations(self, latents: Tensor, text: Conditioning) -> dict[str, Tensor]:
        """Hook the layers while the denoiser runs twice for one seed."""
        activation: dict[str, Tensor] = {}

        def keep(layer: str) -> torch.utils.hooks.RemovableHandle:
            def hook(_module: object, _inputs: object, output: Tensor) -> None:
                activation[layer] = output[0].float().abs().mean(0)

            return self.model.value_layers[layer].register_forward_hook(hook)

        handles = [keep(layer) for layer in self.layers]
        for timestep in self.model.timesteps(self.settings.noise.steps)[:2]:
            self.model.predict(latents, timestep, text)
            self.evaluations += len(latents)
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
            matrix = pairwise_similarity(blocked[seeds])
            pairs = [float(matrix[i, j]) for i in range(len(seeds)) for j in range(i)]
            return sum(pairs) / len(pairs)
        return max(float(value) for value in similarity(unblocked[seeds], blocked[seeds]))
