"""This project's agent under every attack, by the fixture `hostile_kms`."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

import pytest

from enclave import AgentError
from enclave.logs.sender import send_to_sink
from enclave_simulator.attack.model import Success
from enclave_simulator.attack.table import ATTACKS
from tests.programs.attacked.caught import arrives

if TYPE_CHECKING:
    from collections.abc import Callable

    from enclave_simulator.attack.fixtures import HostileKms

# The agent waits for its deadlines: make attack has these.
SLOW = {name for name in ATTACKS if not arrives(name)} | {
    "cut-handshake",
    "cut-response",
    "cut-headers",
    "cut-body",
}
ELSEWHERE = {
    "entropy-refused",  # `serve` seeds the kernel with it, the agent does not
    "log-stall",  # what it logs is sent below
    "log-cut",
    "replayed-envelope",  # needs an earlier run
    "wrong-length",  # GenerateRandom
}


@pytest.mark.parametrize("name", [name for name in ATTACKS if name not in SLOW | ELSEWHERE])
def test_the_agent_refuses_it(name: str, hostile_kms: Callable[[str], HostileKms]) -> None:
    kms = hostile_kms(name)

    if ATTACKS[name].success is Success.RIGHT and ATTACKS[name].answers != "program":
        for ciphertext, secret in zip(kms.ciphertexts, kms.secrets, strict=True):
            with contextlib.suppress(AgentError):
                assert decrypt(kms, ciphertext) == secret
    else:
        with pytest.raises(AgentError):
            decrypt(kms, kms.ciphertexts[0])
    assert kms.parent.met
    assert not kms.parent.evidence


def decrypt(kms: HostileKms, ciphertext: bytes) -> bytes:
    return kms.agent.decrypt(  # type: ignore[no-any-return]
        ciphertext, key_id=kms.key_id, encryption_context=dict(kms.context)
    ).plaintext


@pytest.mark.parametrize("name", ["log-stall", "log-cut"])
def test_the_agent_does_not_wait_for_the_log_sink(
    name: str, hostile_kms: Callable[[str], HostileKms]
) -> None:
    kms = hostile_kms(name)
    sender = send_to_sink(kms.parent.log, limit=1 << 20)
    # More than its buffer and the kernel's take.
    for _ in range(128):
        sender.put(1024 * [63 * b"x"])
    assert decrypt(kms, kms.ciphertexts[0]) == kms.secrets[0]
    outcome = sender.close(0)
    assert outcome.dropped
    assert not outcome.confirmed


def test_the_agent_refuses_random_bytes_of_another_length(
    hostile_kms: Callable[[str], HostileKms],
) -> None:
    kms = hostile_kms("wrong-length")
    with pytest.raises(AgentError, match="gave 8 bytes where 32 were asked for"):
        kms.agent.generate_random(32)
