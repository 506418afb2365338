"""Why the simulated KMS refused: which statement, which condition, wanted and got. No I/O.

KMS itself tells a caller nothing of this; a developer sees it on the simulator's standard error.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from enclave_simulator.kms.policy import Verdict

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from enclave_simulator.kms.policy import Access, Condition, Policy, Statement

_ATTESTED = "kms:recipientattestation:"
_SHOWN = 8
"""Conditions shown for one statement."""


def explain(access: Access, policy: Policy | None, which: str, *, explicit: bool) -> list[str]:
    """Return lines that say why a policy denies an access.

    Args:
        access: the access.
        policy: the policy that denies it; None explains nothing.
        which: the policy's name in the lines, for example ``key policy``.
        explicit: a Deny statement applies.
    """
    if policy is None:
        return []
    numbered = [
        (
            f"{which}, statement {number}" + (f" ({statement.sid})" if statement.sid else ""),
            statement,
        )
        for number, statement in enumerate(policy.statements, 1)
    ]
    if explicit:
        return [
            line
            for where, statement in numbered
            if statement.verdict(access) is Verdict.DENIED
            for line in (
                f"{where}: denies {access.action}",
                *(f"{where}: {line}" for line in _conditions(statement.conditions, access)),
            )
        ]
    about = [
        (where, statement)
        for where, statement in numbered
        if statement.allows and statement.is_about(access.action)
    ]
    if not about:
        return [f"{which}: no statement allows {access.action}"]
    return [f"{where}: {line}" for where, each in about for line in _unmet(each, access)]


def _unmet(statement: Statement, access: Access) -> Iterator[str]:
    """Yield why a statement that allows the action does not apply."""
    if not statement.names(access.principal):
        wanted = ", ".join(statement.principals or ()) or "none that can call the simulator"
        yield f"Principal: wanted {wanted}; got {access.principal}"
        return
    failed = [each for each in statement.conditions if not each.holds(access.context)]
    if not failed:
        yield f"Resource: does not match {access.resource}"
    yield from _conditions(failed, access)


def _conditions(conditions: Iterable[Condition], access: Access) -> Iterator[str]:
    for condition in tuple(conditions)[:_SHOWN]:
        got = access.context.get(condition.key)
        if got is None:
            shown = "none"
            attested = any(key.startswith(_ATTESTED) for key in access.context)
            if condition.key.startswith(_ATTESTED) and not attested:
                shown = "none: the request has no attestation document"
        else:
            shown = " or ".join(got)
        yield f"{condition.written}: wanted {' or '.join(condition.expected)}; got {shown}"
