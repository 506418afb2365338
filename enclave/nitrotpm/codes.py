"""The response codes of a TPM, by name (TCG TPM 2.0 Library, Part 2, "TPM_RC"). No I/O."""

from __future__ import annotations

WARNING = 0x900
"""RC_WARN."""

FORMAT_ONE = 0x080
"""RC_FMT1: the code names the handle, session or parameter that it is about."""

RETRY = frozenset({0x908, 0x90A, 0x922})
"""YIELDED, TESTING and RETRY: the same command may succeed in a moment."""

COMMAND_CODE = 0x143
NV_DEFINED = 0x14C

_FORMAT_ZERO = {
    0x100: "INITIALIZE", 0x101: "FAILURE", 0x103: "SEQUENCE", 0x10B: "PRIVATE", 0x119: "HMAC",
    0x120: "DISABLED", 0x121: "EXCLUSIVE", 0x124: "AUTH_TYPE", 0x125: "AUTH_MISSING",
    0x126: "POLICY", 0x127: "PCR", 0x128: "PCR_CHANGED", 0x12D: "UPGRADE",
    0x12E: "TOO_MANY_CONTEXTS", 0x12F: "AUTH_UNAVAILABLE", 0x130: "REBOOT", 0x131: "UNBALANCED",
    0x142: "COMMAND_SIZE", 0x143: "COMMAND_CODE", 0x144: "AUTHSIZE", 0x145: "AUTH_CONTEXT",
    0x146: "NV_RANGE", 0x147: "NV_SIZE", 0x148: "NV_LOCKED", 0x149: "NV_AUTHORIZATION",
    0x14A: "NV_UNINITIALIZED", 0x14B: "NV_SPACE", 0x14C: "NV_DEFINED", 0x150: "BAD_CONTEXT",
    0x151: "CPHASH", 0x152: "PARENT", 0x153: "NEEDS_TEST", 0x154: "NO_RESULT", 0x155: "SENSITIVE",
    0x901: "CONTEXT_GAP", 0x902: "OBJECT_MEMORY", 0x903: "SESSION_MEMORY", 0x904: "MEMORY",
    0x905: "SESSION_HANDLES", 0x906: "OBJECT_HANDLES", 0x907: "LOCALITY", 0x908: "YIELDED",
    0x909: "CANCELED", 0x90A: "TESTING", 0x920: "NV_RATE", 0x921: "LOCKOUT", 0x922: "RETRY",
    0x923: "NV_UNAVAILABLE",
    **{0x910 + number: f"REFERENCE_H{number}" for number in range(7)},
    **{0x918 + number: f"REFERENCE_S{number}" for number in range(7)},
}  # fmt: skip

_FORMAT_ONE = {
    0x01: "ASYMMETRIC", 0x02: "ATTRIBUTES", 0x03: "HASH", 0x04: "VALUE", 0x05: "HIERARCHY",
    0x07: "KEY_SIZE", 0x08: "MGF", 0x09: "MODE", 0x0A: "TYPE", 0x0B: "HANDLE", 0x0C: "KDF",
    0x0D: "RANGE", 0x0E: "AUTH_FAIL", 0x0F: "NONCE", 0x10: "PP", 0x12: "SCHEME", 0x15: "SIZE",
    0x16: "SYMMETRIC", 0x17: "TAG", 0x18: "SELECTOR", 0x1A: "INSUFFICIENT", 0x1B: "SIGNATURE",
    0x1C: "KEY", 0x1D: "POLICY_FAIL", 0x1F: "INTEGRITY", 0x20: "TICKET", 0x21: "RESERVED_BITS",
    0x22: "BAD_AUTH", 0x23: "EXPIRED", 0x24: "POLICY_CC", 0x25: "BINDING", 0x26: "CURVE",
    0x27: "ECC_POINT", 0x28: "FW_LIMITED", 0x29: "SVN_LIMITED",
}  # fmt: skip

_LAYERS = {11: " (from the kernel's resource manager)", 12: " (from the resource manager)"}

_LATER = "the TPM asked for a retry until the deadline: retry later"
_HINTS = {
    "RETRY": _LATER,
    "TESTING": _LATER,
    "YIELDED": _LATER,
    "AUTH_FAIL": "another program may have replaced the NV index in the middle: retry",
    "BAD_AUTH": "the owner hierarchy has a password, which this program does not take: clear it "
    "(tpm2_changeauth -c owner)",
    "COMMAND_CODE": "the TPM, or the kernel's resource manager, does not know this command",
    "FAILURE": "the TPM is in failure mode: stop and start the instance",
    "HIERARCHY": "the owner hierarchy is disabled: it is enabled again at the next boot",
    "INITIALIZE": "the TPM was not started up: firmware or the kernel's driver does it",
    "LOCKOUT": "too many wrong passwords: the TPM takes none for a while "
    "(tpm2_dictionarylockout shows how long)",
    "NV_DEFINED": "another program uses this NV index",
    "NV_RATE": "the TPM limits how often its NV memory is written: retry later",
    "NV_SPACE": "the TPM's NV memory is full: an attestation needs 8 KiB for a moment "
    "(tpm2_getcap handles-nv-index lists what is there)",
    "NV_UNAVAILABLE": "the TPM's NV memory cannot be written at the moment: retry",
}


def name(code: int) -> str:
    """Return a code's name, for example ``TPM_RC_NV_SPACE``, and what it is about.

    Every code has a name; one that the specification does not assign is written in hex.
    """
    layer, code = code >> 16, code & 0xFFFF
    suffix = f" (from layer {layer})" if layer else ""
    suffix = _LAYERS.get(layer, suffix)
    if code & FORMAT_ONE:
        known = _FORMAT_ONE.get(code & 0x3F) if code < 0x1000 else None
        number = code >> 8 & 0x7
        if code & 0x40:
            subject = f", parameter {code >> 8 & 0xF}"
        else:
            subject = f", {'session' if code & 0x800 else 'handle'} {number}"
        # Number 0: unknown.
        suffix = (subject if code >> 8 & (0xF if code & 0x40 else 0x7) else "") + suffix
    else:
        known = _FORMAT_ZERO.get(code)
    return (f"TPM_RC_{known}" if known else f"TPM response code 0x{code:x}") + suffix


def base(code: int) -> int:
    """Return a code without its layer, and without which handle or parameter it is about."""
    code &= 0xFFFF
    return code & 0xBF if code & FORMAT_ONE else code


def hint(code: int) -> str:
    """Return what to do about a code; empty if nothing is known."""
    known = _FORMAT_ONE.get(code & 0x3F) if code & FORMAT_ONE else _FORMAT_ZERO.get(code & 0xFFFF)
    return _HINTS.get(known or "", "the TCG's TPM 2.0 Library, Part 2, explains the code")
