"""Compare our CMS parser with the C SDK's on the same bytes, and list the reasons for differences.

The C code accepts one encoding only, and checks no more than it needs; ours accepts every encoding
of one meaning. Each reason is one of these two, for one part of an envelope.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from asn1crypto import cms as asn1

from enclave.errors import DecodingError
from enclave.recipient.cms import parse_enveloped_data
from enclave.sdk.bindings.attestation import Sealed
from enclave.sdk.errors import SdkCallError
from tests.enclave.recipient.envelopes import Envelope, rebuilt

if TYPE_CHECKING:
    from enclave.sdk.bindings.attestation import Attestation

AGREE = "they agree"

LENGTHS = "C reads KMS's own lengths only: indefinite outside, definite and minimal within"

CUT = "C stops silently at a piece of content whose length it cannot read"

UNREAD = {
    "C does not read how the key is encrypted, but assumes OAEP with SHA-256": re.compile(
        r"keyEncryptionAlgorithm|RSAES-OAEP-params|OAEP hashAlgorithm|OAEP maskGenAlgorithm"
        r"|MGF1 hash"
    ),
    "C does not read whose key it is": re.compile(r"subjectKeyIdentifier"),
    "C does not check where parts end: surplus elements and trailing bytes pass": re.compile(
        r"goes on where it should end|bytes follow its end"
    ),
    "C steps over what should hold a part, and reads on behind what has a length": re.compile(
        r": (the length of )?"
        r"(contentType|content|EnvelopedData|EnvelopedData version|type of the encrypted content) "
        r"(is missing|has tag|has no length|is longer|is cut|is not the one expected)"
    ),
    "C accepts pieces of content as long as it finds any, in any container": re.compile(
        r"(piece of encryptedContent|encryptedContent) (has tag|has no length|is longer|is missing)"
        r"|the length of (piece of )?encryptedContent"
    ),
    "C does not check how long the initialisation vector is": re.compile(
        r"initialisation vector of"
    ),
    "C does not check that the content is whole blocks": re.compile(r"encrypted content of"),
}
"""Reasons why C accepts what ours rejects, and the message of ours."""


def compare(sdk: Attestation, data: bytes) -> str:
    """Return `AGREE`, `LENGTHS`, `CUT` or a reason of `UNREAD`; AssertionError without a reason."""
    try:
        ours, refusal = parse_enveloped_data(data), ""
    except DecodingError as e:
        ours, refusal = None, str(e)
    try:
        theirs = sdk.parse_enveloped_data(data)
    except SdkCallError:
        theirs = None
    if ours is not None:
        fields = Sealed(ours.encrypted_key, ours.iv, ours.ciphertext)
        if theirs == fields:
            return AGREE
        # With the same parts in KMS's encoding, C must agree; then the lengths were the reason.
        encoded = in_kms_form(fields)
        assert encoded != data, f"C does not read what KMS sends: {data.hex()}"
        assert sdk.parse_enveloped_data(encoded) == fields, data.hex()
        if theirs is None:
            return LENGTHS
        assert (theirs.encrypted_key, theirs.iv) == (ours.encrypted_key, ours.iv), data.hex()
        assert ours.ciphertext.startswith(theirs.ciphertext), data.hex()
        return CUT
    return AGREE if theirs is None else unread(refusal, data)


def unread(refusal: str, data: bytes) -> str:
    """Return the reason in `UNREAD` why C accepts what ours rejects with the message `refusal`."""
    for reason, message in UNREAD.items():
        if message.search(refusal):
            return reason
    raise AssertionError(f"C accepts it, ours rejects it: {refusal}: {data.hex()}")


def in_kms_form(fields: Sealed) -> bytes:
    """Return an envelope as KMS encodes it, with these fields."""
    info = asn1.ContentInfo.load(Envelope(iv=fields.iv, ciphertext=fields.ciphertext).der())
    info["content"]["recipient_infos"][0].chosen["encrypted_key"] = fields.encrypted_key
    return rebuilt(info.dump(force=True), indefinite=True, pieces=1)
