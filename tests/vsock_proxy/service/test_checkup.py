"""Checks: apart from each other, each with a deadline; as rows and as JSON."""

from __future__ import annotations

import threading

from tests.waiting import TEST_TIMEOUT
from vsock_proxy.errors import ConfigurationError
from vsock_proxy.service.checkup import (
    Check,
    Finding,
    Verdict,
    as_json,
    examine,
    failed,
    heading,
    passed,
    row,
    skipped,
    status,
    warned,
)


def raising(error: Exception) -> Check:
    def look() -> Finding:
        raise error

    return Check("it", look)


def look(*checks: Check, timeout: float = TEST_TIMEOUT) -> list[Finding]:
    return [each.finding for each in examine(checks, timeout=timeout)]


def test_errors_are_failures_and_end_no_other_check() -> None:
    found = look(
        raising(ConfigurationError("no luck", hint="try")),
        raising(PermissionError(13, "Permission denied")),
        raising(ValueError("a secret")),
        Check("last", lambda: passed("fine")),
    )
    assert found == [
        failed("no luck", "try"),
        failed("Permission denied"),
        failed("internal error: ValueError", "please report this"),
        passed("fine"),
    ]


def test_a_check_that_does_not_end_is_a_failure_and_the_next_one_is_made() -> None:
    never = threading.Event()

    def wait() -> Finding:
        never.wait(TEST_TIMEOUT)
        return passed("late")

    found = look(Check("waits", wait), timeout=0.05)
    assert found == [failed("no result within 0.05 s")]
    never.set()


def test_what_needs_a_failed_or_skipped_check_is_skipped() -> None:
    checks = (
        Check("a", lambda: failed("no")),
        Check("b", lambda: skipped("no")),
        Check("c", lambda: warned("so so")),
        Check("d", lambda: passed("never"), ("a", "b", "c")),
        Check("e", lambda: passed("made"), ("c",)),
        Check("f", lambda: passed("never"), ("d",)),
    )
    assert look(*checks)[3:] == [skipped("needs: a, b"), passed("made"), skipped("needs: d")]


def test_status_is_the_worst() -> None:
    def worst(*findings: Finding) -> Verdict:
        checks = [Check("it", lambda each=each: each) for each in findings]  # type: ignore[misc]
        return status(list(examine(checks, timeout=TEST_TIMEOUT)))

    assert worst() is Verdict.PASS
    assert worst(skipped("")) is Verdict.PASS
    assert worst(passed(""), warned("")) is Verdict.WARN
    assert worst(warned(""), failed(""), passed("")) is Verdict.FAIL


def test_rows() -> None:
    names = ["clock", "a longer name"]
    (each,) = examine(
        [Check("clock", lambda: warned("off by 12 s \x1b[2J", "set it " * 8))], timeout=TEST_TIMEOUT
    )
    assert heading(names).index("FOUND") == row(each, names, width=60).index("off")
    assert row(each, names, width=60) == (
        "clock          warn  off by 12 s \\x1b[2J\n"
        "                     hint: set it set it set it set it set\n"
        "                       it set it set it set it\n"
    )
    assert "\x1b[33mwarn\x1b[0m" in row(each, names, width=60, colour=True)


def test_what_is_copied_from_a_row_is_whole() -> None:
    pcr = "0a" * 48
    (each,) = examine(
        [Check("PCRs", lambda: passed(f"16 of them; PCR0 {pcr}"))], timeout=TEST_TIMEOUT
    )
    assert pcr in row(each, ["PCRs"], width=60).split()


def test_json() -> None:
    examined = list(examine([Check("it", lambda: failed("no", "do"))], timeout=TEST_TIMEOUT))
    report = as_json(examined)
    assert report["status"] == "fail"
    (check,) = report["checks"]
    assert check.pop("seconds") >= 0
    assert check == {"name": "it", "verdict": "fail", "finding": "no", "hint": "do"}
