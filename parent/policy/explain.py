"""Why KMS refuses: which condition was not met, and by what value. Pure.

KMS's own words name the kind of policy at best (IAM User Guide, "Troubleshoot access denied
error messages"). What is known here is the policy and what the enclave measures; of conditions
on anything else it is said that nothing is known.
"""

from __future__ import annotations

import enum
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from parent.policy.language import PolicyError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from parent.policy.language import Condition, Statement
    from parent.policy.measured import Measured

_DENIED = re.compile(
    r"User: (?P<principal>arn:\S+) is not authorized to perform: (?P<action>kms:\w+)"
    r"(?: on resource: \S+)?"
    r"(?: (?:with an explicit deny in an?|because no) (?P<policy>[a-z-]+))?"
)


class Outcome(enum.Enum):
    """What the policy makes of a request."""

    ALLOWED = "allowed"
    DENIED = "explicitly denied"
    NOT_ALLOWED = "not allowed by any statement"
    UNKNOWN = "not to be told from what is known"


@dataclass(frozen=True, slots=True)
class Request:
    """What was asked of KMS.

    Attributes:
        action: for example ``kms:Decrypt``.
        principal: ARN of who asked; None: whoever the policy means.
        refused_by: the kind of policy that KMS named, for example ``identity-based``, or None.
    """

    action: str
    principal: str | None = None
    refused_by: str | None = None


@dataclass(frozen=True, slots=True)
class Check:
    """One condition of a statement.

    Attributes:
        condition: what it says.
        actual: the value in the request; None: none there, or nothing known of it.
        is_met: None where that cannot be told.
        remark: what may be the reason, or empty.
    """

    condition: Condition
    actual: str | None
    is_met: bool | None
    remark: str


@dataclass(frozen=True, slots=True)
class Step:
    """One statement that is about the request.

    Attributes:
        statement: which.
        checks: its conditions.
        applies: None where that cannot be told.
    """

    statement: Statement
    checks: tuple[Check, ...]
    applies: bool | None


@dataclass(frozen=True, slots=True)
class Explanation:
    """What the policy makes of a request, and why.

    Attributes:
        request: what was asked.
        outcome: the policy's word.
        steps: the statements that are about the action and the caller.
        remark: what KMS's message says that the policy does not, or empty.
    """

    request: Request
    outcome: Outcome
    steps: tuple[Step, ...]
    remark: str

    def lines(self) -> Iterator[str]:
        """Yield it for a person."""
        caller = f" by {self.request.principal}" if self.request.principal else ""
        yield f"{self.request.action}{caller}: {self.outcome.value}"
        if self.remark:
            yield self.remark
        for step in self.steps:
            word = {True: "applies", False: "does not apply", None: "may apply"}[step.applies]
            effect = "Allow" if step.statement.allows else "Deny"
            yield f"{step.statement.name} ({effect}) {word}"
            for check in step.checks:
                word = {True: "met", False: "NOT met", None: "unknown"}[check.is_met]
                yield f"  {check.condition}: {word}"
                yield f"    wanted {' or '.join(check.condition.values)}"
                if check.is_met is not None:
                    yield f"    got    {check.actual or 'none'}"
                if check.remark:
                    yield f"    {check.remark}"
        if not self.steps:
            yield "no statement is about this action and this caller"

    def as_json(self) -> dict[str, Any]:
        """Return it for a program."""
        return {
            "Action": self.request.action,
            "Principal": self.request.principal,
            "Outcome": self.outcome.name,
            "Remark": self.remark,
            "Statements": [
                {
                    "Name": step.statement.name,
                    "Effect": "Allow" if step.statement.allows else "Deny",
                    "Applies": step.applies,
                    "Conditions": [
                        {
                            "Condition": str(check.condition),
                            "Expected": list(check.condition.values),
                            "Actual": check.actual,
                            "Met": check.is_met,
                            "Remark": check.remark,
                        }
                        for check in step.checks
                    ],
                }
                for step in self.steps
            ],
        }


def read_refusal(text: str) -> Request:
    """Read the message of KMS's AccessDeniedException.

    Raises:
        PolicyError: it is another message.
    """
    found = _DENIED.search(text)
    if not found:
        raise PolicyError('that is not KMS\'s "User: ... is not authorized to perform: kms:..."')
    return Request(found["action"], found["principal"], found["policy"])


def explain(
    statements: Sequence[Statement], request: Request, measured: Measured | None
) -> Explanation:
    """Return what a policy makes of a request, and why.

    Args:
        statements: the policy's.
        request: what was asked.
        measured: the enclave's PCRs; None: the request had no attestation document.
    """
    steps = tuple(
        _step(statement, measured)
        for statement in statements
        if statement.covers(request.action)
        and (request.principal is None or statement.names(request.principal))
    )
    remark = ""
    if request.refused_by and request.refused_by != "resource-based":
        remark = f"KMS says that the refusal comes from an {request.refused_by} policy: look there"
    return Explanation(request, _outcome(steps), steps, remark)


def _outcome(steps: Sequence[Step]) -> Outcome:
    """IAM User Guide, "Policy evaluation logic": a Deny beats an Allow beats nothing."""
    denies = [step.applies for step in steps if not step.statement.allows]
    allows = [step.applies for step in steps if step.statement.allows]
    if True in denies:
        return Outcome.DENIED
    if None in denies:
        return Outcome.UNKNOWN
    if True in allows:
        return Outcome.ALLOWED
    return Outcome.UNKNOWN if None in allows else Outcome.NOT_ALLOWED


def _step(statement: Statement, measured: Measured | None) -> Step:
    context = measured.context() if measured else {}
    checks = []
    for condition in statement.conditions:
        actual = context.get(condition.key.lower())
        is_met = condition.holds(context)
        remark = "" if is_met else _remark(condition, actual, measured)
        if is_met is None:
            remark = "cannot be told here"
        checks.append(Check(condition, actual, is_met, remark))
    results = [check.is_met for check in checks]
    applies = False if False in results else None if None in results else True
    return Step(statement, tuple(checks), applies)


def _remark(condition: Condition, actual: str | None, measured: Measured | None) -> str:
    if condition.operator == "Null" or condition.is_negated:
        return ""
    if measured is None:
        return "the request had no attestation document"
    if actual is None:
        return "the document has no such PCR, or there is no such key"
    if not int(actual, 16):
        if measured.is_debug:
            return "the enclave runs in debug mode: PCR0-2 are zero"
        return "nothing was measured into this PCR: PCR8 needs a signed image"
    if actual in [value.lower() for value in condition.values]:
        return "only the case differs: use StringEqualsIgnoreCase"
    return "the document is of another image, or the policy is of another version"
