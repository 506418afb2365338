"""``make bench SVG=FOLDER``: its tables as pictures."""

from __future__ import annotations

from typing import TYPE_CHECKING
from xml.etree import ElementTree as ET

import pytest

from tests.programs.bench import report
from tests.programs.bench.picture import drawn, number

if TYPE_CHECKING:
    from pathlib import Path

SVG = "{http://www.w3.org/2000/svg}"
HEADER = ("", "ours", "theirs")
ROWS = [("up, GB/s <1>", "3.0", "1.5"), ("new conn/s", "12,400", "-")]


def widths(text: str, kind: str) -> list[float]:
    found = ET.fromstring(text).iter(f"{SVG}rect")  # noqa: S314 (our own)
    return [float(each.attrib["width"]) for each in found if each.attrib["class"] == kind]


def test_bars_are_to_the_scale_of_their_row_or_column() -> None:
    across = drawn(HEADER, ROWS, across=True)
    one, half, alone = widths(across, "bar")
    tracks = widths(across, "track")
    assert [one, alone] == [tracks[0], tracks[2]]
    assert half == pytest.approx(one / 2)
    first, *_ = widths(drawn(HEADER, ROWS), "bar")
    assert first < 0.01 * tracks[0], "3.0 beside 12,400"


def test_every_cell_is_text() -> None:
    svg = ET.fromstring(drawn(HEADER, ROWS))  # noqa: S314 (our own)
    texts = [each.text or "" for each in svg.iter(f"{SVG}text")]
    assert texts == [*HEADER, *ROWS[0], *ROWS[1]]
    assert "up, GB/s <1>: ours 3.0, theirs 1.5" in svg.attrib["aria-label"]


@pytest.mark.parametrize(
    ("cell", "value"),
    [("1.5 (1.2 to 1.8)", 1.5), ("12,400", 12400.0), ("44k", 44.0), ("-", None), ("", None),
     ("37 %", 37.0), ("-0.5", -0.5)],
)  # fmt: skip
def test_figures(cell: str, value: float | None) -> None:
    assert number(cell) == value


def test_tables_are_printed_and_drawn(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(report._Pictures, "folder", "")
    report.begin("relay")
    report.table(HEADER, ROWS)
    report.draw_into(str(tmp_path / "pictures"))
    report.table(HEADER, iter(ROWS))
    report.table(HEADER, ROWS)
    assert sorted(path.name for path in (tmp_path / "pictures").iterdir()) == [
        "relay-1.svg", "relay-2.svg",
    ]  # fmt: skip
    assert capsys.readouterr().out.count("new conn/s") == 3
