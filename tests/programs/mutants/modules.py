"""The security core: which files are mutated, and which tests must notice.

Only the tests that are about a file are run: that another one happens to notice is luck.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Module:
    """Files to mutate, and the folders or files of tests."""

    files: tuple[str, ...]
    tests: tuple[str, ...]


_RECIPIENT = "tests/enclave/recipient"

MODULES: dict[str, Module] = {
    "exchange": Module(("enclave/recipient/exchange.py",), (f"{_RECIPIENT}/test_exchange.py",)),
    "cms": Module(("enclave/recipient/cms.py",), (f"{_RECIPIENT}/test_cms.py",)),
    "ber": Module(("enclave/recipient/ber.py",), (f"{_RECIPIENT}/test_ber.py",)),
    "cbor": Module(
        ("enclave/cbor.py",),
        ("tests/enclave/nsm/test_cbor.py", "tests/enclave/nsm/test_messages.py"),
    ),
    "document": Module(("enclave/attestation/document.py",), ("tests/enclave/attestation",)),
    "chain": Module(("enclave/attestation/chain.py",), ("tests/enclave/attestation",)),
    "verify": Module(("enclave/attestation/verify.py",), ("tests/enclave/attestation",)),
    "signing": Module(("enclave/kms/signing.py",), ("tests/enclave/kms/test_signing.py",)),
    "allowlist": Module(
        ("vsock_proxy/proxy/allowlist.py", "vsock_proxy/proxy/allowlist_file.py"),
        (
            "tests/vsock_proxy/proxy/test_allowlist.py",
            "tests/vsock_proxy/proxy/test_allowlist_lines.py",
        ),
    ),
    "response": Module(("enclave/http/response.py",), ("tests/enclave/http/test_response.py",)),
    "stream": Module(
        ("enclave/http/stream.py",),
        ("tests/enclave/http/test_stream.py", "tests/enclave/http/test_tls_stream.py"),
    ),
    "pool": Module(
        ("enclave/http/pool.py",),
        ("tests/enclave/http/test_pool.py", "tests/enclave/http/test_pool_waits.py"),
    ),
    "client": Module(
        ("enclave/http/client.py", "enclave/http/connection.py"),
        ("tests/enclave/http/test_client.py", "tests/enclave/http/test_client_parts.py"),
    ),
    "request": Module(("enclave/http/request.py",), ("tests/enclave/http/test_request.py",)),
    "evaluate": Module(
        ("parent/policy/evaluate.py",),
        ("tests/parent/policy/test_evaluate.py", "tests/parent/policy/test_operators.py"),
    ),
    "reach": Module(
        ("parent/policy/reach.py", "parent/policy/principals.py"), ("tests/parent/policy",)
    ),
}
