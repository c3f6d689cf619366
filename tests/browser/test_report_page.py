from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from diffusers import DiffusionPipeline
from PIL import Image

from records import HOSTILE, LAYER, localization
from unmemorize import (
    GenerationSettings,
    LocalizationSettings,
    Model,
    Neurons,
    Prompt,
    Run,
    Statistics,
    Threshold,
    testbed,
    write_report,
)
from unmemorize.generation import ImageSet, NeuronSet, generate_all
from unmemorize.localization import difference_file, localization_config, localize_all
from unmemorize.metrics import BundledDescriptor, evaluate_all
from unmemorize.runs import open_run, start_run

SETS = {"original": 0.9, "refined": 0.1, "random-refined": 0.88}


def make_run(folder: Path, count: int) -> Run:
    """A run as large as asked for, every other prompt memorized, with photographs as images; the first prompt is hostile."""
    photographs = [
        Image.open(entry.prompt.images[0]).convert("RGB")
        for entry in testbed.planted()
        if entry.prompt.images
    ]
    training = folder / "training.png"
    folder.mkdir()
    photographs[0].save(training)
    texts = [HOSTILE if not index else f"prompt number {index}" for index in range(count)]
    prompts = [
        Prompt(text, "VM", images=(training,))
        if index % 2 == 0
        else Prompt(text, group="unmemorized")
        for index, text in enumerate(texts)
    ]
    run = start_run(folder / "run", prompts, {"fingerprint": "f"}, model="a model")
    rng = np.random.default_rng(0)
    found = [
        Neurons({LAYER: [index % 7, index % 5]}) if index % 2 == 0 else None
        for index in range(count)
    ]
    with run.writer("localizations") as writer:
        for index, (prompt, neurons) in enumerate(zip(prompts, found, strict=True)):
            score = 0.5 + index / 2500 if neurons else 0.2
            writer.append(
                {index: localization(prompt.text, prompt.group, score, neurons).to_json()}
            )
    (run.folder / "differences").mkdir()
    hashes = {"descriptor_sha256": "1" * 64, "clip_sha256": "2" * 64}
    for name, copied in SETS.items():
        images = Run.open(run.folder / "images" / name, {"on": ""})
        metrics = Run.open(
            run.folder / "metrics" / name, {"descriptor": "d", "clip": "c", **hashes}
        )
        with images.writer("images") as made, metrics.writer("metrics") as measured:
            for index, neurons in enumerate(found):
                if neurons is None:
                    continue
                files = [f"{index}_{seed}.png" for seed in range(4)]
                for file in files:
                    photographs[rng.integers(len(photographs))].resize((256, 256)).save(
                        images.folder / file
                    )
                noise = rng.integers(0, 255, (128, 192, 3), dtype=np.uint8)
                Image.fromarray(noise).save(run.folder / difference_file(index))
                made.append({index: {"files": files, "neurons": {}}})
                scores = np.clip(rng.normal(copied, 0.05, 4), -1, 1).tolist()
                measured.append(
                    {
                        index: {
                            "sscd_orig": scores,
                            "sscd_gen": scores,
                            "diversity": copied,
                            "alignment": [0.3],
                        }
                    }
                )
    return run


Open = Callable[..., Any]


def test_the_report_sorts_filters_and_keeps_to_itself(tmp_path: Path, open_page: Open) -> None:
    path = write_report(make_run(tmp_path / "report", 12))
    page = open_page(path.as_uri())
    rows = page.locator("#prompts tbody tr")
    assert rows.count() == 12
    page.get_by_role("button", name="similarity").click()
    page.get_by_role("button", name="similarity").click()
    assert page.locator("#prompts th[aria-sort=descending]").inner_text().startswith("similarity")
    assert rows.first.locator("td").first.inner_text() == "10"  # the highest similarity
    page.get_by_role("button", name="copy after").press("Enter")
    assert rows.last.locator("td").last.inner_text() == ""  # what is unknown comes last
    page.get_by_placeholder("Show prompts with").fill("NUMBER 1")
    assert page.get_by_role("status").inner_text() == "3 of 12"
    page.get_by_label("memorized only").check()
    assert page.get_by_role("status").inner_text() == "1 of 12"
    page.get_by_placeholder("Show prompts with").fill("<script>")
    assert page.locator("#prompts tbody tr:visible").count() == 1
    page.locator("#prompts a:visible").click()
    assert page.url.endswith("#prompt-0")
    assert page.locator("article").count() == 6
    assert page.title() == "Memorization in a model"
    page.locator("summary").first.click()
    assert "z = " in page.locator("details[open]").inner_text()
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_report_fits_a_phone(tmp_path: Path, open_page: Open, scheme: str) -> None:
    path = write_report(make_run(tmp_path / "report", 4))
    page = open_page(path.as_uri(), viewport={"width": 360, "height": 740}, color_scheme=scheme)
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    light = page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert (light == "rgb(246, 247, 249)") == (scheme == "light")
    assert (
        page.locator(".plot svg").first.bounding_box()["width"] > 500
    )  # scrolls, so that its text can be read
    assert page.locator("#prompts tbody td").nth(1).bounding_box()["width"] > 150


def test_the_report_of_the_bundled_model(
    bundled: DiffusionPipeline,
    bundled_statistics: Statistics,
    bundled_threshold: Threshold,
    tmp_path: Path,
    open_page: Open,
    picture: Callable[..., None],
) -> None:
    own = testbed.defaults()
    prompts = [entry.prompt for entry in testbed.planted()[2:8:2]]
    prompts += [Prompt(text, group="unmemorized") for text in testbed.captions("test")[:8]]
    settings = LocalizationSettings(noise=bundled_threshold.settings, criterion=own["criterion"])
    config = localization_config(Model(bundled), settings, bundled_statistics, bundled_threshold)
    run = open_run(tmp_path / "run", bundled, prompts, config)
    localize_all(
        run, bundled, statistics=bundled_statistics, threshold=bundled_threshold, settings=settings
    )
    generation = GenerationSettings(images=4, steps=20, guidance=own["guidance"], batch=12)
    for name in SETS:
        generate_all(run, bundled, ImageSet(neurons=NeuronSet.parse(name)), generation)
        evaluate_all(run, name, descriptor=BundledDescriptor(), alignment=None)
    page = open_page(write_report(run).as_uri(), viewport={"width": 1100, "height": 900})
    cards = page.locator("article")
    assert cards.count() >= 3
    assert (
        cards.first.locator("figure").count() == 6
    )  # training image, before, off, random, noise differences, course
    assert cards.first.locator(".course path").count() >= 3
    dots = cards.first.locator(".course .off").first  # they are round ends of lines without length
    assert dots.evaluate("dots => getComputedStyle(dots).strokeLinecap") == "round"
    picture(page, "report-summary")
    cards.first.scroll_into_view_if_needed()
    cards.first.locator("summary").click()
    picture(cards.first, "report-prompt")


def test_the_table_is_there_without_scripts(tmp_path: Path, open_page: Open) -> None:
    path = write_report(make_run(tmp_path / "report", 4))
    page = open_page(path.as_uri(), java_script_enabled=False)
    assert page.locator("#prompts tbody tr").count() == 4
    assert not page.locator(".search").is_visible()


@pytest.mark.slow
def test_five_hundred_memorized_prompts(tmp_path: Path, open_page: Open) -> None:
    path = write_report(make_run(tmp_path / "report", 1000))
    size = path.stat().st_size / 1e6
    began = time.perf_counter()
    page = open_page(path.as_uri())
    assert page.locator("article").count() == 500
    seconds = time.perf_counter() - began
    print(f"\nreport of 500 memorized prompts: {size:.1f} MB, open after {seconds:.2f} s")
    assert size < 25
    assert seconds < 2
