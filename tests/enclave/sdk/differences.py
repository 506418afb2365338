"""What our CMS reader and the C SDK's each make of the same bytes, and the reasons they may differ.

The C code takes one encoding only, and looks at no more than it needs; ours takes every encoding
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

CUT = "C stops without a word at a piece of content whose length it cannot read"

UNREAD = {
    "C does not read how the key is encrypted, but assumes OAEP with SHA-256": re.compile(
        r"keyEncryptionAlgorithm|RSAES-OAEP-params|OAEP hashAlgorithm|OAEP maskGenAlgorithm"
        r"|MGF1 hash"
    ),
    "C does not read whose key it is": re.compile(r"subjectKeyIdentifier"),
    "C does not look for ends: surplus elements and trailing bytes pass": re.compile(
        r"goes on where it should end|bytes follow its end"
    ),
    "C steps over what should hold a part, and reads on behind what has a length": re.compile(
        r": (the length of )?"
        r"(contentType|content|EnvelopedData|EnvelopedData version|type of the encrypted content) "
        r"(is missing|has tag|has no length|is longer|is cut|is not the one expected)"
    ),
    "C takes pieces of content as long as it finds any, whatever holds them": re.compile(
        r"(piece of encryptedContent|encryptedContent) (has tag|has no length|is longer|is missing)"
        r"|the length of (piece of )?encryptedContent"
    ),
    "C does not check how long the initialisation vector is": re.compile(
        r"initialisation vector of"
    ),
    "C does not check that the content is whole blocks": re.compile(r"encrypted content of"),
}
"""What C takes and ours refuses: why, and how ours says that it refuses."""


def compare(sdk: Attestation, data: bytes) -> str:
    """`AGREE`, `LENGTHS`, `CUT`, or a reason of `UNREAD`; an AssertionError where there is none."""
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
        # Said again in KMS's lengths C must read the same; then it was the lengths.
        again = in_kms_form(fields)
        assert again != data, f"C does not read what KMS sends: {data.hex()}"
        assert sdk.parse_enveloped_data(again) == fields, data.hex()
        if theirs is None:
            return LENGTHS
        assert (theirs.encrypted_key, theirs.iv) == (ours.encrypted_key, ours.iv), data.hex()
        assert ours.ciphertext.startswith(theirs.ciphertext), data.hex()
        return CUT
    return AGREE if theirs is None else unread(refusal, data)


def unread(refusal: str, data: bytes) -> str:
    """The reason in `UNREAD` why C took what ours refused by the message `refusal`."""
    for why, said in UNREAD.items():
        if said.search(refusal):
            return why
    raise AssertionError(f"C takes it, ours says {refusal}: {data.hex()}")


def in_kms_form(fields: Sealed) -> bytes:
    """An envelope as KMS writes it, with these fields."""
    info = asn1.ContentInfo.load(Envelope(iv=fields.iv, ciphertext=fields.ciphertext).der())
    info["content"]["recipient_infos"][0].chosen["encrypted_key"] = fields.encrypted_key
    return rebuilt(info.dump(force=True), indefinite=True, pieces=1)
