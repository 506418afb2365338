"""Why KMS refuses a request: which statement and condition, the value wanted and the value sent.
No I/O.

KMS's own message names the kind of policy at best (IAM User Guide, "Troubleshoot access denied
error messages"). Known here are the policy and what the enclave measures; what else a condition
needs is named.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from parent.policy import evaluate
from parent.policy.actions import (
    ATTESTATION_KEYS,
    ENCLAVE_KEYS,
    SERVICE_KEYS,
    VIA_SERVICE,
    Platform,
    PolicyError,
    find,
    is_condition_key,
)
from parent.policy.evaluate import Document, Outcome, Request
from parent.policy.measured import Measured
from parent.policy.principals import Named

if TYPE_CHECKING:
    from collections.abc import Iterator

    from parent.policy.evaluate import Check, Step
    from parent.policy.language import Policy

_DENIED = re.compile(
    # Printable ASCII only: both are printed.
    r"User: (?P<principal>arn:[!#-~]+) is not authorized to perform: (?P<action>kms:[A-Za-z]+)"
    r"(?: on resource: (?P<key>[!#-~]+))?"
    r"(?: (?:(?P<explicit>with an explicit deny in an?)|because no)"
    r" (?P<policy>(?:[A-Za-z-]+ ){1,3}?(?:policy|boundary))\b)?"
)


@dataclass(frozen=True, slots=True)
class Refusal:
    """KMS's AccessDeniedException.

    Attributes:
        request: the refused request, without its document.
        policy: what KMS names, for example ``identity-based policy``, or None.
        is_explicit: whether KMS says that a Deny refused.
    """

    request: Request
    policy: str | None
    is_explicit: bool


@dataclass(frozen=True, slots=True)
class Explanation:
    """What a policy makes of a request, and why.

    Attributes:
        request: the request.
        outcome: the policy's decision.
        steps: the statements about the action that may be about the caller.
        missing: what would have to be known to tell more.
        remarks: what else matters.
    """

    request: Request
    outcome: Outcome
    steps: tuple[Step, ...]
    missing: tuple[str, ...]
    remarks: tuple[str, ...]

    def lines(self) -> Iterator[str]:
        """Yield it for a person."""
        caller = f" by {self.request.principal}" if self.request.principal else ""
        yield f"{self.request.action.name}{caller}: {self.outcome.value}"
        yield from self.remarks
        for missing in self.missing:
            yield f"not known: {missing}"
        if self.outcome is Outcome.NOT_GOVERNED:
            return
        for step in self.steps:
            word = {True: "applies", False: "does not apply", None: "may apply"}[step.applies]
            statement = step.statement
            yield f"{statement.name} (line {statement.line}, {statement.effect}) {word}"
            yield from _resource_lines(step)
            for check in step.checks:
                word = {True: "met", False: "NOT met", None: "not known"}[check.is_met]
                yield f"  {check.condition}: {word}"
                yield f"    wanted {' or '.join(check.condition.values) or 'nothing'}"
                if check.actual is not None:
                    yield f"    got    {', '.join(check.actual) or 'none'}"
                if text := remark(check, self.request):
                    yield f"    {text}"
        if not self.steps:
            yield "no statement is about this action and this caller"

    def as_json(self) -> dict[str, Any]:
        """Return it for a program."""
        return {
            "Action": self.request.action.name,
            "Principal": self.request.principal,
            "Outcome": self.outcome.name,
            "Remarks": list(self.remarks),
            "Missing": list(self.missing),
            "Statements": [
                {
                    "Name": step.statement.name,
                    "Line": step.statement.line,
                    "Effect": step.statement.effect,
                    "Applies": step.applies,
                    "Conditions": [
                        {
                            "Condition": str(check.condition),
                            "Expected": list(check.condition.values),
                            "Actual": None if check.actual is None else list(check.actual),
                            "Met": check.is_met,
                            "Remark": remark(check, self.request),
                        }
                        for check in step.checks
                    ],
                }
                for step in self.steps
            ],
        }


def read_refusal(text: str) -> Refusal:
    """Read the message of KMS's AccessDeniedException.

    Raises:
        PolicyError: it is another message, or several, or is about an action that KMS does not
            have.
    """
    # A terminal or a log may have broken it into lines.
    every = {each[0]: each for each in _DENIED.finditer(" ".join(text.split()))}
    if not every:
        raise PolicyError('not KMS\'s "User: ... is not authorized to perform: kms:..."')
    if len(every) > 1:
        raise PolicyError(f"{len(every)} different refusals of KMS's", hint="give one of them")
    [found] = every.values()
    key = found["key"] if found["key"] and ":key/" in found["key"] else None
    # The message does not tell whether the request had a document.
    request = Request(find(found["action"]), found["principal"], key, Document.UNKNOWN)
    return Refusal(request, found["policy"], found["explicit"] is not None)


def explain(policy: Policy, request: Request, refusal: Refusal | None = None) -> Explanation:
    """Return what a policy makes of a request, and why.

    Args:
        policy: of the key; or an identity-based policy of IAM.
        request: the request.
        refusal: KMS's message about it.
    """
    steps = evaluate.steps(policy, request)
    outcome = evaluate.combine(policy, request, steps)
    about = tuple(step for step in steps if step.named is not Named.NO)
    remarks = [*_reasons(about, outcome, request), *_refused(refusal, outcome)]
    missing = _missing(policy, about, request, outcome)
    return Explanation(request, outcome, about, tuple(missing), tuple(remarks))


def _reasons(about: tuple[Step, ...], outcome: Outcome, request: Request) -> Iterator[str]:
    """Yield the statements and conditions that decided."""
    if outcome is Outcome.NOT_GOVERNED:
        yield f"{request.action.name} is about no key: IAM policies alone decide"
    if outcome is Outcome.DENIED:
        for step in about:
            if step.applies and not step.statement.allows:
                met = " and ".join(str(check.condition) for check in step.checks)
                yield (
                    f"denied by {step.statement.name} (line {step.statement.line})"
                    + (f": {met} is met" if met else ", which has no condition")
                )
    if outcome is Outcome.NOT_ALLOWED:
        for step in about:
            failed = [str(check.condition) for check in step.checks if check.is_met is False]
            if step.statement.allows and failed:
                yield (
                    f"{step.statement.name} (line {step.statement.line}) would allow it, but for "
                    + ", ".join(failed)
                )
        yield "a grant may allow it all the same"
    if outcome is Outcome.ALLOWED:
        yield (
            "this holds unless a policy of another kind denies it (organization, session, "
            "permissions boundary, VPC endpoint)"
        )
    if outcome is Outcome.DELEGATED and request.action.is_on_alias:
        yield "an IAM policy must allow the alias's part of it"
    if isinstance(request.document, Measured):
        if request.document.is_debug:
            yield "the enclave runs in debug mode: KMS sees zeros in PCR0 to PCR2"
        if not request.action.takes_recipient:
            yield f"{request.action.name} takes no attestation document: it makes no difference"


def _refused(refusal: Refusal | None, outcome: Outcome) -> Iterator[str]:
    """Yield what KMS's message says that the policy does not."""
    if refusal is None:
        return
    if refusal.policy and refusal.policy != "resource-based policy":
        yield f"KMS says that the refusal comes from another policy: {refusal.policy}"
    elif outcome is Outcome.ALLOWED or (refusal.is_explicit and outcome is Outcome.NOT_ALLOWED):
        yield (
            "KMS refused it otherwise: the policy in force is another one, or the request had "
            "another document"
        )


def _missing(
    policy: Policy, about: tuple[Step, ...], request: Request, outcome: Outcome
) -> list[str]:
    """Return what would have to be known to tell more."""
    missing = []
    if outcome is Outcome.NOT_GOVERNED or (not policy.is_of_key and not request.action.is_on_key):
        pass
    elif outcome is Outcome.DELEGATED:
        missing.append("the IAM policies of the caller")
    elif not policy.is_of_key and outcome is Outcome.UNKNOWN:
        missing.append("the key's own policy")
    if outcome is not Outcome.UNKNOWN:
        return missing
    if request.principal is None and all(step.applies is not None for step in about):
        missing.append("who calls (--principal)")
    for step in about:
        if step.applies is not None:
            continue
        if step.named is Named.UNKNOWN:
            missing.append("who calls (--principal)")
        if step.is_resource is None:
            missing.append("which key (--key)")
        missing += [_needed(check, request) for check in step.checks if check.is_met is None]
        if not step.statement.allows and not all(c.condition.is_known for c in step.checks):
            missing.append(f"what KMS makes of {step.statement.name}, which it should refuse")
    return list(dict.fromkeys(missing))


def _needed(check: Check, request: Request) -> str:
    key = check.condition.key
    if check.actual is not None:
        return f"how {check.condition} compares"
    if key.lower() not in ATTESTATION_KEYS:
        return f"the value of {key} (--context {key}=VALUE)"
    index = ENCLAVE_KEYS.get(key.lower())
    if not isinstance(request.document, Measured):
        return "the attestation document of the request (--document)"
    option = {3: " (--parent-role)", 4: " (--parent-instance)"}.get(index or 0, "")
    return f"the value of {key}, which {request.document.origin} does not tell{option}"


def _resource_lines(step: Step) -> Iterator[str]:
    if step.statement.resources is None:
        yield "  Resource: missing, so that the statement is about no key"
    elif step.is_resource is False:
        yield f"  Resource: not this key ({', '.join(step.statement.resources)})"


def remark(check: Check, request: Request) -> str:
    """Return why a condition is or is not met, where there is more to say than the values."""
    condition = check.condition
    key = condition.key
    if not condition.is_known:
        close = condition.correction()
        return f"KMS has no operator {condition.operator}" + (f": write {close}" if close else "")
    if not condition.values:
        return "no value is listed, so that none is met"
    if condition.is_attestation and key.lower() not in ATTESTATION_KEYS:
        return "KMS has no such condition key: it is absent from every request"
    if not is_condition_key(key):
        return "AWS's service authorization reference has no such condition key"
    if request.action.knows(key) is False:
        if condition.is_attestation:
            return f"requests for {request.action.name} take no Recipient: the key is absent"
        return f"requests for {request.action.name} never have this condition key"
    of_services = {*SERVICE_KEYS, VIA_SERVICE} - request.context.keys()
    if request.is_enclaves_own and key.lower() in of_services:
        return f"the caller's own request; if another service made it: --context {key}=VALUE"
    if check.is_met is not False or not condition.is_attestation or condition.is_negated:
        return ""
    if condition.operator == "Null":
        return ""
    return _difference(check, request)


def _difference(check: Check, request: Request) -> str:
    """Return why an attestation key does not have the wanted value."""
    measured = request.document
    if not isinstance(measured, Measured):
        return "the request has no attestation document"
    if not check.actual:
        if check.condition.key.lower() not in measured.keys():  # noqa: SIM118 (a method of ours)
            return f"a document of an {measured.platform.value} has no such PCR"
        return "the document does not list this PCR: only locked PCRs are listed"
    [actual] = check.actual
    index = measured.keys()[check.condition.key.lower()]
    if not int(actual, 16) and measured.platform is not Platform.INSTANCE:
        if measured.is_debug and index < 3:
            return "the enclave runs in debug mode: PCR0 to PCR2 are zero"
        if index == 8:
            return "the image is not signed: PCR8 is zero"
        return "nothing was measured into this PCR"
    values = check.condition.values
    if actual in [value.lower() for value in values]:
        return "only the case differs: use StringEqualsIgnoreCase"
    if not any(re.fullmatch(r"[0-9a-fA-F]{96}", value) for value in values):
        return "no value is 96 hexadecimal digits"
    return "the document is of another image, or the policy is of another version"
