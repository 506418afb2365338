"""TLS to KMS: which certificates are trusted."""

from __future__ import annotations

import ssl

from enclave.errors import ConfigurationError


def default_ca_bundle() -> str:
    """Return the path of the CA file that botocore carries.

    It is part of the measured image; a system's list may be missing there.
    """
    from importlib import resources  # noqa: PLC0415 (start-up time of those who name a file)

    return str(resources.files("botocore").joinpath("cacert.pem"))


def tls_context(ca_bundle: str) -> ssl.SSLContext:
    """Return a verifying TLS context that trusts the CAs in the file `ca_bundle` (PEM).

    Raises:
        ConfigurationError: the file cannot be read or holds no certificate.
    """
    try:
        context = ssl.create_default_context(cafile=ca_bundle)
    except (OSError, ValueError) as e:  # ssl.SSLError is an OSError
        reason = getattr(e, "strerror", None) or str(e)
        raise ConfigurationError(
            f"cannot use the CA bundle {ca_bundle!r}: {reason}",
            hint="name a file of certificates in PEM with --ca-bundle or AWS_CA_BUNDLE",
        ) from e
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_alpn_protocols(["http/1.1"])
    return context
