"""What the page says and shows of each memorized prompt."""

from __future__ import annotations

import base64
import io
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from records import LAYER, add_scored_images, colour, localization, localized_run
from scored_run import NEURONS, SCORES, scored_run
from unmemorize import MetricError, Neurons, Prompt, Run
from unmemorize.localization import difference_file
from unmemorize.localization._records import Effects, Spent
from unmemorize.metrics import PromptMetrics, References
from unmemorize.report import _cards as cards_module
from unmemorize.report import copy_warning, read_results
from unmemorize.report._cards import Card, Strip, make_cards, prompt_warning
from unmemorize.report._results import Results
from unmemorize.runs import StoredImage


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    folder = tmp_path_factory.mktemp("scored")
    run = scored_run(folder)
    (run.folder / "differences").mkdir()
    Image.new("RGB", (30, 20), (1, 200, 90)).save(run.folder / difference_file(1))
    return run


@pytest.fixture(scope="module")
def results(run: Run) -> Results:
    return read_results(run)


@pytest.fixture(scope="module")
def cards(run: Run, results: Results) -> dict[int, Card]:
    truth = {"prompt one": Neurons({LAYER: [2, 3]}), "prompt zero": Neurons()}
    return {card.index: card for card in make_cards(run, results, truth)}


def decoded(url: str) -> Image.Image:
    prefix = "data:image/webp;base64,"
    assert url.startswith(prefix)
    return Image.open(io.BytesIO(base64.b64decode(url.removeprefix(prefix)))).convert("RGB")


def strip_of(card: Card, title: str) -> Strip:
    (strip,) = [strip for strip in card.strips if strip.title == title]
    return strip


def test_each_memorized_prompt_has_a_card(cards: dict[int, Card]) -> None:
    assert list(cards) == list(NEURONS)
    assert (cards[1].prompt, cards[1].group) == ("prompt one", "VM")
    assert cards[2].group == "TM"


@pytest.mark.parametrize(
    ("set_name", "title"),
    [
        ("original", "before"),
        ("refined", "neurons off"),
        ("random-refined", "random neurons off"),
    ],
)
def test_a_card_shows_the_images_of_its_own_prompt(
    cards: dict[int, Card], set_name: str, title: str
) -> None:
    for index in SCORES[set_name]:
        images = [decoded(url) for url in strip_of(cards[index], title).images]
        for seed, image in enumerate(images):
            mean = np.asarray(image).mean((0, 1))
            assert mean == pytest.approx(colour(set_name, index, seed), abs=4)
        assert len(images) == 3


def test_strips_come_in_the_order_of_the_steps(cards: dict[int, Card]) -> None:
    titles = ["training image", "before", "neurons off", "random neurons off"]
    assert [strip.title for strip in cards[0].strips] == titles
    assert [strip.title for strip in cards[1].strips] == [*titles, "noise differences"]
    assert [strip.title for strip in cards[5].strips] == ["before", "neurons off"]


def test_noise_differences_are_shown_as_they_are(cards: dict[int, Card]) -> None:
    strip = strip_of(cards[1], "noise differences")
    assert strip.wide
    assert np.asarray(decoded(strip.images[0])).mean((0, 1)) == pytest.approx((1, 200, 90), abs=4)


def test_captions_tell_the_median_and_the_worst_seed(cards: dict[int, Card]) -> None:
    assert strip_of(cards[0], "before").caption == "SSCD_Orig 0.90, worst seed 0.99"
    assert strip_of(cards[0], "neurons off").caption == "SSCD_Orig 0.20, worst seed 0.75"
    assert strip_of(cards[5], "neurons off").caption == "SSCD_Gen 0.93, worst seed 0.95"


def test_images_that_were_not_evaluated_have_no_caption(tmp_path: Path, results: Results) -> None:
    run = scored_run(tmp_path)
    without = replace(results, metrics=[])
    assert strip_of(next(make_cards(run, without, None)), "before").caption == ""


def test_training_images_are_those_of_the_prompt_unless_others_were_measured_against(
    run: Run, results: Results, cards: dict[int, Card], tmp_path: Path
) -> None:
    for index, red in ((0, 250), (1, 120)):
        (url,) = strip_of(cards[index], "training image").images
        assert decoded(url).getpixel((3, 3))[0] == pytest.approx(red, abs=6)  # type: ignore[index]
        assert decoded(url).size == (40, 20)
    Image.new("RGB", (8, 8), (9, 9, 240)).save(tmp_path / "given.png")
    file = StoredImage.of(tmp_path / "given.png", run.folder)
    given = PromptMetrics(values={}, references=References(used=1, files=(file,)))
    metrics = [replace(results.metrics[0], prompts={0: given})]
    card = next(make_cards(run, replace(results, metrics=metrics), None))
    (url,) = strip_of(card, "training image").images
    assert decoded(url).getpixel((3, 3))[2] == pytest.approx(240, abs=6)  # type: ignore[index]


def test_facts(run: Run, results: Results, cards: dict[int, Card]) -> None:
    facts = dict(cards[1].facts)
    assert facts["highest similarity between two seeds"] == "0.77 (tau 0.4)"
    assert facts["seeds above tau"] == "2"
    assert facts["initial selection"] == "6 neurons at theta 5, k 0; score 0.2"
    assert facts["refined"] == "6 neurons; score 0.25 (threshold 0.3)"
    assert facts["work"] == "10 denoiser samples, 2.00 s"
    assert facts["against the known neurons"] == "precision 0.17, recall 0.50 (of 2)"
    assert "against the known neurons" not in dict(cards[0].facts)
    spent = replace(results.localizations[0], spent={"selection": Spent(12.4, 0.456)})
    card = next(make_cards(run, replace(results, localizations={0: spent}), None))
    assert ("of this, selection", "12 weighted samples, 0.46 s") in card.facts


def test_facts_name_the_detector_and_hours_of_work(run: Run, results: Results) -> None:
    record = results.localizations[0]
    assert record.detection is not None
    called = replace(
        record.detection,
        detector="noise-magnitude",
        score=0.00123,
        tau=0.001,
        memorized_seeds=(),
    )
    other = replace(record, detection=called, seconds=12345.6)
    card = next(make_cards(run, replace(results, localizations={0: other}), None))
    facts = dict(card.facts)
    assert facts["score of noise-magnitude"] == "0.00123 (tau 0.001)"
    assert not {"highest similarity between two seeds", "seeds above tau"} & facts.keys()
    assert facts["work"] == "10 denoiser samples, 12345.60 s"


def test_imported_records_do_not_tell_everything(run: Run, results: Results) -> None:
    imported = replace(
        results.localizations[0], detection=None, theta=None, seconds=None, z_scores={}
    )
    card = next(make_cards(run, replace(results, localizations={0: imported}), None))
    facts = dict(card.facts)
    assert facts["initial selection"].startswith("3 neurons at theta ?, k 0;")
    assert facts["work"] == "10 denoiser samples, ? s"
    assert "highest similarity between two seeds" not in facts
    assert card.neurons[0] == f"{LAYER} #1 (z = ?)"


def test_neurons_with_their_z_scores(run: Run, results: Results) -> None:
    record = replace(results.localizations[0], z_scores={LAYER: (5.0, 6.25, 12.345)})
    card = next(make_cards(run, replace(results, localizations={0: record}), None))
    assert card.neurons == (
        f"{LAYER} #1 (z = 5)",
        f"{LAYER} #2 (z = 6.25)",
        f"{LAYER} #3 (z = 12.3)",
    )


def test_a_missing_image_is_named(tmp_path: Path) -> None:
    run = scored_run(tmp_path)
    (run.folder / "images" / "refined" / "00001_01.png").unlink()
    with pytest.raises(MetricError, match=r"00001_01\.png"):
        list(make_cards(run, read_results(run), None))


def test_many_prompts_have_smaller_and_fewer_pictures(
    run: Run, results: Results, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cards_module, "_MOST_LARGE", 4)
    assert len(strip_of(next(make_cards(run, results, None)), "before").images) == 3
    monkeypatch.setattr(cards_module, "_MOST_LARGE", 3)
    assert len(strip_of(next(make_cards(run, results, None)), "before").images) == 2


def test_images_larger_than_their_place_are_scaled(tmp_path: Path) -> None:
    record = localization("one", "VM", 0.6, Neurons({LAYER: [1]}))
    run = localized_run(tmp_path / "run", [Prompt("one", "VM")], {0: record})
    add_scored_images(run, {"original": {0: {}}}, seeds=5)
    path = run.folder / "images" / "original" / "00000_00.png"
    Image.new("RGB", (400, 200), (1, 2, 3)).save(path)
    (card,) = make_cards(run, read_results(run), None)
    images = strip_of(card, "before").images
    assert (len(images), decoded(images[0]).size) == (4, (192, 96))


@pytest.mark.parametrize(
    ("copy_scores", "theta_exhausted", "warning"),
    [
        ((0.1, 0.71, 0.95), False, "a copy is left in 2 of 3 images (worst 0.95)"),
        ((0.7, 0.1), True, ""),
        ((0.7, 0.1), None, ""),
        ((), True, "theta exhausted, no image measured"),
        ((), False, ""),
        ((), None, ""),
    ],
)
def test_a_measurement_outweighs_the_search(
    copy_scores: tuple[float, ...], theta_exhausted: bool | None, warning: str
) -> None:
    assert copy_warning(copy_scores, theta_exhausted) == warning


def test_warnings_stand_where_a_copy_is_left(cards: dict[int, Card]) -> None:
    """Theta was exhausted for prompts 0 and 2 only."""
    assert cards[0].warning == "a copy is left in 1 of 3 images (worst 0.75)"
    assert cards[1].warning == ""
    assert cards[2].warning == "a copy is left in 1 of 3 images (worst 0.88)"  # the layout is
    assert cards[5].warning == ""


@pytest.mark.parametrize(
    ("values", "warning"),
    [
        ({"sscd-orig": (0.1, 0.2)}, "theta exhausted, no image measured"),
        (
            {"sscd-orig": (0.1, 0.9)},
            "a copy is left in 1 of 2 images (worst 0.90)",
        ),
        ({"sscd-orig": (0.1, 0.2), "masked-copy": (0.3, 0.4)}, ""),
        (
            {"sscd-orig": (0.9, 0.2), "masked-copy": (0.3, 0.8)},
            "a copy is left in 2 of 2 images (worst 0.90)",
        ),
        ({}, "theta exhausted, no image measured"),
    ],
)
def test_a_low_whole_image_score_says_nothing_of_a_template(
    results: Results, values: dict[str, tuple[float, ...]], warning: str
) -> None:
    refined = replace(results.metrics[1], prompts={2: PromptMetrics(values=values)})
    assert prompt_warning(replace(results, metrics=[refined]), 2) == warning


def test_a_memorized_prompt_without_neurons_says_why(run: Run, results: Results) -> None:
    record = replace(results.localizations[0], neurons=Neurons(), why_empty="none is needed.")
    without = replace(results, localizations={0: record}, metrics=[])
    card = next(make_cards(run, without, None))
    assert card.warning == "no neurons found"
    assert ("why no neurons", "none is needed.") in card.facts
    assert "noise level" not in dict(card.facts)


def test_the_noise_level_is_a_fact(run: Run, results: Results) -> None:
    record = replace(results.localizations[0], effects=Effects("backward", 0.0525, {}))
    card = next(make_cards(run, replace(results, localizations={0: record}), None))
    assert ("noise level", "0.0525, measured by backward passes") in card.facts
