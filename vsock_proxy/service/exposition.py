"""Prometheus text format 0.0.4: written by the agent, read strictly by the parent. No I/O.

What an enclave writes is hostile to its parent, so the reader takes less than the format allows: no
timestamps, no control characters, nothing that stands twice, and so many series, labels and bytes.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Literal, NamedTuple

from vsock_proxy.errors import AgentError

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

CONTENT_TYPE: Final = "text/plain; version=0.0.4; charset=utf-8"

MAX_BYTES: Final = 256 << 10
MAX_FAMILIES: Final = 200
MAX_SAMPLES: Final = 2_000
MAX_LABELS: Final = 8
MAX_NAME: Final = 100
MAX_VALUE: Final = 300
"""Characters: a host name with its port has 259."""

MAX_HELP: Final = 300

Kind = Literal["counter", "gauge", "histogram"]

_SUFFIXES: Final[Mapping[str, tuple[str, ...]]] = {
    "counter": ("",),
    "gauge": ("",),
    "histogram": ("_bucket", "_count", "_sum"),
}
_NAME: Final = re.compile(r"[a-z][a-z0-9_]*", re.ASCII)
_SAMPLE: Final = re.compile(r"([a-z0-9_]+)(?:\{(.*)\})? (\S+)", re.ASCII)
_LABEL: Final = re.compile(r'([a-z_]+)="((?:[^"\\]|\\["\\n])*)"(,|$)', re.ASCII)
_NUMBER: Final = re.compile(
    r"-?[0-9]{1,20}(\.[0-9]{1,20})?(e[+-]?[0-9]{1,3})?|[+-]Inf|NaN", re.ASCII
)
_ESCAPES: Final = str.maketrans({"\\": r"\\", "\n": r"\n", '"': r"\""})
_HELP_ESCAPES: Final = str.maketrans({"\\": r"\\", "\n": r"\n"})


class ExpositionError(AgentError):
    """A text is not one of metrics, or more than is read."""


class Sample(NamedTuple):
    """One number.

    Attributes:
        value: the number.
        labels: names and values.
        suffix: behind the family's name: of a histogram ``_bucket``, ``_count`` or ``_sum``.
    """

    value: float
    labels: tuple[tuple[str, str], ...] = ()
    suffix: str = ""


@dataclass(frozen=True, slots=True)
class Family:
    """The numbers of one name.

    Attributes:
        name: as it is written; that of a counter ends with ``_total``.
        kind: its type.
        help: one line for people.
        samples: its numbers.
    """

    name: str
    kind: Kind
    help: str
    samples: Sequence[Sample]


def single(name: str, kind: Kind, help: str, value: float) -> Family:
    """Return a family of one number without labels."""
    return Family(name, kind, help, [Sample(value)])


def histogram(
    name: str,
    help: str,
    bounds: Sequence[float],
    rows: Iterable[tuple[tuple[tuple[str, str], ...], Sequence[int], float]],
) -> Family:
    """Return a histogram.

    Args:
        name: of the family.
        help: for people.
        bounds: upper bounds of all buckets but the last.
        rows: for each set of labels how many were in each bucket, and the sum of all values.
    """
    samples = []
    for labels, counts, total in rows:
        seen = 0
        for bound, count in zip([*map(_number, bounds), "+Inf"], counts, strict=True):
            seen += count
            samples.append(Sample(seen, (*labels, ("le", bound)), "_bucket"))
        samples += [Sample(seen, labels, "_count"), Sample(total, labels, "_sum")]
    return Family(name, "histogram", help, samples)


def write(families: Iterable[Family], labels: Sequence[tuple[str, str]] = ()) -> bytes:
    """Return a text; `labels` are put before those of every number."""
    lines = []
    for family in families:
        lines.append(f"# HELP {family.name} {family.help.translate(_HELP_ESCAPES)}\n")
        lines.append(f"# TYPE {family.name} {family.kind}\n")
        for sample in family.samples:
            shown = ",".join(
                f'{name}="{value.translate(_ESCAPES)}"' for name, value in (*labels, *sample.labels)
            )
            braces = f"{{{shown}}}" if shown else ""
            lines.append(f"{family.name}{sample.suffix}{braces} {_number(sample.value)}\n")
    return "".join(lines).encode()


def _number(value: float) -> str:
    if value != value:  # noqa: PLR0124 (NaN)
        return "NaN"
    if value in (float("inf"), float("-inf")):
        return "+Inf" if value > 0 else "-Inf"
    return str(int(value)) if float(value).is_integer() and abs(value) < 1e15 else repr(value)


def read(data: bytes, *, prefix: str, reserved: Iterable[str] = ()) -> list[Family]:
    """Read a text that `write` may have written.

    Args:
        data: the text.
        prefix: that every name has, so that no number can be taken for another program's.
        reserved: labels that no number may have.

    Raises:
        ExpositionError: it is malformed, or there is too much of it. Its message has nothing of
            the text but the number of a line.
    """
    if len(data) > MAX_BYTES:
        raise ExpositionError(f"more than {MAX_BYTES} bytes of metrics")
    try:
        lines = data.decode().split("\n")
    except UnicodeDecodeError:
        raise ExpositionError("the metrics are not UTF-8") from None
    reader = _Reader(prefix, frozenset(reserved))
    for number, line in enumerate(lines, 1):
        if line:
            try:
                reader.feed(line)
            except ValueError as e:
                raise ExpositionError(f"line {number} of the metrics: {e}") from None
    return reader.families


class _Reader:
    def __init__(self, prefix: str, reserved: frozenset[str]) -> None:
        self.families: list[Family] = []
        self._prefix = prefix
        self._reserved = reserved
        self._names: set[str] = set()
        self._seen: set[tuple[str, tuple[tuple[str, str], ...]]] = set()
        self._help: tuple[str, str] = ("", "")
        self._samples: list[Sample] = []
        self._count = 0

    def feed(self, line: str) -> None:
        """Take one line.

        Raises:
            ValueError: says what is wrong, and nothing of what the line has.
        """
        if not line.isprintable():
            raise ValueError("a control character")
        if line.startswith("# HELP "):
            name, _, text = line[7:].partition(" ")
            if len(text) > MAX_HELP:
                raise ValueError("a help text that is too long")
            self._help = (name, text.replace(r"\n", " ").replace(r"\\", "\\"))
        elif line.startswith("# TYPE "):
            self._type(line[7:])
        elif line.startswith("#"):
            raise ValueError("a comment of another kind")
        else:
            self._sample(line)

    def _type(self, line: str) -> None:
        name, _, kind = line.partition(" ")
        if kind not in _SUFFIXES:
            raise ValueError("an unknown type")
        if not _NAME.fullmatch(name) or len(name) > MAX_NAME or not name.startswith(self._prefix):
            raise ValueError("a name that is not allowed")
        # A histogram's `a_count` is also the name that a gauge `a_count` would have.
        names = {name, *(name + suffix for suffix in _SUFFIXES[kind])}
        if names & self._names:
            raise ValueError("a name that stands twice")
        if len(self.families) >= MAX_FAMILIES:
            raise ValueError(f"more than {MAX_FAMILIES} names")
        self._names |= names
        text = self._help[1] if self._help[0] == name else ""
        self._samples, self._seen = [], set()
        self.families.append(Family(name, kind, text, self._samples))  # type: ignore[arg-type]

    def _sample(self, line: str) -> None:
        match = _SAMPLE.fullmatch(line)
        if match is None or not self.families:
            raise ValueError("not a number of a name with a type")
        family = self.families[-1]
        suffix = match[1].removeprefix(family.name)
        if not match[1].startswith(family.name) or suffix not in _SUFFIXES[family.kind]:
            raise ValueError("a number of another name")
        if not _NUMBER.fullmatch(match[3]):
            raise ValueError("not a number")
        self._count += 1
        if self._count > MAX_SAMPLES:
            raise ValueError(f"more than {MAX_SAMPLES} numbers")
        labels = self._labels(match[2] or "")
        if (suffix, labels) in self._seen:
            raise ValueError("a number that stands twice")
        self._seen.add((suffix, labels))
        self._samples.append(Sample(float(match[3]), labels, suffix))

    def _labels(self, text: str) -> tuple[tuple[str, str], ...]:
        labels: dict[str, str] = {}
        at = 0
        while at < len(text):
            match = _LABEL.match(text, at)
            if match is None:
                raise ValueError("malformed labels")
            name, value = match[1], re.sub(r"\\(.)", _unescape, match[2])
            if name in labels or name in self._reserved or name.startswith("__"):
                raise ValueError("a label that is not allowed")
            if len(name) > MAX_NAME or len(value) > MAX_VALUE or len(labels) >= MAX_LABELS:
                raise ValueError("labels that are too long, or too many")
            labels[name] = value
            at = match.end()
        return tuple(labels.items())


def _unescape(match: re.Match[str]) -> str:
    return " " if match[1] == "n" else match[1]
