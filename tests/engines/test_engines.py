"""Engines with real processes and Ray actors. Each process costs seconds, so there are few."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from diffusers import DiffusionPipeline

from conftest import make_pipeline
from tasks import AnyRun, Squares, gate
from unmemorize import Model, ModelError, Run, RunError
from unmemorize.engines import Engine, Execution, RayActors, Shard, Workers, units_of
from unmemorize.engines._pool import Done, Ready, Unable
from unmemorize.engines._ray import ActorPool
from unmemorize.engines._worker import Assignment, Worker, off_the_gpu
from unmemorize.runs import Inputs, Tally, drive

TESTS = Path(__file__).parent.parent


@pytest.fixture(scope="module")
def loaded(tmp_path_factory: pytest.TempPathFactory) -> Model:
    """A tiny model that other processes can load, too."""
    folder = tmp_path_factory.mktemp("model")
    make_pipeline().save_pretrained(folder)
    return Model.load(str(folder), device="cpu", local_files_only=True)


@pytest.fixture(scope="module")
def local_ray() -> Iterator[Any]:
    """A Ray of two nodes on this machine, each with room for one actor."""
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("PYTHONPATH", os.pathsep.join([str(TESTS), *_search_path()]))
        import ray
        from ray.cluster_utils import Cluster

        head = {"num_cpus": 0, "include_dashboard": False}
        cluster = Cluster(initialize_head=True, head_node_args=head)
        nodes = [cluster.add_node(num_cpus=1) for _ in range(2)]
        ray.init(address=cluster.address, log_to_driver=False, logging_level="ERROR")
        yield cluster, nodes
        ray.shutdown()
        cluster.shutdown()


def _search_path() -> list[str]:
    path = os.environ.get("PYTHONPATH")
    return [str(Path(folder).absolute()) for folder in path.split(os.pathsep)] if path else []


def squares(
    folder: Path, model: Model, task: Squares, items: list[int], execution: Execution | None = None
) -> Tally:
    """Drive `Squares` over the items in a run folder."""
    inputs = Inputs(fingerprint=model.fingerprint)
    run = Run.open(folder, AnyRun(), inputs=inputs, model=model.name, items=len(items))
    return drive(run, model, task, enumerate(items), len(items), execution)


def squares_in(tally: Tally) -> dict[int, int]:
    return {index: record["square"] for index, record in tally.run.records("squares").items()}


def children() -> set[int]:
    """Processes that this one has started and that still run."""
    listed = Path(f"/proc/{os.getpid()}/task").glob("*/children")
    return {int(pid) for file in listed for pid in file.read_text().split()}


def command_line(process: int) -> bytes:
    return Path(f"/proc/{process}/cmdline").read_bytes()


def test_local_workers(loaded: Model, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """Failures are on record; a killed worker is replaced and its unit done; the same run resumes.

    Workers stay for the next task, until their engine is gone. One that was lost meanwhile is
    replaced. When the caller stops early, the workers are gone, even in the middle of a unit.
    """
    lives = tmp_path / "lives"
    lives.write_text("one")
    before = children()
    task = Squares(size=2, deadly=9, lives=lives)
    items = [5, 3, -1, 7, 9, 11]
    engine = Workers(1)
    tally = squares(tmp_path / "run", loaded, task, items, Execution(engine=engine))
    assert lives.read_text() == ""
    assert (tally.done, tally.complete) == (5, False)
    assert tally.failed == {2: "ValueError: a negative number"}
    assert squares_in(tally) == {0: 25, 1: 9, 3: 49, 4: 81, 5: 121}
    assert tally.run.failures("squares") == tally.failed
    assert (tally.run.folder / "3.txt").read_bytes() == b"x"
    workers = {record["pid"] for record in tally.run.records("squares").values()}
    assert len(workers) == 2
    assert os.getpid() not in workers
    assert len((tally.run.folder / "squares.jsonl").read_text().splitlines()) == 6

    items[2] = 1
    again = squares(tmp_path / "run", loaded, Squares(size=2), items)
    assert (again.complete, again.failed, again.run.failures("squares")) == (True, {}, {})
    assert again.run.records("squares")[2]["pid"] == os.getpid()
    assert len((again.run.folder / "squares.jsonl").read_text().splitlines()) == 7

    second = squares(tmp_path / "second", loaded, Squares(), [4], Execution(engine=engine))
    (record,) = second.run.records("squares").values()
    assert (record["square"], record["pid"]) == (16, tally.run.records("squares")[5]["pid"])
    os.kill(record["pid"], signal.SIGKILL)

    with gate(tmp_path / "gate") as opened:
        opened.let_through(1)
        units = units_of(enumerate(range(1000)), 1)
        outcomes = engine.outcomes(loaded, Squares(gate=opened.path), units)
        next(outcomes)
        assert any(b"spawn_main" in command_line(child) for child in children() - before)
        outcomes.close()  # type: ignore[attr-defined]
    assert capfd.readouterr().err == ""  # neither torchvision nor progress of loading
    assert all(b"resource_tracker" in command_line(child) for child in children() - before)


def test_a_worker_says_why_it_cannot_work(loaded: Model) -> None:
    broken = Worker(Assignment.of(loaded, 1), 0)
    assert broken.prepare(Squares(broken=True)) == Unable("this task is broken")
    with pytest.raises(ModelError, match=r"cannot load this pipeline again.*Model.load"):
        Assignment.of(Model(make_pipeline()), 1)
    changed = Model.load(loaded.loading.model, device="cpu")  # type: ignore[union-attr]
    next(iter(changed.value_layers.values())).weight.data += 1
    answer = Worker(Assignment.of(changed, 1), 0).prepare(Squares())
    assert isinstance(answer, Unable)
    assert "changes to a live pipeline stay in its process" in answer.reason


def test_a_worker_works(loaded: Model) -> None:
    worker = Worker(Assignment.of(loaded, 1), 0)
    assert worker.prepare(Squares()) == Ready()
    assert worker.rest() == Ready()
    assert worker.prepare(Squares()) == Ready()
    (unit,) = units_of(enumerate([2, -1]), 2)
    answer = worker.work(unit)
    assert isinstance(answer, Done)
    finished, failed = answer.outcomes
    assert (finished.record["square"], failed.error) == (4, "ValueError: a negative number")  # type: ignore[union-attr]


def test_workers_share_the_cores_of_their_machine(
    loaded: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("os.cpu_count", lambda: 12)
    monkeypatch.setattr("torch.get_num_threads", lambda: 8)
    threads = [Assignment.of(loaded, workers).threads for workers in (1, 3, 100)]
    assert threads == [8, 4, 1]


def test_each_engine_needs_a_worker() -> None:
    for engine in (Workers, RayActors):
        with pytest.raises(RunError, match=r"0 workers: at least 1 is needed"):
            engine(0)


def test_one_process_at_a_time_writes(tmp_path: Path, pipe: DiffusionPipeline) -> None:
    model = Model(pipe)
    run = squares(tmp_path / "run", model, Squares(), []).run
    with run.writer("squares"):
        with pytest.raises(RunError, match="another process writes it"):
            squares(tmp_path / "run", model, Squares(), [])
        shard = Execution(shard=Shard(2, 2))
        tally = drive(run, model, Squares(), enumerate([1, 2, 3]), 3, shard)
    assert (tally.done, squares_in(tally)) == (1, {1: 4})
    whole = drive(run, model, Squares(), enumerate([1, 2, 3]), 3)
    assert squares_in(whole) == {0: 1, 1: 4, 2: 9}
    assert [path.name for path in run.files("squares")] == [
        "squares.jsonl",
        "squares.2-of-2.jsonl",
    ]


@pytest.mark.slow
def test_ray_survives_the_loss_of_a_node(loaded: Model, tmp_path: Path, local_ray: Any) -> None:
    """Both actors are in the middle of a unit when one of the two nodes is killed."""
    cluster, nodes = local_ray
    items = [*range(2, 30), -1]
    lines_before: list[int] = []

    with gate(tmp_path / "gate") as opened:

        def progress(done: int, _total: int | None) -> None:
            if done == 10 and not lines_before:
                lines_before.append(done)
                cluster.remove_node(nodes.pop(), allow_graceful=False)
                opened.let_through(len(items))

        opened.let_through(10)
        execution = Execution(engine=RayActors(2), progress=progress)
        tally = squares(tmp_path / "run", loaded, Squares(gate=opened.path), items, execution)
    assert lines_before == [10]
    assert tally.failed == {28: "ValueError: a negative number"}
    assert squares_in(tally) == {index: (index + 2) ** 2 for index in range(28)}
    assert (tally.run.folder / "3.txt").read_bytes() == b"x"
    assert len((tally.run.folder / "squares.jsonl").read_text().splitlines()) == len(items)
    pids = {record["pid"] for record in tally.run.records("squares").values()}
    assert os.getpid() not in pids


@pytest.fixture
def no_ray(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, object]]:
    """A machine on which Ray cannot be started or reached; returns how that was tried."""
    import ray

    attempts: list[dict[str, object]] = []

    def refuse(**options: object) -> None:
        attempts.append(options)
        raise ConnectionError("nobody answers")

    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    monkeypatch.setattr(ray, "init", refuse)
    return attempts


def outcomes_of(engine: Engine, model: Model) -> None:
    list(engine.outcomes(model, Squares(), units_of(enumerate([1]), 1)))


def test_without_an_address_a_ray_of_its_own_is_started(
    loaded: Model, no_ray: list[dict[str, object]]
) -> None:
    """Ray would join any cluster that runs on the machine, with other packages."""
    with pytest.raises(RunError, match=r"Ray cannot be started \(nobody answers\)"):
        outcomes_of(RayActors(1), loaded)
    assert [attempt["address"] for attempt in no_ray] == ["local"]


def test_a_ray_that_cannot_be_reached(loaded: Model, no_ray: list[dict[str, object]]) -> None:
    with pytest.raises(RunError, match=r"Ray at auto: cannot be reached \(nobody answers\)"):
        outcomes_of(RayActors(1, address="auto"), loaded)
    assert [attempt["address"] for attempt in no_ray] == ["auto"]


def test_a_closed_port_is_noticed_before_ray_tries_it(
    loaded: Model, no_ray: list[dict[str, object]]
) -> None:
    """Ray itself would try for minutes."""
    import socket

    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    with pytest.raises(RunError, match=rf"Ray at {address}: cannot be reached .*RAY_AUTH_MODE"):
        outcomes_of(RayActors(1, address=address), loaded)
    assert no_ray == []


class FakeRay:
    """Ray as far as `ActorPool` needs it; some waits end without an answer.

    Args:
        waits: for each wait, whether an actor has answered.
    """

    def __init__(self, waits: list[bool]) -> None:
        self._waits = waits
        self.killed: list[object] = []

    def put(self, value: object) -> object:
        return value

    def remote(self, _actor_class: object) -> FakeRay:
        return self

    def options(self, **options: object) -> FakeRay:
        self.actor_options = options
        fake = FakeRay([])
        fake.remote = lambda _assignment: FakeActor()  # type: ignore[method-assign,assignment,return-value]
        return fake

    def wait(
        self, calls: list[str], num_returns: int, timeout: float
    ) -> tuple[list[str], list[str]]:
        assert (num_returns, timeout > 0) == (1, True)
        return (calls[:1], calls[1:]) if self._waits.pop(0) else ([], calls)

    def get(self, call: str) -> Ready:
        if call.startswith("lost"):
            raise OSError("the actor died\nbecause of this")
        return Ready()

    def cluster_resources(self) -> dict[str, float]:
        return {"CPU": 8.0}

    def nodes(self) -> list[str]:
        return ["one"]

    def kill(self, actor: object) -> None:
        self.killed.append(actor)

    class exceptions:  # noqa: N801 -- Ray's name
        RayError = OSError


class FakeActor:
    """An actor whose first answer comes and whose work is lost."""

    def __init__(self) -> None:
        self.prepare = FakeMethod(f"ready {id(self)}")
        self.work = FakeMethod(f"lost {id(self)}")


class FakeMethod:
    def __init__(self, call: str) -> None:
        self._call = call

    def remote(self, *_arguments: object) -> str:
        return self._call


def test_the_user_is_told_what_actors_wait_for(
    loaded: Model, caplog: pytest.LogCaptureFixture
) -> None:
    ray = FakeRay([False, False, True, False, True, True])
    pool = ActorPool(ray, Assignment.of(loaded, 1), Squares(), gpus=2)
    pool.start(1)
    pool.start(2)
    assert ray.actor_options == {"num_cpus": 1, "num_gpus": 2, "max_restarts": 0}
    message = (
        "no actor has started yet: each needs 1 CPU and 2 GPUs, the cluster has 8 CPUs and 0 GPUs "
        "on 1 nodes"
    )
    assert pool.next_event() == (1, Ready())
    assert [record.getMessage() for record in caplog.records] == [message, message]
    assert pool.next_event() == (2, Ready())
    assert len(caplog.records) == 2  # once one has started, units may take as long as they take
    (unit,) = units_of(enumerate([1]), 1)
    pool.give(2, unit)
    worker, event = pool.next_event()
    assert (worker, event.cause) == (2, "because of this")  # type: ignore[union-attr]
    pool.close()
    assert len(ray.killed) == 2


def test_numbers_of_gpus() -> None:
    with pytest.raises(RunError, match=r"1.5 GPUs for each actor: not possible. Use whole ones"):
        RayActors(1, gpus=1.5)
    RayActors(1, gpus=2)
    RayActors(1, gpus=0.5)


def test_more_gpus_than_the_machine_has(loaded: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    import ray

    shut_down: list[bool] = []
    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    monkeypatch.setattr(ray, "init", lambda **_: None)
    monkeypatch.setattr(ray, "cluster_resources", lambda: {"CPU": 2.0})
    monkeypatch.setattr(ray, "shutdown", lambda: shut_down.append(True))
    with pytest.raises(RunError, match=r"1 GPUs for each actor, but this machine has 0.*--gpus"):
        outcomes_of(RayActors(1, gpus=1), loaded)
    assert shut_down == [True]


class ModelOnDevice:
    """A model as far as the device of its pipeline goes."""

    def __init__(self) -> None:
        import torch

        self.device = torch.device("meta")
        self.pipe = self

    def to(self, device: Any) -> None:
        import torch

        self.device = torch.device(device)


def test_this_process_leaves_the_gpu_to_the_workers() -> None:
    model: Any = ModelOnDevice()
    with off_the_gpu(model):
        assert model.device.type == "cpu"
    assert model.device.type == "meta"


def test_other_processes_load_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In any working directory, and with any devices."""
    make_pipeline().save_pretrained(tmp_path / "model")
    monkeypatch.chdir(tmp_path)
    loading = Model.load("model", device="cpu", local_files_only=True).loading
    assert loading is not None
    assert (loading.model, loading.dtype, loading.device) == (
        str(tmp_path / "model"),
        "float32",
        "cpu",
    )
    bundled = Model.load("testbed").loading
    assert bundled is not None
    assert bundled.model == "testbed"
