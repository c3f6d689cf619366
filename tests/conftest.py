"""Fixtures that the tests share: tiny random pipelines, a localized run, the bundled model."""

from __future__ import annotations

import gc
import shutil
import signal
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import cast

import hypothesis
import pytest
import torch
from diffusers import DiffusionPipeline, StableDiffusionPAGPipeline, StableDiffusionPipeline
from PIL import Image

from architectures import stable_diffusion
from browsing import axe, browser, open_page, picture  # noqa: F401 -- fixtures
from server import serving
from unmemorize import (
    LocalizationSettings,
    Model,
    Prompt,
    Run,
    Statistics,
    Threshold,
    calibrate_threshold,
    compute_statistics,
    load_pipeline,
    testbed,
)
from unmemorize.engines import Execution
from unmemorize.localization import LocalizationRun, localize_all, read_localizations
from unmemorize.methods import _fine_tuning
from unmemorize.runs import open_run

hypothesis.settings.register_profile("untimed", deadline=None)  # a loaded machine is no failure
hypothesis.settings.load_profile("untimed")
signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs ignore it


class _FailuresOnCards:
    """Prints failures of tests on a card at once: time on a card may end before the summary."""

    def __init__(self, terminal: pytest.TerminalReporter) -> None:
        self._terminal = terminal

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.failed and "/cuda/" in report.nodeid:
            self._terminal.write_line(f"\n{report.nodeid}\n{report.longreprtext}", flush=True)


def pytest_collection_finish() -> None:
    gc.freeze()  # modules and tests stay until the end, so no collection need look at them


@pytest.hookimpl(trylast=True)  # after the one that makes the terminal's plugin
def pytest_configure(config: pytest.Config) -> None:
    terminal = config.pluginmanager.get_plugin("terminalreporter")
    if terminal is not None:  # not in the processes of xdist
        config.pluginmanager.register(_FailuresOnCards(terminal))


PROMPTS = [f"prompt {word}" for word in ("one", "two", "three", "four", "five", "six")]


def one_number(threshold: Threshold, tau: float, tau_seeds: float | None = None) -> Threshold:
    """The threshold with this tau for detection and for localization."""
    localize = replace(threshold.localize, tau=tau)
    if tau_seeds is not None:
        localize = replace(localize, tau_seeds=tau_seeds)
    return replace(threshold, detect=replace(threshold.detect, tau=tau), localize=localize)


def make_pipeline(seed: int = 0, **unet: object) -> StableDiffusionPipeline:
    """A random Stable Diffusion pipeline: 16 x 16 latents, 7 value layers of 8 or 16 neurons."""
    torch.manual_seed(seed)
    pipe = stable_diffusion(**unet)
    pipe.set_progress_bar_config(disable=True)
    for module in (pipe.unet, pipe.vae, pipe.text_encoder):
        module.eval().requires_grad_(False)
    return pipe


def with_perturbed_attention(pipe: StableDiffusionPipeline) -> StableDiffusionPAGPipeline:
    """The same components in a pipeline with perturbed-attention guidance (PAG)."""
    perturbed = StableDiffusionPAGPipeline(
        **pipe.components, requires_safety_checker=False, pag_applied_layers="mid"
    )
    perturbed.set_progress_bar_config(disable=True)
    return perturbed


@pytest.fixture(scope="session", autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The folder of kept results, apart from that of the user."""
    folder = tmp_path_factory.mktemp("cache")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("UNMEMORIZE_CACHE", str(folder))
        yield folder


@pytest.fixture(scope="session", autouse=True)
def short_trainings() -> Iterator[None]:
    """A denoiser is trained for a few steps; the usual number takes minutes."""
    with pytest.MonkeyPatch.context() as patch:
        few = {"STEPS": 4, "_TOGETHER": 2, "_FORGOTTEN": 4, "_KEPT": 3, "_RANK": 2}
        for name, number in {**few, "_MOST_KEPT": 6}.items():
            patch.setattr(_fine_tuning, name, number)
        yield


@pytest.fixture
def pipe() -> DiffusionPipeline:
    """A fresh tiny pipeline, which a test may change."""
    return make_pipeline()


@pytest.fixture(scope="session")
def bundled() -> DiffusionPipeline:
    """The bundled model; tests leave it as it was."""
    return load_pipeline("testbed", device="cpu")


@pytest.fixture(scope="session")
def bundled_statistics() -> Statistics:
    return Statistics.load(testbed.statistics_path())


@pytest.fixture(scope="session")
def bundled_threshold() -> Threshold:
    return Threshold.load(testbed.threshold_path("seed similarity"))


@pytest.fixture
def address() -> Iterator[str]:
    """The address of a small web server on this machine, see server.py."""
    with serving() as where:
        yield where


@pytest.fixture(autouse=True)
def few_threads() -> Iterator[None]:
    """Tiny models run fastest on one thread."""
    before = torch.get_num_threads()
    torch.set_num_threads(min(2, before))
    yield
    torch.set_num_threads(before)


@pytest.fixture
def cli(capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str, str]]:
    """Run the command line; returns exit code, output and errors, with line breaks folded."""
    from unmemorize.cli import main

    def run(*arguments: object) -> tuple[int, str, str]:
        code = main([str(argument) for argument in arguments])
        captured = capsys.readouterr()
        return code, " ".join(captured.out.split()), " ".join(captured.err.split())

    return cast(Callable[..., tuple[int, str, str]], run)


PLANTED_PROMPT = "zebra quartz"


def plant_neuron(pipe: StableDiffusionPipeline, path: str, index: int) -> None:
    """Set weights by hand so that one value neuron alone makes all seeds of PLANTED_PROMPT alike.

    Its row answers to this prompt only (least squares against other prompts). Its output column
    writes a large constant. The zero padding of the convolutions after it turns this constant into
    a pattern of borders that drowns the noise.
    """
    model = Model(pipe)
    own = model.encode([PLANTED_PROMPT]).text[0].double()  # (tokens, features)
    others = (
        model.encode([*PROMPTS, *(f"{letter} word" for letter in "abcdefghijklmnopq")])
        .text.double()
        .flatten(0, 1)
    )
    moment = others.T @ others / len(others) + 1e-3 * torch.eye(
        others.shape[1], dtype=torch.float64
    )
    row = torch.linalg.solve(moment, own.mean(0) - others.mean(0))
    attention = pipe.unet.get_submodule(path.removesuffix(".to_v"))
    attention.to_v.weight.data[index] = (row / (own @ row).abs().mean()).float()
    attention.to_out[0].weight.data[:, index] = 300.0
    pipe.unet.conv_out.weight.data *= 20.0


def planted_pipeline() -> StableDiffusionPipeline:
    """A tiny pipeline that has memorized PLANTED_PROMPT."""
    pipe = make_pipeline()
    plant_neuron(pipe, next(iter(Model(pipe).value_layers)), 3)
    return pipe


@pytest.fixture
def planted() -> DiffusionPipeline:
    """See `planted_pipeline`; a fresh one, which a test may change."""
    return planted_pipeline()


def three_prompts(folder: Path) -> list[Prompt]:
    """Three prompts, the second of which `planted` has memorized, with its training image."""
    Image.new("RGB", (20, 20), (200, 30, 30)).save(folder / "reference.png")
    return [
        Prompt("c word"),
        Prompt(PLANTED_PROMPT, "VM", images=(folder / "reference.png",)),
        Prompt("prompt two", group="mine"),
    ]


@pytest.fixture
def prompts(tmp_path: Path) -> list[Prompt]:
    """See `three_prompts`."""
    return three_prompts(tmp_path)


@pytest.fixture(scope="session")
def localized(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run with finished localizations, which nobody changes."""
    folder = tmp_path_factory.mktemp("localized")
    model = Model(planted_pipeline())
    threshold = calibrate_threshold(model, PROMPTS, detector="seed-similarity")
    strict = one_number(threshold, max(threshold.detect.scores) + 0.02)
    settings = LocalizationSettings(noise=threshold.settings, criterion="seeds")
    statistics = compute_statistics(model, PROMPTS)
    run_settings = LocalizationRun.of(model, settings, statistics, strict)
    run = open_run(folder / "run", model, three_prompts(folder), run_settings)

    def localize() -> list[tuple[int, int | None]]:
        steps: list[tuple[int, int | None]] = []
        tally = localize_all(
            run,
            model,
            statistics=statistics,
            threshold=strict,
            settings=settings,
            execution=Execution(progress=lambda *at: steps.append(at)),
        )
        assert (tally.done, tally.failed, tally.complete) == (3, {}, True)
        return steps

    assert localize() == [(0, 3), (1, 3), (2, 3), (3, 3)]
    found = read_localizations(run)
    assert [record.memorized for record in found.values()] == [False, True, False]
    assert localize() == [(3, 3)]
    assert read_localizations(run) == found
    return run.folder


@pytest.fixture
def run(localized: Path, tmp_path: Path) -> Run:
    """A run with finished localizations of `prompts` on `planted`."""
    shutil.copytree(localized, tmp_path / "run")
    return Run.load(tmp_path / "run")
