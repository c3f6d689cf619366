"""The page: what is on it, that it escapes what others wrote, and that it needs nothing else."""

from __future__ import annotations

import base64
import hashlib
import html
import re
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path

import pytest

from audited import audited_run, image_audit_run
from compared_run import compared_run
from mitigated_run import mitigated_run
from records import HOSTILE, LAYER, add_images, add_scored_images, localization, localized_run
from scored_run import scored_run
from tasks import AnyRun
from unmemorize import Neurons, Prompt, Run, RunError, write_report
from unmemorize.cli import main
from unmemorize.export import import_results
from unmemorize.export._published_layers import WIDTHS
from unmemorize.report import page_of
from unmemorize.runs import Inputs

OTHER_LAYER = LAYER.replace("down_blocks.0", "up_blocks.1")
SMALL = {
    "original": {0: {"sscd-orig": [0.9, 0.8]}},
    "refined": {0: {"sscd-orig": [0.1, 0.2]}},
    "random-refined": {0: {"sscd-orig": [0.7, 0.6]}},
}


def make_run(
    folder: Path, prompts: list[Prompt], neurons: list[Neurons | None], *, model: str = "m"
) -> Run:
    records = {
        index: localization(prompt.text, prompt.group, 0.6 if localized else 0.2, localized)
        for index, (prompt, localized) in enumerate(zip(prompts, neurons, strict=True))
    }
    return localized_run(folder / "small", prompts, records, model=model)


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> str:
    run = scored_run(tmp_path_factory.mktemp("scored"))
    add_images(run, "top-5", {})
    for index, name in enumerate(("original", "top-5")):
        (run.folder / "images" / name / "another.png").touch()
        quality = {
            "set": name,
            "on": "",
            "against": "real",
            "kind": "FID",
            "extractor": "x",
            "extractor_sha256": "1" * 64,
            "fid": 5.0 + index,
            "kid": 0.1,
            "kid_std": 0.01,
            "generated": len(list((run.folder / "images" / name).glob("*.png"))),
            "real": 20,
        }
        run.append("quality", index, quality)
    return write_report(run, {"prompt one": Neurons({LAYER: [2]})}).read_text(encoding="utf-8")


class Elements(HTMLParser):
    """The tags and links of a page, and the rows of its tables as text."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.links: list[str] = []
        self.rows: list[list[str]] = []
        self._in_cell = False
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        links = ("src", "href", "xlink:href")
        self.links += [value for name, value in attrs if name in links and value]
        if tag == "tr":
            self.rows.append([])
        if tag in ("td", "th"):
            self.rows[-1].append("")
            self._in_cell = True

    def handle_endtag(self, tag: str) -> None:
        if tag in ("td", "th"):
            self._in_cell = False

    def handle_data(self, data: str) -> None:
        if self._in_cell:
            self.rows[-1][-1] += data


def headings(page: str) -> list[str]:
    return re.findall(r'<div class="plot"[^>]*><h3>(.*?)</h3>', page)


def test_prompts_and_names_are_escaped_and_nothing_is_external(tmp_path: Path) -> None:
    prompts = [Prompt(HOSTILE, "VM", group=HOSTILE), Prompt("plain", group="unmemorized")]
    run = make_run(tmp_path, prompts, [Neurons({LAYER: [3]}), None], model=HOSTILE)
    add_scored_images(run, SMALL)
    page = write_report(run, {HOSTILE: Neurons({LAYER: [3, 4]})}).read_text(encoding="utf-8")
    elements = Elements(page)
    assert elements.tags.count("script") == 1
    script = page[page.index("<script>") + len("<script>") : page.index("</script>")]
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    assert f"script-src 'sha256-{digest}'" in page
    assert all(link.startswith(("data:image/webp;base64,", "#")) for link in elements.links)
    assert not re.search(r"url\((?!#)", page)
    assert page.count("&lt;script&gt;") >= 3
    assert elements.tags.count("article") == 1


def test_the_report_grows_with_the_steps(tmp_path: Path) -> None:
    run = make_run(
        tmp_path, [Prompt("one", "VM"), Prompt("two")], [Neurons({LAYER: range(70)}), None]
    )
    page = write_report(run).read_text(encoding="utf-8")
    assert "1 of 2" in page
    assert "and 10 more" in page
    assert "<img" not in page


def test_the_report_of_nothing_memorized(tmp_path: Path) -> None:
    page = write_report(make_run(tmp_path, [Prompt("one")], [None])).read_text(encoding="utf-8")
    assert "No prompt was detected as memorized." in page


def imported_run(folder: Path) -> Run:
    """Results of the published code, whose runs are of a kind of their own."""
    layers = [[3], *([[]] * (len(WIDTHS) - 1))]
    row = f"a caption;;{layers};0.5;{layers};0.3"
    file = folder.with_suffix(".csv")
    file.write_text(
        "Caption;URL;Initial Neurons;Initial SSIM;Refined Neurons;Refined SSIM\n" + row + "\n"
    )
    return import_results(file, folder)


RUNS: dict[str, Callable[[Path], Run]] = {
    "localized": lambda folder: make_run(folder, [Prompt("one")], [Neurons({LAYER: [3]})]),
    "imported": imported_run,
    "mitigated": mitigated_run,
    "audited": lambda folder: audited_run(folder, None),
    "audited images": lambda folder: image_audit_run(folder)[0],
    "compared": compared_run,
}


@pytest.mark.parametrize("kind", RUNS)
def test_the_page_is_where_it_is_looked_for(
    tmp_path: Path, kind: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """Each kind of run, also as status sees it before and afterwards."""
    run = RUNS[kind](tmp_path / "made")
    assert main(["status", str(run.folder)]) == 0
    before = capsys.readouterr().out
    page = write_report(run)
    assert (page.name, page.exists()) == (page_of(run), True)
    assert main(["status", str(run.folder)]) == 0
    after = capsys.readouterr().out
    assert before.startswith("Finished: ")
    assert f"Next: unmemorize report {run.folder}" in before
    assert f"report: {page}" in after


def test_runs_without_a_page(tmp_path: Path) -> None:
    run = Run.open(tmp_path, AnyRun(), inputs=Inputs(fingerprint="f"), model="m", items=1)
    assert page_of(run) is None


def test_the_report_needs_localizations(tmp_path: Path) -> None:
    with pytest.raises(RunError, match="nothing is localized"):
        write_report(make_run(tmp_path, [], []))


@pytest.mark.parametrize(
    ("neurons", "verdict", "where"),
    [
        (
            [Neurons({LAYER: [3]})],
            "The prompt is detected as memorized.",
            f"in one layer: {LAYER}.",
        ),
        ([None], "The prompt is not detected as memorized.", ""),
        ([None, None], "None of 2 prompts is detected as memorized.", ""),
        (
            [Neurons({LAYER: [3, 4], OTHER_LAYER: [1]}), Neurons({LAYER: [4, 5]}), None],
            "2 of 3 prompts are detected as memorized.",
            f"4 neurons are localized, in 2 layers; most of one layer, 3, in {LAYER}.",
        ),
        (
            [Neurons({OTHER_LAYER: [1]}), None],
            "1 of 2 prompts is detected as memorized.",
            f"1 neuron is localized, in one layer: {OTHER_LAYER}.",
        ),
    ],
)
def test_the_report_begins_with_what_was_found(
    tmp_path: Path, neurons: list[Neurons | None], verdict: str, where: str
) -> None:
    prompts = [Prompt(f"prompt {number}") for number in range(len(neurons))]
    page = write_report(make_run(tmp_path, prompts, neurons)).read_text(encoding="utf-8")
    head = page[page.index("<h1>") : page.index('<div class="tiles">')]
    assert f"<h1>{verdict}</h1>" in head
    assert where in head
    assert ("localized" in head) is bool(where)


def test_the_head_counts_what_is_done(page: str) -> None:
    assert "which prompts (7 in all)" in page
    assert "<b>4 of 6</b><span>prompts detected as memorized; 1 not done yet</span>" in page
    assert "<b>21</b><span>different neurons" in page


def test_the_head_shows_copies_before_and_after(page: str) -> None:
    tiles = re.findall(
        r"<b>([\d.]+)</b><span>(SSCD_Orig[^(]*).*? \(95 %: (.*?)\)", html.unescape(page)
    )
    assert [(value, meaning.strip()) for value, meaning, _ in tiles] == [
        ("0.80", "SSCD_Orig"),
        ("0.05", "SSCD_Orig"),
        ("0.40", "SSCD_Orig of each prompt's worst seed, neurons off"),
        ("0.78", "SSCD_Orig"),
    ]
    assert [interval for _, _, interval in tiles][:2] == ["0.20 to 0.90", "0.04 to 0.20"]
    states = re.findall(r"SSCD_Orig \(copy score to the training image\), ([a-z ]+) \(", page)
    assert states == ["before", "neurons off", "random neurons off"]
    assert "of the same layers" in page


def test_each_localized_prompt_has_a_line(page: str) -> None:
    rows = Elements(page).rows
    start = next(number for number, row in enumerate(rows) if row[0] == "no.")
    assert rows[start : start + 7] == [
        [
            "no.",
            "prompt",
            "group",
            "memorized",
            "score",
            "neurons",
            "SSCD_Orig before",
            "SSCD_Orig after",
        ],
        ["0", "prompt zero", "VM", "yes", "0.810", "3", "0.900", "0.200"],
        ["1", "prompt one", "VM", "yes", "0.770", "6", "0.800", "0.050"],
        ["2", "prompt two", "TM", "yes", "0.690", "1", "0.200", "0.040"],
        ["3", "prompt three", "VM", "no", "0.350", "", "", ""],
        ["4", "prompt four", "unmemorized", "no", "0.210", "", "", ""],
        ["5", "prompt five", "unmemorized", "yes", "0.450", "12", "", ""],
    ]


def test_the_summary_is_the_table(page: str) -> None:
    rows = {row[0].rstrip(" 12345"): row[1:] for row in Elements(page).rows}
    assert rows[""] == ["overall", "VM", "TM", "unmemorized"]
    assert rows["detected as memorized"][1] == "2 of 321% to 94%"
    assert rows["precision, known neurons"][1:] == ["0.17 ± 0.00 (n=1)0.17 to 0.17", "–", "–"]


def test_every_plot_is_there_when_it_has_something_to_show(page: str) -> None:
    assert headings(page) == [
        "Scores of detection",
        "Copies",
        "Copies and diversity",
        "Neurons of a prompt",
        "Neurons of a layer",
        "Neurons that several prompts share",
        "Quality against neurons off",
    ]
    assert "memorized prompts, against real" in page
    assert page.count('class="course"') == 4


def test_a_control_is_told_of_only_where_there_is_one(page: str, tmp_path: Path) -> None:
    told = "As a control, the same number of random other neurons"
    assert told in page
    run = make_run(tmp_path, [Prompt("a cat", "VM")], [Neurons({LAYER: [1]})])
    add_scored_images(run, {name: SMALL[name] for name in ("original", "refined")})
    alone = write_report(run).read_text(encoding="utf-8")
    assert "about 0 is another image." in alone
    assert told not in alone


def test_cards_warn_where_a_copy_is_left(page: str) -> None:
    warnings = re.findall(r'<span class="tag warn">(.*?)</span>', page)
    assert warnings == [
        "a copy is left in 1 of 3 images (worst 0.75)",
        "a copy is left in 1 of 3 images (worst 0.88)",
    ]
    assert "SSCD_Orig 0.20, worst seed 0.75" in page


def test_the_page_tells_how_it_was_made(page: str) -> None:
    for value in ("f" * 64, "torch.float32", "s" * 64, "0.4", "localization"):
        assert value in page.split('<h2 id="how">')[1]


@pytest.mark.parametrize("group", ["$50 & $60", "a $x_{1$ b", "_hidden", "\u732b \U0001f993"])
def test_names_of_groups_are_not_taken_for_mathematics(tmp_path: Path, group: str) -> None:
    prompts = [Prompt("one", "VM", group=group), Prompt("two", "VM")]
    run = make_run(tmp_path, prompts, [Neurons({LAYER: [1]}), Neurons({LAYER: [2]})])
    page = write_report(run).read_text(encoding="utf-8")
    plots = page.split("<h2>All prompts</h2>")[0].split('<div class="plots">')[1]
    assert html.escape(group, quote=False) in plots


def test_no_text_of_a_plot_juts_out(tmp_path: Path) -> None:
    prompts = [Prompt("one", "VM"), Prompt("two", "VM")]
    run = make_run(tmp_path, prompts, [Neurons({LAYER: [1]}), None])
    page = write_report(run).read_text(encoding="utf-8")
    text = re.search(r'font-size: (\d+)px[^>]* y="([\d.-]+)"[^>]*> tau = ', page)
    assert text is not None
    assert float(text[2]) >= 0.8 * float(text[1])  # the baseline, and the letters above it


def test_pictures_come_before_numbers_and_instruments_are_named_once(page: str) -> None:
    sections = re.findall(r'<h2 id="(\w+)"', page)
    assert sections == ["memorized", "plots", "all", "summary", "limits", "how"]
    measured = re.findall(r'<li id="by-\d">measured by (.*?)</li>', page)
    assert len(measured) == len(set(measured)) > 1
    assert page.count(measured[0]) == 1


def test_every_step_is_told_with_its_settings(page: str) -> None:
    steps = re.findall(r"<h3>([\w/-]+)</h3>", page.split('<h2 id="how"')[1])
    images = ["images/original", "images/random-refined", "images/refined"]
    metrics = [name.replace("images", "metrics") for name in images]
    assert steps == ["localization", *images, "images/top-5", *metrics]
    assert page.count("<dt>generation guidance") + page.count("<dt>guidance") >= len(images)


def test_a_redacted_report_has_no_pictures_of_memorized_prompts(tmp_path: Path) -> None:
    run = scored_run(tmp_path)
    assert "<img" in write_report(run).read_text(encoding="utf-8")
    page = write_report(run, redact=True).read_text(encoding="utf-8")
    assert "<img" not in page
    assert "is redacted" in page
    assert page.count("<article") == 4


def test_the_same_run_gives_the_same_page(tmp_path: Path) -> None:
    run = make_run(tmp_path, [Prompt("one", "VM")], [Neurons({LAYER: [1]})])
    assert write_report(run).read_bytes() == write_report(run).read_bytes()
