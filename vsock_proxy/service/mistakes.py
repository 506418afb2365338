"""Mistakes in a configuration: errors with their lines, collected and raised together. No I/O."""

from __future__ import annotations

from typing import TYPE_CHECKING, Self, TypeVar, cast

from vsock_proxy.errors import AgentError, ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from types import TracebackType

T = TypeVar("T")


class SettingError(ConfigurationError):
    """One mistake in a file.

    Attributes:
        source: the file.
        line: from 1.
    """

    def __init__(self, source: str, line: int, message: str, *, hint: str = "") -> None:
        super().__init__(f"{source}:{line}: {message}", hint=hint)
        self.source = source
        self.line = line


class ConfigurationErrors(ConfigurationError):  # noqa: N818 (a plural)
    """Several mistakes.

    Attributes:
        errors: each of them; none is a `ConfigurationErrors` itself. If there is only one, its hint
            is also that of the whole.
    """

    def __init__(self, errors: Iterable[AgentError]) -> None:
        # A key that is there three times, say, makes two errors of the same words.
        self.errors = tuple({str(error): error for error in errors}.values())
        hint = self.errors[0].hint if len(self.errors) == 1 else ""
        super().__init__("; ".join(map(str, self.errors)), hint=hint)


def each_error(error: AgentError) -> tuple[AgentError, ...]:
    """Return the errors in a `ConfigurationErrors`; any other error alone."""
    return error.errors if isinstance(error, ConfigurationErrors) else (error,)


def attempt(read: Callable[[], T]) -> T | None:
    """Return what `read` returns; None if it raises ConfigurationError."""
    try:
        return read()
    except ConfigurationError:
        return None


class Mistakes:
    """Collects errors in a ``with`` block and raises them together at its end.

    Attributes:
        errors: those so far.
    """

    def __init__(self) -> None:
        self.errors: list[AgentError] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, _type: object, error: BaseException | None, _traceback: TracebackType | None
    ) -> None:
        if isinstance(error, ConfigurationError):
            self.add(error)
        elif error is not None:
            return
        if len(self.errors) == 1:
            raise self.errors[0]
        if self.errors:
            raise ConfigurationErrors(_in_order(self.errors))

    def add(self, error: ConfigurationError) -> None:
        """Add an error, or several."""
        self.errors.extend(each_error(error))

    def take(self, read: Callable[[], T]) -> T:
        """Return what `read` returns; if it raises, note that and return None in its place.

        None is a lie to the type checker, and harmless: what comes after the block is reached
        only if nothing failed. Inside the block, look at `errors` before using the value.
        """
        try:
            return read()
        except ConfigurationError as e:
            self.add(e)
            return cast("T", None)


def _in_order(errors: Iterable[AgentError]) -> list[AgentError]:
    """Sort by line within each file; files as they came, what has no line first."""
    every = list(errors)
    sources: dict[str, int] = {}
    for error in every:
        if isinstance(error, SettingError):
            sources.setdefault(error.source, len(sources))

    def place(error: AgentError) -> tuple[int, int]:
        return (sources[error.source], error.line) if isinstance(error, SettingError) else (-1, 0)

    return sorted(every, key=place)
