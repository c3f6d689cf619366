"""How Ctrl-C and the start of a local worker go together."""

import gc
import os
import select
import signal
import subprocess
import sys
import threading
from typing import Any

import pytest

from unmemorize.engines import Workers
from unmemorize.engines._workers import interrupts_deferred


@pytest.fixture
def wake_up_pipe() -> "list[int]":
    """A pipe that becomes readable when Python has noticed a signal, in whichever thread."""
    read_end, write_end = os.pipe2(os.O_NONBLOCK)
    return [read_end, write_end]


def test_ctrl_c_waits_for_a_start_also_when_another_thread_takes_it(
    wake_up_pipe: list[int],
) -> None:
    read_end, write_end = wake_up_pipe
    over = threading.Event()
    other = threading.Thread(target=over.wait)
    other.start()  # it does not block the signal, as the main thread does
    steps: list[str] = []

    def start_while_ctrl_c_is_pressed() -> None:
        with interrupts_deferred():
            before = signal.set_wakeup_fd(write_end)
            os.kill(os.getpid(), signal.SIGINT)
            noticed, _, _ = select.select([read_end], [], [], 60)
            signal.set_wakeup_fd(before)
            assert noticed
            steps.append("started")
            steps.append("noted")

    try:
        with pytest.raises(KeyboardInterrupt):
            start_while_ctrl_c_is_pressed()
    finally:
        over.set()
        other.join()
        os.close(read_end)
        os.close(write_end)
    assert steps == ["started", "noted"]
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    assert signal.SIGINT not in signal.pthread_sigmask(signal.SIG_BLOCK, ())


def test_ctrl_c_for_this_thread_alone_waits_for_a_start() -> None:
    steps: list[str] = []

    def start_while_ctrl_c_is_pressed() -> None:
        with interrupts_deferred():
            signal.pthread_kill(threading.get_ident(), signal.SIGINT)
            steps.append("started")

    with pytest.raises(KeyboardInterrupt):
        start_while_ctrl_c_is_pressed()
    assert steps == ["started"]


def test_a_process_that_starts_meanwhile_never_sees_ctrl_c() -> None:
    with interrupts_deferred():
        press_ctrl_c = "import os, signal; os.kill(os.getpid(), signal.SIGINT)"
        child = subprocess.run([sys.executable, "-S", "-c", press_ctrl_c], check=False)
    assert child.returncode == 0


def test_in_another_thread_only_the_mask_changes() -> None:
    masks: list[set[int | signal.Signals]] = []

    def start() -> None:
        with interrupts_deferred():
            masks.append(signal.pthread_sigmask(signal.SIG_BLOCK, ()))
            assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
        masks.append(signal.pthread_sigmask(signal.SIG_BLOCK, ()))

    thread = threading.Thread(target=start)
    thread.start()
    thread.join()
    assert [signal.SIGINT in mask for mask in masks] == [True, False]


class RestingPool:
    """A pool that notes whether it is closed."""

    def __init__(self, assignment: str) -> None:
        self.assignment = assignment
        self.closed = False

    def close(self) -> None:
        self.closed = True


def test_workers_that_rest_end_with_their_engine_or_for_another_model() -> None:
    engine: Any = Workers(2)
    first, second = RestingPool("one model"), RestingPool("one model")
    engine._resting.append(first)
    assert engine._rested("one model") is first
    assert (engine._rested("one model"), first.closed) == (None, False)
    engine._resting.append(first)
    assert (engine._rested("another model"), first.closed) == (None, True)
    engine._resting.append(second)
    del engine
    gc.collect()
    assert second.closed
