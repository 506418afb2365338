"""The dependencies of commands: agents, the NSM, the time, variables. Tests bring their own."""

from __future__ import annotations

import contextlib
import logging
import os
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from contextlib import AbstractContextManager

    from enclave.agent import Agent
    from enclave.attester import Attester
    from enclave.nsm import NsmDevice


log = logging.getLogger(__name__)


def _agent(**settings: Any) -> Agent:
    from enclave.agent import Agent  # noqa: PLC0415 (TLS and RSA: not every command needs them)

    return Agent(**settings)


def _device() -> AbstractContextManager[NsmDevice]:
    from enclave.nsm import DevNsm  # noqa: PLC0415 (as above)

    return DevNsm()


@contextlib.contextmanager
def _attester(name: str) -> Iterator[Attester]:
    from enclave.attester import find_attester  # noqa: PLC0415 (as above)

    found = find_attester(name)
    log.info("the attester is %s", found.title)
    with found.device or contextlib.nullcontext():
        yield found.attester


@dataclass(frozen=True, slots=True)
class Environment:
    """Dependencies of a command; the defaults are the real ones.

    Attributes:
        agent: makes an `Agent` from its arguments.
        device: opens the NSM, for a `with` block.
        attester: finds the attester by its name, for a `with` block.
        now: the time, UTC.
        environ: variables.
    """

    agent: Callable[..., Agent] = _agent
    device: Callable[[], AbstractContextManager[NsmDevice]] = _device
    attester: Callable[[str], AbstractContextManager[Attester]] = _attester
    now: Callable[[], datetime] = lambda: datetime.now(UTC)
    environ: Mapping[str, str] = field(default_factory=lambda: os.environ)
