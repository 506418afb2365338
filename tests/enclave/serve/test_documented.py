"""docs/endpoint.md and docs/secrets.md: the numbers and the options are those there are."""

from __future__ import annotations

import argparse
import asyncio
import re
from typing import TYPE_CHECKING, cast

from enclave import Nsm
from enclave.attested_tls.options import IngressTlsOptions
from enclave.attested_tls.service import IngressTls
from enclave.network.numbers import network_families
from enclave.secrets.options import add_options
from enclave.serve.calls import Calls
from enclave.serve.metrics import PREFIX, agent_families, process_families
from enclave.serve.pooled import PooledRandom
from enclave.serve.readiness import Readiness
from enclave.serve.server import EndpointServer
from parent.cli import main
from tests.enclave.attested_tls.serving import NSM
from tests.enclave.serve.serving import Kms
from tests.paths import ROOT
from vsock_proxy.net.addresses import TcpAddress
from vsock_proxy.proxy.counters import Counters, ForwardSnapshot, Gauges, HostCounters, Snapshot

if TYPE_CHECKING:
    import pytest

    from enclave.agent import Agent

ENDPOINT = (ROOT / "docs/endpoint.md").read_text(encoding="utf-8")
SECRETS = (ROOT / "docs/secrets.md").read_text(encoding="utf-8")


class Stub:
    clock_drift = document_age = credentials_left = 1.0


async def families() -> set[str]:
    calls = Calls({"us-east-1": Kms()}, most=1, deadline=1)
    calls.numbers.count("Decrypt", "ok", 1.0)
    server = EndpointServer(calls, Readiness(lambda: None))
    pool = PooledRandom(Kms(), deadline=1)
    made = [
        *process_families(),
        *calls.numbers.families(),
        *server.families(),
        *pool.families(),
        *agent_families(cast("dict[str, Agent]", {"us-east-1": Stub()})),
        *IngressTls(IngressTlsOptions("a", (), 1, 1, None), Nsm(NSM)).families(),
    ]
    address = TcpAddress("127.0.0.1", 1)
    hosts = {"a:443": HostCounters()}
    forward = ForwardSnapshot("a", address, address, Gauges(0, 0, 0, 0), Counters(), hosts)
    made += network_families(Snapshot((forward,), 0, 0, 0))
    pool.close()
    calls.close()
    return {family.name.removeprefix(PREFIX) for family in made}


def test_the_numbers_are_those_there_are() -> None:
    (table,) = re.findall(r"\| metric .*?\n\n", ENDPOINT, re.DOTALL)
    documented = {
        name
        for row in table.split("\n")[2:-2]
        for name in re.findall(r"`(\w+)`", row.split("|")[1])
    }
    assert documented == asyncio.run(families())


def test_the_options_are_those_there_are(capsys: pytest.CaptureFixture[str]) -> None:
    parser = argparse.ArgumentParser(add_help=False)
    add_options(parser)
    options = {option for action in parser._actions for option in action.option_strings}
    serve, seal = SECRETS.split("## Options of `serve`")[1].split("## `enclave-parent seal`")
    assert set(re.findall(r"^\| `(--[a-z-]+)", serve, re.MULTILINE)) == options
    try:
        main(["seal", "--help"])
    except SystemExit:
        listed = set(re.findall(r"^  (--[a-z-]+)", capsys.readouterr().out, re.MULTILINE))
    documented = {
        option
        for row in re.findall(r"^\| (`.*?) \|", seal, re.MULTILINE)
        for option in re.findall(r"--[a-z-]+", row)
    }
    assert documented == listed - {"--output"}
