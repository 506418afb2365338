"""``enclave-parent key-policy``: policies written, checked, explained and tested."""

from __future__ import annotations

import re
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from parent.eif.describe import check
from parent.eif.errors import of_image
from parent.eif.layout import MAGIC
from parent.eif.signature import load_certificate, measure_certificate
from parent.files import opened, print_json, progress, read_small, size
from parent.policy import evaluate, expectations, explain, generate, language, lint, measured
from parent.policy.actions import Platform, PolicyError, find
from parent.policy.findings import Options
from parent.policy.principals import is_caller
from parent.policy.rollout import rollout
from vsock_proxy.errors import ConfigurationError
from vsock_proxy.service.arguments import Once

if TYPE_CHECKING:
    import argparse
    from collections.abc import Mapping

    from parent.policy.measured import Measured

_MAX_MESSAGE = 64 * 1024
_SOURCE = (
    "an enclave image; an attestation document in any shape; what nitro-cli or "
    "nitro-tpm-pcr-compute printed; a signing certificate, for PCR8; or PCR17=HEX"
)
_POLICY = "JSON: the policy, a statement of it, or what aws kms get-key-policy printed; - is stdin"


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the subcommand."""
    parser = subparsers.add_parser(
        "key-policy", help="write, check, explain and test policies of keys for enclaves"
    )
    verbs = parser.add_subparsers(required=True, metavar="VERB")
    _add_generate(verbs)
    _add_lint(verbs)
    _add_explain(verbs)
    _add_test(verbs)
    _add_rollout(verbs)


def _add_generate(verbs: Any) -> None:
    verb = verbs.add_parser(
        "generate",
        help="print the policy of a key that only these enclaves may use",
        description="Print a key policy for what the sources measure: several, while a new image "
        "is rolled out. With --iam, the IAM policy for GenerateRandom, which no key policy "
        "governs. A policy that lint rejects is not printed.",
    )
    verb.add_argument("sources", metavar="SOURCE", nargs="+", help=_SOURCE)
    _add_policy_options(verb)
    verb.add_argument(
        "--iam", action="store_true", help="print the IAM policy for GenerateRandom instead"
    )
    verb.set_defaults(run=run_generate)


def _add_rollout(verbs: Any) -> None:
    verb = verbs.add_parser(
        "rollout",
        help="print the policies for the replacement of one image by another",
        description="Print JSON with the policy while enclaves of both images run (During), the "
        "one after (After), and the steps.",
    )
    verb.add_argument("old", metavar="OLD", help=f"the image that is replaced: {_SOURCE}")
    verb.add_argument("new", metavar="NEW", help="the image that replaces it, likewise")
    _add_policy_options(verb)
    verb.set_defaults(run=run_rollout)


def _add_policy_options(verb: argparse.ArgumentParser) -> None:
    add = verb.add_argument
    add("--role", metavar="ARN", action="append", default=[], help="the role of the parents")
    add("--administrator", metavar="ARN", action="append", default=[], help="manages the key")
    add(
        "--condition", metavar="NAME", action="append",
        help="what must be as measured, all of them: ImageSha384 (the default), PCR0 to PCR31; "
        "for instances the default is PCR4 and PCR12, for sandboxes PCR17",
    )  # fmt: skip
    add("--deny-outside-enclave", action="store_true", help="deny use without a document to all")
    _add_source_options(verb)


def _add_platform(verb: argparse.ArgumentParser) -> None:
    verb.add_argument(
        "--platform", metavar="NAME", choices=[platform.value for platform in Platform],
        help="what attests: enclave, sandbox, or instance with a NitroTPM "
        "(default: an instance if only NitroTPM's PCRs are named, otherwise an enclave)",
    )  # fmt: skip


def _add_source_options(verb: argparse.ArgumentParser) -> None:
    """Add what `_with_parent` reads: what a SOURCE by itself does not tell."""
    add = verb.add_argument
    add("--parent-role", metavar="ARN", help="for PCR3")
    add("--parent-instance", metavar="ID", help="for PCR4")
    _add_platform(verb)
    add(
        "--enclave", metavar="NAME", help="which enclave that nitro-cli describe-enclaves listed, "
        "by name, ID or CID",
    )  # fmt: skip


def _add_lint(verbs: Any) -> None:
    verb = verbs.add_parser("lint", help="find mistakes in a policy; status 1 for errors")
    verb.add_argument("policy", metavar="POLICY", type=Path, help=_POLICY)
    verb.add_argument(
        "--immutable", action="store_true",
        help="the policy must never change: a principal that may change it is an error",
    )  # fmt: skip
    _add_platform(verb)
    verb.add_argument("--json", action="store_true", help="print JSON")
    verb.set_defaults(run=run_lint)


def _add_explain(verbs: Any) -> None:
    verb = verbs.add_parser(
        "explain",
        help="say which statement and condition refuse a request, and by what value",
        description="Say what a policy makes of a request, statement by statement; status 1 if "
        "it is not allowed, or cannot be told. The document's signature is not verified.",
    )
    add = verb.add_argument
    add("policy", metavar="POLICY", type=Path, help=_POLICY)
    add(
        "--document", metavar="SOURCE", action=Once,
        help=f"{_SOURCE}; none: a request without a document",
    )  # fmt: skip
    add("--action", metavar="NAME", default="kms:Decrypt", help="default: %(default)s")
    add(
        "--principal", metavar="ARN", action=Once,
        help="the caller; default: any that the policy names",
    )  # fmt: skip
    add("--key", metavar="ARN", action=Once, help="the key, for statements that name one")
    add(
        "--context", metavar="KEY=VALUE", action="append", default=[],
        help="the value of another condition key in the request, such as aws:SourceVpc",
    )  # fmt: skip
    add(
        "--access-denied", metavar="FILE", type=Path,
        help="KMS's message: tells action, principal and key; without --document, nothing is "
        "assumed of the document",
    )  # fmt: skip
    _add_source_options(verb)
    add("--json", action="store_true", help="print JSON")
    verb.set_defaults(run=run_explain)


def _add_test(verbs: Any) -> None:
    verb = verbs.add_parser(
        "test",
        help="hold a policy against a file that says who may do what; status 1 if it fails",
        description="Check that a policy allows and does not allow what a YAML file expects. What "
        "cannot be told counts as a failure. docs/key-policy.md describes the file.",
    )
    verb.add_argument("policy", metavar="POLICY", type=Path, help=_POLICY)
    verb.add_argument("expectations", metavar="EXPECTATIONS", type=Path, help="YAML")
    verb.set_defaults(run=run_test)


def run_generate(arguments: argparse.Namespace) -> int:
    """Print a policy."""
    sources = [_with_parent(arguments, source) for source in arguments.sources]
    if arguments.iam:
        print_json(generate.iam_policy(sources, conditions=arguments.condition))
    else:
        print_json(generate.key_policy(sources, **_people(arguments)))
    return 0


def run_rollout(arguments: argparse.Namespace) -> int:
    """Print the policies for a replacement."""
    old, new = (_with_parent(arguments, source) for source in (arguments.old, arguments.new))
    print_json(rollout(old, new, **_people(arguments)))
    return 0


def run_lint(arguments: argparse.Namespace) -> int:
    """Print the mistakes in a policy."""
    options = Options(_platform(arguments), arguments.immutable)
    found = lint.lint(_policy(arguments.policy), options)
    if arguments.json:
        print_json(
            [
                {
                    "Rule": finding.rule,
                    "Statement": finding.statement,
                    "Line": finding.line or None,
                    "Severity": finding.severity.value,
                    "Message": finding.message,
                    "Change": finding.change,
                }
                for finding in found
            ]
        )
    else:
        for finding in found:
            sys.stdout.write(f"{finding}\n  change: {finding.change}\n")
    return int(any(finding.is_error for finding in found))


def run_explain(arguments: argparse.Namespace) -> int:
    """Print what a policy makes of a request."""
    refusal = None
    _check_names(arguments.principal, arguments.key)
    request = evaluate.Request(find(arguments.action), arguments.principal, arguments.key)
    if arguments.access_denied:
        message = _read(arguments.access_denied, _MAX_MESSAGE).decode(errors="replace")
        refusal = explain.read_refusal(message)
        request = refusal.request
    document = request.document
    if arguments.document:
        document = _with_parent(arguments, arguments.document)
    request = evaluate.Request(
        request.action,
        arguments.principal or request.principal,
        arguments.key or request.key,
        document,
        _context(arguments.context),
    )
    explanation = explain.explain(_policy(arguments.policy), request, refusal)
    if arguments.json:
        print_json(explanation.as_json())
    else:
        sys.stdout.writelines(f"{line}\n" for line in explanation.lines())
    return int(explanation.outcome is not evaluate.Outcome.ALLOWED)


def run_test(arguments: argparse.Namespace) -> int:
    """Print which expectations a policy meets."""
    # It reads YAML, which the other verbs do without.
    from vsock_proxy.service.settings import load_settings  # noqa: PLC0415

    folder = arguments.expectations.parent

    def from_file(text: str, platform: Platform | None, enclave: str | None) -> Measured:
        # Paths in the file are relative to the file.
        source = text if _is_values(text) else str(folder / text)
        return _measured(source, platform, enclave)

    policy = _policy(arguments.policy)
    expected = expectations.read(load_settings(arguments.expectations), from_file)
    failed = 0
    for result in expectations.hold(policy, expected):
        sys.stdout.write(f"{result}\n")
        if not result.holds:
            failed += 1
            sys.stdout.writelines(f"    {line}\n" for line in result.explanation.lines())
    return int(failed > 0)


def _people(arguments: argparse.Namespace) -> dict[str, Any]:
    if not arguments.role or not arguments.administrator:
        raise ConfigurationError("a key policy needs --role and --administrator")
    return {
        "roles": arguments.role,
        "administrators": arguments.administrator,
        "conditions": arguments.condition,
        "deny_outside": arguments.deny_outside_enclave,
    }


def _platform(arguments: argparse.Namespace) -> Platform | None:
    return Platform(arguments.platform) if arguments.platform else None


_KEY = re.compile(r"arn:aws[a-z-]*:kms:[a-z0-9-]+:\d{12}:key/[A-Za-z0-9-]+")


def _check_names(principal: str | None, key: str | None) -> None:
    """Check that caller and key are named as a request has them.

    By another name, nothing in the policy would be about them, and the result would be wrong.
    """
    if principal is not None and not is_caller(principal):
        raise ConfigurationError(
            f"argument --principal: {principal!r:.120} is not the ARN of a caller",
            hint="such as arn:aws:iam::111122223333:role/NAME, or of a session, as "
            "aws sts get-caller-identity prints it",
        )
    if key is not None and not _KEY.fullmatch(key):
        raise ConfigurationError(
            f"argument --key: {key!r:.120} is not the ARN of a key",
            hint="aws kms describe-key --key-id KEY prints it, of an ID or an alias too",
        )


def _context(given: list[str]) -> Mapping[str, tuple[str, ...]]:
    context: dict[str, tuple[str, ...]] = {}
    for text in given:
        key, separator, value = text.partition("=")
        if not separator:
            raise ConfigurationError(
                f"argument --context: {text!r:.80} is not KEY=VALUE",
                hint="such as aws:SourceVpc=vpc-0123456789abcdef0",
            )
        if ":" not in key:
            raise ConfigurationError(
                f"argument --context: {key!r:.80} is no condition key, which begins with a service",
                hint=f"of the encryption context: kms:EncryptionContext:{text:.80}",
            )
        context[key.lower()] = (*context.get(key.lower(), ()), value)
    return context


def _policy(path: Path) -> language.Policy:
    return language.parse(_read(path, language.MAX_INPUT), origin=_shown(path))


def _read(path: Path, limit: int) -> bytes:
    if str(path) != "-":
        return read_small(path, limit)
    data = sys.stdin.buffer.read(limit + 1)
    if len(data) > limit:
        raise ConfigurationError(f"standard input has more than {limit} bytes")
    return data


def _shown(path: Path) -> str:
    name = "standard input" if str(path) == "-" else str(path)
    return name if name.isprintable() else ascii(name)


def _with_parent(arguments: argparse.Namespace, source: str) -> Measured:
    return measured.with_parent(
        _measured(source, _platform(arguments), arguments.enclave),
        role=arguments.parent_role,
        instance=arguments.parent_instance,
    )


def _is_values(text: str) -> bool:
    return re.match(r"PCR\d+=", text) is not None


def measured_image(path: Path) -> Measured:
    """Return the measurements of an enclave image.

    Raises:
        ConfigurationError: it cannot be read.
        PolicyError: it is not an image, or damaged.
    """
    return _measured(str(path), Platform.ENCLAVE, None)


def _measured(source: str, platform: Platform | None, enclave: str | None) -> Measured:
    if _is_values(source):
        return measured.of_values(source, platform=platform)
    path = Path(source)
    if source != "-":
        with of_image(path), opened(path) as stream:
            if stream.read(len(MAGIC)) == MAGIC:
                with progress(size(path), "measuring") as advance:
                    description = check(stream, at=datetime.now(UTC), progress=advance)
                if platform in (None, Platform.ENCLAVE):
                    return measured.of_image(description.pcrs, source)
                raise PolicyError(
                    f"{_shown(path)} is an enclave image, and --platform says {platform.value}"
                )
    data = _read(path, measured.MAX_INPUT)
    if data.startswith(b"-----BEGIN CERTIFICATE-----") and platform in (None, Platform.ENCLAVE):
        return measured.of_some({8: measure_certificate(load_certificate(data))}, _shown(path))
    try:
        return measured.parse(data, platform=platform, enclave=enclave)
    except PolicyError as e:
        raise PolicyError(f"{_shown(path)}: {e}", hint=e.hint) from None
