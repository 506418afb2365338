"""The state of a KMS outlives it; a file of it is written whole or not at all."""

from __future__ import annotations

import json
import os
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from enclave_simulator.authority import Authority
from enclave_simulator.kms.messages import KmsError
from enclave_simulator.kms.outputs import write_whole
from enclave_simulator.kms.service import KmsService
from enclave_simulator.kms.state import StateError, dump_state, load_state
from enclave_simulator.kms.store import KeyStore
from tests.enclave_simulator.kms.kms_client import signed

if TYPE_CHECKING:
    from pathlib import Path

AUTHORITY = Authority.generate()
ROLE = "arn:aws:iam::000000000000:role/enclave"


class Kept:
    """A KMS whose state is kept in memory."""

    def __init__(self, state: bytes | None = None, **options: Any) -> None:
        self.state = state
        self.saved = 0
        self.service = KmsService(
            AUTHORITY.root_pem, state=state, on_change=self._change, **options
        )

    def _change(self, state: bytes) -> None:
        self.state = state
        self.saved += 1

    def restarted(self, **options: Any) -> Kept:
        return Kept(self.state, **options)

    def call(self, operation: str, region: str = "eu-west-1", **parameters: Any) -> dict[str, Any]:
        response = self.service.handle(signed(operation, parameters, region=region))
        document: dict[str, Any] = json.loads(response.body or b"{}")
        if response.status != 200:
            raise KmsError(document["__type"])
        return document


def filled() -> tuple[Kept, str, str]:
    """A KMS with something of everything; a key's id, and a ciphertext of its first material."""
    kms = Kept()
    key = kms.call("CreateKey", Tags=[{"TagKey": "a", "TagValue": "b"}])["KeyMetadata"]["KeyId"]
    blob = kms.call("Encrypt", KeyId=key, Plaintext="AAAA")["CiphertextBlob"]
    kms.call("CreateAlias", AliasName="alias/kept", TargetKeyId=key)
    kms.call("EnableKeyRotation", KeyId=key, RotationPeriodInDays=90)
    kms.call("RotateKeyOnDemand", KeyId=key)
    kms.call(
        "CreateGrant", KeyId=key, GranteePrincipal=ROLE, Operations=["Decrypt"],
        Constraints={"EncryptionContextSubset": {"a": "b"}}, Name="kept",
    )  # fmt: skip
    for spec, usage in (
        ("RSA_2048", "ENCRYPT_DECRYPT"), ("ECC_NIST_P256", "KEY_AGREEMENT"),
        ("ECC_NIST_EDWARDS25519", "SIGN_VERIFY"), ("HMAC_384", "GENERATE_VERIFY_MAC"),
        ("ML_DSA_44", "SIGN_VERIFY"), ("ML_KEM_768", "ENCAPSULATE_DECAPSULATE"),
    ):  # fmt: skip
        kms.call("CreateKey", KeySpec=spec, KeyUsage=usage)
    kms.call("CreateKey", Origin="EXTERNAL")
    related = kms.call("CreateKey", MultiRegion=True)["KeyMetadata"]["KeyId"]
    kms.call("ReplicateKey", KeyId=related, ReplicaRegion="us-west-2")
    gone = kms.call("CreateKey")["KeyMetadata"]["KeyId"]
    kms.call("ScheduleKeyDeletion", KeyId=gone)
    return kms, key, blob


def test_everything_is_there_after_a_restart() -> None:
    kms, key, blob = filled()
    after = kms.restarted()
    for operation, parameters in (
        ("ListKeys", {}), ("ListAliases", {}), ("ListResourceTags", {"KeyId": key}),
        ("GetKeyPolicy", {"KeyId": key}), ("GetKeyRotationStatus", {"KeyId": key}),
        ("ListKeyRotations", {"KeyId": key}), ("ListGrants", {"KeyId": key}),
    ):  # fmt: skip
        assert after.call(operation, **parameters) == kms.call(operation, **parameters)
    for entry in kms.call("ListKeys")["Keys"]:
        described = {"KeyId": entry["KeyId"]}
        assert after.call("DescribeKey", **described) == kms.call("DescribeKey", **described)
    assert after.call("ListKeys", region="us-west-2") == kms.call("ListKeys", region="us-west-2")
    assert after.call("Decrypt", CiphertextBlob=blob)["Plaintext"] == "AAAA"
    assert after.state == kms.state, "reading changes nothing"


def test_related_keys_are_still_related_after_a_restart() -> None:
    kms = Kept()
    key = kms.call("CreateKey", MultiRegion=True)["KeyMetadata"]["KeyId"]
    kms.call("ReplicateKey", KeyId=key, ReplicaRegion="us-west-2")
    after = kms.restarted()
    after.call("RotateKeyOnDemand", KeyId=key)
    blob = after.call("Encrypt", KeyId=key, Plaintext="AAAA")["CiphertextBlob"]
    opened = after.call("Decrypt", region="us-west-2", CiphertextBlob=blob)
    assert opened["Plaintext"] == "AAAA"


def test_grant_tokens_outlive_a_restart() -> None:
    kms = Kept()
    key = kms.call("CreateKey")["KeyMetadata"]["KeyId"]
    made = kms.call("CreateGrant", KeyId=key, GranteePrincipal=ROLE, Operations=["Decrypt"])
    kms.restarted().call("RetireGrant", GrantToken=made["GrantToken"])


def test_keys_of_the_command_line_are_not_made_again() -> None:
    kms = Kept()
    kms.service.add_key("alias/mine")
    blob = kms.call("Encrypt", KeyId="alias/mine", Plaintext="AAAA")["CiphertextBlob"]
    after = kms.restarted()
    after.service.add_key("alias/mine")
    assert after.call("Decrypt", CiphertextBlob=blob, KeyId="alias/mine")["Plaintext"] == "AAAA"
    assert len(after.call("ListKeys")["Keys"]) == 1


def test_only_changes_are_kept() -> None:
    kms = Kept()
    key = kms.call("CreateKey")["KeyMetadata"]["KeyId"]
    saved = kms.saved
    kms.call("DescribeKey", KeyId=key)
    kms.call("Encrypt", KeyId=key, Plaintext="AAAA")
    with pytest.raises(KmsError):
        kms.call("EnableKeyRotation", KeyId="none")
    assert kms.saved == saved
    kms.call("DisableKey", KeyId=key)
    assert kms.saved == saved + 1


def test_change_that_cannot_be_kept_is_an_internal_error() -> None:
    def full(_: bytes) -> None:
        raise OSError(28, "No space left on device")

    kms = Kept()
    kms.service = KmsService(AUTHORITY.root_pem, on_change=full)
    response = kms.service.handle(signed("CreateKey", {}))
    assert (response.status, json.loads(response.body)) == (500, {"__type": "KMSInternalException"})


def test_due_changes_happen_by_the_clock() -> None:
    now = datetime.now(UTC)
    kms = Kept()
    # Requests are signed with the real clock: the KMS's differs between requests only.
    first = kms.call("CreateKey")["KeyMetadata"]["KeyId"]
    kms.call("EnableKeyRotation", KeyId=first, RotationPeriodInDays=90)
    gone = kms.call("CreateKey")["KeyMetadata"]["KeyId"]
    kms.call("CreateAlias", AliasName="alias/gone", TargetKeyId=gone)
    kms.call("ScheduleKeyDeletion", KeyId=gone, PendingWindowInDays=7)
    store = KeyStore("arn:aws:iam::000000000000:root")
    load_state(store, kms.state or b"")
    region = store.region("eu-west-1", now + timedelta(days=8))
    assert list(region.keys) == [first]
    assert not region.aliases
    assert len(region.keys[first].materials.versions) == 1
    store.region("eu-west-1", now + timedelta(days=200))
    rotations = [v.rotation for v in region.keys[first].materials.versions]
    assert rotations == ["", "AUTOMATIC", "AUTOMATIC"]


# Seeds


def test_a_seed_gives_the_same_identifiers_and_other_key_material() -> None:
    first, second = Kept(seed=7), Kept(seed=7)
    created = [kms.call("CreateKey")["KeyMetadata"] for kms in (first, second)]
    assert created[0]["KeyId"] == created[1]["KeyId"]
    assert created[0]["CurrentKeyMaterialId"] != created[1]["CurrentKeyMaterialId"]
    assert Kept(seed=8).call("CreateKey")["KeyMetadata"]["KeyId"] != created[0]["KeyId"]


def test_a_seeded_kms_makes_no_identifier_twice_after_a_restart() -> None:
    kms = Kept(seed=7)
    made = {kms.call("CreateKey")["KeyMetadata"]["KeyId"]}
    after = kms.restarted(seed=7)
    made |= {after.call("CreateKey")["KeyMetadata"]["KeyId"] for _ in range(3)}
    assert len(made) == 4


# States that are none

STATE = json.loads(filled()[0].state or b"")


def paths(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    inner = (
        value.items() if isinstance(value, dict)
        else enumerate(value) if isinstance(value, list) else ()
    )  # fmt: skip
    return [path, *(each for key, item in inner for each in paths(item, (*path, key)))]


@given(st.sampled_from(paths(STATE)[1:]), st.sampled_from([None, 0, -1, "x", "", [], {}, [None]]))
def test_whatever_the_state_only_its_own_error_leaves(path: tuple[Any, ...], value: Any) -> None:
    changed = json.loads(json.dumps(STATE))
    holder = changed
    for step in path[:-1]:
        holder = holder[step]
    holder[path[-1]] = value
    store = KeyStore("arn:aws:iam::000000000000:root")
    try:
        load_state(store, json.dumps(changed).encode())
    except StateError:
        assert not store.regions
    else:
        dump_state(store)


@pytest.mark.parametrize("state", [b"", b"{", b"[]", b"\xff", b"{}", b'{"version": 2}'])
def test_what_is_not_a_state_is_rejected(state: bytes) -> None:
    with pytest.raises(StateError):
        load_state(KeyStore("arn:aws:iam::000000000000:root"), state)


@pytest.mark.parametrize("missing", ["eu-west-1", "us-east-1"])
def test_multi_region_key_that_is_not_in_its_regions_is_rejected(missing: str) -> None:
    """The deletion of one looks for the others: that would fail in every later request."""
    kms = Kept()
    key = kms.call("CreateKey", MultiRegion=True)["KeyMetadata"]["KeyId"]
    kms.call("ReplicateKey", KeyId=key, ReplicaRegion="us-east-1")
    assert kms.state is not None
    state = json.loads(kms.state)
    state["keys"] = [each for each in state["keys"] if missing not in each["arn"]]
    with pytest.raises(StateError, match="multi-Region"):
        load_state(KeyStore("arn:aws:iam::000000000000:root"), json.dumps(state).encode())


def test_state_of_another_account_is_rejected() -> None:
    with pytest.raises(StateError, match="000000000000"):
        load_state(KeyStore("arn:aws:iam::111122223333:root"), json.dumps(STATE).encode())


# Files


def test_file_is_replaced_whole_and_for_its_owner_alone(tmp_path: Path) -> None:
    path = tmp_path / "state.json"
    for content in (b"first", b"second"):
        write_whole(path, content)
        assert path.read_bytes() == content
    assert path.stat().st_mode & 0o777 == 0o600
    assert [each.name for each in tmp_path.iterdir()] == ["state.json"]


def test_failed_write_leaves_the_old_file_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "state.json"
    write_whole(path, b"first")

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space"):
        write_whole(path, b"second")
    assert path.read_bytes() == b"first"
    assert [each.name for each in tmp_path.iterdir()] == ["state.json"]
