"""Attestation documents. `document` parses them and loads in no time; `verify` proves them and
loads X.509 and COSE, so it is not imported from here.
"""

from enclave.attestation.document import AttestationDocument, parse

__all__ = ["AttestationDocument", "parse"]
