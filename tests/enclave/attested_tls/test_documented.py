"""docs/ingress.md: its example runs, and the tests and options that it names exist."""

from __future__ import annotations

import argparse
import re
from typing import TYPE_CHECKING

from enclave.attested_tls import options
from tests.enclave.attested_tls.serving import IMAGE, ROOT, Program, program, served
from tests.paths import ROOT as REPOSITORY

if TYPE_CHECKING:
    import socket

    import pytest

PAGE = (REPOSITORY / "docs/ingress.md").read_text(encoding="utf-8")


def test_the_example_runs(capsys: pytest.CaptureFixture[str]) -> None:
    def handle(connection: socket.socket) -> None:
        received = connection.recv(1000)
        if received.startswith(b"POST"):
            while not received.endswith(b"secret"):
                received += connection.recv(1000)
            connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\nSECRET")
        else:
            connection.sendall(received.upper())
        connection.recv(1)

    (example,) = re.findall(r"^```python\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)
    with program(Program(handle)) as behind, served(behind.port) as made:
        example = example.replace("https://app.example/", f"https://127.0.0.1:{made.port}/")
        example = example.replace('"app.example", 443', f'"127.0.0.1", {made.port}')
        root = f"root_fingerprint=bytes.fromhex('{ROOT.hex()}')"
        example = example.replace("(PCR0)}", f"(PCR0)}}, {root}")
        exec(example, {"PCR0": IMAGE.hex()})  # noqa: S102 (our own page)
    assert capsys.readouterr().out == (
        "SECRET\ni-0123456789abcdef0-enc0123456789abcdef b'ANY PROTOCOL\\n'\n"
    )


def test_the_tests_it_names_exist() -> None:
    folder = REPOSITORY / "tests/enclave/attested_tls"
    written = "".join(path.read_text(encoding="utf-8") for path in folder.glob("test_*.py"))
    named = set(re.findall(r"`(test_\w+)`", PAGE))
    assert len(named) > 20
    assert named <= set(re.findall(r"^def (test_\w+)", written, re.MULTILINE))


def test_each_option_is_there() -> None:
    parser = argparse.ArgumentParser(add_help=False)
    options.add_options(parser)
    given = set(re.findall(r"--ingress-tls[a-z-]*", parser.format_help()))
    assert given == set(re.findall(r"--ingress-tls[a-z-]*", PAGE))
    assert options.DEFAULT_FORWARD in PAGE
