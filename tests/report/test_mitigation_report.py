"""The report of a mitigation: its numbers, its order, and what it says it does not know."""

from __future__ import annotations

import base64
import csv
import hashlib
import html
import json
import os
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from scipy.stats import binomtest

from audited import WORDS, audited_run
from mitigated_run import (
    COUNT,
    DIGEST,
    FRESH,
    SETTINGS,
    copied_by_a_paraphrase,
    mitigated_run,
    rewritten,
    texts,
)
from records import HOSTILE
from unmemorize import (
    MitigationResult,
    ModelError,
    Run,
    RunError,
    verify_evidence,
    write_evidence,
    write_report,
)
from unmemorize.mitigation import Copies
from unmemorize.report import _regions
from unmemorize.report._evidence import read_evidence
from unmemorize.report._regions import record_regions
from unmemorize.report._wall import wall
from unmemorize.runs import Inputs, hash_of_file

ARTICLE = re.compile(r'<article class="card" id="prompt-(\d+)">(.*?)</article>', re.DOTALL)
RELEARNING = "further training on other memorized images"
FIGURE = re.compile(r'<data value="([^"]*)" data-of="([^"]*)">([^<]*)</data>')


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    run = mitigated_run(tmp_path_factory.mktemp("mitigated"))
    write_report(run)
    return run


@pytest.fixture(scope="module")
def page(run: Run) -> str:
    return (run.folder / "report.html").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def numbers(run: Run) -> Any:
    return json.loads((run.folder / "report.json").read_text())


NO_TEXT = os.fsdecode(b"caf\xe9.txt")


def test_a_command_with_a_path_that_is_no_text(tmp_path: Path) -> None:
    """Also of a run from before such bytes were written out."""
    run = mitigated_run(tmp_path, memorized=2)
    manifest = json.loads((run.folder / "manifest.json").read_text())
    manifest["command"] = f"unmemorize mitigate {NO_TEXT}"
    run.write("manifest.json", json.dumps(manifest))
    page = write_report(Run.load(run.folder)).read_text(encoding="utf-8")
    assert "unmemorize mitigate caf\\udce9.txt" in page
    assert write_evidence(Run.load(run.folder), tmp_path / "evidence.zip")
    verify_evidence(tmp_path / "evidence.zip")


def test_shares_of_the_settings_are_not_rounded(tmp_path: Path) -> None:
    """97.5 % would pass for 98 %, and one copy of 3,600 for none."""

    def change(result: Any) -> None:
        result["budget"] = 0.025
        result["outcomes"][0]["first"] = {"copies": 1, "seeds": 3600}

    run = rewritten(mitigated_run(tmp_path, memorized=1), change)
    manifest = json.loads((run.folder / "manifest.json").read_text())
    manifest["settings"]["settings"] |= {"alpha": 0.0025, "confidence": 0.975}
    run.write("manifest.json", json.dumps(manifest))
    page = words(write_report(Run.load(run.folder)).read_text(encoding="utf-8"))
    assert "up to 2.5 % were allowed" in page
    assert "a copy rate above 0.25 % is excluded at 97.5 % over the whole search" in page
    assert "at most 5 % of images of other prompts would pass for copies" in page
    assert "750 → 0.3 copies per 1,000 images" in page


def test_where_agreement_is_compared_its_level_is_told_to_be_rough(
    tmp_path: Path, page: str
) -> None:
    def change(result: Any) -> None:
        result["outcomes"][0]["measure"] = "agreement"

    run = rewritten(mitigated_run(tmp_path, memorized=1), change)
    sentence = "Where agreement is compared, up to four times as many may pass"
    assert sentence in write_report(run).read_text(encoding="utf-8")
    assert sentence not in page


def articles(page: str) -> dict[int, str]:
    return {int(index): content for index, content in ARTICLE.findall(page)}


def words(page: str) -> str:
    return " ".join(html.unescape(re.sub("<[^>]+>", " ", page)).split())


def tags_of(page: str) -> list[tuple[str, str]]:
    """The class and the words of each label."""
    found = re.findall(r'<span class="tag (\w+)">(.*?)</span>', page)
    return [(kind, words(text)) for kind, text in found]


def test_sections_come_in_the_order_of_questions(page: str) -> None:
    sections = re.findall(r'<h2 id="([\w-]+)"', page)
    assert sections == [
        "wall",
        "certainty",
        "cost",
        "limits",
        "how",
        "numbers",
        "annex",
        "words",
    ]
    assert page.index("<h1>") < page.index("<h2")
    head = words(page[page.index("<h1>") : page.index("<h2")])
    assert head.startswith(
        "Copies removed for 2 of 3 memorized prompts: 6 of 36 fresh images are copies."
    )
    assert "9 of 12 images of these prompts were copies : 428 to 946 per 1,000" in head
    assert "6 of 36 fresh images are copies: 63 to 329 per 1,000" in head


@pytest.mark.parametrize(
    ("name", "copies", "images"),
    [
        ("before", 9, 12),
        ("after", 6, 36),
        ("control", 3, 6),
        ("paraphrases_before", 1, 2),
        ("paraphrases_after", 0, 2),
        ("false_alarms", 1, 4),
    ],
)
def test_rates_have_exact_intervals(
    numbers: Any, page: str, name: str, copies: int, images: int
) -> None:
    rate = numbers[name]
    assert (rate["copies"], rate["images"]) == (copies, images)
    interval = binomtest(copies, images).proportion_ci(0.95, "exact")
    assert rate["low"] == pytest.approx(1000 * interval.low)
    assert rate["high"] == pytest.approx(1000 * interval.high)
    assert rate["per_1000"] == pytest.approx(1000 * copies / images)
    shown = {of: (value, text) for value, of, text in FIGURE.findall(page)}
    assert shown[f"{name}.copies"] == (str(copies), str(copies))


def test_every_number_on_the_page_is_in_the_json(page: str, numbers: Any) -> None:
    found = FIGURE.findall(page)
    assert len(found) > 150
    for value, name, text in found:
        expected = numbers
        for key in name.split("."):
            expected = expected[int(key) if isinstance(expected, list) else key]
        if isinstance(expected, str):
            assert value == text == expected
            continue
        assert float(value) == expected
        digits = len(text.partition(".")[2])
        assert abs(float(text.replace(",", "")) - expected) <= 10**-digits
        if not name.endswith((".low", ".high")):
            assert abs(float(text.replace(",", "")) - expected) <= 0.51 * 10**-digits


def test_bounds_are_rounded_outwards(page: str) -> None:
    for value, name, text in FIGURE.findall(page):
        if name.endswith(".low"):
            assert float(text.replace(",", "")) <= float(value) + 1e-6
        if name.endswith(".high"):
            assert float(text.replace(",", "")) >= float(value) - 1e-6


def test_the_csv_has_a_line_for_each_suspect(run: Run, numbers: Any) -> None:
    with (run.folder / "report.csv").open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert [row["prompt"] for row in rows] == [
        numbers["prompts"][str(index)]["prompt"] for index in range(5)
    ]
    assert rows[0]["prompt"] == HOSTILE
    assert (rows[0]["after.copies"], rows[4]["after.copies"]) == ("6", "")
    assert "after" not in rows[0]


def test_prompts_that_are_not_certified_come_first(page: str) -> None:
    cards = articles(page)
    assert list(cards) == [0, 2, 1]  # 0 is not removed; of the others, 2 scores higher after
    tags = [tags_of(card)[0] for card in cards.values()]
    assert tags == [
        ("warn", "✗ not removed (6 of 12)"),
        ("good", "✓ removed (0 of 12, at most 22.1 % at 95 %)"),
        ("good", "✓ removed (0 of 12, at most 22.1 % at 95 %)"),
    ]


def test_each_prompt_shows_the_noise_that_matters(page: str) -> None:
    """The noise under which a copy is left, else the one that copied most before."""

    def front(index: int) -> list[tuple[str, str]]:
        card = articles(page)[index]
        part = card[card.index('<div class="front">') : card.index("<details>")]
        links = re.findall(r'<a href="([^"]+)">', part)
        return list(zip(links, re.findall(r'<span class="score[^>]*>([^<]+)', part), strict=True))

    assert front(0) == [
        ("before/00000_03.png", "0.60 copy"),
        (f"after-{DIGEST}/00000_03.png", "0.62 copy"),
        (f"{COUNT}/00000_00.png", "0.70 copy"),
        ("control-cccccccccc/00000_00.png", "0.90 copy"),
    ]
    assert front(1)[:2] == [
        ("before/00001_02.png", "0.90 copy"),
        (f"after-{DIGEST}/00001_02.png", "0.21"),
    ]


def test_a_card_tells_everything_about_its_prompt(page: str) -> None:
    card = articles(page)[0]
    # front, all seeds and six fresh copies, differences
    assert card.count("<img") == (1 + 4) + (1 + 4 + 4 + 6 + 2) + 1
    text = words(card)
    assert "0123456789 (exported) certificate, attempt 1 1 of 1" in text
    assert "0123456789 (exported) count, attempt 1 6 of 12" in text
    assert "aaaaaaaaaa search 2 of 2" in text
    assert text.index("aaaaaaaaaa") > 0
    assert "down 0.0.0 3, 5" in text
    assert "above 0.500" in text
    assert 'class="course"' in card


@pytest.mark.parametrize("kept", [True, False])
def test_a_wording_that_still_copies_is_named_beside_the_verdict(
    tmp_path: Path, kept: bool
) -> None:
    """A run of an earlier version has its count, but no picture of it."""
    run = copied_by_a_paraphrase(mitigated_run(tmp_path), kept=kept)
    page = write_report(run).read_text(encoding="utf-8")
    cards = articles(page)
    assert list(cards) == [0, 1, 2]  # before 2, which scores higher after the edit
    front = cards[1][: cards[1].index("<details>")]
    assert tags_of(front) == [
        ("good", "✓ removed (0 of 12, at most 22.1 % at 95 %)"),
        ("warn", "✗ 1 of 1 other wordings still copy"),
    ]
    assert "“another wording”: 2 of 2 images are copies" in words(front)
    links = [f'href="paraphrases-{DIGEST}/00000_0{seed}.png"' for seed in (1, 0)]
    assert [link in front for link in links] == [kept, False]
    assert [link in cards[1] for link in links] == [kept, kept]
    assert "“another wording”: 1 of 2 before, 2 of 2 after" in words(cards[1])
    assert "still copy" not in cards[0] + cards[2]
    head = words(page[: page.index('id="wall"')])
    assert "2 of 2 are still copies after the edit ( 1 of 2 before), under 1 of 1 wordings" in head
    assert "The worst: “another wording” , 2 of 2 ." in head
    assert "2 memorized prompts with any copy left: 1 among fresh images, 1 under other" in head
    numbers = json.loads((run.folder / "report.json").read_text())
    assert numbers["copying"] == {"any": 2, "fresh": 1, "paraphrases": 1}
    (wording,) = numbers["paraphrases"]["1"]
    assert (wording["text"], wording["after"]["copies"]) == ("another wording", 2)
    row = page[page.index('id="numbers"') :].split("<tr>")[3]
    assert [words(cell) for cell in row.split("</td>")][5].startswith("2 of 2")
    redacted = write_report(run, redact=True).read_text(encoding="utf-8")
    assert f"paraphrases-{DIGEST}" not in redacted
    assert "2 of 2" in words(articles(redacted)[1])


def test_a_removed_prompt_with_fresh_copies_counts_among_those_with_copies_left(
    tmp_path: Path,
) -> None:
    """Of more images than the fewest, some may copy."""

    def change(result: Any) -> None:
        result["outcomes"][1].update(after={"copies": 1, "seeds": 12})
        result["outcomes"][2].update(first={"copies": 2, "seeds": 12})

    page = write_report(rewritten(mitigated_run(tmp_path), change)).read_text(encoding="utf-8")
    assert list(articles(page)) == [0, 2, 1]
    tiles = words(page[page.index('<div class="tiles">') : page.index('aria-label="Parts')])
    assert "1 memorized prompts: not certified 3 memorized prompts with any copy left: 3" in tiles
    assert "A copy was among the first fresh images" in words(articles(page)[2])
    assert "A copy was among the first fresh images" not in words(articles(page)[1])


def test_a_prompt_of_which_no_neurons_were_edited_has_no_control(tmp_path: Path) -> None:
    """Random neurons control nothing that a closed form does. Earlier versions drew them."""
    rung = "closed form to the start “all neurons at 0”, weight 3"

    def change(result: Any) -> None:
        result["outcomes"][1]["rung"] = rung

    run = rewritten(mitigated_run(tmp_path), change)
    page = write_report(run).read_text(encoding="utf-8")
    numbers = json.loads((run.folder / "report.json").read_text())
    assert (numbers["control"]["copies"], numbers["control"]["images"]) == (2, 4)
    assert numbers["prompts"]["1"]["control"] is None
    cards = articles(page)
    assert [cards[index].count("no control for this kind of edit") for index in (0, 1)] == [0, 2]
    assert "control-cccccccccc" in cards[0]
    assert "control-cccccccccc" not in cards[1]
    section = words(page[page.index('id="numbers"') :])
    assert section.count("no control for this kind of edit") == 1


def test_an_edit_without_neurons_has_no_column_of_controls(tmp_path: Path) -> None:
    def change(result: Any) -> None:
        for outcome in result["outcomes"]:
            outcome["rung"] = outcome.get("rung") and "text encoder, weight 10"
        result["ordinary_control"] = None

    run = rewritten(mitigated_run(tmp_path), change)
    page = words(write_report(run).read_text(encoding="utf-8"))
    assert json.loads((run.folder / "report.json").read_text())["control"] is None
    assert "no control" not in page
    assert "random neurons" not in page


def test_false_alarms_and_untested_suspects(page: str) -> None:
    section = words(page[page.index('id="false-alarms"') : page.index('id="cost"')])
    assert "called 4 of 5 suspects (score above 0.450)" in section
    assert "Of these, 1 of 4 are false alarms" in section
    assert "false alarms : fewer than 2 of their 4 images are copies, and nothing" in section
    # 1 - .9^4 - 4 * .1 * .9^3 = .0523, and likewise
    chances = "at least 2 of 4 images are copies with probabilities of 0.014, 0.052, 0.181, 0.348."
    assert f"at copy rates of 5, 10, 20, 30 %, {chances}" in section
    assert "single" not in section
    assert "a false alarm not confirmed (false alarm) 0.600" in section
    assert "nothing at all not tested 0.300 –" in section


def test_confirmations_by_two_numbers_of_images_share_a_sentence(tmp_path: Path) -> None:
    def change(result: Any) -> None:
        result["outcomes"][3]["before"] = {"copies": 0, "seeds": 3}

    page = words(write_report(rewritten(mitigated_run(tmp_path), change)).read_text("utf-8"))
    assert page.count("Confirmation misses prompts that copy seldom") == 1
    # 1 - .9^3 - 3 * .1 * .9^2 = .028, and likewise
    chances = "at least 2 of 3 images are copies with probabilities of 0.007, 0.028, 0.104, 0.216"
    assert f"{chances}, and at least 2 of 4 images are copies with probabilities of 0.014," in page


def test_a_suspect_with_a_single_copy_is_shown_apart(tmp_path: Path) -> None:
    run = mitigated_run(tmp_path)
    lines = (run.folder / "confirmations.jsonl").read_text().splitlines()
    record = json.loads(lines[3]) | {"scores": [0.1, 0.9, 0.31, 0.04]}
    run.write("confirmations.jsonl", "\n".join([*lines[:3], json.dumps(record), ""]))

    def change(result: Any) -> None:
        result["outcomes"][3] |= {"before": {"copies": 1, "seeds": 4}, "worst_before": 0.9}

    page = write_report(rewritten(run, change)).read_text(encoding="utf-8")
    section = words(page[page.index('id="false-alarms"') : page.index('id="cost"')])
    assert "show no copies" not in section
    assert "nothing is edited for them. 1 of them with exactly one copy is shown apart." in section
    first, second = section.index("suspects with a single copy"), section.index("nothing at all")
    assert first < section.index("a false alarm not confirmed (false alarm, single copy)") < second
    assert json.loads((run.folder / "report.json").read_text())["single_copies"] == 1
    write_evidence(run, tmp_path / "evidence.zip")
    assert verify_evidence(tmp_path / "evidence.zip").unchecked == ()


def test_what_it_costs_stands_beside_random_neurons(page: str) -> None:
    section = words(page[page.index('id="cost"') : page.index('id="limits"')])
    assert re.search(r"changed images 2 of 19 .*? 3 of 3", section)
    assert "caption 0" in section
    assert "neurons (exported) 1 2 of 3" in section


def test_the_way_it_was_made_is_complete(run: Run, page: str) -> None:
    section = html.unescape(page[page.index('id="how"') : page.index('id="numbers"')])
    for value in ("v2-" + "f" * 64, "1" * 64, "3" * 64, "5" * 64, run.manifest.command):
        assert value in section
    for name in ("generation.guidance", "generation.steps", "localization.theta", "alpha"):
        assert f"settings.{name}</dt>" in section
    edit = hashlib.sha256((run.folder / "edit.json").read_bytes()).hexdigest()
    private = run.folder.parent / "private" / "training-0.png"
    assert edit in section
    assert hashlib.sha256(private.read_bytes()).hexdigest() in section
    assert "Not recorded. The fingerprint above covers the weights." in section


def test_the_sampler_that_was_used_is_named(tmp_path: Path) -> None:
    """Runs of earlier versions have none on record."""
    run = mitigated_run(tmp_path)
    page = words(write_report(run).read_text())
    assert "DDIM" not in page
    assert "for the sampler of the run (which is not recorded) with" in page
    assert "scheduler, device, threads; who ran it" in page
    manifest = json.loads((run.folder / "manifest.json").read_text())
    manifest["environment"] = {
        "scheduler": "FlowMatchEulerDiscreteScheduler",
        "scheduler_config": {"shift": 3.0},
        "device": "cuda:0 (a card)",
        "threads": 5,
    }
    (run.folder / "manifest.json").write_text(json.dumps(manifest))
    page = words(write_report(Run.load(run.folder)).read_text())
    assert "for these prompts, for FlowMatchEulerDiscreteScheduler with" in page
    how = page[page.index("How to repeat it The") :]
    assert 'scheduler FlowMatchEulerDiscreteScheduler {"shift": 3.0}' in how
    assert "device cuda:0 (a card) threads of the CPU 5" in how
    assert "scheduler, device, threads;" not in page


def test_links_lead_somewhere_and_nothing_is_external(run: Run, page: str) -> None:
    links = re.findall(r'(?:src|href)="([^"]+)"', page)
    anchors = set(re.findall(r' id="([^"]+)"', page))
    for link in links:
        if link.startswith("#"):
            assert link[1:] in anchors
        elif not link.startswith("data:image/webp;base64,"):
            assert (run.folder / link).is_file()
    assert page.count("<script>") == 1
    script = page[page.index("<script>") + len("<script>") : page.index("</script>")]
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    assert f"script-src 'sha256-{digest}'" in page
    assert HOSTILE not in page


@pytest.mark.parametrize(
    ("copies", "score", "words"),
    [
        (0, 0.6, "An image from the noise of “before” still counts as one"),
        (2, 0.4, "The copies that are left are among the fresh images"),
        (0, 0.4, ""),
        (2, 0.6, ""),
    ],
)
def test_a_verdict_that_the_pictures_do_not_show_is_explained(
    tmp_path: Path, copies: int, score: float, words: str
) -> None:
    evidence = read_evidence(mitigated_run(tmp_path))
    outcome = replace(
        evidence.confirmed[1],
        level=0.5,
        after=Copies(copies, 12),
        scores_after=(0.1, score, 0.2, 0.1),
    )
    result = replace(evidence.result, outcomes=(outcome,))
    (entry,) = wall(replace(evidence, result=result), redact=False)
    assert words in entry.note
    assert bool(entry.note) == bool(words)


def test_copies_that_are_left_are_shown(run: Run, page: str) -> None:
    cards = articles(page)
    assert f'href="{COUNT}/00000_00.png"' in cards[0]
    assert COUNT not in cards[1]
    assert COUNT not in write_report(run, redact=True).read_text()
    write_report(run)


def test_words_are_explained_where_they_are_first_used(page: str) -> None:
    used = re.findall(r'<a class="term" href="#word-([\w-]+)"', page)
    assert len(used) == len(set(used)) > 10
    explained = re.findall(r'<dt id="word-([\w-]+)">', page)
    assert sorted(explained) == sorted(used)
    assert used[0] == "suspect"


def test_the_annex_names_sources_and_what_is_missing(page: str) -> None:
    annex = words(page[page.index('id="annex"') : page.index('id="words"')])
    assert annex.count("wording not verified") == 5
    assert "L. Log of complaints and answers not in this record" in annex
    assert "no legal advice" in annex
    assert annex.count("hashes of the model's files") == 1


def test_an_audit_shows_its_verdicts_where_there_is_one(tmp_path: Path) -> None:
    run = mitigated_run(tmp_path)
    assert "Attacks were tried" not in words(write_report(run).read_text())
    audits = run.folder / "audit"
    Run.open(audits / "begun", SETTINGS, inputs=Inputs(fingerprint="f"), model="m", items=7)
    assert "Attacks were tried" not in words(write_report(run).read_text())
    edited = MitigationResult.load(run).file
    assert edited is not None
    fingerprint = run.manifest.inputs.fingerprint
    audited_run(audits / "other", None, fingerprint)
    audited_run(audits / "model", edited.edit, "another")
    page = words(write_report(run).read_text())
    assert "another edit than this one. Their" in page
    assert "another model than this one. Their" in page
    assert "Their records lie in audit/other" in page
    for text in ("L4: the whole text embedding, searched without bound no", f"L6: {RELEARNING} no"):
        assert text in page
    annex = page[page.index("I. Residual risk") :]
    assert annex.startswith("I. Residual risk what was not tested not tried: L1 (guidance, ")
    assert page.count("not tried: L1 (guidance, steps, schedulers), L2, L3, L4, L5, L6") == 2

    audited_run(audits / "soft", edited.edit, fingerprint)
    page = words(write_report(run).read_text())
    soft = page.index("this edit. Their records")
    assert page.index("another edit than this one") < soft  # by name
    assert "searched without bound audit/soft : L4 on 6 images, budget up to 25 L5:" in page
    assert "image not possible: no tokenizer L3:" in page
    annex = page[page.index("I. Residual risk") :]
    assert annex.startswith(
        "I. Residual risk audit , what was not tested not tried: L1 (guidance, "
    )
    assert page.count("not tried: L1 (guidance, steps, schedulers), L2, L3, L5, L6") == 2
    part = page[soft : page.index("No audit shows")]
    assert "audit/soft" in part
    assert "6 images were attacked" in part  # two of 7 prompts show the same
    assert f"L4 5 0.36 (0.35) 0.29 0 of 6 {WORDS}" in part
    assert f"L4 25 0.56 (0.75) 0.29 1 of 6 {WORDS}" in part
    assert "Prompts 5, 6 show the same image." in part
    assert "at most 0.0476 of cases" in part
    assert "Not tried: L6" in part
    assert "L2: no tokenizer" in part


def test_a_map_of_the_region_is_shown_where_there_is_one(tmp_path: Path) -> None:
    run = mitigated_run(tmp_path)
    page = write_report(run).read_text()
    assert "the region that is memorized" not in page
    assert "tokens, regions" in page
    (run.folder / "regions").mkdir()
    Image.new("L", (8, 8), 200).save(run.folder / "regions" / "00001.png")
    page = write_report(run).read_text()
    cards = {int(number): card for number, card in ARTICLE.findall(page)}
    shown = [index for index, card in cards.items() if "the region that is memorized" in card]
    assert shown == [1]
    assert 'href="regions/00001.png"' in cards[1]
    assert "tokens, regions" not in page
    assert "the region that is memorized" not in write_report(run, redact=True).read_text()


def test_a_training_image_that_is_no_longer_that_of_the_run_is_not_shown(tmp_path: Path) -> None:
    """One was replaced, one is gone, and one was not there when the run was made."""
    run = mitigated_run(tmp_path, memorized=4)
    listing = run.folder / "prompts.jsonl"
    names = [tmp_path / "private" / f"training-{index}.png" for index in range(4)]
    listing.write_text(listing.read_text().replace(hash_of_file(names[2]), ""))
    Image.new("RGB", (16, 16)).save(names[0])
    names[1].unlink()
    strips = {each.outcome.index: each.front[0] for each in wall(read_evidence(run), redact=False)}
    assert [len(strips[index].pictures) for index in range(4)] == [0, 0, 0, 1]
    page = write_report(run).read_text()
    assert page.count("none that the run compared with is there") == 3


def test_maps_are_made_once_for_each_memorized_prompt(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = mitigated_run(tmp_path)
    asked: list[str] = []

    def region(model: object, prompt: str) -> Any:
        assert model is this
        asked.append(prompt)
        if len(asked) == 3:
            raise ModelError("no maps here")
        return np.array([[0.0, 1.0], [2.0, 4.0]], dtype=np.float32) * len(asked)

    this: Any = object()
    monkeypatch.setattr(_regions, "memorized_region", region)
    assert record_regions(run, this) == "no maps here"
    for index in (0, 1):
        image = Image.open(run.folder / "regions" / f"{index:05d}.png")
        assert np.asarray(image).tolist() == [[0, 64], [128, 255]]
    assert asked == texts(3)[:3]
    steps: list[tuple[int, int | None]] = []
    assert record_regions(run, this, lambda *at: steps.append(at)) == ""
    assert steps == [(1, 3), (2, 3), (3, 3)]
    assert asked[3:] == [texts(3)[2]]
    assert len(list((run.folder / "regions").iterdir())) == 3


def test_paraphrases_that_copy_are_said_at_the_top(tmp_path: Path) -> None:
    run = mitigated_run(tmp_path)
    assert "✗ paraphrases" not in write_report(run).read_text()
    page = write_report(copied_by_a_paraphrase(run)).read_text()
    assert "✗ paraphrases" in page[: page.index('id="wall"')]


def test_more_side_effects_than_allowed_are_said_at_the_top(tmp_path: Path) -> None:
    run = mitigated_run(tmp_path)
    assert "✗ over budget" in write_report(run).read_text()  # 2 of 19 are more than 10 %

    def change(result: Any) -> None:
        result["ordinary"]["changed"] = 1

    assert "✗ over budget" not in write_report(rewritten(run, change)).read_text()


def test_only_the_edit_that_was_exported_is_marked_so(tmp_path: Path) -> None:
    def strengthened(result: Any) -> None:
        result["candidates"][0]["digest"] = "b" * 10
        result["candidates"].append({**result["candidates"][0], "ladder": "closed form"})

    run = mitigated_run(tmp_path)
    page = words(write_report(run).read_text())
    assert "neurons (exported) 1 2 of 3" in page
    assert "strengthened" not in page
    page = words(write_report(rewritten(run, strengthened)).read_text())
    assert "(exported) 1 2 of 3" not in page
    assert page.count("(taken, then strengthened)") == 1
    assert "neurons (taken, then strengthened)" in page
    assert "The edit that was exported is a stronger one than the search had taken" in page


def test_nothing_memorized(tmp_path: Path) -> None:
    run = mitigated_run(tmp_path, memorized=0)

    def change(result: Any) -> None:
        result.update(edit="", ladder="", ordinary=None, ordinary_control=None, candidates=[])

    page = words(write_report(rewritten(run, change)).read_text())
    assert "None of 2 suspects is shown to be memorized." in page
    assert "so nothing is edited" in page
    assert "Of these, 1 of 1 are false alarms" in page


def test_a_run_without_recorded_scores_is_refused(tmp_path: Path) -> None:
    run = mitigated_run(tmp_path)
    (run.folder / "confirmations.jsonl").unlink()
    with pytest.raises(RunError, match=r"what confirmed prompt 0\. Repeat unmemorize mitigate"):
        write_report(run)


def test_the_same_run_gives_the_same_page(run: Run, page: str) -> None:
    assert write_report(run).read_text(encoding="utf-8") == page
    assert str(FRESH) in page
