"""Use of a key without a document, or with a document of another image. No I/O."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from parent.policy import lint_conditions
from parent.policy.actions import (
    ATTESTATION_KEYS,
    DATA_KEYS,
    DECAPSULATE,
    GUARDED,
    IMAGE_KEY,
    TPM_KEYS,
    Action,
    Platform,
    find,
    pcr_key,
    tpm_pcr_key,
)
from parent.policy.evaluate import Document, Request
from parent.policy.findings import Finding, Options, Severity, at
from parent.policy.reach import (
    applies_without_document,
    denies_without_document,
    guards,
    is_denied_to_all,
    is_open,
    may_apply,
    met_by_callers,
    names_anybody,
    never_applies,
    who,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

    from parent.policy.language import Condition, Policy, Statement


def _keys(*names: str) -> frozenset[str]:
    return frozenset(name.lower() for name in names)


_WHOLE = {
    # What must be compared together so that an image is pinned.
    Platform.ENCLAVE: (
        _keys(IMAGE_KEY),
        _keys(pcr_key(0)),
        _keys(pcr_key(1), pcr_key(2)),  # Either alone leaves kernel or program to choose.
        _keys(pcr_key(8)),  # Whatever the signer signs.
    ),
    Platform.SANDBOX: (_keys(pcr_key(17)),),
    Platform.INSTANCE: (
        _keys(tpm_pcr_key(4), tpm_pcr_key(12)),
        _keys(tpm_pcr_key(7)),  # Whatever the Secure Boot keys sign.
    ),
}


_SERVICE = re.compile(r"[a-z0-9.-]+\.amazonaws\.com(\.cn)?")


def use(policy: Policy, options: Options) -> Iterator[Finding]:
    """Yield the statements that let others use the key than the images meant."""
    for statement in policy.statements:
        if not statement.allows:
            continue
        yield from _services(policy, statement)
        if not names_anybody(statement):
            continue
        if lint_conditions.foreign_keys(statement, options.platform):
            continue  # No document of the platform meets it.
        open_to_all: list[Action] = []
        of_any_image: list[Action] = []
        for action in _use_of(statement):
            if not statement.covers(action) or never_applies(statement, action):
                continue
            if applies_without_document(statement, action) and not denies_without_document(
                policy, action, statement
            ):
                open_to_all.append(action)
                continue
            if action.takes_recipient and not _pins(policy, statement, action, options):
                of_any_image.append(action)
        yield from _without_document(statement, open_to_all)
        if set(of_any_image) - DATA_KEYS:
            yield _other_image(statement, _names(of_any_image), options)
        elif of_any_image:
            yield _data_keys(statement, of_any_image, "from another image")
        attested = [a for a in GUARDED if a.takes_recipient and statement.covers(a)]
        if is_open(statement) and attested and not open_to_all:
            attested = [a for a in attested if not never_applies(statement, a)]
            if attested:
                yield at(
                    statement, "anyone",
                    f"any principal of any AWS account may do {_names(attested)}, who runs this "
                    "image",
                    "name the role of the parents in Principal, or add a condition on "
                    "kms:CallerAccount or aws:PrincipalArn",
                )  # fmt: skip


def _services(policy: Policy, statement: Statement) -> Iterator[Finding]:
    """Find services of AWS that may use the key; they have no document."""
    services = [name for name in statement.other_principals if _SERVICE.fullmatch(name)]
    actions = [
        action
        for action in GUARDED
        if statement.covers(action)
        and not never_applies(statement, action)
        and applies_without_document(statement, action)
        and not denies_without_document(policy, action)
    ]
    if services and set(actions) - DATA_KEYS:
        yield at(
            statement, "service",
            f"{', '.join(services)[:120]} may do {_names(actions)} without an attestation "
            "document, for whomever the service acts",
            "leave the statement out, or deny these actions to all without a document",
            Severity.WARNING,
        )  # fmt: skip


def _without_document(statement: Statement, actions: list[Action]) -> Iterator[Finding]:
    if set(actions) - DATA_KEYS:
        yield at(
            statement, "unattested",
            f"{who(statement)} may do {_names(actions)} without an attestation document",
            "add a condition on kms:RecipientAttestation:ImageSha384, or leave these actions "
            "out; or deny them to all without a document, kms:ReEncryptFrom included",
        )  # fmt: skip
    elif actions:
        yield _data_keys(statement, actions, "without an attestation document")


def _data_keys(statement: Statement, actions: list[Action], how: str) -> Finding:
    return at(
        statement, "data-keys",
        f"{who(statement)} may do {_names(actions)} {how}, and then knows these data keys",
        "if the enclave alone shall know its data keys, add a condition on "
        "kms:RecipientAttestation:ImageSha384; for who encrypts for the enclave, this is right",
        Severity.WARNING,
    )  # fmt: skip


def _names(actions: list[Action]) -> str:
    return ", ".join(action.name for action in actions)


def _use_of(statement: Statement) -> tuple[Action, ...]:
    # A wildcard covers it in policies of keys that cannot be used with it.
    return (*GUARDED, DECAPSULATE) if DECAPSULATE in statement.named_actions() else GUARDED


def _other_image(statement: Statement, actions: str, options: Options) -> Finding:
    keys = {c.key.lower() for c in statement.conditions}
    platform = _platform(statement, options)
    names = f"{who(statement)} may do {actions}"
    if platform is Platform.INSTANCE:
        if tpm_pcr_key(4).lower() in keys:
            return at(
                statement, "command-line",
                f"{names} with another kernel command line: PCR4 does not measure it",
                f"add {tpm_pcr_key(12)}, which does (GHSA-xrv8-2pf5-f3q7)",
            )  # fmt: skip
        return at(
            statement, "any-image", f"{names} from an instance of another image",
            f"compare {tpm_pcr_key(4)} and {tpm_pcr_key(12)}; with Secure Boot, {tpm_pcr_key(7)}",
        )  # fmt: skip
    if platform is Platform.SANDBOX:
        return at(
            statement, "any-image", f"{names} from a sandbox with another workload",
            f"compare {pcr_key(17)}, the predicted measurement of the workload",
        )  # fmt: skip
    own = sorted(int(m[1]) for k in keys if (m := re.search(r":pcr(\d+)$", k)))
    if any(index >= 16 for index in own):
        last = max(own)
        return at(
            statement, "any-image",
            f"{names} from an enclave of another image: an enclave extends PCR{last} itself",
            f"add a condition on {IMAGE_KEY}; for Nitro Sandboxes, lint with --platform sandbox",
        )  # fmt: skip
    reasons: dict[tuple[int, ...], str] = {
        (1,): ": PCR1 measures kernel and boot ramdisk, not the program",
        (2,): ": PCR2 measures the program, not the kernel that starts it",
        (3,): ": PCR3 measures the parent's role, not the image",
        (4,): ": PCR4 measures the parent's instance ID, not the image",
    }
    reason = reasons.get(tuple(own), "")
    return at(
        statement, "any-image", f"{names} from an enclave of another image{reason}",
        f"add a condition on {IMAGE_KEY}, or on {pcr_key(8)} for all images of one signer",
    )  # fmt: skip


def _platform(statement: Statement, options: Options) -> Platform:
    if options.platform:
        return options.platform
    keys = {c.key.lower() for c in statement.conditions} & ATTESTATION_KEYS
    return Platform.INSTANCE if keys and keys <= TPM_KEYS.keys() else Platform.ENCLAVE


def _pins(policy: Policy, statement: Statement, action: Action, options: Options) -> bool:
    """Return whether an image must be measured as the policy says, for an action."""
    compared = {c.key.lower() for c in statement.conditions if _demands(c)}
    if is_denied_to_all(policy, action):
        return True
    for guard in guards(policy, action, statement):
        conditions = [c for c in guard.conditions if not met_by_callers(c, action, statement)]
        # With several conditions it denies only what differs in all of them.
        if len(conditions) == 1 and conditions[0].is_negated:
            [condition] = conditions
            if condition.is_attestation and condition.quantifier != "ForAnyValue":
                compared.add(condition.key.lower())
    whole = _WHOLE[_platform(statement, options)]
    if options.platform is None and compared & TPM_KEYS.keys():
        whole += _WHOLE[Platform.INSTANCE]
    return any(keys <= compared for keys in whole)


def _demands(condition: Condition) -> bool:
    """Return whether a condition compares what a document must have.

    With an operator that compares no text, none is met: that is its own finding.
    """
    return (
        condition.operator != "Null"
        and not condition.is_negated
        and not condition.if_exists
        and condition.quantifier != "ForAllValues"
    )


def grants(policy: Policy, options: Options) -> Iterator[Finding]:
    """Yield the statements that allow grants, which do not depend on a document."""
    undenied = [action for action in GUARDED if not denies_without_document(policy, action)]
    for statement in policy.statements:
        granted = [action for action in undenied if _may_grant(statement, action)]
        if granted:
            immutable = options.is_immutable
            yield at(
                statement, "grant",
                f"{who(statement)} may create grants, which let others do "
                f"{_names(granted[:2])} without an attestation document",
                "leave kms:CreateGrant out; or deny these to all without a document, which no "
                "grant overrides",
                Severity.ERROR if immutable else Severity.WARNING,
            )  # fmt: skip


_CREATE_GRANT = find("CreateGrant")


def _may_grant(statement: Statement, action: Action) -> bool:
    """Return whether a statement allows a grant of an action, other than to a service of AWS.

    A grant of one operation is the least: what does not allow it allows none with it.
    """
    if not statement.allows or not names_anybody(statement):
        return False
    context = {
        "kms:grantoperations": (action.name.removeprefix("kms:"),),
        "kms:grantisforawsresource": ("false",),
    }
    request = Request(_CREATE_GRANT, document=Document.UNKNOWN, context=context)
    return statement.covers(_CREATE_GRANT) and may_apply(statement, request)
