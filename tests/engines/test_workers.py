"""What is special about local processes; what they share with other engines is in test_drivers.py."""

import os
import signal
import threading
import time

import pytest

from unmemorize.engines._workers import _without_interrupts


def test_ctrl_c_waits_for_a_start_also_when_another_thread_takes_it() -> None:
    over = threading.Event()
    other = threading.Thread(target=over.wait)
    other.start()  # it does not block the signal, as the main thread does
    steps = 0

    def press_ctrl_c() -> None:
        nonlocal steps
        with _without_interrupts():
            os.kill(os.getpid(), signal.SIGINT)
            for _ in range(10):
                time.sleep(0.01)
                steps += 1

    try:
        with pytest.raises(KeyboardInterrupt):
            press_ctrl_c()
    finally:
        over.set()
        other.join()
    assert steps == 10
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    assert signal.SIGINT not in signal.pthread_sigmask(signal.SIG_BLOCK, ())
