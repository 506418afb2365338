"""The key pair that is made ahead."""

from __future__ import annotations

import subprocess
import sys
import threading
from typing import TYPE_CHECKING, NoReturn

import pytest
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from enclave import Agent
from enclave.attestation import parse
from enclave.recipient import keypair
from enclave.recipient.keypair import KEY_BITS, KeyPairAhead

if TYPE_CHECKING:
    from enclave_simulator.nsm import SimulatedNsm


def test_it_is_given_away_once() -> None:
    ahead = KeyPairAhead()
    first, second = ahead.private_key(), ahead.private_key()
    assert first.key_size == second.key_size == KEY_BITS
    assert first.private_numbers() != second.private_numbers()


def test_without_a_thread_it_is_made_when_it_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    def start(_: threading.Thread) -> NoReturn:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", start)
    assert KeyPairAhead().private_key().key_size == KEY_BITS


def test_a_thread_that_fails_leaves_the_failure_to_who_asks(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def fail() -> NoReturn:
        raise MemoryError

    uncaught: list[object] = []
    monkeypatch.setattr(threading, "excepthook", uncaught.append)
    monkeypatch.setattr(keypair, "new_private_key", fail)
    ahead = KeyPairAhead()
    with pytest.raises(MemoryError):
        ahead.private_key()
    assert not uncaught
    monkeypatch.undo()
    assert ahead.private_key().key_size == KEY_BITS


def test_an_agent_has_the_key_it_was_given_attested(
    simulated_nsm: SimulatedNsm, monkeypatch: pytest.MonkeyPatch
) -> None:
    ahead = KeyPairAhead()
    key = ahead.private_key()
    monkeypatch.setattr(ahead, "private_key", lambda: key)
    with Agent(region="eu-central-1", device=simulated_nsm, key_pair=ahead) as agent:
        attested = parse(agent.recipient().attestation_document()).public_key
    assert attested == key.public_key().public_bytes(
        Encoding.DER, PublicFormat.SubjectPublicKeyInfo
    )


def test_a_recipient_loads_no_code_for_the_formats_of_keys() -> None:
    script = (
        "import sys\n"
        "from enclave.recipient.recipient import AttestedRecipient\n"
        "AttestedRecipient(None)\n"
        "print('cryptography.hazmat.primitives.serialization' in sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True, timeout=60
    )
    assert done.stdout == "False\n"
