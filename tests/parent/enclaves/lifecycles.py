"""A life cycle at the points where tests begin."""

from __future__ import annotations

import dataclasses
from pathlib import Path

from parent.enclaves.lifecycle import (
    Lifecycle,
    Look,
    Run,
)
from parent.enclaves.nitro_cli import Enclave
from parent.enclaves.settings import EnclaveSettings, Restart
from vsock_proxy.net.addresses import Address, VsockAddress

PCR0 = "ab" * 48
SETTINGS = EnclaveSettings(
    name="worker", eif=Path("/w.eif"), memory_mib=512, cid=16, cpu_count=2, poll=5.0
)


AGENT = VsockAddress(16, 8010)


def enclave(number: int = 1, **changes: object) -> Enclave:
    made = Enclave(f"i-0-enc{number:x}", "worker", 16, (1, 3), 512, pcr0=PCR0)
    return dataclasses.replace(made, **changes)  # type: ignore[arg-type]


def lifecycle(
    restart: Restart | None = None, chance: float = 0.5, agent: Address | None = None
) -> Lifecycle:
    settings = dataclasses.replace(SETTINGS, restart=restart or Restart(), agent=agent)
    machine = Lifecycle(settings, chance=lambda: chance, now=0)
    machine.pcr0 = PCR0
    return machine


def running(restart: Restart | None = None, agent: Address | None = None) -> Lifecycle:
    machine = lifecycle(restart, agent=agent)
    assert machine.next(0) == Look()
    machine.looked(0, (), complete=True)
    assert machine.next(0) == Run()
    machine.ran(0, enclave())
    assert machine.healthy
    return machine
