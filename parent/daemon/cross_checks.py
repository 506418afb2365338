"""Checks of a configuration that concern several sections. No I/O.

They read the file itself, not the settings made of it, so that a mistake in one section does not
hide others. Values that cannot be read are skipped; the reader of their section reports them.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import combinations
from typing import TYPE_CHECKING, Final, TypeGuard

from parent.credentials.settings import DEFAULT_ADDRESS as CREDENTIALS
from parent.daemon.overlaps import overlap, reaches
from parent.logs.settings import LISTEN as LOGS
from vsock_proxy.net.addresses import (
    MAX_VSOCK,
    Address,
    VsockAddress,
)
from vsock_proxy.service.mistakes import attempt

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from vsock_proxy.errors import ConfigurationError
    from vsock_proxy.service.settings import Setting

HEARTBEAT_PORT: Final = 9000
"""vsock port on which nitro-cli waits for the first byte of an enclave that it starts
(aws-nitro-enclaves-cli, ENCLAVE_READY_VSOCK_PORT)."""

_DEFAULTS: Final[Mapping[str, Address | None]] = {
    "credentials": CREDENTIALS,
    "logs": LOGS,
    "operations": None,
}


@dataclass(frozen=True, slots=True)
class _Listener:
    title: str
    where: Setting
    address: Address
    section: Setting


def listener_mistakes(sections: Mapping[str, Setting]) -> list[ConfigurationError]:
    """Return an error for each listener whose address is taken."""
    listeners = list(_listeners(sections))
    mistakes: list[ConfigurationError] = []
    for one, other in combinations(listeners, 2):
        # Two forwards with the very same address: the section `proxy` sees to these.
        both_forwards = all(
            each.title == "`egress`" or each.title.startswith("forward ") for each in (one, other)
        )
        if overlap(one.address, other.address) and not (
            both_forwards and one.address == other.address
        ):
            mistakes.append(
                other.where.wrong(
                    f"{other.address} is taken: {one.title} listens on {one.address} "
                    f"(line {one.where.line})",
                    hint="give one of them another address",
                )
            )
    cids = {_integer(enclave.child("cid")) for enclave in _enclaves(sections)} - {None}
    mistakes += [
        each.where.wrong(
            f"{each.address}: CID {each.address.cid} is that of an enclave of this file",
            hint="`listen` names a CID of this machine; to restrict it to enclaves, write "
            f"listen: vsock://any:{each.address.port} and cids: [{each.address.cid}]",
        )
        for each in listeners
        if isinstance(each.address, VsockAddress)
        and each.address.cid in cids
        # Otherwise `read_cids` has told of it.
        and each.address.cid not in map(_integer, _items(each.section.child("cids")))
    ]
    mistakes += _loops(sections)
    if _enclaves(sections):
        mistakes += [
            each.where.wrong(
                f"vsock port {HEARTBEAT_PORT} is taken: nitro-cli waits there for the first byte "
                "of each enclave that it starts",
                hint="choose another port: an enclave of this file could not be started",
            )
            for each in listeners
            if isinstance(each.address, VsockAddress) and each.address.port == HEARTBEAT_PORT
        ]
    return mistakes


def warnings_of(sections: Mapping[str, Setting]) -> list[str]:
    """Return what is permitted but may be a mistake, each with file and line."""
    return unknown_cids(sections) + _nothing_allowed(sections)


def _nothing_allowed(sections: Mapping[str, Setting]) -> list[str]:
    """Return a warning for each empty list of who may connect, or to where.

    Not an error: a reload with such a list shuts a client out, and must not be rejected.
    """
    warnings = [
        cids.wrong("an empty list: no enclave may connect; for all, write any")
        for owner in _cid_owners(sections)
        if _is_empty(cids := owner.child("cids"))
    ]
    proxy = sections.get("proxy")
    if proxy and not any(True for _ in (*_forwards(sections), *_egress(sections))):
        listed = proxy.child("forwards") or proxy.child("egress")
        if _is_empty(listed):
            warnings.append(listed.wrong("an empty list: the proxy listens nowhere"))
    common = proxy.child("allowlist") if proxy else None
    for egress in _egress(sections):
        allowlist = egress.child("allowlist") or common
        if allowlist is None or _is_empty(allowlist):
            where = allowlist or egress
            warnings.append(
                where.wrong("`egress` has no host that may be connected to: its allowlist is empty")
            )
    return [str(each) for each in warnings]


def _is_empty(setting: Setting | None) -> TypeGuard[Setting]:
    return setting is not None and setting.is_list and not attempt(setting.items)


def unknown_cids(sections: Mapping[str, Setting]) -> list[str]:
    """Return a warning for each CID that no enclave of the file has.

    Not an error: an enclave may be started by something else. Without `enclaves` in the file, and
    if the CID of one of them cannot be read, there is nothing to compare with.
    """
    enclaves = _enclaves(sections)
    known: set[int] = set()
    for enclave in enclaves:
        cid = _integer(enclave.child("cid"))
        if cid is None:
            return []
        known.add(cid)
    warnings = []
    for owner in _cid_owners(sections) if enclaves else ():
        for item in _items(owner.child("cids")):
            cid = _integer(item)
            if cid is not None and cid not in known:
                have = ", ".join(map(str, sorted(known)))
                warnings.append(
                    f"{item.source}:{item.line}: cids: no enclave of this file has CID {cid}; "
                    f"they have {have}"
                )
    return warnings


def _listeners(sections: Mapping[str, Setting]) -> Iterator[_Listener]:
    for number, forward in enumerate(_forwards(sections), 1):
        where = forward.child("listen")
        address = _address(where)
        if where and address:
            name = forward.child("name")
            title = f"forward {(attempt(name.string) if name else None) or number}"
            yield _Listener(title[:100], where, address, forward)
    for each in _egress(sections):
        where = each.child("listen")
        address = _address(where)
        if where and address:
            yield _Listener("`egress`", where, address, each)
    for section_name, default in _DEFAULTS.items():
        section = sections.get(section_name)
        if section is None:
            continue
        where = section.child("listen")
        address = _address(where) if where else default
        if address:
            yield _Listener(f"`{section_name}`", where or section, address, section)
        control = section.child("control") if section_name == "operations" else None
        if control and (address := _address(control)):
            yield _Listener("`operations.control`", control, address, section)


def _cid_owners(sections: Mapping[str, Setting]) -> Iterator[Setting]:
    yield from _forwards(sections)
    yield from _egress(sections)
    for name in ("credentials", "logs"):
        if name in sections:
            yield sections[name]


def _loops(sections: Mapping[str, Setting]) -> list[ConfigurationError]:
    """Return an error for each forward that leads, perhaps through others, to its own listener."""
    forwards = [
        (each, listen, to)
        for each in _forwards(sections)
        if (listen := _address(each.child("listen"))) and (to := _address(each.child("to")))
    ]
    following = [
        [number for number, (_, listen, _) in enumerate(forwards) if reaches(to, listen)]
        for _, _, to in forwards
    ]
    mistakes: list[ConfigurationError] = []
    rings: list[set[int]] = []
    for start, (forward, listen, _) in enumerate(forwards):
        seen: set[int] = set()
        waiting = list(following[start])
        while waiting:
            number = waiting.pop()
            if number not in seen:
                seen.add(number)
                waiting += following[number]
        # One error for each ring: at the first forward in it.
        if start in seen and not any(start in ring for ring in rings):
            rings.append(seen)
            where = forward.child("to") or forward
            mistakes.append(
                where.wrong(
                    f"leads back to {listen}, where this forward listens",
                    hint="each connection would open another one, up to the limit of connections",
                )
            )
    return mistakes


def _enclaves(sections: Mapping[str, Setting]) -> list[Setting]:
    return _items(sections.get("enclaves"))


def _forwards(sections: Mapping[str, Setting]) -> list[Setting]:
    proxy = sections.get("proxy")
    return _items(proxy.child("forwards") if proxy else None)


def _egress(sections: Mapping[str, Setting]) -> list[Setting]:
    proxy = sections.get("proxy")
    egress = proxy.child("egress") if proxy else None
    if egress is None:
        return []
    return _items(egress) if egress.is_list else [egress]


def _items(setting: Setting | None) -> list[Setting]:
    return (attempt(setting.items) or []) if setting is not None else []


def _address(setting: Setting | None) -> Address | None:
    return attempt(setting.address) if setting is not None else None


def _integer(setting: Setting | None) -> int | None:
    return attempt(lambda: setting.integer(0, MAX_VSOCK)) if setting is not None else None
