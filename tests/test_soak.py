"""``make soak``: a short one, its schedule, and that its verdict sees what must not be."""

from __future__ import annotations

import contextlib
import os
import socket
from collections import Counter

import pytest

from enclave_simulator.kms.faults import FAULTS as KMS_FAULTS
from tests.programs.soak.__main__ import soak
from tests.programs.soak.clients import Gate
from tests.programs.soak.faults import faults
from tests.programs.soak.parts import unix_connections_of
from tests.programs.soak.report import Soak, report, verdict
from tests.programs.soak.schedule import ROUND, rounds_of, schedule
from tests.programs.soak.tally import MOST_GROWTH, Growth, Tally, failures

KINDS = [kind for kind, _ in faults(0).values()]


@pytest.mark.long
@pytest.mark.timeout(400)  # it waits up to two minutes, for what takes a second
def test_a_short_soak_passes() -> None:
    run = soak(seconds=4, clients=4, seed=7, calm=0.5)
    assert verdict(run) == []
    assert run.happened.total() >= 4
    assert run.tally.right.total() > 10
    assert list(report(run, seconds=4, seed=7))[-1] == "soak: passed"


def test_a_seed_reproduces_the_schedule() -> None:
    first, again, other = (schedule(KINDS, seed=seed, rounds=[ROUND] * 3) for seed in (5, 5, 6))
    assert first == again != other


def test_every_fault_comes_and_those_of_a_lane_never_overlap() -> None:
    lanes = {kind.name: kind.lane for kind in KINDS}
    seen: Counter[str] = Counter()
    overlaps = 0
    for events in schedule(KINDS, seed=1, rounds=[ROUND] * 40):
        ends = {0: 0.0, 1: 0.0}
        for event in events:
            seen[event.name] += 1
            lane = lanes[event.name]
            assert ends[lane] <= event.at
            ends[lane] = event.at + event.seconds
            overlaps += ends[1 - lane] > event.at
            assert ends[lane] <= ROUND
    assert set(seen) == set(lanes)
    assert overlaps > 100


def test_no_process_is_killed_in_the_last_rounds() -> None:
    kills = {kind.name for kind in KINDS if kind.kills}
    *_, fourth, fifth = schedule(KINDS, seed=3, rounds=[ROUND] * 5)
    assert not kills & {event.name for event in fourth + fifth}


def test_a_short_run_has_shorter_faults() -> None:
    (events,) = schedule(KINDS, seed=2, rounds=[ROUND / 10])
    assert len(events) > 4
    assert max(event.seconds for event in events) < 1


@pytest.mark.parametrize(("seconds", "count"), [(4, 1), (36, 1), (300, 8), (1800, 50)])
def test_rounds_fill_the_time(seconds: float, count: int) -> None:
    rounds = rounds_of(seconds, calm=6)
    assert len(rounds) == count
    assert sum(rounds) + 6 * count == pytest.approx(max(seconds, 7))


def test_faults_of_the_kms_are_all_there_but_two() -> None:
    named = {kind.name.removeprefix("kms: ") for kind in KINDS if kind.name.startswith("kms: ")}
    assert set(KMS_FAULTS) - named == {"wrong-length", "extra-length"}


def test_repeated_random_bytes_are_seen_wherever_they_are() -> None:
    tally = Tally()
    tally.note_right("GenerateRandom", bytes(range(64)))
    assert failures(tally, []) == []
    tally.note_right("GenerateDataKey", b"x" * 16 + bytes(range(32, 48)))
    assert failures(tally, []) == ["1 blocks of random bytes were given out twice"]


def test_errors_in_a_calm_and_of_unknown_types_are_failures() -> None:
    tally = Tally()
    for _ in range(4):
        tally.note_right("GenerateRandom", b"")
    tally.note_error("Decrypt", "ThrottlingException", "slow", calm=False)
    assert failures(tally, []) == []
    tally.note_error("Decrypt", "ThrottlingException", "slow", calm=True)
    tally.note_error("Decrypt", "InternalFailure", "?", calm=False)
    assert failures(tally, []) == [
        "wrong: Decrypt: InternalFailure: ?",
        "an error without a fault: Decrypt: ThrottlingException: slow",
    ]


def test_a_call_beyond_its_time_has_hung() -> None:
    tally = Tally()
    tally.note_right("Decrypt", b"")
    tally.note_time("Decrypt", 13.0, 13.0)
    assert failures(tally, []) == []
    tally.note_time("Decrypt", 13.5, 13.0, 2.0)
    assert failures(tally, []) == [
        "hung: Decrypt took 13.5 s of 13.0 s, in which its endpoint waited 2.0 s for a CPU"
    ]


@pytest.mark.parametrize("index", range(3))
def test_growth_beyond_the_limits_is_a_failure(index: int) -> None:
    most = list(MOST_GROWTH)
    tally = Tally()
    tally.note_right("Decrypt", b"")
    grown = 1 + most[0], 1 + most[1], 1 + most[2]
    assert failures(tally, [Growth("agent", [(1, 1, 1), grown])]) == []
    most[index] += 1
    (failure,) = failures(tally, [Growth("agent", [(0, 0, 0), (most[0], most[1], most[2])])])
    assert failure.startswith(f"agent has grown by {most[index]} ")


def test_connections_of_vsock_are_told_from_other_descriptors() -> None:
    before = unix_connections_of(os.getpid())
    with contextlib.ExitStack() as stack:
        for end in socket.socketpair():
            stack.enter_context(end)
        listener = stack.enter_context(socket.create_server(("127.0.0.1", 0)))
        stack.enter_context(socket.create_connection(listener.getsockname()))
        assert unix_connections_of(os.getpid()) == before + 2


def test_what_only_the_kms_grows_is_reported_without_a_verdict() -> None:
    run = Soak(None, Tally(), Gate())  # type: ignore[arg-type] # no chain is looked at
    run.tally.note_right("Decrypt", b"")
    run.growths = {("kms", 1): Growth("kms, life 1", [(0, 0, 0), (1 << 20, 99, 99)])}
    assert verdict(run) == []
    assert any(line.startswith("  kms, life 1 ") for line in report(run, seconds=1, seed=0))
