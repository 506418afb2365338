"""Why two images measure differently: each difference, and the PCRs it moves. No I/O."""

from __future__ import annotations

import re
import shlex
import stat
from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from parent.eif.layout import SectionType

if TYPE_CHECKING:
    from collections.abc import Iterator

    from parent.eif.cpio_reader import Member, Ramdisk
    from parent.eif.describe import Description

_BOOT, _APPLICATION, _NONE = (0, 1), (0, 2), ()
_UNMEASURED = "nothing measures it"
"""Why a difference moves no PCR."""

_VARIABLE = re.compile(r"([A-Za-z_][A-Za-z0-9_.-]*)=(.*)", re.DOTALL)

_TYPES = {
    stat.S_IFDIR: "directory", stat.S_IFREG: "file", stat.S_IFLNK: "symbolic link",
    stat.S_IFCHR: "character device", stat.S_IFBLK: "block device", stat.S_IFIFO: "FIFO",
    stat.S_IFSOCK: "socket",
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Difference:
    """One difference.

    Attributes:
        where: such as ``kernel``, ``command line`` or ``ramdisk 2``.
        what: what differs there, such as ``content``, ``mode``, ``added``.
        path: of a file in a ramdisk; empty elsewhere.
        before: in the first image; empty if there is nothing.
        after: in the second one.
        pcrs: which PCRs it moves.
    """

    where: str
    what: str
    path: str = ""
    before: str = ""
    after: str = ""
    pcrs: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class Section:
    """A section whose bytes were read.

    Attributes:
        digest: SHA-256 of the payload.
        text: the payload of a command line.
        ramdisk: what is in a ramdisk, or None.
        trouble: why it could not be read.
    """

    digest: str
    size: int
    text: str = ""
    ramdisk: Ramdisk | None = field(default=None, repr=False)
    trouble: str = ""


@dataclass(frozen=True, slots=True)
class Contents:
    """An image, as far as a comparison needs it.

    Attributes:
        description: its structure and measurements.
        sections: by type, in the order of the file.
    """

    description: Description
    sections: dict[SectionType, list[Section]]


def compare(before: Contents, after: Contents) -> list[Difference]:
    """Return all differences of two images, in the order of the file."""
    return [
        *_header(before.description, after.description),
        *_kernel(before, after),
        *_cmdline(before, after),
        *_ramdisks(before, after),
        *_signature(before.description, after.description),
        *_metadata(before.description, after.description),
    ]


def _header(before: Description, after: Description) -> Iterator[Difference]:
    one, other = before.image.header, after.image.header
    if one.flags != other.flags:
        folded = one.reserved_flags or other.reserved_flags
        yield Difference(
            "header",
            "flags",
            "",
            f"{one.flags:#06x}",
            f"{other.flags:#06x}",
            (0,) if folded else (),
        )
    for name, first, second in (
        ("version", one.version, other.version),
        ("default memory", one.default_memory, other.default_memory),
        ("default CPUs", one.default_cpus, other.default_cpus),
    ):
        if first != second:
            yield Difference("header", name, "", str(first), str(second), _NONE)


def _kernel(before: Contents, after: Contents) -> Iterator[Difference]:
    (one,), (other,) = before.sections[SectionType.KERNEL], after.sections[SectionType.KERNEL]
    if one.digest != other.digest:
        yield Difference("kernel", "content", "", _content(one), _content(other), _BOOT)


def _cmdline(before: Contents, after: Contents) -> Iterator[Difference]:
    (one,), (other,) = before.sections[SectionType.CMDLINE], after.sections[SectionType.CMDLINE]
    if one.digest == other.digest:
        return
    first, second = one.text.split(), other.text.split()
    removed = list((Counter(first) - Counter(second)).elements())
    added = list((Counter(second) - Counter(first)).elements())
    for word in removed:
        yield Difference("command line", "word removed", "", word, "", _BOOT)
    for word in added:
        yield Difference("command line", "word added", "", "", word, _BOOT)
    kept = _without(first, removed), _without(second, added)
    if kept[0] != kept[1]:
        yield Difference(
            "command line", "order of words", "", " ".join(kept[0]), " ".join(kept[1]), _BOOT
        )
    elif not removed and not added:
        yield Difference("command line", "spaces", "", repr(one.text), repr(other.text), _BOOT)


def _without(words: list[str], gone: list[str]) -> list[str]:
    left = Counter(gone)
    kept = []
    for word in words:
        if left[word]:
            left[word] -= 1
        else:
            kept.append(word)
    return kept


def _ramdisks(before: Contents, after: Contents) -> Iterator[Difference]:
    ones, others = before.sections[SectionType.RAMDISK], after.sections[SectionType.RAMDISK]
    for number in range(max(len(ones), len(others))):
        where, pcrs = f"ramdisk {number + 1}", _APPLICATION if number else _BOOT
        if number >= len(others):
            yield Difference(where, "removed", "", _content(ones[number]), "", pcrs)
        elif number >= len(ones):
            yield Difference(where, "added", "", "", _content(others[number]), pcrs)
        elif ones[number].digest != others[number].digest:
            yield from _ramdisk(ones[number], others[number], where, pcrs)


def _ramdisk(
    one: Section, other: Section, where: str, pcrs: tuple[int, ...]
) -> Iterator[Difference]:
    if one.ramdisk is None or other.ramdisk is None:
        yield Difference(where, "content", "", _content(one), _content(other), pcrs)
        return
    first, second = one.ramdisk, other.ramdisk
    found = False
    if first.compression != second.compression:
        found = True
        yield Difference(
            where, "compression", "", ", ".join(first.compression), ", ".join(second.compression),
            pcrs,
        )  # fmt: skip
    for difference in _members(first.members, second.members, where, pcrs):
        found = True
        yield difference
    if not found:
        compressed = any(name != "none" for name in first.compression)
        what = "compressed form" if compressed else "padding"
        yield Difference(where, what, "", _content(one), _content(other), pcrs)


def _members(
    before: list[Member], after: list[Member], where: str, pcrs: tuple[int, ...]
) -> Iterator[Difference]:
    ones, others = _by_path(before), _by_path(after)
    for path, one in ones.items():
        if path not in others:
            yield Difference(where, "removed", path, _member(one), "", pcrs)
    for path, other in others.items():
        if path not in ones:
            yield Difference(where, "added", path, "", _member(other), pcrs)
    common = [path for path in ones if path in others]
    for path in common:
        for what, first, second in _attributes(ones[path], others[path]):
            yield Difference(where, what, path, first, second, pcrs)
    yield from _order(common, [path for path in others if path in ones], where, pcrs)
    if not ones.keys() ^ others.keys():
        yield from _numbering(before, after, where, pcrs)


def _by_path(members: list[Member]) -> dict[str, Member]:
    """Of entries with one path the last counts, as in Linux."""
    return {member.path: member for member in members}


def _attributes(one: Member, other: Member) -> Iterator[tuple[str, str, str]]:
    kinds = stat.S_IFMT(one.mode), stat.S_IFMT(other.mode)
    if kinds[0] != kinds[1]:
        yield "type", _kind(one.mode), _kind(other.mode)
        return
    if one.target != other.target:
        yield "target", one.target, other.target
    elif one.digest != other.digest and (one.text or other.text):
        yield from _lines(one, other)
    elif one.digest != other.digest:
        yield (
            "content",
            f"{one.size} bytes, SHA-256 {one.digest[:16]}",
            f"{other.size} bytes, SHA-256 {other.digest[:16]}",
        )
    if stat.S_IMODE(one.mode) != stat.S_IMODE(other.mode):
        yield "mode", f"{stat.S_IMODE(one.mode):04o}", f"{stat.S_IMODE(other.mode):04o}"
    if one.owner != other.owner:
        yield "owner", "{}:{}".format(*one.owner), "{}:{}".format(*other.owner)
    if one.time != other.time:
        yield "time", str(one.time), str(other.time)
    if one.device != other.device:
        yield "device", "{}:{}".format(*one.device), "{}:{}".format(*other.device)
    if one.links != other.links:
        yield "hard links", str(one.links), str(other.links)
    if one.encoding != other.encoding:
        yield "encoding", one.encoding, other.encoding


def _lines(one: Member, other: Member) -> Iterator[tuple[str, str, str]]:
    """Compare what init reads. Of variables only the names are told: values may be secrets."""
    if one.path == "cmd":
        yield "command", _command(one.text), _command(other.text)
        return
    first, second = (_variables(member.text) for member in (one, other))
    for name in sorted(first.keys() - second.keys()):
        yield "variable removed", name, ""
    for name in sorted(second.keys() - first.keys()):
        yield "variable added", "", name
    for name in sorted(first.keys() & second.keys()):
        if first[name] != second[name]:
            yield "variable changed", name, ""
    if first == second:
        yield "order of variables", ", ".join(first), ", ".join(second)


def _command(text: str) -> str:
    # A line feed alone ends a word to init.
    return shlex.join(text.removesuffix("\n").split("\n"))


def _variables(text: str) -> dict[str, str]:
    """Return the values by their names.

    A line that is no variable goes with the one before it: nitro-cli writes the line ends of values
    as they are, and what follows them, such as the lines of a private key, is as secret.
    """
    found: dict[str, str] = {}
    name, is_whole = "(no variable)", True
    for line in text.removesuffix("\n").split("\n") if text else ():
        matched = _VARIABLE.fullmatch(line)
        # The last line of base64 looks like a variable with no value, or with one of "=".
        if matched and (is_whole or matched[2].strip("=")):
            name, is_whole = matched[1], True
            found[name] = matched[2]
        else:
            is_whole = False
            found[name] = f"{found.get(name, '')}\n{line}"
    return found


def _order(
    before: list[str], after: list[str], where: str, pcrs: tuple[int, ...]
) -> Iterator[Difference]:
    if before == after:
        return
    place = next(
        n for n, (one, other) in enumerate(zip(before, after, strict=True)) if one != other
    )
    yield Difference(
        where, "order", "", f"entry {place + 1} is {before[place]}",
        f"entry {place + 1} is {after[place]}", pcrs,
    )  # fmt: skip


def _numbering(
    before: list[Member], after: list[Member], where: str, pcrs: tuple[int, ...]
) -> Iterator[Difference]:
    one, other = [member.inode for member in before], [member.inode for member in after]
    if len(one) != len(other):
        yield Difference(
            where, "repeated entries", "", f"{len(one)} entries", f"{len(other)} entries", pcrs
        )
    elif sorted(one) != sorted(other):
        yield Difference(where, "inode numbers", "", f"{one[0]}...", f"{other[0]}...", pcrs)


def _signature(before: Description, after: Description) -> Iterator[Difference]:
    one, other = before.pcrs.get(8), after.pcrs.get(8)
    if one != other:
        names = [_signer(description) for description in (before, after)]
        what = "certificate" if one and other else "added" if other else "removed"
        yield Difference("signature", what, "", names[0], names[1], (8,))
    elif (
        before.signature
        and after.signature
        and before.signature.signature != after.signature.signature
    ):
        yield Difference("signature", "signature by the same certificate", pcrs=_NONE)


def _signer(description: Description) -> str:
    if not description.signature:
        return ""
    certificate = description.signature.certificate
    return f"{certificate.subject.rfc4514_string()}, until {certificate.not_valid_after_utc:%F}"


def _metadata(before: Description, after: Description) -> Iterator[Difference]:
    one, other = before.metadata, after.metadata
    if one == other:
        return
    if one is None or other is None:
        yield Difference("metadata", "removed" if one else "added", pcrs=_NONE)
        return
    for name, first, second in (
        ("ImageName", one.name, other.name),
        ("ImageVersion", one.version, other.version),
        *((name, one.build.get(name), other.build.get(name)) for name in one.build),
    ):
        if first != second:
            yield Difference("metadata", name, "", str(first), str(second), _NONE)
    if one.docker != other.docker:
        yield Difference("metadata", "DockerInfo", pcrs=_NONE)
    if one.custom != other.custom:
        yield Difference("metadata", "CustomMetadata", pcrs=_NONE)


def _content(section: Section) -> str:
    trouble = f" ({section.trouble})" if section.trouble else ""
    return f"{section.size} bytes, SHA-256 {section.digest[:16]}{trouble}"


def _member(member: Member) -> str:
    told = f"{_kind(member.mode)} {stat.S_IMODE(member.mode):04o}"
    if stat.S_ISREG(member.mode):
        return f"{told}, {member.size} bytes"
    return f"{told} to {member.target}" if stat.S_ISLNK(member.mode) else told


def _kind(mode: int) -> str:
    return _TYPES.get(stat.S_IFMT(mode), "unknown type")
