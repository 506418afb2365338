"""What the pytest fixtures ``hostile_kms`` and ``hostile_parent`` are made of."""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from enclave_simulator.attack.certificates import Certificates
from enclave_simulator.attack.hostile import HostileParent
from enclave_simulator.attack.running import Runner, Target
from enclave_simulator.attack.table import choose
from enclave_simulator.attack.world import CONTEXT
from enclave_simulator.launcher.launch import words_of

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from enclave_simulator.attack.verdict import Finding
    from enclave_simulator.authority import Authority


@dataclass(frozen=True)
class HostileKms:
    """A KMS, a parent and an NSM under one attack, and an agent that uses them.

    Attributes:
        parent: where they listen: ``proxy``, ``credentials``, ``ca_pem``, ``nsm``; and ``met``.
        agent: an `enclave.Agent`.
    """

    parent: HostileParent
    agent: Any

    @property
    def key_id(self) -> str:
        """Return the ARN of the program's key."""
        return self.parent.world.input.key_id

    @property
    def context(self) -> Mapping[str, str]:
        """Return the encryption context of the program's ciphertexts."""
        return CONTEXT

    @property
    def ciphertexts(self) -> tuple[bytes, ...]:
        """Return what the program is to decrypt."""
        return self.parent.world.input.ciphertexts

    @property
    def secrets(self) -> tuple[bytes, ...]:
        """Return the right secrets of `ciphertexts`."""
        return self.parent.world.secrets().right


@functools.cache
def _certificates() -> Certificates:
    return Certificates()


def hostile(authority: Authority, name: str) -> HostileParent:
    """Start the hostile side of an attack, on 127.0.0.1.

    Raises:
        ConfigurationError: there is no such attack.
    """
    (attack,) = choose([name])
    return HostileParent(authority, _certificates(), attack)


def prepare(argv: Sequence[str], *, deadline: float) -> Callable[[str], Finding]:
    """Run a program without an attack; return what runs it under one, by its name.

    Raises:
        ControlError: the program fails without an attack.
        LaunchError, CommandError: it cannot be started.
        ConfigurationError: `argv` is no list of words.
    """
    runner = Runner(Target(argv=words_of(argv), deadline=deadline))
    runner.control()

    def run(name: str) -> Finding:
        (attack,) = choose([name])
        return runner.attack(attack).finding

    return run
