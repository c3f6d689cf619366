"""The report in a browser: it sorts, filters, fits a phone, and loads nothing."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from diffusers import DiffusionPipeline
from PIL import Image

from browsing import loading_work
from records import HOSTILE, LAYER, add_images, add_metrics, localization, localized_run
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
from unmemorize.localization import LocalizationRun, difference_file, localize_all
from unmemorize.metrics import BundledDescriptor, evaluate_all
from unmemorize.runs import open_run

SETS = {"original": 0.9, "refined": 0.1, "random-refined": 0.88}
"""The mean SSCD_Orig of each set of images."""
SEEDS = 4
Open = Callable[..., Any]


def photographs() -> list[Image.Image]:
    paths = [entry.prompt.images[0] for entry in testbed.planted() if entry.prompt.images]
    return [Image.open(path).convert("RGB") for path in paths]


def make_run(folder: Path, count: int) -> Run:
    """A run as large as asked for. Every other prompt is memorized, the first one is hostile."""
    images = photographs()
    training = folder / "training.png"
    images[0].save(training)
    texts = [HOSTILE, *(f"prompt number {index}" for index in range(1, count))]
    memorized = range(0, count, 2)
    prompts = [
        Prompt(text, "VM", images=(training,))
        if index in memorized
        else Prompt(text, group="unmemorized")
        for index, text in enumerate(texts)
    ]
    records = {
        index: localization(
            prompt.text,
            prompt.group,
            0.5 + index / 2500 if index in memorized else 0.2,
            Neurons({LAYER: [index % 7, index % 5]}) if index in memorized else None,
        )
        for index, prompt in enumerate(prompts)
    }
    run = localized_run(folder / "run", prompts, records)
    rng = np.random.default_rng(0)
    (run.folder / "differences").mkdir()
    for index in memorized:
        noise = rng.integers(0, 255, (128, 192, 3), dtype=np.uint8)
        Image.fromarray(noise).save(run.folder / difference_file(index))
    files = {index: [f"{index}_{seed}.png" for seed in range(SEEDS)] for index in memorized}
    for set_name, mean in SETS.items():
        made = add_images(run, set_name, files)
        for name in (name for names in files.values() for name in names):
            image = images[rng.integers(len(images))].resize((256, 256))
            image.save(made.folder / name)
        scores = {index: np.clip(rng.normal(mean, 0.05, SEEDS), -1, 1).tolist() for index in files}
        values = {
            index: {"sscd-orig": seeds, "sscd-gen": seeds, "d-sscd": mean, "a-clip": [0.3]}
            for index, seeds in scores.items()
        }
        add_metrics(run, made, values)
    return run


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The address of the report of twelve prompts."""
    return write_report(make_run(tmp_path_factory.mktemp("report"), 12)).as_uri()


def test_the_report_sorts_filters_and_keeps_to_itself(report: str, open_page: Open) -> None:
    page = open_page(report)
    rows = page.locator("#prompts tbody tr")
    assert rows.count() == 12
    page.get_by_role("button", name="score").click()
    page.get_by_role("button", name="score").click()
    assert page.locator("#prompts th[aria-sort=descending]").inner_text().startswith("score")
    assert rows.first.locator("td").first.inner_text() == "10"  # the highest similarity
    page.get_by_role("button", name="SSCD_Orig after").press("Enter")
    assert rows.last.locator("td").last.inner_text() == ""  # unknown numbers come last
    page.get_by_role("button", name="SSCD_Orig after").press("Enter")
    assert rows.last.locator("td").last.inner_text() == ""  # in either order
    page.get_by_role("button", name="prompt").click()
    assert "script" in rows.first.inner_text()  # texts by the alphabet
    page.get_by_placeholder("Show prompts that contain").fill("NUMBER 1")
    assert page.get_by_role("status").inner_text() == "3 of 12"
    page.get_by_label("memorized only").check()
    assert page.get_by_role("status").inner_text() == "1 of 12"
    page.get_by_placeholder("Show prompts that contain").fill("<script>")
    assert page.locator("#prompts tbody tr:visible").count() == 1
    page.locator("#prompts a:visible").click()
    assert page.url.endswith("#prompt-0")
    assert page.locator("article").count() == 6
    assert page.title() == "Memorization in a model"
    page.locator("summary").first.click()
    assert "z = " in page.locator("details[open]").inner_text()
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_report_fits_a_phone(report: str, open_page: Open, scheme: str) -> None:
    page = open_page(report, viewport={"width": 360, "height": 740}, color_scheme=scheme)
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    light = page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert (light == "rgb(246, 247, 249)") == (scheme == "light")
    plot = page.locator(".plot svg").first.bounding_box()
    assert plot["width"] > 500  # it scrolls, and its text can be read
    assert page.locator("#prompts tbody td").nth(1).bounding_box()["width"] > 150


def test_the_table_is_there_without_scripts(report: str, open_page: Open) -> None:
    page = open_page(report, java_script_enabled=False)
    assert page.locator("#prompts tbody tr").count() == 12
    assert not page.locator(".search").is_visible()


def test_the_report_of_the_bundled_model(
    bundled: DiffusionPipeline,
    bundled_statistics: Statistics,
    bundled_threshold: Threshold,
    tmp_path: Path,
    open_page: Open,
    picture: Callable[..., None],
) -> None:
    model = Model(bundled)
    defaults = testbed.defaults()
    # many neurons carry what was memorized by dose alone, so there are trials enough for a plot
    prompts = [testbed.planted()[place].prompt for place in (10, 2)]
    prompts += [Prompt(text, group="unmemorized") for text in testbed.captions("test")[:2]]
    settings = LocalizationSettings(
        noise=bundled_threshold.settings, criterion=defaults["criterion"]
    )
    config = LocalizationRun.of(model, settings, bundled_statistics, bundled_threshold)
    run = open_run(tmp_path / "run", model, prompts, config)
    localize_all(
        run, model, statistics=bundled_statistics, threshold=bundled_threshold, settings=settings
    )
    looked_at = "SCREENSHOTS" in os.environ  # the assertions need no finished images
    generation = GenerationSettings(
        images=4 if looked_at else 2,
        steps=20 if looked_at else 2,
        guidance=defaults["guidance"],
        batch=12,
    )
    for name in SETS:
        generate_all(run, model, ImageSet(neurons=NeuronSet.parse(name)), generation)
        evaluate_all(run, name, descriptor=BundledDescriptor(), alignment=None)
    page = open_page(write_report(run).as_uri(), viewport={"width": 1100, "height": 900})
    cards = page.locator("article")
    assert cards.count() >= 2
    captions = cards.first.locator("figcaption").all_text_contents()
    titles = ("training image", "before", "neurons off", "random neurons off", "noise differences")
    assert len(captions) == len(titles) + 1  # and the course
    for caption, title in zip(captions, titles, strict=False):
        assert caption.startswith(title)
    assert cards.first.locator(".course path").count() >= 2
    dots = cards.first.locator(".course .off").first  # they are round ends of very short lines
    assert dots.evaluate("dots => getComputedStyle(dots).strokeLinecap") == "round"
    picture(page, "report-summary")
    cards.first.scroll_into_view_if_needed()
    cards.first.locator("summary").click()
    picture(cards.first, "report-prompt")
    picture(page, "report-page", full_page=True)


@pytest.mark.slow
def test_five_hundred_memorized_prompts(tmp_path: Path, open_page: Open) -> None:
    path = write_report(make_run(tmp_path, 1000))
    assert path.stat().st_size < 25e6
    page = open_page("about:blank")
    work = loading_work(page, path)
    assert page.locator("article").count() == 500
    assert work["LayoutObjects"] < 30_000
    assert work["TaskDuration"] < 1.5
