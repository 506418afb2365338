"""This project's agent under every attack, by the fixture `hostile_kms`."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

import pytest

from enclave import AgentError
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
    "replayed-envelope",  # needs an earlier run
    "wrong-length",  # GenerateRandom
}


@pytest.mark.parametrize("name", [name for name in ATTACKS if name not in SLOW | ELSEWHERE])
def test_the_agent_refuses_it(name: str, hostile_kms: Callable[[str], HostileKms]) -> None:
    kms = hostile_kms(name)

    def decrypt() -> bytes:
        return kms.agent.decrypt(  # type: ignore[no-any-return]
            kms.ciphertexts[0], key_id=kms.key_id, encryption_context=dict(kms.context)
        ).plaintext

    if ATTACKS[name].success is Success.RIGHT and ATTACKS[name].answers != "program":
        with contextlib.suppress(AgentError):
            assert decrypt() == kms.secrets[0]
    else:
        with pytest.raises(AgentError):
            decrypt()
    assert kms.parent.met


def test_the_agent_refuses_random_bytes_of_another_length(
    hostile_kms: Callable[[str], HostileKms],
) -> None:
    kms = hostile_kms("wrong-length")
    with pytest.raises(AgentError, match="gave 8 bytes where 32 were asked for"):
        kms.agent.generate_random(32)
