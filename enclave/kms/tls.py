"""TLS contexts for KMS: which certificate authorities are trusted, and nothing that leaks keys.

See docs/trust.md.
"""

from __future__ import annotations

import ssl
import sys
from typing import Final

from enclave.errors import ConfigurationError
from enclave.kms.roots import amazon_roots, public_bundle

TRUST: Final = ("amazon", "public")
"""Which CAs are trusted for AWS's own endpoints: see `tls_context`."""

_AMAZON_SUFFIXES: Final = (
    ".amazonaws.com",  # aws, aws-us-gov
    ".api.aws",  # the same, dual-stack
    ".amazonaws.eu",  # aws-eusc
    ".api.amazonwebservices.eu",  # the same, dual-stack
)
"""Host names whose certificates are of Amazon Trust Services, by Amazon's own documents. China's
and the isolated partitions' are not known to be (docs/trust.md)."""


def tls_context(
    host: str, *, ca_bundle: str | None = None, trust: str = "amazon"
) -> ssl.SSLContext:
    """Make a context that verifies `host`.

    Args:
        host: the host name of KMS's endpoint.
        ca_bundle: file of CA certificates in PEM; trusted instead of all that follows.
        trust: ``amazon``: for AWS's own endpoints the roots of Amazon Trust Services alone, where
            they are known to be used, and the public CAs of botocore's bundle for any other host;
            ``public``: the public CAs for every host.

    Raises:
        ConfigurationError: the file cannot be read or holds no certificate, or there is no such
            trust.
    """
    if trust not in TRUST:
        raise ConfigurationError(f"no such trust: {trust!r}", hint="there are " + ", ".join(TRUST))
    # `ssl.create_default_context` would write the secrets of every connection to SSLKEYLOGFILE.
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.hostname_checks_common_name = False
    if sys.version_info >= (3, 13):  # what `create_default_context` sets there
        context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN | ssl.VERIFY_X509_STRICT
    context.set_alpn_protocols(["http/1.1"])
    if ca_bundle is None and trust == "amazon" and is_amazons(host):
        context.load_verify_locations(cadata=amazon_roots())
        return context
    path = ca_bundle or public_bundle()
    try:
        context.load_verify_locations(cafile=path)
    except (OSError, ValueError) as e:  # ssl.SSLError is an OSError
        reason = getattr(e, "strerror", None) or str(e)
        raise ConfigurationError(
            f"cannot use the CA bundle {path!r}: {reason}",
            hint="name a file of certificates in PEM with --ca-bundle or AWS_CA_BUNDLE",
        ) from e
    return context


def is_amazons(host: str) -> bool:
    """Return whether Amazon says that this host's certificate is of Amazon Trust Services."""
    return host.lower().rstrip(".").endswith(_AMAZON_SUFFIXES)
