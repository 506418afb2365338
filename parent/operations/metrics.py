"""The components' numbers as Prometheus metrics, read when they are scraped.

The components know nothing of Prometheus: they count, and this module names what they counted.
"""

from __future__ import annotations

import logging
import time
from collections import Counter
from dataclasses import fields
from typing import TYPE_CHECKING, Any, Final, cast

from prometheus_client import CollectorRegistry, ProcessCollector
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4, generate_latest
from prometheus_client.registry import Collector

from parent.credentials import CredentialService
from parent.enclaves.component import EnclaveComponent
from parent.enclaves.transitions import State
from parent.logs.component import LogSink
from parent.proxy import ProxyService
from vsock_proxy.errors import AgentError
from vsock_proxy.proxy.counters import LATENCY_BOUNDS, Counters, Gauges, HostCounters
from vsock_proxy.version import VERSION

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence
    from dataclasses import Field

    from prometheus_client import Metric

    from parent.component import JSON, Component
    from vsock_proxy.proxy.counters import ForwardSnapshot, Snapshot

log = logging.getLogger(__name__)

CONTENT_TYPE: Final = CONTENT_TYPE_PLAIN_0_0_4

PREFIX: Final = "enclave_parent"


class Metrics:
    """All metrics, in a registry of their own."""

    def __init__(
        self, components: Callable[[], Sequence[Component]], *, now: Callable[[], float] = time.time
    ) -> None:
        """Take what tells what there is to be measured, and seconds since 1970."""
        self._registry = CollectorRegistry(auto_describe=False)
        self._registry.register(_ComponentCollector(components, now))
        ProcessCollector(registry=self._registry)

    def text(self) -> bytes:
        """Return the numbers in Prometheus text format 0.0.4."""
        return generate_latest(self._registry)


class _ComponentCollector(Collector):
    def __init__(
        self, components: Callable[[], Sequence[Component]], now: Callable[[], float]
    ) -> None:
        self._components = components
        self._now = now

    def describe(self) -> list[Metric]:
        """Return nothing: the metrics depend on the components."""
        return []

    def collect(self) -> Iterator[Metric]:
        info = _gauge("info", "The version that runs.", ["version"])
        info.add_metric([VERSION], 1)
        yield info
        components = self._components()
        healthy = _gauge("healthy", "1 if a component works.", ["component"])
        for component in components:
            healthy.add_metric([component.name], float(component.status().healthy))
        yield healthy
        enclaves = []
        for component in components:
            match component:
                case ProxyService():
                    yield from _proxy(component)
                case CredentialService():
                    yield from _credentials(component, self._now())
                case LogSink():
                    yield from _logs(component)
                case EnclaveComponent():
                    enclaves.append(component)
        if enclaves:
            yield from _enclaves(enclaves)


def _proxy(proxy: ProxyService) -> Iterator[Metric]:
    try:
        snapshot = proxy.snapshot()
    except AgentError as e:
        log.warning("no numbers of the proxy: %s", e)
        return
    if snapshot is not None:
        yield from _forwards(snapshot)


def _forwards(snapshot: Snapshot) -> Iterator[Metric]:
    forwards = snapshot.forwards
    leaving = _gauge("proxy_leaving_connections", "Open, of forwards that a reload removed.")
    leaving.add_metric([], snapshot.leaving)
    reloads = _counter("proxy_reloads", "Reloads that were taken up.")
    reloads.add_metric([], snapshot.reloads)
    yield from (leaving, reloads)
    for field in fields(Gauges):
        family = _gauge(f"proxy_{field.name}", field.metadata["help"], ["forward"])
        for forward in forwards:
            family.add_metric([forward.name], getattr(forward.gauges, field.name))
        yield family
    for field in fields(Counters):
        yield _forward_counter(field, forwards)
    for field in fields(HostCounters):
        yield _host_counter(field, forwards)


def _host_counter(field: Field[Any], forwards: Sequence[ForwardSnapshot]) -> Metric:
    """Return the counter of what each entry of an egress listener's allowlist was used for."""
    label = field.metadata["label"]
    labels = ["forward", "host", label] if label else ["forward", "host"]
    counter = _counter(f"proxy_host_{field.name}", field.metadata["help"], labels)
    for forward in forwards:
        for host, counters in sorted(forward.hosts.items()):
            value = getattr(counters, field.name)
            for words, number in (
                [((kind,), count) for kind, count in sorted(value.items())]
                if label
                else [((), value)]
            ):
                counter.add_metric([forward.name, host, *words], number)
    return counter


def _forward_counter(field: Field[Any], forwards: Sequence[ForwardSnapshot]) -> Metric:
    name, text, label = f"proxy_{field.name}", field.metadata["help"], field.metadata["label"]
    values = [(forward.name, getattr(forward.counters, field.name)) for forward in forwards]
    if field.type == "Histogram":
        histogram = HistogramMetricFamily(f"{PREFIX}_{name}", text, labels=["forward"])
        bounds = [*map(str, LATENCY_BOUNDS), "+Inf"]
        for forward, durations in values:
            buckets = list(zip(bounds, map(float, durations.cumulative), strict=True))
            histogram.add_metric([forward], buckets, durations.sum)
        return histogram
    counter = _counter(name, text, ["forward", label] if label else ["forward"])
    for forward, value in values:
        if label:
            for kind, number in sorted(value.items()):
                counter.add_metric([forward, kind], number)
        else:
            counter.add_metric([forward], value)
    return counter


def _credentials(service: CredentialService, now: float) -> Iterator[Metric]:
    values = service.status().values
    for name, text in (
        ("renewals", "Times that the source gave credentials."),
        ("failures", "Times that the source gave none."),
    ):
        yield _single(_counter(f"credentials_{name}", text), values[name])
    renewed, expires = values["renewed_at"], values["expires_at"]
    if isinstance(renewed, float):
        yield _single(_gauge("credentials_age_seconds", "Since the last renewal."), now - renewed)
    if isinstance(expires, float):
        text = "Until the cached credentials expire; absent without such."
        yield _single(_gauge("credentials_time_to_expiry_seconds", text), expires - now)
    counters = service.server.counters
    responses = _counter("credentials_responses", "Responses to enclaves.", ["status"])
    for status, number in sorted(counters.responses.copy().items()):
        responses.add_metric([str(status)], number)
    yield responses
    text = "Clients without a response: over a limit, or too slow."
    rejected = _counter("credentials_rejected", text, ["reason"])
    rejected.add_metric(["limit"], counters.rejected)
    rejected.add_metric(["timeout"], counters.expired)
    yield rejected
    yield _single(
        _gauge("credentials_clients", "Connected at this moment."), service.server.connected
    )


def _enclaves(enclaves: Sequence[EnclaveComponent]) -> Iterator[Metric]:
    state = _gauge("enclave_state", "1 for its state, 0 for all others.", ["enclave", "state"])
    starts = _counter("enclave_starts", "Times that it was started.", ["enclave"])
    ended = _counter("enclave_ends", "Times that it ended by itself.", ["enclave"])
    seconds = _gauge("enclave_state_seconds", "Since its state began.", ["enclave"])
    for enclave in enclaves:
        values = enclave.status().values
        name = str(values["name"])
        for each in State:
            state.add_metric([name, str(each)], float(values["state"] == str(each)))
        for family, key in ((starts, "starts"), (ended, "ended"), (seconds, "seconds")):
            family.add_metric([name], _number(values[key]))
    yield from (state, starts, ended, seconds)


def _logs(sink: LogSink) -> Iterator[Metric]:
    values = sink.status().values
    if not values:
        return
    lines = _counter("logs_lines", "Lines received from an enclave.", ["source"])
    dropped = _counter("logs_dropped_lines", "Beyond an enclave's rate.", ["source"])
    truncated = _counter("logs_truncated_bytes", "Beyond the longest line.", ["source"])
    sources = cast("Sequence[Mapping[str, JSON]]", values["sources"])
    for family, key in ((lines, "lines"), (dropped, "dropped"), (truncated, "truncated")):
        # By name: an enclave may be called what one without a name is called (cid-17).
        sums: Counter[str] = Counter()
        for source in sources:
            sums[str(source["name"])] += cast("int", source[key])
        for name, number in sums.items():
            family.add_metric([name], number)
    yield from (lines, dropped, truncated)
    for name, text in (
        ("lost", "Lines that could not be written to the journal or the file."),
        ("rejected", "Connections rejected."),
    ):
        yield _single(_counter(f"logs_{name}", text), values[name])
    yield _single(_gauge("logs_connections", "Open at this moment."), values["connections"])


def _single(family: GaugeMetricFamily | CounterMetricFamily, value: object) -> Metric:
    family.add_metric([], _number(value))
    return family


def _number(value: object) -> float:
    return float(cast("float", value))  # what the component documents to be a number


def _gauge(name: str, text: str, labels: Sequence[str] = ()) -> GaugeMetricFamily:
    return GaugeMetricFamily(f"{PREFIX}_{name}", text, labels=labels)


def _counter(name: str, text: str, labels: Sequence[str] = ()) -> CounterMetricFamily:
    return CounterMetricFamily(f"{PREFIX}_{name}", text, labels=labels)
