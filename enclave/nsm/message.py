"""The base class of NSM messages: frozen values with slots, compared by type and fields. No I/O.

`dataclasses` generates and compiles the methods of each class: for fourteen messages that took
5 to 18 ms of every start. Here they are written once, and type checkers still see the fields.
"""

from __future__ import annotations

from typing import Any, ClassVar, Never, dataclass_transform


@dataclass_transform(frozen_default=True)
class Message:
    """A message; a subclass lists its fields in ``__slots__`` and annotates each.

    Raises:
        TypeError: a field is missing, unknown, or given twice.
    """

    __slots__ = ()
    _secret: ClassVar[bool] = False
    """Whether the fields stay out of the repr."""
    _names: ClassVar[tuple[str, ...]] = ()
    """The fields, in the order of their annotations."""

    def __init_subclass__(cls) -> None:
        cls._names = tuple(cls.__annotations__)

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        names = self._names
        given = dict(zip(names, args, strict=False)) | kwargs
        if len(given) != len(args) + len(kwargs) or given.keys() != set(names):
            raise TypeError(f"{type(self).__name__} takes {', '.join(names) or 'no fields'}")
        for name in names:
            object.__setattr__(self, name, given[name])
        self._check()

    def _check(self) -> None:
        """Raise `ConfigurationError` for a field that no NSM takes."""

    def values(self) -> dict[str, Any]:
        """Return the fields by name, in their order."""
        return {name: getattr(self, name) for name in self._names}

    def __eq__(self, other: object) -> bool:
        return type(other) is type(self) and other.values() == self.values()

    def __hash__(self) -> int:
        return hash((type(self), *self.values().values()))

    def __repr__(self) -> str:
        shown = {} if self._secret else self.values()
        fields = ", ".join(f"{name}={value!r}" for name, value in shown.items())
        return f"{type(self).__name__}({fields})"

    def __setattr__(self, name: str, value: object) -> Never:
        raise AttributeError(f"{type(self).__name__} is frozen: {name} cannot be set")

    def __delattr__(self, name: str) -> Never:
        raise AttributeError(f"{type(self).__name__} is frozen: {name} cannot be deleted")

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), tuple(self.values().values())
