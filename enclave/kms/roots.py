"""The root certificates of Amazon Trust Services, which AWS's own endpoints are trusted by.

No certificate is kept in this project: they are picked out of the bundle that botocore brings, by
their SHA-256. `python -m enclave.kms.roots` writes them beside this file, as the image has them.
See docs/trust.md and docs/adr/0012-amazon-roots-alone.md.
"""

from __future__ import annotations

import binascii
import functools
import hashlib
import ssl
from pathlib import Path
from typing import Final

import botocore

from enclave.errors import ConfigurationError

FINGERPRINTS: Final = {
    "Amazon Root CA 1": "8ecde6884f3d87b1125ba31ac3fcb13d7016de7f57cc904fe1cb97c6ae98196e",
    "Amazon Root CA 2": "1ba5b2aa8c65401a82960118f80bec4f62304d83cec4713a19c39c011ea46db4",
    "Amazon Root CA 3": "18ce6cfe7bf14e60b2e347b8dfe868cb31d02ebb3ada271569f50343b46db3a4",
    "Amazon Root CA 4": "e35d28419ed02025cfa69038cd623962458da5c695fbdea3c22b0bfb25897092",
    "Starfield Services Root Certificate Authority - G2": (
        "568d6905a2c88708a4b3025190edcfedb1974a606a13c6e5290fcb2ae63edab5"
    ),
}
"""SHA-256 of each root's DER (Amazon Trust Services, "Repository", which lists their keys)."""

READY: Final = Path(__file__).with_name("roots.pem")
"""Where the image has them ready; nowhere else is there such a file."""

_BEGIN, _END = b"-----BEGIN CERTIFICATE-----", b"-----END CERTIFICATE-----"


def public_bundle() -> str:
    """Return the path of the file of public CAs that botocore brings.

    In an image it is measured like any file; a system's own bundle may be missing there.
    """
    return str(Path(botocore.__file__).with_name("cacert.pem"))


@functools.cache
def amazon_roots() -> bytes:
    """Return the roots, DER, one after the other.

    Raises:
        ConfigurationError: there is none where they should be.
    """
    path = READY if READY.exists() else Path(public_bundle())
    roots = picked(_read(path))
    if not roots:
        raise ConfigurationError(
            f"no root of Amazon Trust Services is in {str(path)!r}",
            hint="install a newer botocore, or name a file of CA certificates with --ca-bundle",
        )
    return b"".join(roots)


def picked(pem: bytes) -> list[bytes]:
    """Return those certificates, DER, that are roots of Amazon Trust Services. No I/O."""
    pinned = set(FINGERPRINTS.values())
    roots = []
    for piece in pem.split(_BEGIN)[1:]:
        try:
            der = binascii.a2b_base64(piece.partition(_END)[0])
        except binascii.Error:
            continue
        if hashlib.sha256(der).hexdigest() in pinned:
            roots.append(der)
    return roots


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as e:
        raise ConfigurationError(
            f"cannot read the CA certificates in {str(path)!r}: {e.strerror}",
            hint="name a file of CA certificates with --ca-bundle",
        ) from e


def write_ready(path: Path = READY) -> None:
    """Write the roots to a file of their own.

    Raises:
        ConfigurationError: botocore's bundle does not have all of them.
    """
    roots = picked(_read(Path(public_bundle())))
    if len(roots) != len(FINGERPRINTS):
        raise ConfigurationError(
            "botocore's CA bundle does not have all roots of Amazon Trust Services",
            hint="install a newer botocore",
        )
    path.write_text("".join(map(ssl.DER_cert_to_PEM_cert, roots)), encoding="ascii")


if __name__ == "__main__":
    write_ready()
