"""The program's network and secrets in the guest: what `guest` runs, and the program itself.

``python -m tests.programs.boot.traffic`` is the program, under ``enclave-agent serve``: it uses S3
through egress with the agent's credentials, is refused what is on one allowlist only, has a sealed
secret, and serves clients that the agent has ended attested TLS for. The host's side is `outside`.
Under the launcher, `tests/chain/test_traffic.py` runs the same, and further programs in it.
"""

from __future__ import annotations

import hashlib
import http.client
import http.server
import os
import ssl
import subprocess
import sys
import threading

from tests.programs.boot.ports import (
    BUCKET,
    OTHER_NAME,
    PROGRAM_PORT,
    S3_NAME,
    SEALED,
    SERVER_NAME,
    SERVERS_CA,
    WELCOME,
)

UNLISTED = "elsewhere.example.com"


FOLDER = "BOOT_TEST_FOLDER"
"""The variable with the folder of the image's files, for the program."""

ALSO = "BOOT_TEST_ALSO"
"""The variable with a script that the program runs first."""


def command(folder: str, *options: str) -> list[str]:
    """Return the command of an image whose files are in a folder."""
    return [
        sys.executable, "-m", "enclave.cli", "serve", "--verbose", "--no-seed-from-kms",
        "--egress", f"--egress-allow={S3_NAME}:443", f"--egress-allow={OTHER_NAME}:443",
        f"--ingress-tls={SERVER_NAME}", "--program-credentials", f"--secret-env={folder}/{SEALED}",
        *options, "--", sys.executable, "-m", "tests.programs.boot.traffic",
    ]  # fmt: skip


def serve(timeout: float) -> str:
    """Run it in the guest; return what was shown."""
    # Its lines are the console's, as they come: the host waits for one of them.
    done = subprocess.run(command(""), check=False, timeout=timeout)
    assert done.returncode == 0, f"serve ended with {done.returncode}"
    return "S3 through egress, attested clients, and a secret"


def main() -> int:
    """Be the program."""
    subprocess.run(["sh", "-ec", os.environ.get(ALSO, "")], check=True)
    say(use_s3())
    for name, reason in (
        (UNLISTED, f"403 {UNLISTED}:443 is not on the egress allowlist of the image"),
        (OTHER_NAME, f"403 {OTHER_NAME}:443: the parent: {OTHER_NAME}:443 is not on"),
    ):
        say(refused(name, reason))
    with http.server.ThreadingHTTPServer(("127.0.0.1", PROGRAM_PORT), Handler) as server:
        say("waiting for clients")
        server.serve_forever()
    return 0


def use_s3() -> str:
    """An unmodified SDK: proxy and credentials are those of its variables."""
    import botocore.session  # noqa: PLC0415 (not for the functions above, which `guest` calls)

    assert "AWS_ACCESS_KEY_ID" not in os.environ
    s3 = botocore.session.get_session().create_client(
        "s3", region_name="eu-central-1", verify=f"{os.environ.get(FOLDER, '')}/{SERVERS_CA}"
    )
    (bucket,) = s3.list_buckets()["Buckets"]
    assert bucket["Name"] == BUCKET
    return f"{s3.meta.endpoint_url} has the bucket {BUCKET}"


def refused(name: str, reason: str) -> str:
    """Connect to a host through the agent's proxy, which refuses it."""
    host, _, port = os.environ["HTTPS_PROXY"].removeprefix("http://").partition(":")
    connection = http.client.HTTPSConnection(host, int(port), context=ssl.create_default_context())
    connection.set_tunnel(name, 443)
    try:
        connection.connect()
    except OSError as e:
        told = str(e)
    else:
        raise AssertionError(f"connected to {name}")
    assert reason in told, told
    return f"refused: {told}"


class Handler(http.server.BaseHTTPRequestHandler):
    """Proves to a client that it has the secret, and ends when one says so."""

    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        self._respond(WELCOME)

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        secret = os.environ["SEALED_SECRET"].encode()
        self._respond(hashlib.sha256(body + secret).hexdigest().encode())
        if self.path == "/end":
            threading.Thread(target=self.server.shutdown).start()

    def _respond(self, body: bytes) -> None:
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


def say(what: str) -> None:
    print(f"boot-test: {what}", flush=True)


if __name__ == "__main__":
    sys.exit(main())
