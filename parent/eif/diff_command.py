"""``enclave-parent diff-eif``: why two images measure differently."""

from __future__ import annotations

import hashlib
import sys
from collections import defaultdict
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from parent.eif import cpio_reader, image, layout
from parent.eif.describe import describe
from parent.eif.diff import Contents, Section, compare
from parent.eif.errors import of_image
from parent.eif.layout import SectionType
from parent.files import opened, print_json, progress, size
from vsock_proxy.service.console import printable

if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable, Iterator

    from parent.eif.diff import Difference

_DESCRIPTION = """\
Print what differs between two enclave images, and which PCRs each difference moves: sections, the
command line's words, and each file of the ramdisks by content, mode, owner, time, order and form.
Exit status: 0 if they measure the same, 3 if they do not, 1 after an error.
"""
_MAX_CMDLINE = 1 << 16
_DIFFERENT = 3
_SHOWN = 20
"""Files listed for each kind of difference, without --all."""


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the subcommand."""
    parser = subparsers.add_parser(
        "diff-eif", help="tell why two enclave images measure differently", description=_DESCRIPTION
    )
    parser.add_argument("before", metavar="A", type=Path, help="an enclave image file")
    parser.add_argument("after", metavar="B", type=Path, help="another one")
    parser.add_argument(
        "--output", choices=("text", "json"), default="text", help="default: %(default)s"
    )
    parser.add_argument(
        "--all", action="store_true", help=f"list every file, not the first {_SHOWN} of each kind"
    )
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Compare two images."""
    paths = arguments.before, arguments.after
    # Each is read twice: to measure it, and to look into its ramdisks.
    with progress(2 * sum(map(size, paths)), "comparing") as advance:
        before, after = (_contents(path, advance) for path in paths)
    differences = compare(before, after)
    moved = [
        index
        for index in sorted(before.description.pcrs.keys() | after.description.pcrs.keys())
        if before.description.pcrs.get(index) != after.description.pcrs.get(index)
    ]
    if arguments.output == "json":
        print_json(_document(before, after, differences))
    else:
        lines = _lines(before, after, differences, None if arguments.all else _SHOWN)
        sys.stdout.write("".join(f"{printable(line)}\n" for line in lines))
        sys.stdout.flush()
    return _DIFFERENT if moved else 0


def _contents(path: Path, advance: Callable[[int], None]) -> Contents:
    with of_image(path), opened(path) as stream:
        description = describe(stream, progress=advance)
        sections: dict[SectionType, list[Section]] = defaultdict(list)
        for section in description.image.sections:
            sections[section.type].append(_section(stream, section, advance))
        return Contents(description, sections)


def _section(stream: IO[bytes], section: layout.Section, advance: Callable[[int], None]) -> Section:
    digest = hashlib.sha256()

    def chunks() -> Iterator[bytes]:
        for chunk in image.chunks(stream, section):
            digest.update(chunk)
            advance(len(chunk))
            yield chunk

    text, ramdisk, trouble = "", None, ""
    pieces = chunks()
    if section.type is SectionType.RAMDISK:
        try:
            ramdisk = cpio_reader.read(pieces)
        except cpio_reader.RamdiskError as e:
            trouble = str(e)
    elif section.type is SectionType.CMDLINE:
        text = next(pieces, b"")[:_MAX_CMDLINE].decode("utf-8", "replace")
    for _ in pieces:
        pass
    return Section(digest.hexdigest(), section.size, text, ramdisk, trouble)


def _document(before: Contents, after: Contents, differences: list[Difference]) -> dict[str, Any]:
    pcrs = before.description.pcrs, after.description.pcrs
    return {
        "Measurements": {
            f"PCR{index}": {
                "Before": pcrs[0][index].hex() if index in pcrs[0] else None,
                "After": pcrs[1][index].hex() if index in pcrs[1] else None,
                "Same": pcrs[0].get(index) == pcrs[1].get(index),
            }
            for index in sorted(pcrs[0].keys() | pcrs[1].keys())
        },
        "Differences": [
            {
                "Where": each.where,
                "What": each.what,
                "Path": each.path or None,
                "Before": each.before or None,
                "After": each.after or None,
                "PCRs": list(each.pcrs),
            }
            for each in differences
        ],
    }


def _lines(
    before: Contents, after: Contents, differences: list[Difference], shown: int | None
) -> Iterator[str]:
    pcrs = before.description.pcrs, after.description.pcrs
    for index in sorted(pcrs[0].keys() | pcrs[1].keys()):
        one, other = (_short(found.get(index)) for found in pcrs)
        same = pcrs[0].get(index) == pcrs[1].get(index)
        yield f"PCR{index}  {one}" + ("  the same in both" if same else f" -> {other}")
    groups: dict[tuple[str, str, tuple[int, ...]], list[Difference]] = {}
    for each in differences:
        groups.setdefault((each.where, each.what, each.pcrs), []).append(each)
    place = ""
    for (where, what, moved), group in groups.items():
        if where != place:
            yield ""
            names = ", ".join(f"PCR{index}" for index in moved)
            yield f"{where} ({f'moves {names}' if names else 'moves no PCR'})"
            place = where
        if not group[0].path:
            for each in group:
                yield f"  {what}{_change(each)}"
            continue
        yield f"  {what}: {len(group)} file{'s' if len(group) > 1 else ''}"
        for each in group[:shown]:
            yield f"    {each.path}{_change(each)}"
        if shown is not None and len(group) > shown:
            yield f"    ... and {len(group) - shown} more: --all lists them"
    if not differences:
        yield ""
        yield "no difference"


def _change(difference: Difference) -> str:
    if difference.before and difference.after:
        return f": {difference.before} -> {difference.after}"
    told = difference.before or difference.after
    return f": {told}" if told else ""


def _short(pcr: bytes | None) -> str:
    return f"{pcr.hex()[:16]}..." if pcr else "none"
