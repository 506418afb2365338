"""The faults of a soak: how each begins and how it ends."""

from __future__ import annotations

import random
import signal
from typing import TYPE_CHECKING

from enclave_simulator.kms.faults import FAULTS as KMS_FAULTS
from tests.programs.endpoint_client import EndpointClient, NoAnswerError
from tests.programs.soak.parts import DEADLINE
from tests.programs.soak.schedule import Kind

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.programs.soak.parts import Chain, Part

_NSM_ERRORS = ("InternalError", "InvalidOperation", "BufferTooSmall", "InvalidResponse")
_SKEWS = (-900.0, -310.0, 310.0, 900.0)
"""Seconds; KMS tolerates 300."""

_UNSEEN = ("wrong-length", "extra-length")
"""Of a Decrypt, only KMS knows how long the plaintext is: clients would count a wrong result."""

_NSM_SKEWS = (-150.0, 150.0, 250.0)
"""Seconds. A document is used for two minutes; with these it stays within the five that KMS
tolerates. Beyond, KMS rejects the document until it is renewed, which may be after the fault."""

Fault = tuple["Callable[[Chain], object]", "Callable[[Chain], object]"]
"""How it begins, how it ends."""


def _part(made: Chain, name: str) -> Part:
    return next(part for part in made.parts if part.name == name)


def _kill(name: str) -> Fault:
    return (lambda made: _part(made, name).kill(), lambda made: _part(made, name).start())


def _stop(name: str) -> Fault:
    def begin(made: Chain) -> None:
        part = _part(made, name)
        part.impair()
        part.signal(signal.SIGSTOP)

    def end(made: Chain) -> None:
        part = _part(made, name)
        part.signal(signal.SIGCONT)
        part.free()

    return begin, end


def _starve(name: str) -> Fault:
    def begin(made: Chain) -> None:
        part = _part(made, name)
        part.impair()
        part.limit(2)

    def end(made: Chain) -> None:
        part = _part(made, name)
        part.limit(None)
        part.free()

    return begin, end


def _kms(fault: str) -> Fault:
    return (lambda made: made.tell(fault=fault), lambda made: made.tell(fault=""))


def _nothing(_: Chain) -> None:
    """Do nothing: the fault ended when it began, or ends by itself."""


def of_key(made: Chain, operation: str) -> bool:
    """Have an endpoint call an operation for the key; return whether it succeeded.

    Among other faults it may fail: then the key stays as it was.
    """
    with EndpointClient(next(iter(made.agents)), timeout=DEADLINE) as client:
        try:
            return client.call(operation, {"KeyId": made.key})[0] == 200
        except NoAnswerError:
            return False


def faults(seed: int) -> dict[str, tuple[Kind, Fault]]:
    """Return every fault by its name; details that a seed chooses are the same each time."""
    choose = random.Random(seed)  # noqa: S311 (as in `schedule`)

    def nsm_ahead(made: Chain) -> None:
        made.nsm_ahead[0] = choose.choice(_NSM_SKEWS)

    def nsm_right(made: Chain) -> None:
        made.nsm_ahead[0] = 0.0

    def nsm_fails(made: Chain) -> None:
        choose.choice(made.nsms).fail_with(choose.choice(_NSM_ERRORS))

    def nsm_garbage(made: Chain) -> None:
        choose.choice(made.nsms).respond_with(choose.randbytes(choose.randrange(200)))

    def nsm_truncates(made: Chain) -> None:
        choose.choice(made.nsms).truncate(choose.randrange(1000))

    def nsm_heals(made: Chain) -> None:
        for nsm in made.nsms:
            nsm.heal()

    table: list[tuple[Kind, Fault]] = [
        # Processes.
        (Kind("kms killed", 0, 0.5, 4), _kill("kms")),
        (Kind("kms stopped", 0, 0.5, 6), _stop("kms")),
        (Kind("parent killed", 0, 0.5, 4, 3, kills=True), _kill("parent")),
        (Kind("parent stopped", 0, 0.5, 6), _stop("parent")),
        (Kind("parent starved of descriptors", 0, 1, 5), _starve("parent")),
        (Kind("parent reloads", 0, 0.1, 0.5, 1),
            (lambda made: made.parent.signal(signal.SIGHUP), _nothing)),
        (Kind("agent killed", 0, 0.5, 3, 1, kills=True), _kill("agent")),
        (Kind("agent --pool killed", 0, 0.5, 3, 1, kills=True), _kill("agent --pool")),
        (Kind("agent stopped", 0, 0.5, 6), _stop("agent")),
        (Kind("agent starved of descriptors", 0, 1, 5), _starve("agent")),
        (Kind("agent --pool starved of descriptors", 0, 1, 5), _starve("agent --pool")),
        # The world.
        (Kind("credentials rotated", 1, 0.1, 0.5, 4),
            (lambda made: made.issue(revoke=False), _nothing)),
        (Kind("credentials revoked", 1, 0.5, 2), (lambda made: made.issue(revoke=True), _nothing)),
        (Kind("key rotated", 1, 0.1, 0.5, 3),
            (lambda made: of_key(made, "RotateKeyOnDemand"), _nothing)),
        (Kind("key disabled", 1, 0.5, 3),
            (lambda made: of_key(made, "DisableKey"),
             lambda made: of_key(made, "EnableKey"))),
        (Kind("kms's clock moved", 1, 1, 4),
            (lambda made: made.tell(ahead=choose.choice(_SKEWS)),
             lambda made: made.tell(ahead=0.0))),
        (Kind("nsm's clock moved", 1, 1, 4), (nsm_ahead, nsm_right)),
        (Kind("nsm fails", 1, 0.5, 4), (nsm_fails, nsm_heals)),
        (Kind("nsm gives garbage", 1, 0.5, 3, 1), (nsm_garbage, nsm_heals)),
        (Kind("nsm truncates", 1, 0.5, 3, 1), (nsm_truncates, nsm_heals)),
        *(
            (Kind(f"kms: {name}", 1, 0.3, 3, 1), _kms(name))
            for name in KMS_FAULTS
            if name not in _UNSEEN
        ),
    ]  # fmt: skip
    return {kind.name: (kind, fault) for kind, fault in table}
