"""Inputs that were findings once, by target: `tests/test_fuzz.py` runs them all."""

from __future__ import annotations

FOUND: dict[str, tuple[bytes, ...]] = {
    # A list that contains itself, a few words for 10^9 values, and JSON that was read and could
    # not be walked: RecursionError, or no end.
    "input": (
        b"a: &x [1, *x]\n\x00",
        b"".join(
            b"%c: &%c [%s]\n" % (name, name, b", ".join([b"*%c" % (name - 1)] * 9))
            for name in range(ord("b"), ord("k"))
        ).replace(b"*a", b"1")
        + b"\x00",
        b'{"a":' + b"[" * 600 + b"]" * 600 + b"}\x01",
    ),
    # A regular expression that took the square of the length, and ValueError of base64.
    "sops": (
        b" " * 16_000 + b"!",
        b'{"sops":{"kms":[{"arn":"arn:aws:kms:us-east-1:111122223333:key/a","enc":"\xc3\xa9"}],"mac":"x"}}',
    ),
    # A backslash and an x without digits: ValueError.
    "shapes": (rb"'\xzz'", rb"b'\x'"),
    # Control characters of another's message on a terminal.
    "refusal": (
        b"User: arn:aws:iam::1:user/\x1b[31m is not authorized to perform: kms:Decrypt",
        b"User: arn:aws:iam::1:user/a is not authorized to perform: kms:Decrypt on resource: \x07",
    ),
}
