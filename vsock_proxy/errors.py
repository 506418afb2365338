"""`AgentError`, the root of every error this project raises, and the errors of the ground floor.

The public API raises this family and nothing else; any other exception is a bug. `enclave.errors`
adds the errors of the enclave's side.
"""

from __future__ import annotations

from typing import Any, ClassVar

_NOTE = "hint: "


class AgentError(Exception):
    """The root of every error that this project raises.

    Attributes:
        hint: one sentence on what to do about it; `default_hint` of the class if the place that
            raises the error gives none. Commands print it on a line of its own.
    """

    default_hint: ClassVar[str] = ""

    def __init__(self, message: str, *, hint: str = "") -> None:
        super().__init__(message)
        self.hint = hint or self.default_hint

    @property
    def hint(self) -> str:
        """What to do about it. A traceback shows it as a note (PEP 678); `str` stays one line."""
        return self._hint

    @hint.setter
    def hint(self, hint: str) -> None:
        self._hint = hint
        notes = [note for note in getattr(self, "__notes__", ()) if not note.startswith(_NOTE)]
        if hint:
            notes.append(_NOTE + hint)
        self.__notes__ = notes

    def __reduce__(self) -> tuple[Any, ...]:
        # Exception's own calls the class with the message alone, which some classes do not take:
        # the error would be lost on its way out of a process pool.
        return _restore, (type(self), self.args, self.__dict__)


def _restore(
    cls: type[AgentError], args: tuple[Any, ...], attributes: dict[str, Any]
) -> AgentError:
    error = cls.__new__(cls, *args)
    error.__dict__.update(attributes)
    return error


class ConfigurationError(AgentError):
    """An option, variable, file or argument is invalid."""


class DialError(AgentError):
    """Connecting to an address failed: refused, unreachable, timed out, no such name.

    Attributes:
        address: the address as written, for example ``vsock://3:8000``.
    """

    default_hint = "is the address right, and does a server listen there?"

    def __init__(self, address: str, reason: str, *, hint: str = "") -> None:
        super().__init__(f"cannot connect to {address}: {reason}", hint=hint)
        self.address = address
        self.reason = reason


class ListenError(AgentError):
    """Listening on an address failed: in use, not permitted, no such device."""

    default_hint = "is the address right, free, and permitted to this user?"

    def __init__(self, address: str, reason: str, *, hint: str = "") -> None:
        super().__init__(f"cannot listen on {address}: {reason}", hint=hint)
        self.address = address
        self.reason = reason
