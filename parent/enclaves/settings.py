"""Settings of the enclaves: the section ``enclaves`` of the configuration."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import partial
from itertools import combinations
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from vsock_proxy.errors import ConfigurationError
from vsock_proxy.net.addresses import (
    MAX_VSOCK,
    VMADDR_CID_PARENT,
    Address,
    HybridAddress,
    UnixAddress,
    VsockAddress,
)
from vsock_proxy.net.ports import CONTROL_PORT
from vsock_proxy.service.mistakes import Mistakes, attempt

if TYPE_CHECKING:
    from collections.abc import Callable

    from vsock_proxy.service.settings import Keys, Setting

MAX_ENCLAVES = 4
"""On one instance (AWS, "What is AWS Nitro Enclaves?", considerations)."""

EIF_RATIO = 4
"""Memory must be this many times the image (nitro-cli, ENCLAVE_MEMORY_EIF_SIZE_RATIO)."""

MIN_MEMORY_MIB = 64
"""Less is refused when the enclave is started (Linux, ne_misc_dev.h, NE_MIN_ENCLAVE_MEM_SIZE)."""

POLL = 5.0
"""Seconds between two looks; each is a process of some 10 ms."""

STOP_TIMEOUT = 10.0
"""Seconds that an enclave's program gets to end, if its agent is asked."""

_MIB = 1 << 20
T = TypeVar("T")

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,62}")


@dataclass(frozen=True, slots=True)
class Restart:
    """What to do when an enclave ends by itself, or does not start.

    Attributes:
        always: start it again; otherwise it has failed for good.
        first: seconds before the first retry; doubled with every further one.
        longest: the most that this becomes.
        reset_after: seconds of running after which earlier failures no longer count.
        give_up_after: failures in a row after which it has failed for good; 0: never.
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
        name: its name in nitro-cli.
        eif: its image.
        memory_mib: MiB.
        cpu_count: how many CPUs, if `cpu_ids` is empty.
        cpu_ids: which CPUs.
        cid: its context id; at least 4. Fixed, since other services are restricted to CIDs.
        debug: debug mode: its console can be read, and its PCRs are zero.
        restart: what to do when it ends.
        poll: seconds between two looks at it.
        agent: where its agent listens for the parent; None: it is not asked anything.
        stop_timeout: seconds that its program gets to end.
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
    agent: Address | None = None
    stop_timeout: float = STOP_TIMEOUT

    @property
    def cpus(self) -> int:
        """How many CPUs it gets."""
        return len(self.cpu_ids) or self.cpu_count


def read_enclaves_section(section: Setting) -> tuple[EnclaveSettings, ...]:
    """Read the value of the key ``enclaves``.

    Raises:
        ConfigurationError: names file and line, and the reason; of each mistake.
    """
    with Mistakes() as mistakes:
        items = section.items(MAX_ENCLAVES)
        enclaves = tuple(mistakes.take(partial(_read, item)) for item in items)
        for one, other in combinations(items, 2):
            _check_distinct(mistakes, one, other)
    return enclaves


def check_memory(settings: EnclaveSettings, eif_size: int) -> None:
    """Check that an image of `eif_size` bytes fits; nitro-cli's error would be E26.

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


def _check_distinct(mistakes: Mistakes, one: Setting, other: Setting) -> None:
    """Compare two enclaves as the file has them; other mistakes in them do not matter."""
    names = [attempt(partial(_value, item, "name", _name)) for item in (one, other)]
    cids = [attempt(partial(_value, item, "cid", _cid)) for item in (one, other)]
    cpus = [attempt(partial(_value, item, "cpus", _cpus)) for item in (one, other)]
    agents = [attempt(partial(_value, item, "agent", _any_agent)) for item in (one, other)]
    if names[0] is not None and names[0] == names[1]:
        mistakes.add(other.wrong(f"two enclaves with the name {names[0]}"))
    which = " and ".join(name or "another" for name in names)
    if cids[0] is not None and cids[0] == cids[1]:
        mistakes.add(other.wrong(f"{which} have the same CID {cids[0]}"))
    ids = [set(each[1]) if each else set() for each in cpus]
    if shared := ids[0] & ids[1]:
        mistakes.add(other.wrong(f"{which} share CPU {min(shared)}"))
    if agents[0] is not None and agents[0] == agents[1]:
        # One would be asked to end in the place of the other, and its numbers shown for both.
        mistakes.add(other.wrong(f"{which} have the same agent {agents[0]}"))


def _value(item: Setting, key: str, read: Callable[[Setting], T]) -> T | None:
    value = item.child(key)
    return None if value is None else read(value)


def _read(item: Setting) -> EnclaveSettings:
    with item.reading(
        *("name", "eif", "memory_mib", "cpus", "cid", "debug", "restart", "poll", "agent"),
        "stop_timeout",
        required=("name", "eif", "memory_mib", "cpus", "cid"),
    ) as keys:
        name = keys.read("name", _name)
        eif = keys.read("eif", _absolute)
        memory_mib = keys.read("memory_mib", _memory)
        cpus = keys.read("cpus", _cpus)
        cid = keys.read("cid", _cid)
        debug = keys.read("debug", lambda value: value.boolean(), False)  # noqa: FBT003
        restart = keys.read("restart", _restart, Restart())
        poll = keys.read("poll", lambda value: value.duration(0.1, 3600), POLL)
        agent = keys.read("agent", lambda value: _agent(value, cid), None)
        stop_timeout = keys.read(
            "stop_timeout", lambda value: value.duration(0.1, 600), STOP_TIMEOUT
        )
        if not keys.failed and "stop_timeout" in keys and agent is None:
            keys.add(keys["stop_timeout"].wrong("without `agent`: nothing in the enclave is asked"))
    count, ids = cpus
    return EnclaveSettings(
        name, eif, memory_mib, cid,
        cpu_count=count, cpu_ids=ids, debug=debug, restart=restart, poll=poll,
        agent=agent, stop_timeout=stop_timeout,
    )  # fmt: skip


def _name(value: Setting) -> str:
    name = value.string(most=63)
    if not _NAME.fullmatch(name):
        raise value.wrong(
            f"{name!r} is not a valid name",
            hint="use letters, digits, '.', '_' and '-'; begin with a letter or a digit",
        )
    return name


def _absolute(value: Setting) -> Path:
    path = Path(value.string())
    if not path.is_absolute():
        raise value.wrong("not an absolute path")
    return path


def _agent(value: Setting, cid: int | None) -> Address:
    address = value.address()
    if isinstance(address, VsockAddress) and address.cid == cid:
        return address
    if isinstance(address, UnixAddress | HybridAddress):
        return address
    raise value.wrong(
        "not a vsock address of this enclave",
        hint=f"write vsock://{'CID' if cid is None else cid}:{CONTROL_PORT}, and run its agent "
        f"with --control vsock://any:{CONTROL_PORT}",
    )


def _memory(value: Setting) -> int:
    try:
        return value.integer(MIN_MEMORY_MIB, 1 << 24)
    except ConfigurationError as e:
        e.hint = (
            f"write MiB, such as 512: at least {MIN_MEMORY_MIB}, and {EIF_RATIO} times the image"
        )
        raise


def _any_agent(value: Setting) -> Address | None:
    # Those with a CID are told apart by it, and another enclave's is another mistake.
    address = value.address()
    return None if isinstance(address, VsockAddress) else address


def _cid(value: Setting) -> int:
    cid = value.integer(0, MAX_VSOCK)
    if not VMADDR_CID_PARENT < cid < MAX_VSOCK:
        raise value.wrong(
            f"{cid} cannot be the CID of an enclave",
            hint="CIDs 0 to 3 have fixed meanings and the last is a wildcard: take 4 or more",
        )
    return cid


def _cpus(value: Setting) -> tuple[int, tuple[int, ...]]:
    if value.is_mapping:
        raise value.wrong("a mapping, not a number of CPUs or a list of CPU ids, such as [1, 3]")
    if not value.is_list:
        try:
            return value.integer(1, 1024), ()
        except ConfigurationError as e:
            e.hint = "write a number of CPUs, such as 2, or a list of CPU ids, such as [1, 3]"
            raise
    # CPU 0 stays with the parent, always.
    ids = tuple(value.each(lambda item: item.integer(1, 8191), 1024))
    if not ids:
        raise value.wrong("no CPU")
    if len(set(ids)) != len(ids):
        raise value.wrong("one CPU twice")
    return 0, ids


def _restart(value: Setting) -> Restart:
    default = Restart()
    with value.reading("policy", "first", "longest", "reset_after", "give_up_after") as keys:
        first = _seconds(keys, "first", default.first)
        longest = _seconds(keys, "longest", default.longest)
        if not keys.failed and longest < first:
            if "longest" in keys:
                keys.add(keys["longest"].wrong("shorter than the first"))
            longest = first
        return Restart(
            always=keys.read("policy", lambda word: word.choice("always", "never"), "always")
            == "always",
            first=first,
            longest=longest,
            reset_after=_seconds(keys, "reset_after", default.reset_after),
            give_up_after=keys.read("give_up_after", lambda n: n.integer(0, 1_000_000), 0),
        )


def _seconds(keys: Keys, key: str, otherwise: float) -> float:
    return keys.read(key, lambda value: value.duration(0.1, 86400), otherwise)
