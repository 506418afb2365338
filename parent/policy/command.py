"""``enclave-parent key-policy``: policies written, checked, and explained."""

from __future__ import annotations

import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from parent.eif.describe import check
from parent.eif.layout import MAGIC
from parent.files import opened, print_json, progress, read_small, size
from parent.policy import explain, generate, language, lint, measured
from vsock_proxy.errors import ConfigurationError

if TYPE_CHECKING:
    import argparse

_MAX_MESSAGE = 64 * 1024
_SOURCE = "an enclave image, an attestation document, or what nitro-cli printed"


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the subcommand."""
    parser = subparsers.add_parser(
        "key-policy", help="write, check and explain policies of keys for enclaves"
    )
    verbs = parser.add_subparsers(required=True, metavar="VERB")

    verb = verbs.add_parser(
        "generate",
        help="print the policy of a key that only these enclaves may use",
        description="Print a key policy for what the sources measure: several, while a new image "
        "is rolled out. With --iam, the IAM policy for GenerateRandom, which no key governs.",
    )
    add = verb.add_argument
    add("sources", metavar="SOURCE", type=Path, nargs="+", help=_SOURCE)
    add("--role", metavar="ARN", action="append", default=[], help="the parents' role")
    add("--administrator", metavar="ARN", action="append", default=[], help="manages the key")
    add(
        "--condition", metavar="NAME", action="append",
        help="what must be as measured: ImageSha384 (the default), PCR0 to PCR31; all of them",
    )  # fmt: skip
    add("--parent-role", metavar="ARN", help="for PCR3")
    add("--parent-instance", metavar="ID", help="for PCR4")
    add("--deny-outside-enclave", action="store_true", help="deny use without a document to all")
    add("--iam", action="store_true", help="print the IAM policy for GenerateRandom instead")
    verb.set_defaults(run=run_generate)

    verb = verbs.add_parser("lint", help="find known mistakes in a policy; status 1 for errors")
    verb.add_argument("policy", metavar="POLICY", type=Path, help="JSON")
    verb.add_argument("--json", action="store_true", help="print JSON")
    verb.set_defaults(run=run_lint)

    verb = verbs.add_parser(
        "explain",
        help="say which condition refuses an enclave, and by what value",
        description="Say what a policy makes of a request, statement by statement; status 1 if "
        "it is not allowed. The document's signature is not looked at.",
    )
    add = verb.add_argument
    add("policy", metavar="POLICY", type=Path, help="JSON")
    add("--document", metavar="SOURCE", type=Path, help=f"{_SOURCE}; none: a request without one")
    add("--action", metavar="NAME", default="kms:Decrypt", help="default: %(default)s")
    add("--principal", metavar="ARN", help="who asked; default: whoever the policy means")
    add("--access-denied", metavar="FILE", type=Path, help="KMS's message, in place of these two")
    add("--json", action="store_true", help="print JSON")
    verb.set_defaults(run=run_explain)


def run_generate(arguments: argparse.Namespace) -> int:
    """Print a policy."""
    enclaves = [
        measured.with_parent(
            _measured(path), role=arguments.parent_role, instance=arguments.parent_instance
        )
        for path in arguments.sources
    ]
    conditions = arguments.condition or [generate.IMAGE]
    if arguments.iam:
        policy = generate.iam_policy(enclaves, conditions=conditions)
    else:
        if not arguments.role or not arguments.administrator:
            raise ConfigurationError("a key policy needs --role and --administrator")
        policy = generate.key_policy(
            enclaves,
            roles=arguments.role,
            administrators=arguments.administrator,
            conditions=conditions,
            deny_outside=arguments.deny_outside_enclave,
        )
    print_json(policy)
    return 0


def run_lint(arguments: argparse.Namespace) -> int:
    """Print the mistakes in a policy."""
    findings = lint.lint(_policy(arguments.policy))
    if arguments.json:
        print_json(
            [
                {
                    "Rule": finding.rule,
                    "Statement": finding.statement,
                    "Severity": "error" if finding.is_error else "warning",
                    "Message": finding.message,
                }
                for finding in findings
            ]
        )
    else:
        sys.stdout.writelines(f"{finding}\n" for finding in findings)
    return int(any(finding.is_error for finding in findings))


def run_explain(arguments: argparse.Namespace) -> int:
    """Print what a policy makes of a request."""
    request = explain.Request(arguments.action, arguments.principal)
    if arguments.access_denied:
        message = read_small(arguments.access_denied, _MAX_MESSAGE).decode(errors="replace")
        request = explain.read_refusal(message)
    enclave = _measured(arguments.document) if arguments.document else None
    explanation = explain.explain(_policy(arguments.policy), request, enclave)
    if arguments.json:
        print_json(explanation.as_json())
    else:
        sys.stdout.writelines(f"{line}\n" for line in explanation.lines())
    return int(explanation.outcome is not explain.Outcome.ALLOWED)


def _policy(path: Path) -> tuple[language.Statement, ...]:
    return language.parse(read_small(path, 2 * language.MAX_POLICY))


def _measured(path: Path) -> measured.Measured:
    with opened(path) as stream:
        if stream.read(len(MAGIC)) == MAGIC:
            with progress(size(path), "measuring") as advance:
                description = check(stream, at=datetime.now(UTC), progress=advance)
            return measured.Measured(description.pcrs, str(path))
    return measured.parse(read_small(path, measured.MAX_DOCUMENT))
