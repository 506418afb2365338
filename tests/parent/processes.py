"""``enclave-parent`` as a process, on an instance with a nitro-cli that answers as the real one."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Self

from tests.parent.eif import eifs
from tests.waiting import TEST_TIMEOUT, eventually

if TYPE_CHECKING:
    from collections.abc import Mapping

FAKE = Path(__file__).with_name("fake_nitro_cli.py")


class Instance:
    """A parent instance in a folder; ends its processes when left.

    Attributes:
        folder: with ``worker.eif`` in it.
        running: nitro-cli's, with a file for each enclave.
        environment: of the daemon.
        configuration: its file.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.running = folder / "run"
        self.running.mkdir()
        (folder / "bin").mkdir()
        (folder / "bin/nitro-cli").symlink_to(FAKE)
        self.eif = folder / "worker.eif"
        self.eif.write_bytes(eifs.eif())
        self.configuration = folder / "parent.yaml"
        self.environment = {
            "PATH": f"{folder}/bin:{os.environ['PATH']}",
            "NITRO_CLI_SOCKETS_PATH": str(self.running),
            "HOME": str(folder),
            "AWS_EC2_METADATA_DISABLED": "true",
        }
        self._undo = contextlib.ExitStack()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._undo.close()

    def configure(self, text: str) -> None:
        """Write the configuration; ``{folder}`` in it is this instance's."""
        self.configuration.write_text(text.replace("{folder}", str(self.folder)))

    def run(
        self, *arguments: str, before: str = "", more: Mapping[str, str] | None = None
    ) -> Daemon:
        """Start the daemon.

        Args:
            arguments: beside the configuration.
            before: Python that runs in it first.
            more: environment.
        """
        code = f"import sys\n{before}\nfrom parent.cli import main\nsys.exit(main())"
        command = [sys.executable, "-c", code, "run", "--config", str(self.configuration)]
        said = self.folder / "said"
        with said.open("ab") as output:
            process = subprocess.Popen(
                [*command, *arguments],
                stdin=subprocess.DEVNULL,
                stderr=output,
                env={**self.environment, **(more or {})},
            )
        self._undo.callback(process.wait)
        self._undo.callback(process.kill)
        return Daemon(process, said)


class Daemon:
    """The daemon, and what it said."""

    def __init__(self, process: subprocess.Popen[bytes], said: Path) -> None:
        self.process = process
        self._said = said

    @property
    def said(self) -> str:
        return self._said.read_text(errors="replace")

    def says(self, text: str) -> None:
        """Wait until it has said something."""

        def heard() -> bool:
            return text in self.said or self.process.poll() is not None

        eventually(heard)
        assert text in self.said

    def tell(self, number: signal.Signals) -> None:
        self.process.send_signal(number)

    def end(self, ending: signal.Signals = signal.SIGTERM) -> int:
        """Tell it to end; its exit status."""
        self.tell(ending)
        return self.wait()

    def wait(self) -> int:
        return self.process.wait(TEST_TIMEOUT)
