"""What enclaves there shall be: the ``enclaves`` section of the configuration."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from vsock_proxy.errors import ConfigurationError
from vsock_proxy.net.addresses import MAX_VSOCK, VMADDR_CID_PARENT

if TYPE_CHECKING:
    from vsock_proxy.service.settings import Setting

MAX_ENCLAVES = 4
"""On one instance (AWS, "What is AWS Nitro Enclaves?", considerations)."""

EIF_RATIO = 4
"""Memory must be this many times the image (nitro-cli, ENCLAVE_MEMORY_EIF_SIZE_RATIO)."""

POLL = 5.0
"""Seconds between two looks; each is a process of some 10 ms."""

_MIB = 1 << 20
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,62}")


@dataclass(frozen=True, slots=True)
class Restart:
    """What follows when an enclave ends by itself, or does not start.

    Attributes:
        always: start it again; otherwise it stays away.
        first: seconds before the first start again; doubled with every one that follows.
        longest: seconds that this never exceeds.
        reset_after: seconds of running after which the past is forgiven.
        give_up_after: failures in a row after which it stays away; 0: never.
    """

    always: bool = True
    first: float = 1.0
    longest: float = 300.0
    reset_after: float = 600.0
    give_up_after: int = 0


@dataclass(frozen=True, slots=True)
class EnclaveSettings:
    """One enclave.

    Attributes:
        name: as nitro-cli lists it.
        eif: its image.
        memory_mib: MiB.
        cpu_count: how many CPUs, where `cpu_ids` is empty.
        cpu_ids: which CPUs.
        cid: its context id; at least 4, for what else is limited to CIDs.
        debug: debug mode: its console can be read, and its PCRs are zero.
        restart: what follows when it ends.
        poll: seconds between two looks at it.
    """

    name: str
    eif: Path
    memory_mib: int
    cid: int
    cpu_count: int = 0
    cpu_ids: tuple[int, ...] = ()
    debug: bool = False
    restart: Restart = Restart()
    poll: float = POLL

    @property
    def cpus(self) -> int:
        """How many CPUs it gets."""
        return len(self.cpu_ids) or self.cpu_count


def read_enclaves_section(node: Setting) -> tuple[EnclaveSettings, ...]:
    """Read the list of enclaves.

    Raises:
        ConfigurationError: something in it cannot be; says where.
    """
    enclaves: list[EnclaveSettings] = []
    for item in node.items(MAX_ENCLAVES):
        enclave = _read(item)
        for other in enclaves:
            if enclave.name == other.name:
                raise item.wrong(f"two enclaves with the name {enclave.name}")
            if enclave.cid == other.cid:
                raise item.wrong(f"{other.name} and {enclave.name} have the same CID {enclave.cid}")
            if shared := set(enclave.cpu_ids) & set(other.cpu_ids):
                raise item.wrong(f"{other.name} and {enclave.name} share CPU {min(shared)}")
        enclaves.append(enclave)
    return tuple(enclaves)


def check_memory(settings: EnclaveSettings, eif_size: int) -> None:
    """Check that an image of `eif_size` bytes fits; nitro-cli would say E26.

    Raises:
        ConfigurationError: it does not.
    """
    least = -(-eif_size // _MIB) * EIF_RATIO
    if EIF_RATIO * eif_size > settings.memory_mib * _MIB:
        raise ConfigurationError(
            f"enclave {settings.name}: {settings.memory_mib} MiB of memory are too few for"
            f" {settings.eif}, an image of {eif_size} bytes",
            hint=f"set memory_mib to {least} or more: an enclave needs {EIF_RATIO} times its image",
        )


def _read(item: Setting) -> EnclaveSettings:
    fields = item.fields(
        *("name", "eif", "memory_mib", "cpus", "cid", "debug", "restart", "poll"),
        required=("name", "eif", "memory_mib", "cpus", "cid"),
    )
    name = fields["name"].string(most=63)
    if not _NAME.fullmatch(name):
        raise fields["name"].wrong(
            f"{name!r} is not a name", hint="letters, digits, '.', '_' and '-' make a name"
        )
    eif = Path(fields["eif"].string())
    if not eif.is_absolute():
        raise fields["eif"].wrong("not an absolute path")
    count, ids = _cpus(fields["cpus"])
    cid = fields["cid"].integer(0, MAX_VSOCK)
    if not VMADDR_CID_PARENT < cid < MAX_VSOCK:
        raise fields["cid"].wrong(
            f"{cid} cannot be an enclave's",
            hint="CIDs 0 to 3 have fixed meanings and the last is a wildcard: take 4 or more",
        )
    return EnclaveSettings(
        name=name,
        eif=eif,
        memory_mib=fields["memory_mib"].integer(1, 1 << 24),
        cid=cid,
        cpu_count=count,
        cpu_ids=ids,
        debug="debug" in fields and fields["debug"].boolean(),
        restart=_restart(fields["restart"]) if "restart" in fields else Restart(),
        poll=fields["poll"].duration(0.1, 3600) if "poll" in fields else POLL,
    )


def _cpus(setting: Setting) -> tuple[int, tuple[int, ...]]:
    if not setting.is_list:
        return setting.integer(1, 1024), ()
    # CPU 0 stays with the parent, always.
    ids = tuple(item.integer(1, 8191) for item in setting.items(1024))
    if not ids:
        raise setting.wrong("no CPU")
    if len(set(ids)) != len(ids):
        raise setting.wrong("one CPU twice")
    return 0, ids


def _restart(setting: Setting) -> Restart:
    fields = setting.fields("policy", "first", "longest", "reset_after", "give_up_after")
    default = Restart()

    def seconds(key: str, otherwise: float) -> float:
        return fields[key].duration(0.1, 86400) if key in fields else otherwise

    first = seconds("first", default.first)
    longest = seconds("longest", max(first, default.longest))
    if longest < first:
        raise fields["longest"].wrong("shorter than the first")
    return Restart(
        always="policy" not in fields or fields["policy"].choice("always", "never") == "always",
        first=first,
        longest=longest,
        reset_after=seconds("reset_after", default.reset_after),
        give_up_after=(
            fields["give_up_after"].integer(0, 1_000_000) if "give_up_after" in fields else 0
        ),
    )
