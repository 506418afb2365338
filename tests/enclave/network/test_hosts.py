"""Names with loopback addresses of their own, in a hosts file."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

from enclave.errors import ConfigurationError
from enclave.network.hosts import MAX_SIZE, assign, named, with_names, without_names

if TYPE_CHECKING:
    from pathlib import Path

FILE = "127.0.0.1\tlocalhost\n::1 localhost # and more\n"


def test_each_name_gets_an_address_and_the_file_is_as_before_afterwards(tmp_path: Path) -> None:
    path = tmp_path / "hosts"
    path.write_text(FILE)
    with named(["s3.amazonaws.com", "Db.Internal", "s3.amazonaws.com"], path=path) as addresses:
        assert addresses == {"s3.amazonaws.com": "127.20.0.1", "db.internal": "127.20.0.2"}
        assert path.read_text() == (
            FILE
            + "127.20.0.1\ts3.amazonaws.com\t# enclave-agent\n"
            + "127.20.0.2\tdb.internal\t# enclave-agent\n"
        )
    assert path.read_text() == FILE


def test_name_that_the_image_has_keeps_its_address_and_nothing_is_written(tmp_path: Path) -> None:
    path = tmp_path / "hosts"
    path.write_text("127.20.0.1 other\n127.9.9.9 s3.amazonaws.com")
    before = path.stat().st_mtime_ns
    path.chmod(0o444)
    with named(["S3.amazonaws.com"], path=path) as addresses:
        assert addresses == {"s3.amazonaws.com": "127.9.9.9"}
    assert path.stat().st_mtime_ns == before


def test_addresses_that_are_taken_are_not_given(tmp_path: Path) -> None:
    assert assign(["a", "b"], "127.20.0.1 x\n") == {"a": "127.20.0.2", "b": "127.20.0.3"}


@pytest.mark.parametrize(
    "line", ["10.0.0.1 db", "127.0.0.1 db", "::1 db", "127.20.0.1 db\n10.1.1.1 db"]
)
def test_name_with_another_address_is_an_error(line: str) -> None:
    with pytest.raises(ConfigurationError, match="has the name already, with"):
        assign(["db"], line)


def test_file_that_is_missing_is_made(tmp_path: Path) -> None:
    with named(["db"], path=tmp_path / "hosts"):
        assert "127.20.0.1\tdb" in (tmp_path / "hosts").read_text()


def test_lines_of_a_process_that_was_killed_are_replaced(tmp_path: Path) -> None:
    path = tmp_path / "hosts"
    path.write_text(with_names(FILE, {"old": "127.20.0.1"}))
    with named(["new"], path=path):
        assert "old" not in path.read_text()
    assert path.read_text() == FILE


def test_file_without_a_last_line_end_and_with_odd_bytes_survives(tmp_path: Path) -> None:
    path = tmp_path / "hosts"
    path.write_bytes(b"10.0.0.1 \xff\xfe")
    with named(["a"], path=path):
        assert path.read_bytes().startswith(b"10.0.0.1 \xff\xfe\n127.20.0.1\ta")
    assert without_names(path.read_text(errors="replace")).startswith("10.0.0.1 ")


def test_file_that_cannot_be_written_is_one_error_with_the_lines(tmp_path: Path) -> None:
    path = tmp_path / "folder" / "hosts"  # No such folder: fails for root, too.
    with (
        pytest.raises(ConfigurationError, match="--egress-host: cannot write") as caught,
        named(["db.internal"], path=path),
    ):
        pass
    assert "`127.20.0.1 db.internal`" in caught.value.hint


def test_file_that_is_too_large_is_an_error(tmp_path: Path) -> None:
    path = tmp_path / "hosts"
    with path.open("wb") as file:
        os.ftruncate(file.fileno(), MAX_SIZE + 1)
    with pytest.raises(ConfigurationError, match="has more than"), named(["a"], path=path):
        pass
