"""Targets: what people write: shorthand, JSON and YAML input, configuration, key policies."""

from __future__ import annotations

import base64
import contextlib
import json
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING
from unittest import mock
from urllib.parse import quote

import cbor2

from enclave.cli import files, shorthand, values
from enclave.cli.model import operation_model
from enclave.cli.yaml_format import parse_yaml
from enclave.errors import AgentError, ConfigurationError
from parent.daemon.configuration import load_configuration
from parent.policy import expectations, explain, language, lint, measured
from parent.policy.actions import ACTIONS, Platform, PolicyError
from parent.policy.evaluate import Document, Outcome, Request
from parent.policy.findings import Options
from tests.parent.policy import policies
from tests.paths import ROOT
from tests.programs.fuzz.attestation import documents
from tests.programs.fuzz.target import Feed, Target
from vsock_proxy.proxy.allowlist_file import parse_allowlist
from vsock_proxy.service.document_shapes import document_bytes
from vsock_proxy.service.mistakes import each_error
from vsock_proxy.service.settings import parse_settings

if TYPE_CHECKING:
    from contextlib import AbstractContextManager


def _no_files() -> AbstractContextManager[object]:
    """Have ``file://`` read nothing: an input must not name a file of this machine."""
    return mock.patch.object(files, "read", return_value=b"content")


def _text(data: bytes) -> str:
    return data.decode(errors="surrogateescape")


def _shorthand(data: bytes) -> None:
    with _no_files(), contextlib.suppress(ConfigurationError):
        found = shorthand.parse(_text(data))
        assert isinstance(found, dict)


def _shorthand_seeds() -> list[bytes]:
    return [
        b"a=b,c=d", b"a = b , c = d", b"a=b,c,d=e", b"a={b=c,d=[e,f]}", b"a='b,c',d=\"e f\"",
        rb"a='it\'s',b=c\,d", b"a@=fileb://x,b@=file://y", "é=é".encode(), b"a=[[[]]]",
    ]  # fmt: skip


_OPERATIONS = ("Decrypt", "GenerateDataKeyPair", "CreateGrant", "TagResource", "ImportKeyMaterial")


def _input(data: bytes) -> None:
    """``--cli-input-json`` or -yaml, down to what goes over the wire."""
    feed = Feed(data)
    kind = feed.byte()
    option = "--cli-input-json" if kind & 1 else "--cli-input-yaml"
    shape = operation_model(_OPERATIONS[(kind >> 2) % len(_OPERATIONS)]).input_shape
    with _no_files(), contextlib.suppress(AgentError):
        document = values.read_document(option, _text(feed.rest()))
        sent = values.with_blobs(shape, document, "raw" if kind & 2 else "base64")
        values.on_the_wire(sent)


def _input_seeds() -> list[bytes]:
    document = {
        "KeyId": "alias/a", "CiphertextBlob": "AAEC", "EncryptionContext": {"a": "b"},
        "Recipient": {"KeyEncryptionAlgorithm": "RSAES_OAEP_SHA_256", "AttestationDocument": "AA"},
        "Tags": [{"TagKey": "k", "TagValue": "v"}], "ValidTo": 1.5e9, "DryRun": False,
    }  # fmt: skip
    text = json.dumps(document).encode()
    yaml = b"KeyId: alias/a\nCiphertextBlob: !!binary AAEC\nTags:\n- {TagKey: k, TagValue: v}\n"
    deep = b'{"a":' + b"[" * 600 + b"]" * 600 + b"}\x01"
    return (
        [deep, *(text + bytes([kind]) for kind in (1, 3, 5, 17))]
        + [yaml + bytes([kind]) for kind in (0, 2)]
        + [b"file://x\x01", b"a: &x [1, *x]\n\x00", b"? [a]\n: b\n\x00", b"a: 2026-01-01\n\x00"]
    )


def _yaml(data: bytes) -> None:
    with contextlib.suppress(ConfigurationError):
        parse_yaml(data)


def _allowlist(data: bytes) -> None:
    with contextlib.suppress(ConfigurationError):
        allowed = parse_allowlist(parse_settings(data, source="allowlist.yaml"))
        for host, port in allowed.entries:
            assert "*" in host or allowed.allows(host, port)
            assert not allowed.allows(host, 0)
        for host in ("kms.us-east-1.amazonaws.com", "169.254.169.254", "com", "a.com", "..", "*"):
            allowed.allows(host, 443)
        # What nobody can have listed by a pattern.
        assert ("com", 443) in allowed.entries or not allowed.allows("com", 443)
        listed = ("169.254.169.254", 80) in allowed.entries
        assert allowed.allows_resolved("a.example", "169.254.169.254", 80) == listed


def _allowlist_seeds() -> list[bytes]:
    return [
        b"allowlist:\n- {address: kms.us-east-1.amazonaws.com, port: 443}\n",
        b"allowlist:\n- address: kms.*.amazonaws.com\n  port: '443'\n- {address: '::1', port: 1}\n",
        b"allowlist:\n- {address: 169.254.169.254, port: 80, more: x}\nother: 1\n",
        b"allowlist: []\n", b"- {address: a.example, port: 1}\n", b"%YAML 1.1\n---\nallowlist: ~\n",
    ]  # fmt: skip


@cache
def _folder() -> TemporaryDirectory[str]:
    return TemporaryDirectory(prefix="fuzz-")


def _configuration(data: bytes) -> None:
    path = Path(_folder().name, "parent.yaml")
    path.write_bytes(data)
    for reloading in (False, True):
        try:
            load_configuration(path, reloading=reloading)
        except ConfigurationError as e:
            for error in each_error(e):
                assert str(error).isprintable(), str(error)
                assert error.hint.isprintable(), error.hint


def _configuration_seeds() -> list[bytes]:
    text = (ROOT / "docs/parent.md").read_text(encoding="utf-8")
    example = text.partition("```yaml\n")[2].partition("```")[0].encode()
    return [
        example,
        b"proxy: {forwards: [{listen: 'vsock://any:8000', to: 'tcp://a.example:443'}]}\n",
        b"credentials: {cids: any}\noperations: {listen: 'tcp://127.0.0.1:0'}\n",
        b"enclaves: [{name: a, eif: /x, memory_mib: 64, cpus: [1, 3]}]\n",
        b"memory_mib: 512\ncpu_count: 2\n",
        b"proxy: &x {a: *x}\n",
        b"proxy: ~\n",
    ]


def _lint(data: bytes) -> None:
    feed = Feed(data)
    kind = feed.byte()
    try:
        policy = language.parse(feed.rest(), origin="policy")
    except PolicyError:
        return
    platform = (None, *Platform)[kind % 4]
    for finding in lint.lint(policy, Options(platform, bool(kind & 4))):
        assert str(finding).isprintable(), str(finding)
        assert finding.change


def _explain(data: bytes) -> None:
    feed = Feed(data)
    kind = feed.byte()
    try:
        policy = language.parse(feed.rest(), origin="policy")
    except PolicyError:
        return
    action = list(ACTIONS.values())[kind % len(ACTIONS)]
    known: list[measured.Measured | Document] = [policies.OLD, policies.DEBUG]
    found = {}
    for document in [*known, Document.NONE, Document.UNKNOWN]:
        request = Request(action, policies.SESSION, policies.KEY, document)
        explanation = explain.explain(policy, request)
        json.dumps(explanation.as_json())
        for line in explanation.lines():
            assert line.isprintable(), line
        found[document] = explanation.outcome
    # An unknown document must not be promised what a known one is refused, or the other way.
    outcomes = {found[document] for document in [*known, Document.NONE]}
    if found[Document.UNKNOWN] in (Outcome.ALLOWED, Outcome.DENIED):
        assert outcomes <= {found[Document.UNKNOWN]}, found


def _refusal(data: bytes) -> None:
    with contextlib.suppress(PolicyError):
        refusal = explain.read_refusal(data.decode(errors="replace"))
        policy = policies.parsed(policies.statement(), policies.DEFAULT)
        explanation = explain.explain(policy, refusal.request, refusal)
        for line in explanation.lines():
            assert line.isprintable(), line


def _refusal_seeds() -> list[bytes]:
    said = (
        f"User: {policies.SESSION} is not authorized to perform: kms:Decrypt on resource: "
        f"{policies.KEY} "
    )
    return [
        (said + reason).encode()
        for reason in (
            "because no identity-based policy allows the kms:Decrypt action",
            "with an explicit deny in a resource-based policy",
            "",
        )
    ]


def _policy_seeds() -> list[bytes]:
    made = [
        policies.text(policies.ADMINISTRATION, policies.DEFAULT, policies.statement()),
        policies.text(
            policies.compares([policies.A0, policies.B0]),
            policies.compares("00" * 48, key=f"{policies.PCR}0", operator="StringLike"),
        ),
        policies.text(
            policies.compares("true", operator="Null", Effect="Deny", Principal="*"),
            policies.compares(
                [policies.A0], operator="ForAnyValue:StringNotEqualsIfExists",
                key=f"{policies.TPM}4", NotAction=["kms:Get*"], Action=None,
            ),
        ),
        json.dumps({"PolicyName": "default", "Policy": policies.text(policies.DEFAULT)}),
    ]  # fmt: skip
    return [text.encode() + bytes([kind]) for text in made for kind in (0, 5, 11)]


def _measured(data: bytes) -> None:
    feed = Feed(data)
    platform = (None, *Platform)[feed.byte() % 4]
    with contextlib.suppress(PolicyError):
        found = measured.parse(feed.rest(), platform=platform)
        assert all(len(value) == 48 for value in found.pcrs.values())
        found.context()
    with contextlib.suppress(PolicyError):
        measured.of_values(_text(feed.rest()), platform=platform)


def _measured_seeds() -> list[bytes]:
    pcrs = {f"PCR{index}": "ab" * 48 for index in (0, 1, 2, 8)}
    printed = {"Measurements": {"HashAlgorithm": "Sha384 { ... }", **pcrs}}
    enclaves = [{"EnclaveName": "a", "EnclaveID": "i-1-enc1", "EnclaveCID": 16, **printed}]
    return [
        *(document + b"\0" for document in documents()),
        documents()[0].hex().encode() + b"\0",
        json.dumps(printed).encode() + b"\0",
        json.dumps(enclaves).encode() + b"\1",
        f"PCR0={'ab' * 48},PCR8={'cd' * 48}".encode() + b"\0",
    ]


def _shapes(data: bytes) -> None:
    with contextlib.suppress(ConfigurationError):
        assert document_bytes(data)


def _shape_seeds() -> list[bytes]:
    # The smallest that has a document's form: COSE_Sign1 with ES384.
    document = cbor2.dumps([b"\xa1\x01\x38\x22", {}, b"", bytes(96)])
    numbers = list(document)
    signed = [number - 256 if number > 127 else number for number in numbers]
    return [
        str(numbers).replace(",", "").encode(),
        f"[]byte{{{', '.join(map(hex, numbers))}}}".encode(),
        f"new byte[] {{{', '.join(map(str, signed))}}};".encode(),
        document.hex("-").upper().encode(),
        repr(document).encode(),
        f"document: !!binary |\n  {base64.b64encode(document).decode()}\n".encode(),
        f"HTTP/1.1 200 OK\r\nA: b\r\n\r\nh'{document.hex()}'".encode(),
        quote(document).encode(),
    ]


def _expectations(data: bytes) -> None:
    def of(_text: str, _platform: Platform | None, _enclave: str | None) -> measured.Measured:
        return policies.OLD

    with contextlib.suppress(ConfigurationError, PolicyError):
        found = expectations.read(parse_settings(data, source="expectations.yaml"), of)
        policy = policies.parsed(policies.statement(), policies.DEFAULT)
        for result in expectations.hold(policy, found):
            str(result)


def _expectation_seeds() -> list[bytes]:
    return [
        f"principal: {policies.SESSION}\nkey: {policies.KEY}\nexpect:\n"
        "- {name: new, document: x.json, may: [kms:Decrypt], may-not: ['kms:*']}\n"
        "- {document: PCR0=ab, platform: instance, context: {a:b: c}, may: kms:Encrypt}\n".encode()
    ]


_YAML = (b": ", b"- ", b"{", b"}", b"[", b"]", b"&a ", b"*a", b"!!str ", b"'", b'"', b"|\n", b"? ",
         b"\n  ", b"\n- ", b"~", b"<<: ", b"true", b"0x10", b"1e3", b"---\n")  # fmt: skip
_KEYS = (b"proxy", b"forwards", b"listen", b"to", b"cids", b"allowlist", b"limits", b"enclaves",
         b"name", b"eif", b"memory_mib", b"cpus", b"cid", b"operations", b"hosts", b"log_lines",
         b"vsock://any:8000", b"unix:/x", b"tcp://a.example:443", b"any", b"5 s", b"1 MiB",
         b"drain_timeout", b"credentials", b"profile", b"logs")  # fmt: skip
_POLICY = (b'"Statement"', b'"Effect"', b'"Deny"', b'"Allow"', b'"Principal"', b'"NotPrincipal"',
           b'"Action"', b'"NotAction"', b'"Resource"', b'"Condition"', b'"Null"', b'"Bool"',
           b'"StringEquals"', b'"StringNotLike"', b'"ForAllValues:StringLikeIfExists"',
           b'"kms:RecipientAttestation:PCR0"', b'"kms:RecipientAttestation:ImageSha384"',
           b'"kms:ViaService"', b'"kms:*"', b'"*"', b'"AWS"', b"[]", b"{}", b"null", b"${aws:x}",
           b"arn:aws:iam::111122223333:root", b'"kms:PutKeyPolicy"')  # fmt: skip


TARGETS = [
    Target(name="shorthand", run=_shorthand, seeds=_shorthand_seeds, max_length=512,
           packages=("enclave",), words=(b"@=", b"=", b",", b"\\,", b"file://x")),
    Target(name="input", run=_input, seeds=_input_seeds, max_length=4096,
           packages=("enclave",), words=_YAML),
    Target(name="yaml", run=_yaml, seeds=_configuration_seeds, words=_YAML, max_length=4096,
           packages=("enclave", "yaml")),
    Target(name="allowlist", run=_allowlist, seeds=_allowlist_seeds, max_length=4096,
           packages=("vsock_proxy",), words=(*_YAML, b"allowlist:", b"address: ", b"*.")),
    Target(name="configuration", run=_configuration, seeds=_configuration_seeds, max_length=4096,
           packages=("parent", "vsock_proxy"), words=(*_YAML, *_KEYS)),
    Target(name="lint", run=_lint, seeds=_policy_seeds, max_length=8192,
           packages=("parent",), words=_POLICY),
    Target(name="explain", run=_explain, seeds=_policy_seeds, max_length=8192,
           packages=("parent",), words=_POLICY),
    Target(name="refusal", run=_refusal, seeds=_refusal_seeds, max_length=2048,
           packages=("parent",), words=(b" on resource: ", b"User: arn:", b"kms:Decrypt")),
    Target(name="measured", run=_measured, seeds=_measured_seeds, max_length=16384,
           packages=("parent",), words=(b"Measurements", b"PCR0", b"EnclaveID")),
    Target(name="shapes", run=_shapes, seeds=_shape_seeds, max_length=2048,
           packages=("vsock_proxy",),
           words=(b"0x", b"\\x", b"data:;base64,", b"h'", b"b64'", b"%84", b"...", b"-1, ")),
    Target(name="expectations", run=_expectations, seeds=_expectation_seeds, max_length=4096,
           packages=("parent", "vsock_proxy"), words=(*_YAML, b"may-not: ")),
]  # fmt: skip
