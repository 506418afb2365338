"""``key-policy test``: a policy held against a file that says who may do what. No I/O.

principal: arn:aws:iam::111122223333:role/enclave
expect:
- name: the released image
document: release.eif
may: [kms:Decrypt, kms:GenerateDataKey]
- name: nobody outside
may-not: [kms:Decrypt, kms:ReEncryptFrom]
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from parent.policy import explain
from parent.policy.actions import Platform, PolicyError, find
from parent.policy.evaluate import Document, Outcome, Request

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from parent.policy.actions import Action
    from parent.policy.language import Policy
    from parent.policy.measured import Measured
    from vsock_proxy.service.settings import Setting

MAX_EXPECTATIONS = 1000

_NOT_ALLOWED = (Outcome.DENIED, Outcome.NOT_ALLOWED)


@dataclass(frozen=True, slots=True)
class Expectation:
    """What one caller may and may not do.

    Attributes:
        name: what it is called.
        line: where it stands in the file.
        request: the request, but for its action.
        may: actions that the policy must allow.
        may_not: actions that it must not.
    """

    name: str
    line: int
    request: Request
    may: tuple[Action, ...]
    may_not: tuple[Action, ...]


@dataclass(frozen=True, slots=True)
class Result:
    """Whether one action is as expected.

    Attributes:
        expectation: which one.
        is_allowed: what was expected.
        explanation: what the policy makes of it.
    """

    expectation: Expectation
    is_allowed: bool
    explanation: explain.Explanation

    @property
    def holds(self) -> bool:
        """Whether it is certain to be as expected."""
        outcome = self.explanation.outcome
        return outcome is Outcome.ALLOWED if self.is_allowed else outcome in _NOT_ALLOWED

    def __str__(self) -> str:
        may = "may" if self.is_allowed else "may not"
        text = f"{self.expectation.name}: {may} {self.explanation.request.action.name}"
        return f"ok: {text}" if self.holds else f"FAILED: line {self.expectation.line}: {text}"


def read(
    root: Setting, measured: Callable[[str, Platform | None, str | None], Measured]
) -> tuple[Expectation, ...]:
    """Read the file of expectations.

    Args:
        root: the file.
        measured: from the value of a ``document``, a platform and an enclave, the measurements.

    Raises:
        ConfigurationError: it is not of its form.
        PolicyError: a document cannot be read, or an action does not exist.
    """
    fields = root.fields("principal", "key", "platform", "expect", required=("expect",))
    principal = fields["principal"].string() if "principal" in fields else None
    key = fields["key"].string() if "key" in fields else None
    platform = _platform(fields.get("platform"))
    found = []
    for number, item in enumerate(fields["expect"].items(MAX_EXPECTATIONS), start=1):
        part = item.fields(
            "name", "document", "enclave", "platform", "principal", "context", "may", "may-not"
        )
        if "may" not in part and "may-not" not in part:
            raise item.wrong("neither may nor may-not", hint="list actions, such as kms:Decrypt")
        document: Measured | Document = Document.NONE
        of_item = _platform(part.get("platform")) or platform
        if "document" in part:
            document = measured(
                part["document"].string(),
                of_item,
                part["enclave"].string() if "enclave" in part else None,
            )
        context = {}
        if "context" in part:
            context = {
                name.lower(): (value.string(),) for name, value in part["context"].mapping().items()
            }
        who = part["principal"].string() if "principal" in part else principal
        found.append(
            Expectation(
                part["name"].string() if "name" in part else f"expectation {number}",
                item.line,
                Request(find("Decrypt"), who, key, document, context),
                _actions(part.get("may")),
                _actions(part.get("may-not")),
            )
        )
    if not found:
        raise fields["expect"].wrong("no expectation")
    return tuple(found)


def hold(policy: Policy, expectations: tuple[Expectation, ...]) -> Iterator[Result]:
    """Yield, for each action of each expectation, whether the policy is as expected."""
    for expectation in expectations:
        given = expectation.request
        for is_allowed, actions in ((True, expectation.may), (False, expectation.may_not)):
            for action in actions:
                request = Request(action, given.principal, given.key, given.document, given.context)
                yield Result(expectation, is_allowed, explain.explain(policy, request))


def _platform(setting: Setting | None) -> Platform | None:
    if setting is None:
        return None
    return Platform(setting.choice(*(platform.value for platform in Platform)))


def _actions(setting: Setting | None) -> tuple[Action, ...]:
    if setting is None:
        return ()
    items = setting.items() if setting.is_list else [setting]
    actions = []
    for item in items:
        try:
            actions.append(find(item.string()))
        except PolicyError as e:
            raise item.wrong(str(e), hint=e.hint) from None
    return tuple(actions)
