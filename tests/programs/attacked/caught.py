"""Which vulnerable client each attack must catch."""

from __future__ import annotations

CAUGHT_BY = {
    "swapped-ciphertext": "stored-context",
    "other-key": "names-no-key",
    "moved-alias": "names-alias",
    "foreign-account": "names-alias",
    "credentials-stall": "no-deadline",
    "credentials-trickle": "no-deadline",
    "credentials-endless": "no-deadline",
    "credentials-injection": "raw-headers",
    "credentials-rejected": "renews-for-ever",
    "tls-other-ca": "trusts-any",
    "tls-self-signed": "trusts-any",
    "tls-expired": "ignores-dates",
    "tls-not-yet-valid": "ignores-dates",
    "tls-wrong-name": "no-host-name",
    "tls-common-name": "common-name",
    "tls-wildcard": "no-host-name",
    "tls-client-only": "trusts-any",
    "tls-under-leaf": "trusts-any",
    "tls-constrained": "trusts-any",
    "tls-weak-key": "weak-keys",
    "tls-downgrade": "old-tls",
    "tls-anonymous": "anonymous",
    "tls-none": "plain-http",
    "forged-envelope": "trusts-any",
    "plaintext": "takes-plaintext",
    "plaintext-beside-envelope": "takes-plaintext",
    "no-envelope": "takes-empty",
    "other-key-pair": "built-in-secret",
    "envelope-in-the-clear": "takes-unencrypted",
    "envelope-old-padding": "any-algorithm",
    "damaged-envelope": "built-in-secret",
    "empty-secret": "takes-empty",
    "other-keys-response": "ignores-key-id",
    "key-id-elsewhere": "compares-last-part",
    "no-key-id": "ignores-key-id",
    "replayed-envelope": "fixed-key-pair",
    "wrong-length": "ignores-length",
    "error-with-secret": "ignores-status",
    "redirect": "follows-redirects",
    "deep-json": "recurses",
    "compressed": "inflates",
    "interim-response": "takes-interim",
    "unsolicited-response": "keeps-connections",
    "no-head": "takes-headless",
    "two-lengths": "last-length",
    "endless-interim": "no-deadline",
    "endless-headers": "no-deadline",
    "endless-body": "no-deadline",
    "trickled-headers": "no-deadline",
    "trickled-body": "no-deadline",
    "trickled-handshake": "no-deadline",
    "stall-handshake": "no-deadline",
    "stall-response": "no-deadline",
    "stall-headers": "no-deadline",
    "stall-body": "no-deadline",
    "cut-handshake": "built-in-secret",
    "cut-response": "built-in-secret",
    "cut-headers": "built-in-secret",
    "cut-body": "takes-truncated",
    "cut-unframed": "takes-unframed",
    "nsm-refuses": "unattested",
    "nsm-garbage": "unattested",
    "nsm-truncated": "unattested",
    "nsm-empty-document": "unattested",
    "nsm-other-response": "unattested",
    "entropy-refused": "aborts",
    "clock-behind": "retries-for-ever",
    "clock-ahead": "retries-for-ever",
}

WAITING = {"no-deadline", "renews-for-ever", "retries-for-ever"}
"""Clients with these never end: the verdict is hung."""


CRASHING = {"aborts", "recurses"}
"""Clients with these end by a signal."""


def arrives(name: str) -> bool:
    """Return whether a response comes to its end under an attack."""
    return not name.startswith(("stall-", "trickled-", "endless-", "credentials-"))
