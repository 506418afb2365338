"""One simulated enclave, all of a program's traffic: what the boot test shows on a real kernel.

`tests.programs.boot.traffic` is in the enclave, `tests.programs.boot.outside` around it: curl, the
AWS CLI and botocore through egress, psql through a forward, clients over attested TLS and impostors
that they refuse, and a secret sealed beforehand, which nothing on the parent's side ever has.
"""

from __future__ import annotations

import contextlib
import os
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from enclave_simulator.kms.tls import generate_key, key_pem
from tests.chain.commands import SIMULATOR
from tests.chain.test_attested_tls import PCR0, root_of
from tests.chain.test_egress import database
from tests.paths import ROOT
from tests.programs.boot import traffic
from tests.programs.boot.outside import outside, seal
from tests.programs.boot.ports import BUCKET, S3_NAME, SEALED, SERVERS_CA, TLS_PORT
from tests.sockets import unused_port
from tests.waiting import TEST_TIMEOUT
from vsock_proxy.net.addresses import UnixAddress

pytestmark = [pytest.mark.long, pytest.mark.timeout(600)]


def others(front: int, ca: Path) -> dict[str, str]:
    """Further programs in the enclave, with what each prints."""
    found = {}
    if curl := shutil.which("curl"):
        found[f"{curl} -sS --cacert {ca} https://{S3_NAME}/ | grep -o '<Name>.*</Name>'"] = (
            f"<Name>{BUCKET}</Name>"
        )
    aws = Path(sys.executable).with_name("aws")
    if aws.exists():
        words = "s3api list-buckets --query Buckets[].Name --output text"
        found[f"AWS_CA_BUNDLE={ca} {aws} --region eu-central-1 {words}"] = BUCKET
    if psql := shutil.which("psql"):
        url = f"postgresql://app@127.0.0.1:{front}/app?sslmode=disable"
        found[f"{psql} {shlex.quote(url)} -X -At -c 'select answer'"] = "42"
    return found


def test_all_of_a_programs_traffic(tmp_path: Path) -> None:
    folder = tmp_path
    (folder / "etc").mkdir()
    key, front = folder / "ca.key", unused_port()
    key.write_bytes(key_pem(generate_key()))
    way_in = UnixAddress(str(folder / f"16_{TLS_PORT}"))
    with contextlib.ExitStack() as stack:
        servers = {("db.internal", 5432): stack.enter_context(database())}
        out = stack.enter_context(outside(folder, way_in, servers))
        sealed, state = seal(out.secret, folder, key)
        (folder / SEALED).write_bytes(sealed)
        ca = folder / SERVERS_CA
        ca.write_bytes(out.server.ca)
        programs = others(front, ca)
        simulator = [
            *SIMULATOR, "--folder", str(folder), "--credentials", "parent", "--state", str(state),
        ]  # fmt: skip
        serve = traffic.command(
            str(folder),
            "--listen=tcp://127.0.0.1:0",
            "--egress-listen=tcp://127.0.0.1:0",
            f"--forward=tcp://127.0.0.1:{front}=db.internal:5432",
        )
        names = {name: value for name, value in os.environ.items() if name[:4] != "AWS_"}
        environ = {
            **names,
            traffic.FOLDER: str(folder),
            traffic.ALSO: "\n".join(programs),
            "AWS_CONFIG_FILE": "/nowhere",
            "AWS_SHARED_CREDENTIALS_FILE": "/nowhere",
        }
        told = []
        log = stack.enter_context((folder / "log").open("w+"))
        with subprocess.Popen(
            [*simulator, "--", *serve], cwd=ROOT, env=environ, text=True,
            stdout=subprocess.PIPE, stderr=log,
        ) as process:  # fmt: skip
            assert process.stdout
            for line in process.stdout:
                told.append(line.strip())
                if "waiting for clients" in line:
                    out.visit(PCR0, root_of(f"https://127.0.0.1:{out.port}"))
            assert process.wait(TEST_TIMEOUT) == 0, (folder / "log").read_text()
        assert out.failures() == []
        assert told[: len(programs)] == list(programs.values())
    secret = out.secret.encode()  # which nothing on the parent has, the agent's log included
    for path in folder.rglob("*"):
        assert not path.is_file() or secret not in path.read_bytes(), path
