"""What commands take from outside, in one place: tests hand in their own, nothing else can."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from enclave.agent import Agent
    from enclave.nsm import DevNsm, NsmDevice


def _agent(**settings: Any) -> Agent:
    from enclave.agent import Agent  # noqa: PLC0415 (TLS and RSA: not every command needs them)

    return Agent(**settings)


def _device() -> DevNsm:
    from enclave.nsm import DevNsm  # noqa: PLC0415 (as above)

    return DevNsm()


@dataclass(frozen=True, slots=True)
class Surroundings:
    """The world as a command sees it; by default the real one.

    Attributes:
        agent: makes an `Agent` from its arguments.
        device: opens the NSM.
        now: the time, UTC.
        environ: variables.
    """

    agent: Callable[..., Agent] = _agent
    device: Callable[[], DevNsm | NsmDevice] = _device
    now: Callable[[], datetime] = lambda: datetime.now(UTC)
    environ: Mapping[str, str] = field(default_factory=lambda: os.environ)
