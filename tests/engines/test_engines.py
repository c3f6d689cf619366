"""Real processes and Ray actors."""

from __future__ import annotations

import os
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import DiffusionPipeline

from conftest import make_pipeline
from tasks import Squares
from unmemorize import ModelError, Run, RunError, load_pipeline
from unmemorize.engines import Engine, InProcess, RayActors, Shard, Workers, units_of
from unmemorize.engines._pool import aside
from unmemorize.engines._ray import _Actors
from unmemorize.pipelines import Loading
from unmemorize.runs import Tally, drive

TESTS = Path(__file__).parent.parent


@pytest.fixture(scope="module")
def loaded(tmp_path_factory: pytest.TempPathFactory) -> DiffusionPipeline:
    """A tiny pipeline that other processes can load, too."""
    folder = tmp_path_factory.mktemp("model")
    make_pipeline().save_pretrained(folder)
    return load_pipeline(str(folder), device="cpu", local_files_only=True)


@pytest.fixture(scope="module")
def local_ray() -> Iterator[Any]:
    """A Ray of two nodes on this machine, each with room for one actor."""
    before = os.environ.get("PYTHONPATH")
    os.environ["PYTHONPATH"] = str(TESTS)
    import ray
    from ray.cluster_utils import Cluster

    cluster = Cluster(
        initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False}
    )
    nodes = [cluster.add_node(num_cpus=1) for _ in range(2)]
    ray.init(address=cluster.address, log_to_driver=False, logging_level="ERROR")
    yield cluster, nodes
    ray.shutdown()
    cluster.shutdown()
    if before is None:
        del os.environ["PYTHONPATH"]
    else:
        os.environ["PYTHONPATH"] = before


def squares(
    folder: Path,
    pipe: DiffusionPipeline,
    engine: Engine | None,
    task: Squares,
    items: list[int],
    **more: Any,
) -> Tally:
    """Squares of the items, in a run folder."""
    return drive(
        Run.open(folder, {"a": 1}), pipe, task, enumerate(items), len(items), engine=engine, **more
    )


def found(tally: Tally) -> dict[int, int]:
    return {index: record["square"] for index, record in tally.run.records("squares").items()}


def check_engine(engine: Engine, pipe: DiffusionPipeline, folder: Path) -> None:
    """Failures are on record and tried again; what is finished is not; a lost worker is replaced, and its unit done."""
    alive = folder / "alive"
    folder.mkdir(exist_ok=True)
    alive.write_text("one\ntwo")
    items = [5, 3, -1, 7, 9, 11]
    tally = squares(folder / "run", pipe, engine, Squares(size=2, deadly=9, alive=alive), items)
    assert alive.read_text() == ""
    assert (tally.done, tally.failed, tally.complete) == (
        5,
        {2: "ValueError: a negative number"},
        False,
    )
    assert found(tally) == {0: 25, 1: 9, 3: 49, 4: 81, 5: 121}
    assert tally.run.failures("squares") == tally.failed
    assert (tally.run.folder / "3.txt").read_bytes() == b"x"
    assert os.getpid() not in {record["pid"] for record in tally.run.records("squares").values()}
    lines = (tally.run.folder / "squares.jsonl").read_text().splitlines()
    assert len(lines) == 6


def test_workers(loaded: DiffusionPipeline, tmp_path: Path) -> None:
    check_engine(Workers(2), loaded, tmp_path)
    again = squares(tmp_path / "run", loaded, InProcess(), Squares(size=2), [5, 3, 1, 7, 9, 11])
    assert (again.complete, again.failed, again.run.failures("squares")) == (True, {}, {})
    assert len((again.run.folder / "squares.jsonl").read_text().splitlines()) == 7


def test_workers_that_cannot_work_say_why(loaded: DiffusionPipeline, tmp_path: Path) -> None:
    with pytest.raises(RunError, match="this task is broken"):
        squares(tmp_path / "run", loaded, Workers(1), Squares(broken=True), [1])
    with pytest.raises(ModelError, match="cannot load this pipeline"):
        squares(tmp_path / "run", make_pipeline(), Workers(1), Squares(), [1])
    before = (
        loaded.unet.mid_block.attentions[0].transformer_blocks[0].attn2.to_v.weight.data.clone()
    )
    try:
        loaded.unet.mid_block.attentions[0].transformer_blocks[0].attn2.to_v.weight.data += 1
        with pytest.raises(RunError, match="changes to a live pipeline stay in its process"):
            squares(tmp_path / "run", loaded, Workers(1), Squares(), [1])
    finally:
        loaded.unet.mid_block.attentions[0].transformer_blocks[0].attn2.to_v.weight.data = before
    for engine in (Workers, RayActors):
        with pytest.raises(RunError, match="at least 1 is needed"):
            engine(0)


def children() -> set[int]:
    """Processes that this one has started and that still run."""
    listed = Path(f"/proc/{os.getpid()}/task").glob("*/children")
    return {int(pid) for file in listed for pid in file.read_text().split()}


def test_workers_are_gone_when_the_driver_stops(loaded: DiffusionPipeline) -> None:
    before = children()
    outcomes = Workers(1).outcomes(loaded, Squares(pause=0.05), units_of(enumerate(range(1000)), 1))
    next(outcomes)
    assert len(children() - before) >= 1
    outcomes.close()  # type: ignore[attr-defined]
    left = children() - before
    names = {Path(f"/proc/{pid}/cmdline").read_bytes() for pid in left}
    assert all(b"resource_tracker" in name for name in names)


def test_one_process_at_a_time_writes(tmp_path: Path, pipe: DiffusionPipeline) -> None:
    run = Run.open(tmp_path / "run", {"a": 1})
    with run.writer("squares"):
        with pytest.raises(RunError, match="another process writes it"):
            squares(tmp_path / "run", pipe, None, Squares(), [1, 2])
        part = squares(tmp_path / "run", pipe, None, Squares(), [1, 2, 3], shard=Shard(2, 2))
    assert (part.done, found(part)) == (1, {1: 4})
    whole = squares(tmp_path / "run", pipe, None, Squares(), [1, 2, 3])
    assert found(whole) == {0: 1, 1: 4, 2: 9}
    assert [path.name for path in whole.run.files("squares")] == [
        "squares.jsonl",
        "squares.2-of-2.jsonl",
    ]


def test_a_failing_device_stops_the_run(
    tmp_path: Path, pipe: DiffusionPipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(self: Squares, items: object) -> None:
        raise torch.AcceleratorError("an illegal memory access was encountered")

    monkeypatch.setattr(Squares, "_work", fail)
    with pytest.raises(RunError, match="the device fails: an illegal memory access"):
        squares(tmp_path / "run", pipe, None, Squares(), [1, 2])


def test_ray(loaded: DiffusionPipeline, tmp_path: Path, local_ray: Any) -> None:
    check_engine(RayActors(2), loaded, tmp_path)
    with pytest.raises(RunError, match="this task is broken"):
        squares(tmp_path / "broken", loaded, RayActors(1), Squares(broken=True), [1])


def test_ray_goes_on_without_a_node(
    loaded: DiffusionPipeline, tmp_path: Path, local_ray: Any
) -> None:
    cluster, nodes = local_ray
    items = list(range(60))
    seen: list[int] = []
    killed = threading.Event()

    def progress(done: int, _total: int | None) -> None:
        seen.append(done)
        if done == 10:
            cluster.remove_node(nodes.pop(), allow_graceful=False)
            killed.set()

    tally = squares(
        tmp_path / "run", loaded, RayActors(2), Squares(pause=0.05), items, progress=progress
    )
    assert killed.is_set()
    assert tally.complete
    assert found(tally) == {index: index * index for index in items}
    assert len((tally.run.folder / "squares.jsonl").read_text().splitlines()) == len(items)


def test_a_ray_of_its_own_is_started_beside_others(
    loaded: DiffusionPipeline, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without an address Ray would join any cluster that runs on the machine, with another Python and other packages."""
    import ray

    class AskedError(ConnectionError):
        pass

    def asked(**options: object) -> None:
        raise AskedError(f"address={options['address']}")

    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    monkeypatch.setattr(ray, "init", asked)
    with pytest.raises(RunError, match="address=local"):
        squares(tmp_path / "run", loaded, RayActors(1), Squares(), [1])


def test_ray_that_is_not_there(
    loaded: DiffusionPipeline, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import ray

    def refuse(**_: object) -> None:
        raise ConnectionError("nobody answers")

    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    monkeypatch.setattr(ray, "init", refuse)
    with pytest.raises(
        RunError, match=r"Ray at 10.0.0.1:6379: cannot be reached \(nobody answers\)"
    ):
        squares(tmp_path / "run", loaded, RayActors(1, address="10.0.0.1:6379"), Squares(), [1])


def test_ray_is_looked_for_before_it_is_waited_for(
    loaded: DiffusionPipeline, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ray itself would try for minutes."""
    import ray

    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    began = time.monotonic()
    with pytest.raises(
        RunError, match=rf"Ray at 127.0.0.1:{port}: cannot be reached .*RAY_AUTH_MODE"
    ):
        squares(tmp_path / "run", loaded, RayActors(1, address=f"127.0.0.1:{port}"), Squares(), [1])
    assert time.monotonic() - began < 10


class Waiting:
    """In place of Ray: the first waits end without an answer."""

    def __init__(self, answers: list[list[str]]) -> None:
        self.answers = answers

    def wait(
        self, asked: list[str], num_returns: int, timeout: float
    ) -> tuple[list[str], list[str]]:
        assert (num_returns, timeout > 0) == (1, True)
        return self.answers.pop(0), asked

    def get(self, _asked: str) -> list[object]:
        return []

    def cluster_resources(self) -> dict[str, float]:
        return {"CPU": 8.0}

    def nodes(self) -> list[str]:
        return ["one"]

    class exceptions:  # noqa: N801 -- Ray's name
        RayError = OSError


def test_it_is_said_what_actors_wait_for(caplog: pytest.LogCaptureFixture) -> None:
    actors = object.__new__(_Actors)
    actors._ray, actors._asked, actors._needs, actors._working = (
        Waiting([[], [], ["a"], [], ["b"]]),
        {"a": 1, "b": 2},
        "2 GPUs",
        False,
    )
    assert actors.next() == (1, [])
    said = (
        "no actor has started yet: each needs 2 GPUs, the cluster has 8 CPUs and 0 GPUs on 1 nodes"
    )
    assert [record.getMessage() for record in caplog.records] == [said, said]
    assert actors.next() == (2, [])
    assert len(caplog.records) == 2  # units may take as long as they take


def test_numbers_of_gpus(loaded: DiffusionPipeline, tmp_path: Path, cli: Any) -> None:
    with pytest.raises(RunError, match=r"1.5 GPUs for each actor: above 1, only whole ones"):
        RayActors(1, gpus=1.5)
    for option in (("--gpus", "1"), ("--address", "auto")):
        code, _, err = cli("detect", "-o", tmp_path / "run", *option)
        assert (code, "Add --engine ray" in err) == (1, True)


class OnDevice:
    """A pipeline as far as its device goes."""

    def __init__(self) -> None:
        self.device = torch.device("meta")

    def to(self, device: Any) -> None:
        self.device = torch.device(device)


def test_the_drivers_model_leaves_the_gpu_to_the_workers() -> None:
    pipe: Any = OnDevice()
    with aside(pipe):
        assert pipe.device.type == "cpu"
    assert pipe.device.type == "meta"


def test_other_processes_load_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In whatever folder they run and whatever devices they have."""
    make_pipeline().save_pretrained(tmp_path / "model")
    monkeypatch.chdir(tmp_path)
    loading = Loading.of(load_pipeline("model", device="cpu", local_files_only=True))
    assert (loading.model, loading.dtype, loading.device) == (
        str(tmp_path / "model"),
        "float32",
        "cpu",
    )
    assert Loading.of(load_pipeline("testbed")).model == "testbed"
