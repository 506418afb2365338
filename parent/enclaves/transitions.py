"""The states of an enclave, and every change of them. No I/O."""

from __future__ import annotations

import enum
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Mapping


class State(enum.StrEnum):
    """The state of an enclave."""

    LOOKING = "looking"
    READY = "ready"
    STARTING = "starting"
    RUNNING = "running"
    WAITING = "waiting"
    CONFLICT = "conflict"
    FAILED = "failed"
    RESTARTING = "restarting"
    STOPPING = "stopping"
    STOPPED = "stopped"


class Event(enum.StrEnum):
    """What changes the state."""

    SEEN = "ours is seen to run, or was started"
    CLEAR = "a complete look shows neither ours nor another with its name or CID"
    TAKEN = "a complete look shows another enclave with its name or CID"
    RUN = "the command to start it was given"
    FAILURE = "it did not start, or ended by itself; it is to be started later"
    LAST_FAILURE = "the same, and the settings say not to start it any more"
    RECONFIGURED = "other settings"
    RESTART = "told to restart"
    REMAINS = "ours could not be ended"
    STOP = "told to stop; one of ours may exist"
    STOP_IDLE = "told to stop; none of ours exists"
    GONE = "none of ours exists any more, or the last attempt failed"


TRANSITIONS: Final[Mapping[tuple[State, Event], State]] = {
    (State.LOOKING, Event.SEEN): State.RUNNING,
    (State.LOOKING, Event.CLEAR): State.READY,
    (State.LOOKING, Event.TAKEN): State.CONFLICT,
    (State.READY, Event.RUN): State.STARTING,
    (State.STARTING, Event.SEEN): State.RUNNING,
    (State.STARTING, Event.FAILURE): State.WAITING,
    (State.STARTING, Event.LAST_FAILURE): State.FAILED,
    (State.RUNNING, Event.SEEN): State.RUNNING,
    (State.RUNNING, Event.FAILURE): State.WAITING,
    (State.RUNNING, Event.LAST_FAILURE): State.FAILED,
    (State.RUNNING, Event.RESTART): State.RESTARTING,
    (State.RESTARTING, Event.SEEN): State.RESTARTING,
    (State.RESTARTING, Event.CLEAR): State.READY,
    (State.RESTARTING, Event.TAKEN): State.CONFLICT,
    (State.RESTARTING, Event.REMAINS): State.WAITING,
    (State.WAITING, Event.RESTART): State.WAITING,
    (State.WAITING, Event.SEEN): State.RUNNING,
    (State.WAITING, Event.CLEAR): State.READY,
    (State.WAITING, Event.TAKEN): State.CONFLICT,
    (State.CONFLICT, Event.SEEN): State.RUNNING,
    (State.CONFLICT, Event.CLEAR): State.READY,
    (State.CONFLICT, Event.TAKEN): State.CONFLICT,
    (State.FAILED, Event.RECONFIGURED): State.WAITING,
    (State.FAILED, Event.RESTART): State.WAITING,
    (State.STOPPING, Event.SEEN): State.STOPPING,
    (State.STOPPING, Event.GONE): State.STOPPED,
    (State.LOOKING, Event.STOP_IDLE): State.STOPPED,
    (State.READY, Event.STOP_IDLE): State.STOPPED,
    (State.CONFLICT, Event.STOP_IDLE): State.STOPPED,
    (State.WAITING, Event.STOP_IDLE): State.STOPPED,
    (State.FAILED, Event.STOP_IDLE): State.STOPPED,
    (State.STARTING, Event.STOP): State.STOPPING,
    (State.RUNNING, Event.STOP): State.STOPPING,
    (State.RESTARTING, Event.STOP): State.STOPPING,
    (State.WAITING, Event.STOP): State.STOPPING,
    (State.FAILED, Event.STOP): State.STOPPING,
}
"""What is not in the table cannot happen: the driver reports only what it was told to do."""
