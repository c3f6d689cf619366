from __future__ import annotations

import sys
from collections import Counter, OrderedDict, deque
from pathlib import Path

import pytest

from unmemorize._errors import MetricError, UnmemorizeError
from unmemorize._registry import Registry

GROUP = "unmemorize.test-shapes"


@pytest.fixture
def installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A package that registers four implementations."""
    metadata = tmp_path / "shapes-1.0.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: shapes\nVersion: 1.0\n")
    lines = [
        f"[{GROUP}]",
        "zigzag = collections:deque",
        "circle = collections:Counter",
        "gone = no_such_module_anywhere:Circle",
        "renamed = collections:Circle",
        "ordered = collections:OrderedDict",
        f"[{GROUP}-reserved]",
        "none = collections:deque",
        "all = collections:deque",
        "a/b = collections:deque",
        "all-of-it = collections:deque",
        "[unmemorize.others]",
        "elsewhere = collections:deque",
    ]
    (metadata / "entry_points.txt").write_text("\n".join(lines))
    monkeypatch.syspath_prepend(str(tmp_path))
    assert str(tmp_path) in sys.path


@pytest.mark.usefixtures("installed")
def test_built_in_names_come_first_and_the_others_by_alphabet() -> None:
    registry = Registry[type](GROUP, {"tally": "collections:Counter", "ring": "collections:deque"})
    assert registry.names() == ("tally", "ring", "circle", "gone", "ordered", "renamed", "zigzag")


@pytest.mark.usefixtures("installed")
def test_implementations_are_imported_from_both() -> None:
    registry = Registry[type](GROUP, {"ring": "collections:deque"})
    assert registry.get("ring") is deque
    assert registry.get("circle") is Counter


def test_built_ins_need_no_installed_metadata() -> None:
    registry = Registry[type]("unmemorize.nobody", {"ordered": "collections:OrderedDict"})
    assert registry.names() == ("ordered",)
    assert registry.get("ordered") is OrderedDict


def test_metadata_of_an_older_version_of_this_package_do_not_count(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    metadata = tmp_path / "unmemorize-0.0.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: unmemorize\nVersion: 0.0\n")
    (metadata / "entry_points.txt").write_text(f"[{GROUP}-old]\nring = collections:Counter\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    registry = Registry[type](f"{GROUP}-old", {"ring": "collections:deque"})
    assert registry.get("ring") is deque


@pytest.mark.usefixtures("installed")
def test_a_built_in_that_is_registered_too_is_one() -> None:
    registry = Registry[type](GROUP, {"ordered": "collections:OrderedDict"})
    assert registry.names().count("ordered") == 1
    assert registry.get("ordered") is OrderedDict


@pytest.mark.usefixtures("installed")
def test_a_name_of_two_implementations_is_refused() -> None:
    registry = Registry[type](GROUP, {"circle": "collections:deque"})
    with pytest.raises(UnmemorizeError, match=r"more than once .*collections:Counter, .*deque"):
        registry.get("circle")


@pytest.mark.usefixtures("installed")
@pytest.mark.parametrize("name", ["none", "all", "a/b"])
def test_a_name_that_stands_for_something_else_is_refused(name: str) -> None:
    registry = Registry[type](f"{GROUP}-reserved", error=MetricError)
    with pytest.raises(MetricError, match=rf"'{name}': registered as .*collections:deque.* rename"):
        registry.get(name)
    assert registry.get("all-of-it") is deque


@pytest.mark.usefixtures("installed")
@pytest.mark.parametrize("name", ["gone", "renamed"])
def test_an_implementation_that_is_not_there_names_its_place(name: str) -> None:
    with pytest.raises(MetricError, match=rf"{name}: .*:Circle cannot be imported"):
        Registry[type](GROUP, error=MetricError).get(name)


def test_an_unknown_name_is_refused_with_the_known_ones() -> None:
    registry = Registry[type]("unmemorize.nobody", {"a": "x:y", "b": "x:z"}, error=MetricError)
    with pytest.raises(MetricError, match=r"'c': nothing .* unmemorize\.nobody\. Known: a, b\."):
        registry.get("c")


def test_an_empty_registry_says_so() -> None:
    assert Registry[type]("unmemorize.nobody").names() == ()
    with pytest.raises(UnmemorizeError, match="Known: none"):
        Registry[type]("unmemorize.nobody").get("a")
