"""Signals are handled at once, even while the main thread is blocked."""

from __future__ import annotations

import signal
import subprocess
import sys
import threading

import pytest

from tests.waiting import TEST_TIMEOUT

BUSY = """
import signal, subprocess, sys, threading
from vsock_proxy.service.signals import STOP_SIGNALS, Signals

def told(number):
    print(signal.Signals(number).name, flush=True)
    if number == signal.SIGINT:
        ended.set()

signals, ended = Signals(), threading.Event()
for number in (*STOP_SIGNALS, signal.SIGHUP):
    signals.handle(number, told)
worker = threading.Thread(target=ended.wait)
worker.start()
print("ready", flush=True)
worker.join()  # The main thread hears nothing: nobody wakes it.
"""


def test_signals_are_handled_while_the_main_thread_is_blocked() -> None:
    """Sent by another process, each as soon as the one before was handled."""
    sent = [signal.SIGTERM, signal.SIGHUP] * 3 + [signal.SIGINT]
    with subprocess.Popen([sys.executable, "-c", BUSY], stdout=subprocess.PIPE, text=True) as busy:
        assert busy.stdout
        impatience = threading.Timer(TEST_TIMEOUT, busy.kill)  # Its lines end then.
        impatience.start()
        try:
            assert busy.stdout.readline() == "ready\n"
            for number in sent:
                busy.send_signal(number)
                assert busy.stdout.readline() == f"{number.name}\n"
            assert busy.wait(TEST_TIMEOUT) == 0
        finally:
            impatience.cancel()
            busy.kill()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_child_has_default_signal_handlers(number: signal.Signals) -> None:
    """If the signal were blocked or ignored, nitro-cli would not end on SIGTERM."""
    ask = (
        "import subprocess, sys\n"
        "import signal\n"
        "from vsock_proxy.service.signals import Signals\n"
        f"Signals().handle(signal.Signals({number:d}), lambda _: None)\n"
        f"done = subprocess.run(['sh', '-c', 'kill -{number:d} $$; sleep 60'])\n"
        "print(done.returncode)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", ask], stdout=subprocess.PIPE, timeout=TEST_TIMEOUT, check=True
    )
    assert int(done.stdout) == -number
