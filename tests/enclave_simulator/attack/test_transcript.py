"""What is kept of a long output."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from enclave_simulator.attack.transcript import Transcript

RESULT = b"ATTACK-RESULT base64:AAAA"
MOST = 200

_lines = st.lists(
    st.sampled_from([RESULT, b"", b"x", b"ATTACK", b"y" * 150, b" " + RESULT, b"z" * 300]),
    max_size=40,
)


@given(_lines, st.lists(st.integers(1, 400), max_size=20))
def test_results_are_kept_however_the_output_comes(lines: list[bytes], sizes: list[int]) -> None:
    output = b"\n".join(lines)
    transcript, rest = Transcript(MOST), output
    for size in sizes:
        transcript.add(rest[:size])
        rest = rest[size:]
    transcript.add(rest)
    kept = bytes(transcript)
    assert len(kept) <= 3 * MOST
    if len(output) < MOST:
        assert kept == output
    # As many as there is room for.
    count = min(lines.count(RESULT), MOST // (len(RESULT) + 1))
    assert kept.splitlines().count(RESULT) >= count


def test_a_long_line_costs_no_more_than_one() -> None:
    transcript = Transcript(MOST)
    for _ in range(100):
        transcript.add(b"x" * 1000)
    transcript.add(b"\n" + RESULT + b"\n" + b"x" * 1000)
    assert RESULT in bytes(transcript).splitlines()
    assert len(bytes(transcript)) <= 3 * MOST
