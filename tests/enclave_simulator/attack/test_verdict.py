"""The verdict on a run, from what a program printed and how it ended."""

from __future__ import annotations

import base64
import hashlib

import pytest

from enclave_simulator.attack.table import ATTACKS
from enclave_simulator.attack.verdict import (
    Outcome,
    Secrets,
    Verdict,
    judge,
    judge_control,
    read_results,
)

RIGHT = (b"right secret 1 .", b"right secret 2 .", b"right secret 3 .")
ISSUED, PLANTED = b"random bytes of KMS", b"planted by an attacker"
SECRETS = Secrets(RIGHT, (ISSUED,), (PLANTED,))
NONE, SOME = ATTACKS["tls-expired"], ATTACKS["interim-response"]


def line(secret: bytes) -> bytes:
    return b"ATTACK-RESULT sha256:" + hashlib.sha256(secret).hexdigest().encode() + b"\n"


def encoded(secret: bytes) -> bytes:
    return base64.b64encode(secret)


REFUSED = b"ATTACK-RESULT refused: because\n"
ALL = b"".join(map(line, RIGHT))


@pytest.mark.parametrize(
    ("attack", "output", "code", "verdict"),
    [
        (NONE, REFUSED, 0, "refused"),
        (NONE, b"", 1, "refused"),
        (NONE, b"", 255, "refused"),
        (NONE, b"", 0, "accepted"),
        (NONE, REFUSED + line(RIGHT[1]), 1, "accepted"),
        (NONE, b"", None, "hung"),
        (NONE, REFUSED, None, "hung"),
        (NONE, line(RIGHT[0]), None, "accepted"),
        (NONE, b"", 139, "crashed"),
        (NONE, REFUSED, 134, "crashed"),
        (NONE, REFUSED + b"ATTACK-RESULT exit:139\n", 0, "crashed"),
        (NONE, b"ATTACK-RESULT exit:139\n" + line(PLANTED), 0, "accepted"),
        (NONE, b"ATTACK-RESULT exit:255\n", 0, "refused"),
        (NONE, b"ATTACK-RESULT exit:0\n", 0, "refused"),
        (SOME, ALL, 0, "refused"),
        (SOME, ALL + line(ISSUED), 0, "refused"),
        (SOME, ALL + line(ISSUED) + line(ISSUED), 0, "accepted"),  # a replay
        (SOME, REFUSED + line(RIGHT[0]), 0, "accepted"),  # of another call
        (SOME, REFUSED + line(RIGHT[1]), 0, "refused"),
        (SOME, line(PLANTED), 0, "accepted"),
        (SOME, line(b"never given"), 0, "accepted"),
        (SOME, line(b""), 0, "accepted"),
        (SOME, b'{"Plaintext": "' + encoded(RIGHT[0]) + b'"}', 0, "refused"),
        (SOME, b'{"Plaintext": "' + encoded(PLANTED) + b'"}', 0, "accepted"),
        (SOME, PLANTED.hex().encode(), 1, "accepted"),
        (SOME, b"it works", 0, "accepted"),  # exit code 0 says that it has a result
    ],
)
def test_verdicts(attack: object, output: bytes, code: int | None, verdict: str) -> None:
    finding = judge(attack, Outcome(code, output), SECRETS)  # type: ignore[arg-type]
    assert finding.verdict.value == verdict, finding


@pytest.mark.parametrize(
    ("output", "verdict"),
    [
        (b"", "refused"),
        (b"could not decrypt\n", "refused"),
        (encoded(PLANTED), "accepted"),
        (line(RIGHT[0]), "accepted"),
    ],
)
def test_a_program_that_prints_lines_has_no_result_without_them(
    output: bytes, verdict: str
) -> None:
    finding = judge(NONE, Outcome(0, output), SECRETS, by_lines=True)
    assert finding.verdict.value == verdict, finding


def test_a_secret_counts_although_another_line_is_as_it_should_be() -> None:
    output = b"INFO ATTACK-RESULT base64:" + encoded(PLANTED) + b"\n" + REFUSED
    assert judge(SOME, Outcome(0, output), SECRETS).verdict is Verdict.ACCEPTED


GO = b"""panic: runtime error: slice bounds out of range [-239:]

goroutine 1 [running]:
main.main()
\t/src/main.go:10 +0x1d
exit status 2
"""
RUST = b"""
thread 'main' (4711) panicked at src/main.rs:3:5:
range end index 3 out of range for slice of length 2
note: run with `RUST_BACKTRACE=1` environment variable to display a backtrace
"""


ASAN = b"""=================================================================
==4711==ERROR: AddressSanitizer: heap-buffer-overflow on address 0x602000000011 at pc 0x55
READ of size 1 at 0x602000000011 thread T0
"""


@pytest.mark.parametrize(("code", "errors"), [(2, GO), (101, RUST), (1, ASAN)])
def test_a_panic_is_a_crash_though_it_is_no_signal(code: int, errors: bytes) -> None:
    for outcome in (
        Outcome(code, REFUSED, errors=errors),
        Outcome(0, b"ATTACK-RESULT exit:%d\n" % code, errors=errors),
    ):
        assert judge(NONE, outcome, SECRETS).verdict is Verdict.CRASHED
    # As much is the exit code of a usage error, and a text of a program that goes on.
    for outcome in (Outcome(code, REFUSED), Outcome(3, REFUSED, errors=errors)):
        assert judge(NONE, outcome, SECRETS).verdict is Verdict.REFUSED


def test_memory_that_a_program_leaves_to_its_end_is_no_crash() -> None:
    errors = b"==4711==ERROR: LeakSanitizer: detected memory leaks\n"
    assert judge(NONE, Outcome(1, REFUSED, errors=errors), SECRETS).verdict is Verdict.REFUSED


def test_a_crash_before_the_attack_says_so() -> None:
    finding = judge(NONE, Outcome(139, b"", met=False), SECRETS)
    assert finding.verdict is Verdict.CRASHED
    assert finding.text == "ended by signal 11, before it came to where this attack is made"


def test_why_a_call_of_a_shell_was_refused_is_on_standard_error() -> None:
    output = ALL + b"ATTACK-RESULT exit:255\n"
    for complaint, reason in (("tool: no", "exit code 255: tool: no"), ("", "exit code 255")):
        assert judge(SOME, Outcome(0, output, complaint), SECRETS).text == f"1 of 4 calls: {reason}"
        failed = judge_control(Outcome(0, output, complaint), SECRETS, attested=True)
        assert failed == f"a call failed: {reason}"


def test_a_reason_that_is_too_long_loses_its_middle() -> None:
    reason = "operation error KMS: " + 400 * "x" + ": certificate has expired"
    for outcome in (
        Outcome(0, b"ATTACK-RESULT refused: " + reason.encode()),
        Outcome(1, b"", reason),
    ):
        text = judge(NONE, outcome, SECRETS).text.removeprefix("1 of 1 calls: ")
        assert text.startswith("operation error KMS: x")
        assert text.endswith("x: certificate has expired")
        assert len(text) == 160


def test_a_program_that_never_met_the_attack_is_not_said_to_refuse_it() -> None:
    assert judge(NONE, Outcome(1, b"", met=False), SECRETS).verdict is Verdict.UNMET
    assert judge(NONE, Outcome(0, ALL, met=False), SECRETS).verdict is Verdict.UNMET


def test_what_the_hostile_side_saw_counts() -> None:
    outcome = Outcome(1, b"", evidence="sent a header")
    assert judge(NONE, outcome, SECRETS).verdict is Verdict.ACCEPTED


def test_no_finding_shows_a_secret() -> None:
    for output in (line(PLANTED), PLANTED, line(RIGHT[2]), ALL):
        text = judge(NONE, Outcome(0, output), SECRETS).text
        assert PLANTED.decode() not in text
        assert RIGHT[2].decode() not in text
    assert PLANTED.decode() not in repr(SECRETS) + repr(Outcome(0, PLANTED))


@pytest.mark.parametrize(
    ("value", "secret"),
    [
        (b"base64:" + encoded(b"x" * 20), b"x" * 20),
        (b"hex:00ff", b"\x00\xff"),
        (b"base64:", b""),
        (b"refused", None),
        (b"\xff\xfe", None),
    ],
)
def test_lines_of_the_protocol(value: bytes, secret: bytes | None) -> None:
    (result,) = read_results(b"noise\nATTACK-RESULT " + value + b"\r\nATTACK-RESULTS no\n")
    assert result.digest == (None if secret is None else hashlib.sha256(secret).digest())


@pytest.mark.parametrize("value", [b"hex:0", b"base64:***", b"sha256:00", b"base64:AAAA" + b"B"])
def test_a_secret_that_cannot_be_read_is_one_all_the_same(value: bytes) -> None:
    """Its end may be missing: no more than the beginning of an output is kept."""
    finding = judge(SOME, Outcome(0, b"ATTACK-RESULT " + value), SECRETS)
    assert finding.verdict is Verdict.ACCEPTED
    assert value.decode() not in finding.text
    assert judge_control(Outcome(0, b"ATTACK-RESULT " + value), SECRETS, attested=True)


@pytest.mark.parametrize(
    ("outcome", "attested", "reason"),
    [
        (Outcome(0, ALL), True, ""),
        (Outcome(0, encoded(RIGHT[0])), True, ""),
        (Outcome(0, ALL), False, "it made no attested call of KMS"),
        (Outcome(1, ALL, "no luck"), True, "exit code 1: no luck"),
        (Outcome(None, ALL), True, "it had not ended by the deadline"),
        (Outcome(0, REFUSED), True, "a call failed: because"),
        (Outcome(0, b"fine"), True, "its output has neither"),
        (Outcome(0, line(RIGHT[1])), True, "took another call's secret in call 1"),
    ],
)
def test_the_run_without_an_attack(outcome: Outcome, attested: bool, reason: str) -> None:
    judged = judge_control(outcome, SECRETS, attested=attested)
    assert judged.startswith(reason)
    assert bool(judged) is bool(reason)


@pytest.mark.parametrize(
    ("outcome", "reason"),
    [
        (Outcome(0, ALL), ""),
        (Outcome(0, b"", errors=ALL), "are on standard error"),
        (Outcome(0, b"INFO " + ALL.splitlines()[0]), "does not begin a line"),
        (Outcome(0, b"ATTACK-RESULT: " + ALL), "another call's secret"),
        (Outcome(0, b"nothing"), "neither ATTACK-RESULT lines"),
        (Outcome(0, ALL.replace(b"\n", b"  -\n")), "what follows sha256: is not 64 hex digits"),
        (Outcome(0, b"ATTACK-RESULT sha256:ab"), "what follows sha256: is not 64 hex digits"),
        (Outcome(0, b"ATTACK-RESULT base64:a-b_"), "what follows base64: is not base64"),
        (Outcome(0, b"ATTACK-RESULT hex:xy"), "what follows hex: is not hex digits"),
        (Outcome(0, b"ATTACK-RESULT " + encoded(RIGHT[0])), "write sha256:, base64: or hex:"),
        (Outcome(0, b"ATTACK-RESULT " + RIGHT[0].hex().encode()), "write sha256:, base64: or hex:"),
        (Outcome(0, REFUSED), "a call failed: because"),
        (Outcome(0, b"ATTACK-RESULT refused"), "a call failed: "),
        (Outcome(0, b"ATTACK-RESULT AccessDeniedException"), "a call failed: Access"),
        (Outcome(137, b""), "ended by signal 9"),
        (Outcome(3, b"", "tool: no"), "exit code 3: tool: no"),
        (Outcome(3, b""), "exit code 3"),
    ],
)
def test_why_a_program_fails_without_an_attack(outcome: Outcome, reason: str) -> None:
    told = judge_control(outcome, SECRETS, attested=True)
    assert reason in told if reason else not told
    assert not told.endswith(": ") or told == "a call failed: "
