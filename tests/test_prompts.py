from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from diffusers import DiffusionPipeline
from hypothesis import given
from hypothesis import strategies as st
from pyarrow import parquet

from conftest import make_pipeline
from unmemorize import (
    Model,
    ModelError,
    NeuronError,
    NeuronFile,
    Prompt,
    PromptError,
    Statistics,
    StatisticsError,
    Threshold,
    ThresholdError,
    calibrate_guard,
    calibrate_threshold,
    compute_statistics,
    detect,
    generate,
    iter_prompts,
    localize,
    read_prompts,
    testbed,
)
from unmemorize._prompts import as_ordinary, as_prompts, as_suspects, iter_as_prompts

PUBLISHED = Path(__file__).parents[2] / "shared" / "data" / "memorized_laion_prompts.csv"


@pytest.fixture(scope="module")
def model() -> Model:
    return Model(make_pipeline())


def test_text_file_skips_empty_lines(tmp_path: Path) -> None:
    file = tmp_path / "prompts.txt"
    file.write_text("first one\n\n  second  \n", encoding="utf-8")
    assert read_prompts(file) == [Prompt("first one"), Prompt("second")]


def test_semicolon_csv_in_the_published_form(tmp_path: Path) -> None:
    file = tmp_path / "prompts.csv"
    file.write_text(
        ';Caption;URL;type\n0;"a; ""quoted"" caption";http://x/y.jpg;VM\n1;plain, with comma;;TM\n',
        encoding="utf-8",
    )
    assert read_prompts(file) == [
        Prompt('a; "quoted" caption', "VM", "http://x/y.jpg"),
        Prompt("plain, with comma", "TM"),
    ]


def test_comma_csv_with_images_and_group(tmp_path: Path) -> None:
    file = tmp_path / "prompts.csv"
    file.write_text("prompt,kind,images,group\nhello,VM,a.png|b.png,mine\n", encoding="utf-8-sig")
    (prompt,) = read_prompts(file)
    assert prompt == Prompt("hello", "VM", None, (tmp_path / "a.png", tmp_path / "b.png"), "mine")


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("metadata.csv", "file_name,text\nsub/a|b.png,hello\n"),
        ("metadata.jsonl", '{"file_name": "sub/a|b.png", "text": "hello"}\n'),
        ("p.csv", "Prompt;Image\nhello;sub/a|b.png\n"),
        ("p.csv", "caption,image_path\nhello,sub/a|b.png\n"),
        ("p.csv", "caption,images,image_path\nhello,,sub/a|b.png\n"),
        ("p.jsonl", '{"text": "hello", "images": ["sub/a|b.png"], "image": "other.png"}\n'),
    ],
)
def test_usual_columns_name_one_training_image(tmp_path: Path, name: str, content: str) -> None:
    (tmp_path / name).write_text(content)
    (prompt,) = read_prompts(tmp_path / name)
    assert prompt == Prompt("hello", images=(tmp_path / "sub" / "a|b.png",))


@pytest.mark.parametrize("column", ["image", "images"])
def test_images_in_the_file_itself_are_left_out_with_a_warning(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, column: str
) -> None:
    """Data sets on the Hub hold their images in such a column, as bytes and a name."""
    stored: Any = {"bytes": b"png", "path": "a.png"}
    cells = [[stored], [stored]] if column == "images" else [stored, stored]
    table = pa.table({"text": ["one", "two"], column: cells})
    parquet.write_table(table, tmp_path / "p.parquet")
    assert read_prompts(tmp_path / "p.parquet") == [Prompt("one"), Prompt("two")]
    (message,) = caplog.messages
    assert "p.parquet: 2 rows hold something other than the path of a training image" in message
    assert message.endswith(": row 1, row 2")


@pytest.mark.parametrize("name", ["all", "overall"])
def test_no_group_has_the_name_of_a_total(tmp_path: Path, name: str) -> None:
    """Tables would show the group in place of all prompts, or beside them under one name."""
    (tmp_path / "p.csv").write_text(f"prompt,group\nfirst,mine\nsecond,{name}\n")
    problem = rf"p.csv, row 2: prompt 'second': its group is '{name}'\. .* in the column group\."
    with pytest.raises(PromptError, match=problem):
        read_prompts(tmp_path / "p.csv")


def test_no_memorized_prompt_is_in_the_group_of_the_others(tmp_path: Path) -> None:
    """Detection would count it among those that it compares memorized prompts with."""
    (tmp_path / "p.csv").write_text(
        "prompt,kind,group\nfirst,,unmemorized\nsecond,VM,unmemorized\n"
    )
    with pytest.raises(PromptError, match=r"p.csv, row 2: prompt 'second': its kind is 'VM'\. So"):
        read_prompts(tmp_path / "p.csv")


def test_jsonl(tmp_path: Path) -> None:
    file = tmp_path / "prompts.jsonl"
    file.write_text(
        '{"text": "one", "images": ["a.png"]}\n\n{"caption": "two", "type": "TM"}\n',
        encoding="utf-8",
    )
    assert read_prompts(file) == [Prompt("one", images=(tmp_path / "a.png",)), Prompt("two", "TM")]


def test_parquet(tmp_path: Path) -> None:
    file = tmp_path / "prompts.parquet"
    parquet.write_table(pa.table({"caption": ["one", "two"], "kind": ["VM", None]}), file)
    assert read_prompts(file) == [Prompt("one", "VM"), Prompt("two")]


def test_labels_of_webster(tmp_path: Path) -> None:
    """Matching and retrieval verbatim copy the whole image, template verbatim its layout."""
    labels = ["MV", "RV", "TV", "N", None]
    parquet.write_table(
        pa.table({"caption": list("abcde"), "overfit_type": labels, "url": ["http://x/1.jpg"] * 5}),
        tmp_path / "webster.parquet",
    )
    prompts = read_prompts(tmp_path / "webster.parquet")
    assert [prompt.kind for prompt in prompts] == ["VM", "VM", "TM", None, None]
    (tmp_path / "p.csv").write_text("caption;type\na;TV\nb;VM\n")
    assert [prompt.kind for prompt in read_prompts(tmp_path / "p.csv")] == ["TM", "VM"]


ADDRESSES = ("http://x/1.jpg", "http://x/2,3.jpg")


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.jsonl", '{"caption": "a", "urls": ["http://x/1.jpg", "http://x/2,3.jpg"]}\n'),
        ("b.csv", "prompt;urls\na;http://x/1.jpg|http://x/2,3.jpg\n"),
        ("c.csv", "prompt;urls\na;\"['http://x/1.jpg', 'http://x/2,3.jpg']\"\n"),
        ("d.csv", "prompt;URL;urls\na;http://x/1.jpg;http://x/1.jpg|http://x/2,3.jpg\n"),
        ("e.jsonl", '{"caption": "a", "url": ["http://x/1.jpg", null, "http://x/2,3.jpg"]}\n'),
    ],
)
def test_several_addresses_of_a_prompt(tmp_path: Path, name: str, content: str) -> None:
    (tmp_path / name).write_text(content)
    (prompt,) = read_prompts(tmp_path / name)
    assert prompt.urls == ADDRESSES
    assert (prompt.url, prompt.more_urls) == (ADDRESSES[0], ADDRESSES[1:])


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.jsonl", '{"caption": "a", "paraphrases": ["b, c", "d"]}\n'),
        ("b.csv", "prompt;paraphrases\na;b, c|d\n"),
    ],
)
def test_paraphrases_of_a_prompt(tmp_path: Path, name: str, content: str) -> None:
    (tmp_path / name).write_text(content)
    assert read_prompts(tmp_path / name) == [Prompt("a", paraphrases=("b, c", "d"))]


@pytest.mark.parametrize(
    ("name", "content", "named"),
    [
        ("p.csv", "caption,kind\na,VM\n,\n,TM\n\nb,\n,,,,\n", "row 2, row 3, row 5"),
        (
            "p.jsonl",
            '{"text": "a"}\n{"text": null}\n\n{"text": " "}\n{"text": "b"}\n',
            "line 2, line 4",
        ),
        ("p.csv", "caption;url\na;\n;\nb;x\n", "row 2"),
    ],
)
def test_rows_without_a_caption_are_named_and_the_rest_is_read(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, name: str, content: str, named: str
) -> None:
    (tmp_path / name).write_text(content)
    assert [prompt.text for prompt in read_prompts(tmp_path / name)] == ["a", "b"]
    (message,) = caplog.messages
    count = named.count(",") + 1
    assert f"{name}: {count} rows without a caption are left out" in message
    assert message.endswith(f": {named}")


def test_missing_captions_of_a_data_frame_are_named(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    table = pa.table({"text": ["a", None, "b"], "group": [None, "x", "y"]})
    parquet.write_table(table, tmp_path / "p.parquet")
    prompts = read_prompts(tmp_path / "p.parquet")
    assert [(prompt.text, prompt.group) for prompt in prompts] == [("a", "unlabelled"), ("b", "y")]
    assert caplog.messages[0].endswith("prompts: row 2")
    (tmp_path / "n.jsonl").write_text('{"text": "a", "group": null}\n')
    assert read_prompts(tmp_path / "n.jsonl") == [Prompt("a")]


def test_many_rows_without_a_caption_are_counted(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "p.csv").write_text("caption,kind\na,\n" + ",\n" * 30)
    assert len(read_prompts(tmp_path / "p.csv")) == 1
    assert "30 rows" in caplog.text
    assert caplog.messages[0].endswith("row 11 and 20 more")


WRONG_TYPES: list[Any] = [None, 3, 2.5, [], ["a"], {}, {"a": 1}, b"p.txt", ""]


@pytest.mark.parametrize("value", WRONG_TYPES, ids=repr)
@pytest.mark.parametrize(
    ("function", "error"),
    [
        (read_prompts, PromptError),
        (iter_prompts, PromptError),
        (NeuronFile.load, NeuronError),
        (Threshold.load, ThresholdError),
        (Statistics.load, StatisticsError),
    ],
)
def test_what_is_no_path_is_refused(function: Any, error: type[Exception], value: Any) -> None:
    with pytest.raises(error, match=r"not the path of a .* Give a text or a Path, not"):
        function(value)


@pytest.mark.parametrize("name", ["x" * 480, "x" * 480 + ".txt", "x/" * 2000 + "p.txt", "a\0.txt"])
@pytest.mark.parametrize(
    ("function", "error"),
    [
        (read_prompts, PromptError),
        (NeuronFile.load, NeuronError),
        (Threshold.load, ThresholdError),
        (Statistics.load, StatisticsError),
    ],
)
def test_a_path_that_cannot_be_looked_at_is_refused(
    function: Any, error: type[Exception], name: str
) -> None:
    with pytest.raises(error, match=r"cannot be read|unknown kind of prompt file"):
        function(name)


@pytest.mark.parametrize(
    "fields",
    [
        {"text": None},
        {"text": 3},
        {"text": ["a"]},
        {"text": {"a": 1}},
        {"text": Path("a")},
        {"text": ""},
        {"text": "a", "kind": ["VM"]},
        {"text": "a", "kind": Path("VM")},
        {"text": "a", "url": 3},
        {"text": "a", "url": ["http://x"]},
        {"text": "a", "group": None},
        {"text": "a", "group": 3},
        {"text": "a", "images": "a.png"},
        {"text": "a", "images": Path("a.png")},
        {"text": "a", "images": None},
        {"text": "a", "images": [3]},
        {"text": "a", "images": {"a.png": 1}},
        {"text": "a", "more_urls": "http://x"},
        {"text": "a", "paraphrases": "b"},
        {"text": "a", "paraphrases": ["b", ""]},
        {"text": "a", "paraphrases": ["\udcff"]},
        {"text": "a", "images": ["\udcff.png"]},
        {"text": "a", "url": "\udcff"},
        {"text": "a", "group": "\udcff"},
    ],
    ids=str,
)
def test_fields_of_another_type_are_refused(fields: Any) -> None:
    with pytest.raises(PromptError, match=r"not the text of a prompt|an empty prompt|prompt 'a': "):
        Prompt(**fields)


def test_texts_that_no_record_can_hold_are_refused() -> None:
    with pytest.raises(PromptError, match=r"'a \\udcff' holds half of a character"):
        Prompt("a \udcff")


def test_images_may_be_a_list_of_texts() -> None:
    images: Any = ["a.png", Path("b.png")]
    assert Prompt("a", images=images) == Prompt("a", images=(Path("a.png"), Path("b.png")))
    hash(Prompt("a", images=images))


@pytest.mark.parametrize("prompt", [None, 3, ["a"], {"a": 1}, Path("a"), b"a", ""], ids=repr)
def test_one_prompt_is_a_text_or_a_prompt(model: Model, prompt: Any) -> None:
    threshold = Threshold.load(testbed.threshold_path())
    calls: list[Callable[[], object]] = [
        lambda: detect(model, prompt, threshold=threshold),
        lambda: localize(model, prompt, statistics=STATISTICS, threshold=threshold),
        lambda: generate(model, prompt),
    ]
    for call in calls:
        with pytest.raises(PromptError, match=r"not a prompt|an empty prompt"):
            call()


STATISTICS = Statistics.load(testbed.statistics_path())


@pytest.mark.parametrize(
    "value", [None, 3, 0.4, ["a"], {"a": 1}, Path("a.json"), "a.json"], ids=repr
)
def test_other_arguments_of_another_type_are_refused(model: Model, value: Any) -> None:
    threshold = Threshold.load(testbed.threshold_path())
    both: dict[str, Any] = {"statistics": STATISTICS, "threshold": threshold}
    calls: list[tuple[type[Exception], Callable[[], object]]] = [
        (ModelError, lambda: detect(value, "a", threshold=threshold)),
        (ModelError, lambda: localize(value, "a", **both)),
        (ModelError, lambda: generate(value, "a")),
    ]
    if value is not None:
        calls += [
            (ThresholdError, lambda: detect(model, "a", threshold=value)),
            (ThresholdError, lambda: localize(model, "a", **(both | {"threshold": value}))),
            (StatisticsError, lambda: localize(model, "a", **(both | {"statistics": value}))),
            (ThresholdError, lambda: detect(model, "a", threshold=threshold, settings=value)),
            (ModelError, lambda: localize(model, "a", settings=value, **both)),
            (ModelError, lambda: generate(model, "a", settings=value)),
            (NeuronError, lambda: generate(model, "a", value)),
        ]
    for error, call in calls:
        with pytest.raises(error, match=r"Give|Load"):
            call()


@pytest.mark.skipif(
    not PUBLISHED.exists(),
    reason="the published prompt file lies beside the project on some machines only",
)
def test_published_prompts_are_read_without_loss() -> None:
    prompts = read_prompts(PUBLISHED)
    assert [sum(prompt.kind == kind for prompt in prompts) for kind in ("VM", "TM")] == [112, 388]
    assert all(prompt.url for prompt in prompts)
    assert [(prompt.text, prompt.url, prompt.kind) for prompt in prompts] == published_by_hand(
        PUBLISHED.read_text(encoding="utf-8")
    )


def published_by_hand(text: str) -> list[tuple[str, str, str]]:
    """Caption, URL and type, by reading the file letter by letter."""
    rows: list[list[str]] = [[""]]
    quoted, place = False, 0
    while place < len(text):
        letter = text[place]
        if quoted and text[place : place + 2] == '""':
            rows[-1][-1] += '"'
            place += 1
        elif letter == '"':
            quoted = not quoted
        elif not quoted and letter == ";":
            rows[-1].append("")
        elif not quoted and letter == "\n":
            rows.append([""])
        else:
            rows[-1][-1] += letter
        place += 1
    return [(row[1], row[2], row[3]) for row in rows[1:] if len(row) > 1]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("missing.txt", None, "cannot be read"),
        ("prompts.docx", "x", "unknown kind of prompt file"),
        ("empty.txt", "\n\n", "no prompt in it"),
        ("bad.csv", "name;url\na;b\n", "no column Caption"),
        ("commas.csv", "caption\na cat, sitting\n", "row 1: more fields than columns"),
        (
            "half.jsonl",
            '{"caption": "smile \\ud83d"}\n',
            "line 1: prompt .* holds half of a character",
        ),
        ("kind.csv", "caption,kind\na,XX\n", "row 1: prompt 'a': its kind is 'XX'"),
        ("quote.csv", 'caption,kind\n"a"b,VM\n', "row 1: not a valid CSV"),
        ("bad.jsonl", "{", "line 1: not a valid record"),
        ("list.jsonl", "[1]", "holds a list"),
        ("blank.csv", "caption,kind\n,VM\n", "no prompt in it"),
        ("later.csv", 'caption,kind\na,VM\n"a"b,VM\n', "row 2: not a valid CSV"),
        ("long.csv", "caption,kind\na,VM\n" + "x" * 200_000 + ",VM\n", "row 2: not a valid CSV"),
        ("number.jsonl", '{"text": 5}', "the caption is not text"),
        ("bad.parquet", "no parquet", "Parquet file cannot be read"),
    ],
)
def test_bad_files_get_a_clear_error(
    tmp_path: Path, name: str, content: str | None, message: str
) -> None:
    if content is not None:
        (tmp_path / name).write_text(content, encoding="utf-8")
    with pytest.raises(PromptError, match=message):
        read_prompts(tmp_path / name)


def test_unusual_line_separators_belong_to_the_caption(tmp_path: Path) -> None:
    (tmp_path / "p.jsonl").write_text('{"text": "one\u2028two"}\n', encoding="utf-8")
    (tmp_path / "p.txt").write_text("one\u2028two\r\nthree\n", encoding="utf-8", newline="")
    assert read_prompts(tmp_path / "p.jsonl") == [Prompt("one\u2028two")]
    assert read_prompts(tmp_path / "p.txt") == [Prompt("one\u2028two"), Prompt("three")]


def test_latin_1_is_refused(tmp_path: Path) -> None:
    (tmp_path / "latin.txt").write_bytes("café".encode("latin-1"))
    with pytest.raises(PromptError, match="not UTF-8"):
        read_prompts(tmp_path / "latin.txt")


@given(st.lists(st.text(min_size=1).filter(str.strip), min_size=1))
def test_any_text_is_a_prompt(texts: list[str]) -> None:
    assert [prompt.text for prompt in as_prompts(texts)] == texts


NOT_PROMPTS = [
    ("a red cat", r"'a red cat': a single prompt. Give a list: \['a red cat'\]"),
    (Prompt("a red cat"), r"'a red cat': a single prompt. Give a list"),
    (Path("prompts.txt"), r"prompts.txt: a path, not prompts. Read it first: read_prompts"),
    ({"a red cat": 1}, r"\{'a red cat': 1\}: not prompts. .* not a value of type dict"),
    (None, "None: not prompts. Give a list of texts, not None"),
    (3, "3: not prompts. Give a list of texts, not a value of type int"),
    (b"a red cat", "not prompts. .* type bytes"),
    (["a", ""], "prompt 1: an empty prompt. Leave it out"),
    (["a", " \n"], "prompt 1: an empty prompt"),
    (["a", None], "prompt 1: None: not a prompt. Give a text or a Prompt, not None"),
    (["a", 3], "3: not a prompt. Give a text or a Prompt, not a value of type int"),
    ([["a"]], r"\['a'\]: not a prompt. .* type list"),
]


@pytest.mark.parametrize(("prompts", "message"), NOT_PROMPTS)
def test_what_is_no_list_of_prompts_is_refused(prompts: Any, message: str) -> None:
    """A text is iterable: it was once taken for a list of letters."""
    with pytest.raises(PromptError, match=message):
        as_prompts(prompts)


@pytest.mark.parametrize("function", [compute_statistics, calibrate_threshold])
@pytest.mark.parametrize("prompts", ["a red cat", None, 3, {"a": 1}, Path("p.txt"), ["a", 3]])
def test_public_functions_refuse_what_is_no_list_of_prompts(
    pipe: DiffusionPipeline, function: Any, prompts: Any
) -> None:
    with pytest.raises(PromptError, match=r"not a? ?prompt|a single prompt|a path"):
        function(Model(pipe), prompts)


def test_a_stream_of_prompts_stays_a_stream() -> None:
    asked: list[int] = []

    def stream() -> Iterator[str]:
        for number in range(3):
            asked.append(number)
            yield str(number)

    prompts = iter_as_prompts(stream())
    assert next(prompts) == Prompt("0")
    assert asked == [0]
    assert list(prompts) == [Prompt("1"), Prompt("2")]


def test_files_are_read_row_by_row(tmp_path: Path) -> None:
    """What is wrong in a later row does not keep the earlier ones back."""
    for name, content in (
        ("p.csv", "caption,kind\nfirst,VM\nsecond,XX\n"),
        ("p.jsonl", '{"text": "first", "kind": "VM"}\nbroken\n'),
        ("p.txt", "first\n"),
    ):
        (tmp_path / name).write_text(content)
        assert next(iter_prompts(tmp_path / name)).text == "first"
    with pytest.raises(PromptError, match="row 2"):
        read_prompts(tmp_path / "p.csv")
    with pytest.raises(PromptError, match="unknown kind"):
        iter_prompts(tmp_path / "p.docx")


def test_what_is_known_of_a_prompt() -> None:
    known = [
        Prompt("a", "VM"),
        Prompt("b", "TM", group="mine"),
        Prompt("c", group="unmemorized"),
        Prompt("d"),
    ]
    assert [prompt.memorized for prompt in known] == [True, True, False, None]


def test_ordinary_prompts_count_once(caplog: pytest.LogCaptureFixture) -> None:
    prompts: list[str | Prompt] = ["b", Prompt("a", group="unmemorized"), "c", "a", "b"]
    distinct = as_ordinary(prompts)
    assert [prompt.text for prompt in distinct] == ["b", "a", "c"]
    assert distinct[1].group == "unmemorized"
    assert "2 of 5 ordinary prompts repeat others" in caplog.text
    caplog.clear()
    as_ordinary(["a", "b"])
    assert not caplog.text


def test_suspects_of_the_same_text_count_once(caplog: pytest.LogCaptureFixture) -> None:
    first, second = Path("1.png"), Path("2.png")
    prompts: list[str | Prompt] = [
        Prompt("a cat", "VM", images=(first,), paraphrases=("cats",)),
        "a dog",
        Prompt("a cat", "TM", "http://x/2", images=(second, first), paraphrases=("cats", "kitten")),
        "a dog",
        "a red cat",
        "a dog",
    ]
    cat, dog, other = as_suspects(prompts)
    assert cat == Prompt(
        "a cat", "VM", "http://x/2", images=(first, second), paraphrases=("cats", "kitten")
    )
    assert (dog, other) == (Prompt("a dog"), Prompt("a red cat"))
    assert "'a cat' (2 times, group VM and not TM), 'a dog' (3 times)" in caplog.text
    assert "a red cat" not in caplog.text
    caplog.clear()
    assert as_suspects(["a", "b"]) == [Prompt("a"), Prompt("b")]
    assert not caplog.text


@pytest.mark.parametrize(
    "function",
    [calibrate_threshold, calibrate_guard, compute_statistics],
)
def test_memorized_prompts_are_not_ordinary(model: Model, function: Callable[..., Any]) -> None:
    prompts = [*(f"a cat {number}" for number in range(20)), Prompt("a copy", "TM")]
    with pytest.raises(PromptError, match=r"'a copy' is memorized \(TM\)"):
        function(model, prompts)
