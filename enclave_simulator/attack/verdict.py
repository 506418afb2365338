"""Judges what a program did during an attack. No I/O."""

from __future__ import annotations

import base64
import contextlib
import enum
import hashlib
import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from enclave_simulator.attack.model import Success

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from enclave_simulator.attack.model import Attack

_LINE = re.compile(rb"^ATTACK-RESULT[ \t]+([^\r\n]*?)[ \t]*\r?$", re.MULTILINE)
_CRASHES = (
    (2, "panic", re.compile(rb"^goroutine \d+ .*\[", re.MULTILINE)),  # Go, a fault as well
    (101, "panic", re.compile(rb"^thread '.*' .*panicked at ", re.MULTILINE)),  # Rust
    (
        1,
        "sanitizer",
        re.compile(rb"^==\d+==ERROR: (?!Leak)\w+Sanitizer: ", re.MULTILINE),
    ),  # of C and C++
)
"""Exit code, name and last words of crashes that are no signal."""
_SHOWN = 160
_BEGINNING = 60
_EXIT_DIGITS = 3
_LAST_SIGNAL = 64
"""Exit codes over 128+64 are a program's own: the AWS CLI has 252 to 255."""


class Verdict(enum.Enum):
    """What a program did."""

    REFUSED = "refused"
    ACCEPTED = "accepted"
    HUNG = "hung"
    CRASHED = "crashed"
    UNMET = "unmet"
    """It never came to where the attack is made: nothing is known."""

    @property
    def is_failure(self) -> bool:
        """Whether the program did what it must not do."""
        return self in (Verdict.ACCEPTED, Verdict.HUNG, Verdict.CRASHED)


@dataclass(frozen=True, slots=True)
class Secrets:
    """What a program may print, and what it must not.

    Attributes:
        right: the secrets in the ciphertexts, in their order.
        issued: random bytes and data keys that KMS gave.
        planted: the attacker's.
    """

    right: tuple[bytes, ...] = field(repr=False)
    issued: tuple[bytes, ...] = field(default=(), repr=False)
    planted: tuple[bytes, ...] = field(default=(), repr=False)


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a program ended.

    Attributes:
        exit_code: None if it did not end by the deadline; 128+N if signal N ended it.
        output: the beginning of its standard output.
        complaint: the last line of its standard error.
        errors: the end of its standard error.
        met: it came to where the attack is made.
        evidence: what the hostile side saw of an attack that worked, or empty.
    """

    exit_code: int | None
    output: bytes = field(repr=False)
    complaint: str = ""
    errors: bytes = field(default=b"", repr=False)
    met: bool = True
    evidence: str = ""


@dataclass(frozen=True, slots=True)
class Finding:
    """A verdict, and what it rests on."""

    verdict: Verdict
    text: str


@dataclass(frozen=True, slots=True)
class CallResult:
    """What a program says of one call.

    Attributes:
        digest: SHA-256 of the secret; None: the call was refused.
        text: what the program says beside it.
        exit_code: of the process that made the call, where it is another than the program's.
    """

    digest: bytes | None
    text: str = ""
    exit_code: int = 0


def judge(attack: Attack, outcome: Outcome, secrets: Secrets, *, by_lines: bool = False) -> Finding:
    """Return the verdict on one run of a program.

    Args:
        attack: what it was run under.
        outcome: how it ended.
        secrets: what it may print.
        by_lines: without an attack it printed a line for each result: without one it has none.
    """
    if outcome.evidence:
        return Finding(Verdict.ACCEPTED, outcome.evidence)
    results = read_results(outcome.output)
    # A secret counts wherever it is printed: another line than ours may have something before it.
    wrong = _wrong(results, secrets) or _printed(outcome.output, secrets.planted)
    if wrong:
        return Finding(Verdict.ACCEPTED, wrong)
    if attack.success is Success.NONE and outcome.met:
        taken = [number for number, result in enumerate(results, 1) if result.digest]
        if taken:
            return Finding(Verdict.ACCEPTED, f"took a result in call {taken[0]}")
    code = outcome.exit_code
    if code is None:
        return Finding(Verdict.HUNG, "had not ended by the deadline")
    crash = _crash(code, outcome.errors) or _crashed_call(results, outcome.errors)
    if crash:
        before = "" if outcome.met else ", before it came to where this attack is made"
        return Finding(Verdict.CRASHED, crash + before)
    if not outcome.met:
        return Finding(Verdict.UNMET, "never came to where this attack is made")
    if results:
        return Finding(Verdict.REFUSED, _refusal(results, outcome))
    if code == 0:
        if by_lines and attack.success is not Success.UNSEEN:
            return Finding(Verdict.REFUSED, "exit code 0, and no ATTACK-RESULT line")
        if attack.success is Success.NONE:
            return Finding(Verdict.ACCEPTED, "exit code 0")
        if attack.success is Success.UNSEEN:
            return Finding(Verdict.REFUSED, "exit code 0")
        if not _printed(outcome.output, secrets.right + secrets.issued):
            return Finding(Verdict.ACCEPTED, "exit code 0, and no result that is known to be right")
        return Finding(Verdict.REFUSED, "the right result")
    return Finding(Verdict.REFUSED, _shortened(outcome.complaint) or f"exit code {code}")


def _crashed_call(results: Sequence[CallResult], errors: bytes) -> str:
    for number, result in enumerate(results, 1):
        crash = _crash(result.exit_code, errors)
        if crash:
            return f"{crash} in call {number}"
    return ""


def _crash(code: int, errors: bytes) -> str:
    """Return how a process with an exit code crashed; empty if it did not."""
    if 128 < code <= 128 + _LAST_SIGNAL:
        return f"ended by signal {code - 128}"
    for exit_code, name, words in _CRASHES:
        if code == exit_code and words.search(errors):
            return f"ended by a {name} (exit code {code})"
    return ""


def judge_control(outcome: Outcome, secrets: Secrets, *, attested: bool) -> str:
    """Return why the run without an attack failed; empty if the program succeeded."""
    if outcome.exit_code is None:
        return "it had not ended by the deadline"
    if outcome.exit_code:
        ended = _crash(outcome.exit_code, outcome.errors) or f"exit code {outcome.exit_code}"
        return f"{ended}: {outcome.complaint}".removesuffix(": ")
    if not attested:
        return "it made no attested call of KMS"
    results = read_results(outcome.output)
    if not results:
        known = _printed(outcome.output, secrets.right + secrets.issued)
        return "" if known else _lineless(outcome)
    for value in _LINE.findall(outcome.output):
        mistake = _mistake(value)
        if mistake:
            return f"ATTACK-RESULT {_shortened(value.decode(errors='replace'))}: {mistake}"
    refused = [result for result in results if result.digest is None]
    if refused:
        return f"a call failed: {_reason(refused[0], outcome.complaint)}"
    return _wrong(results, secrets)


def _lineless(outcome: Outcome) -> str:
    """Return why a program that made its calls has no result."""
    if _LINE.search(outcome.errors):
        return "its ATTACK-RESULT lines are on standard error, not on standard output"
    if b"ATTACK-RESULT" in outcome.output:
        return "ATTACK-RESULT does not begin a line, with a space after it"
    return "its output has neither ATTACK-RESULT lines nor a secret of KMS's"


def _mistake(value: bytes) -> str:
    """Return what is wrong with how a line tells a result; empty if nothing is."""
    form, colon, text = value.partition(b":")
    if form in _FORMS and colon:
        try:
            digest = _FORMS[form](text)
        except ValueError:  # binascii.Error is one
            return f"what follows {form.decode()}: is not {_FORM_NAMES[form]}"
        wrong = form == b"sha256" and len(digest) != hashlib.sha256().digest_size
        return f"what follows sha256: is not {_FORM_NAMES[form]}" if wrong else ""
    if not colon and _BARE.fullmatch(value) and value != b"refused":
        return "write sha256:, base64: or hex: before a result"
    return ""


def read_results(output: bytes) -> list[CallResult]:
    """Return the results that a program printed.

    A line ``ATTACK-RESULT VALUE`` for each call: ``sha256:HEX``, ``base64:TEXT`` or ``hex:HEX`` of
    the secret; ``exit:CODE`` of a process that gave none; anything else is a refusal.
    """
    return [_read_result(value) for value in _LINE.findall(output)]


def _read_result(value: bytes) -> CallResult:
    form, _, text = value.partition(b":")
    if form == b"exit" and text.isdigit() and len(text) <= _EXIT_DIGITS:
        return CallResult(None, exit_code=int(text))
    if form in _FORMS:
        # The program has a secret, even if we cannot read it: of a long one, the end is not here.
        with contextlib.suppress(ValueError):  # binascii.Error is one
            return CallResult(_FORMS[form](text))
        return CallResult(_digest(value))
    said = value.decode(errors="replace")
    return CallResult(None, said.removeprefix("refused").lstrip(": "))


_FORM_NAMES = {b"sha256": "64 hex digits", b"base64": "base64", b"hex": "hex digits"}
_BARE = re.compile(rb"(?=.*[0-9+/=])[0-9A-Za-z+/]{16,}={0,2}")
"""What looks like a secret, or its digest, without its form."""

_FORMS: Mapping[bytes, Callable[[bytes], bytes]] = {
    b"sha256": lambda text: bytes.fromhex(text.decode()),
    b"base64": lambda text: _digest(base64.b64decode(text, validate=True)),
    b"hex": lambda text: _digest(bytes.fromhex(text.decode())),
}


def _digest(secret: bytes) -> bytes:
    return hashlib.sha256(secret).digest()


def _wrong(results: Sequence[CallResult], secrets: Secrets) -> str:
    """Return what is wrong with the results; empty if each is right or a refusal."""
    right = [_digest(secret) for secret in secrets.right]
    issued = {_digest(secret) for secret in secrets.issued}
    planted = {_digest(secret) for secret in secrets.planted}
    for number, result in enumerate(results, 1):
        digest = result.digest
        if digest is None or (number <= len(right) and digest == right[number - 1]):
            continue
        if digest in issued:
            issued.remove(digest)  # a second time it is a replay
        elif digest in planted:
            return f"took the attacker's secret in call {number}"
        elif digest in right:
            return f"took another call's secret in call {number}"
        else:
            return f"took what KMS never gave in call {number}"
    return ""


def _printed(output: bytes, secrets: Sequence[bytes]) -> str:
    """Return that one of the secrets is in an output: as it is, in base64 or in hex."""
    for secret in secrets:
        forms = (secret, base64.b64encode(secret), secret.hex().encode())
        if len(secret) >= 8 and any(form in output for form in forms):
            return "printed the attacker's secret"
    return ""


def _refusal(results: Sequence[CallResult], outcome: Outcome) -> str:
    refused = [result for result in results if result.digest is None]
    if not refused:
        return "the right results"
    why = _shortened(_reason(refused[0], outcome.complaint))
    return f"{len(refused)} of {len(results)} calls: {why}".removesuffix(": ")


def _reason(refused: CallResult, complaint: str) -> str:
    """Return why a call was refused: what it says itself, else the program's last words."""
    if refused.exit_code:
        return f"exit code {refused.exit_code}: {complaint}".removesuffix(": ")
    return refused.text or complaint


def _shortened(why: str) -> str:
    """Return a reason without its middle: where errors wrap others, the end tells most."""
    if len(why) <= _SHOWN:
        return why
    return f"{why[:_BEGINNING]} ... {why[_BEGINNING + 5 - _SHOWN :]}"
