"""What ``key-policy lint`` finds. No I/O."""

from __future__ import annotations

import enum
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from parent.policy.actions import Platform
    from parent.policy.language import Statement


@dataclass(frozen=True, slots=True)
class Options:
    """How a policy is meant.

    Attributes:
        platform: whose documents; None: a statement with NitroTPM keys only is for instances,
            any other for enclaves.
        is_immutable: the policy must never change.
    """

    platform: Platform | None = None
    is_immutable: bool = False


class Severity(enum.Enum):
    """How bad a finding is."""

    ERROR = "error"
    """Secrets may leave, or those who should be allowed are not."""
    WARNING = "warning"
    """Doubtful, or without effect."""


@dataclass(frozen=True, slots=True)
class Finding:
    """A mistake in a policy.

    Attributes:
        rule: its name.
        statement: where it is.
        line: where that begins; 0 if it is about the whole policy.
        message: what is wrong.
        change: what to do about it.
        severity: how bad it is.
    """

    rule: str
    statement: str
    line: int
    message: str
    change: str
    severity: Severity = Severity.ERROR

    @property
    def is_error(self) -> bool:
        """Whether it is more than doubtful."""
        return self.severity is Severity.ERROR

    def __str__(self) -> str:
        where = f"line {self.line}, {self.statement}" if self.line else self.statement
        return f"{self.severity.value}: {where}: {self.message} [{self.rule}]"


def at(
    statement: Statement,
    rule: str,
    message: str,
    change: str,
    severity: Severity = Severity.ERROR,
) -> Finding:
    """Return a finding about a statement."""
    return Finding(rule, statement.name, statement.line, message, change, severity)
