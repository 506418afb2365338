"""Requests as they go over the wire: the same bytes, whatever is kept of those before."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from hypothesis import given
from hypothesis import strategies as st

from enclave.credentials import Credentials
from enclave.http.request import RequestWriter
from enclave.kms.body import Body, encode_body
from enclave.kms.endpoint import parse_endpoint
from enclave.kms.request import KmsRequestWriter
from tests.signing import signed_headers

ENDPOINT = parse_endpoint("https://kms.eu-central-1.amazonaws.com/")
REGION = "eu-central-1"
START = datetime(2026, 2, 3, 23, 59, 58, tzinfo=UTC)
RECIPIENT = {"AttestationDocument": "AAAA", "KeyEncryptionAlgorithm": "RSAES_OAEP_SHA_256"}
CREDENTIALS = (
    Credentials("ASIAFIRST", "s3cret", "token"),
    Credentials("ASIAFIRST", "s3cret", "another token"),
    Credentials("AKIASECOND", "another"),
)


def afresh(operation: str, body: Body, credentials: Credentials, at: datetime) -> bytes:
    """Write a request in one go, as the first one of a process."""
    headers = {
        "Content-Type": "application/x-amz-json-1.1",
        "X-Amz-Target": f"TrentService.{operation}",
    }
    signed = signed_headers(
        url=ENDPOINT.url,
        headers=headers,
        digest=body.digest,
        credentials=credentials,
        region=REGION,
        at=at,
    )
    return RequestWriter("POST", ENDPOINT.authority, ENDPOINT.path).write(signed, body.data)


requests = st.tuples(
    st.sampled_from(["GenerateRandom", "GenerateDataKey", "Decrypt", "Encrypt"])
    | st.text("abc", min_size=1, max_size=3),
    st.integers(1, 3),
    st.booleans(),
    st.sampled_from(CREDENTIALS),
    st.sampled_from([0.0, 0.2, 0.9, 1.0, 3.0]),
)


@given(st.lists(requests, max_size=30))
def test_every_request_is_written_as_if_it_were_the_first(
    sequence: list[tuple[str, int, bool, Credentials, float]],
) -> None:
    writer = KmsRequestWriter(ENDPOINT, REGION)
    for operation, number, is_attested, credentials, seconds in sequence:
        parameters = {"NumberOfBytes": number, **({"Recipient": RECIPIENT} if is_attested else {})}
        body = encode_body(operation, parameters)
        at = START + timedelta(seconds=seconds)
        written = writer.write(operation, body, credentials, at)
        assert written == afresh(operation, body, credentials, at)


def test_without_credentials_a_request_is_not_signed() -> None:
    body = encode_body("ListKeys", {})
    written = KmsRequestWriter(ENDPOINT, REGION).write("ListKeys", body, None, START)
    assert b"Authorization" not in written
    assert written.endswith(b"\r\nContent-Length: 2\r\n\r\n{}")


def test_no_plaintext_is_kept_and_no_more_than_eight_of_anything() -> None:
    writer = KmsRequestWriter(ENDPOINT, REGION)
    body = encode_body("Encrypt", {"Plaintext": "c2VjcmV0", "Recipient": RECIPIENT})
    writer.write("Encrypt", body, CREDENTIALS[0], START)
    for number in range(1, 20):
        random = encode_body("GenerateRandom", {"NumberOfBytes": number, "Recipient": RECIPIENT})
        writer.write("GenerateRandom", random, CREDENTIALS[0], START)
        writer.write(f"Operation{number}", body, CREDENTIALS[0], START)
    kept = writer._kept
    assert kept is not None
    assert len(kept.heads) == len(kept.requests) == 8
    assert not any(b"c2VjcmV0" in request for request in kept.requests.values())
    # A key, a token and signatures: none of it in what a traceback or a log could show.
    assert "token" not in repr(kept)
    assert "secret" not in repr(kept) + repr(kept.heads) + repr(writer)


def test_what_was_kept_goes_with_its_credentials() -> None:
    writer = KmsRequestWriter(ENDPOINT, REGION)
    body = encode_body("GenerateRandom", {"NumberOfBytes": 1, "Recipient": RECIPIENT})
    writer.write("GenerateRandom", body, CREDENTIALS[0], START)
    writer.write("GenerateRandom", body, CREDENTIALS[1], START)
    kept = writer._kept
    assert kept is not None
    [request] = kept.requests.values()
    assert b"another token" in request
