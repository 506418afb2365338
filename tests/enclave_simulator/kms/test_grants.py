"""Grants: their constraints and tokens, on attested operations and others."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import pytest

from enclave_simulator.kms.messages import KmsError
from enclave_simulator.kms.service import KmsService
from enclave_simulator.kms.sigv4 import SIMULATED_CREDENTIALS, Credentials
from tests.enclave_simulator.documents import attest, rsa_key, spki
from tests.enclave_simulator.kms.kms_client import ACCOUNT, recipient, signed

if TYPE_CHECKING:
    from collections.abc import Callable

    from enclave_simulator.authority import Authority
    from enclave_simulator.nsm import SimulatedNsm

ROLE = f"arn:aws:iam::{ACCOUNT}:role/enclave"
ENCLAVE = Credentials(
    "ASIAENCLAVE", "secret", None, f"arn:aws:sts::{ACCOUNT}:assumed-role/enclave/i-1"
)
CONTEXT = {"purpose": "test"}


def policy(*statements: dict[str, Any]) -> str:
    """A key policy by which the enclave may do nothing unless a statement says so."""
    owner = {"Effect": "Allow", "Principal": {"AWS": SIMULATED_CREDENTIALS.principal},
             "Action": "kms:*", "Resource": "*"}  # fmt: skip
    return json.dumps({"Version": "2012-10-17", "Statement": [owner, *statements]})


class Account:
    """The owner of the keys, and an enclave that needs grants; the clock is the test's."""

    def __init__(self, nitro_root: bytes, **options: Any) -> None:
        self.now = datetime.now(UTC)
        self.service = KmsService(
            nitro_root,
            credentials=[SIMULATED_CREDENTIALS, ENCLAVE],
            now=lambda: self.now,
            **options,
        )

    def owner(self, operation: str, **parameters: Any) -> dict[str, Any]:
        return self.call(SIMULATED_CREDENTIALS, operation, parameters)

    def enclave(self, operation: str, **parameters: Any) -> dict[str, Any]:
        return self.call(ENCLAVE, operation, parameters)

    def call(self, who: Credentials, operation: str, parameters: Any) -> dict[str, Any]:
        response = self.service.handle(signed(operation, parameters, credentials=who))
        document: dict[str, Any] = json.loads(response.body or b"{}")
        if response.status != 200:
            raise KmsError(document["__type"], document.get("message", document.get("Message")))
        return document

    def key(self, *statements: dict[str, Any], **parameters: Any) -> str:
        created = self.owner("CreateKey", Policy=policy(*statements), **parameters)
        return str(created["KeyMetadata"]["KeyId"])

    def grant(self, key: str, *operations: str, **more: Any) -> dict[str, Any]:
        return self.owner(
            "CreateGrant",
            **{"KeyId": key, "GranteePrincipal": ROLE, "Operations": operations, **more},
        )


def refused(call: Callable[..., Any], operation: str, **parameters: Any) -> str:
    with pytest.raises(KmsError) as error:
        call(operation, **parameters)
    return error.value.type


@pytest.fixture
def account(nitro_authority: Authority) -> Account:
    return Account(nitro_authority.root_pem)


@pytest.mark.parametrize(
    "operation", ["Decrypt", "GenerateDataKey", "GenerateDataKeyPair", "DeriveSharedSecret"]
)
def test_attested_operation_is_allowed_by_a_grant_alone(
    account: Account, simulated_nsm: SimulatedNsm, operation: str
) -> None:
    """GenerateRandom, the fifth one, has no key, and so no grants."""
    agrees = operation == "DeriveSharedSecret"
    spec = {"KeySpec": "ECC_NIST_P256", "KeyUsage": "KEY_AGREEMENT"} if agrees else {}
    key = account.key(**spec)
    attested = {"Recipient": recipient(attest(simulated_nsm, spki(rsa_key())))}
    request = {
        "Decrypt": {},
        "GenerateDataKey": {"KeyId": key, "KeySpec": "AES_256"},
        "GenerateDataKeyPair": {"KeyId": key, "KeyPairSpec": "ECC_NIST_P256"},
        "DeriveSharedSecret": {"KeyId": key, "KeyAgreementAlgorithm": "ECDH"},
    }[operation]
    if operation == "Decrypt":
        sealed = account.owner("Encrypt", KeyId=key, Plaintext="AAAA")
        request = {"CiphertextBlob": sealed["CiphertextBlob"]}
    if agrees:
        request["PublicKey"] = account.owner("GetPublicKey", KeyId=key)["PublicKey"]
    assert refused(account.enclave, operation, **request, **attested) == "AccessDeniedException"
    grant = account.grant(key, operation)
    assert "CiphertextForRecipient" in account.enclave(operation, **request, **attested)
    account.owner("RevokeGrant", KeyId=key, GrantId=grant["GrantId"])
    assert refused(account.enclave, operation, **request, **attested) == "AccessDeniedException"


@pytest.mark.parametrize(
    ("constraint", "context", "allowed"),
    [
        ({"EncryptionContextEquals": CONTEXT}, CONTEXT, True),
        ({"EncryptionContextEquals": CONTEXT}, {**CONTEXT, "more": "1"}, False),
        ({"EncryptionContextEquals": CONTEXT}, {}, False),
        ({"EncryptionContextSubset": CONTEXT}, {**CONTEXT, "more": "1"}, True),
        ({"EncryptionContextSubset": CONTEXT}, {"purpose": "other"}, False),
        ({"EncryptionContextSubset": CONTEXT}, {}, False),
        ({"SourceArn": f"arn:aws:sns:eu-west-1:{ACCOUNT}:topic"}, CONTEXT, False),
    ],
)
def test_constraint(
    account: Account, constraint: dict[str, Any], context: dict[str, str], allowed: bool
) -> None:
    key = account.key()
    account.grant(key, "Encrypt", "DescribeKey", Constraints=constraint)
    request = {"KeyId": key, "Plaintext": "AAAA", "EncryptionContext": context}
    if allowed:
        account.enclave("Encrypt", **request)
    else:
        assert refused(account.enclave, "Encrypt", **request) == "AccessDeniedException"
    account.enclave("DescribeKey", KeyId=key)  # has no encryption context: not constrained


def test_deny_in_a_key_policy_overrides_a_grant(account: Account) -> None:
    deny = {"Effect": "Deny", "Principal": {"AWS": ROLE}, "Action": "kms:Encrypt", "Resource": "*"}
    key = account.key(deny)
    account.grant(key, "Encrypt")
    request = {"KeyId": key, "Plaintext": "AAAA"}
    assert refused(account.enclave, "Encrypt", **request) == "AccessDeniedException"


def test_new_grant_needs_its_token_until_the_delay_is_over(nitro_authority: Authority) -> None:
    account = Account(nitro_authority.root_pem, grant_delay=timedelta(minutes=1))
    key = account.key()
    token = account.grant(key, "Encrypt")["GrantToken"]
    request = {"KeyId": key, "Plaintext": "AAAA"}
    assert refused(account.enclave, "Encrypt", **request) == "AccessDeniedException"
    account.enclave("Encrypt", **request, GrantTokens=[token])
    account.now += timedelta(minutes=1)
    # The clock of the signature is the real one: within its five minutes still.
    account.enclave("Encrypt", **request)


@pytest.mark.parametrize("token", ["x", "AAAA", "a" * 8192])
def test_token_that_is_not_kms_s_is_rejected(account: Account, token: str) -> None:
    key = account.key()
    request = {"KeyId": key, "Plaintext": "AAAA", "GrantTokens": [token]}
    assert refused(account.owner, "Encrypt", **request) == "InvalidGrantTokenException"


def test_token_of_a_retired_grant_is_rejected(account: Account) -> None:
    key = account.key()
    token = account.grant(key, "Encrypt")["GrantToken"]
    account.owner("RetireGrant", GrantToken=token)
    request = {"KeyId": key, "Plaintext": "AAAA", "GrantTokens": [token]}
    assert refused(account.owner, "Encrypt", **request) == "InvalidGrantTokenException"


def test_repeated_request_with_a_name_gives_the_same_grant_and_another_token(
    account: Account,
) -> None:
    key = account.key()
    first, again, other = (
        account.grant(key, "Encrypt", **({"Name": "once"} if named else {}))
        for named in (True, True, False)
    )
    assert first["GrantId"] == again["GrantId"] != other["GrantId"]
    assert first["GrantToken"] != again["GrantToken"]
    assert len(account.owner("ListGrants", KeyId=key)["Grants"]) == 2


def test_dry_run_changes_nothing(account: Account) -> None:
    key = account.key()
    kept = account.grant(key, "Encrypt")
    for operation, given in (
        ("CreateGrant", {"KeyId": key, "GranteePrincipal": ROLE, "Operations": ["Encrypt"]}),
        ("RevokeGrant", {"KeyId": key, "GrantId": kept["GrantId"]}),
        ("RetireGrant", {"GrantToken": kept["GrantToken"]}),
    ):
        error = refused(account.owner, operation, **given, DryRun=True)
        assert error == "DryRunOperationException"
    (listed,) = account.owner("ListGrants", KeyId=key)["Grants"]
    assert listed["GrantId"] == kept["GrantId"]


def test_retiring_principal_retires_and_is_listed(account: Account) -> None:
    key = account.key()
    grant = account.grant(key, "Encrypt", RetiringPrincipal=ROLE)
    (listed,) = account.owner("ListRetirableGrants", RetiringPrincipal=ROLE)["Grants"]
    assert (listed["GrantId"], listed["Operations"]) == (grant["GrantId"], ["Encrypt"])
    account.enclave("RetireGrant", KeyId=key, GrantId=grant["GrantId"])
    assert account.owner("ListGrants", KeyId=key)["Grants"] == []


def test_grantee_without_retire_grant_does_not_retire(account: Account) -> None:
    key = account.key()
    grant = account.grant(key, "Encrypt")
    error = refused(account.enclave, "RetireGrant", GrantToken=grant["GrantToken"])
    assert error == "AccessDeniedException"


def test_grantee_with_create_grant_gives_no_more_than_it_has(account: Account) -> None:
    key = account.key()
    constraints = {"EncryptionContextSubset": CONTEXT}
    account.grant(key, "CreateGrant", "Encrypt", Constraints=constraints)
    given = {"KeyId": key, "GranteePrincipal": f"arn:aws:iam::{ACCOUNT}:role/other"}
    for operations, context in ((["Decrypt"], CONTEXT), (["Encrypt"], {"purpose": "other"})):
        error = refused(
            account.enclave, "CreateGrant", **given, Operations=operations,
            Constraints={"EncryptionContextSubset": context},
        )  # fmt: skip
        assert error == "AccessDeniedException"
    assert (
        refused(account.enclave, "CreateGrant", **given, Operations=["Encrypt"])
        == "AccessDeniedException"
    )
    account.enclave("CreateGrant", **given, Operations=["Encrypt"], Constraints=constraints)


@pytest.mark.parametrize(
    ("changes", "error"),
    [
        ({"Operations": ["Sign"]}, "ValidationException"),
        ({"Operations": ["Nothing"]}, "ValidationException"),
        ({"GranteePrincipal": "nobody"}, "InvalidArnException"),
        ({"RetiringPrincipal": f"arn:aws:s3:::{ACCOUNT}"}, "InvalidArnException"),
        ({"GranteePrincipal": None}, "ValidationException"),
        *(
            ({"Constraints": {f"EncryptionContext{kind}": context}}, "ValidationException")
            for kind in ("Equals", "Subset")
            for context in ({str(n): "" for n in range(9)}, {"a": "x" * 385})
        ),
    ],
)
def test_invalid_grant(account: Account, changes: dict[str, Any], error: str) -> None:
    given = {"KeyId": account.key(), "GranteePrincipal": ROLE, "Operations": ["Encrypt"]}
    assert refused(account.owner, "CreateGrant", **{**given, **changes}) == error


def test_largest_constraint(account: Account) -> None:
    """CreateGrant, Constraints: 8 pairs, values of 384 characters."""
    largest = {str(number): "x" * 384 for number in range(8)}
    account.owner(
        "CreateGrant", KeyId=account.key(), GranteePrincipal=ROLE, Operations=["Encrypt"],
        Constraints={"EncryptionContextEquals": largest},
    )  # fmt: skip
