"""Clients as people have them, unmodified, through ``enclave-agent serve`` in a simulated enclave.

``make test-clients`` installs them (`tests.programs.clients`). A client that is not there is a
skipped test that says what is missing.
"""

from __future__ import annotations

import json
import re
import shutil
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.chain.commands import AGENT, SIMULATOR, run
from tests.paths import ROOT
from tests.programs.aws_cli.folder import installed_aws_cli

if TYPE_CHECKING:
    import subprocess
    from collections.abc import Sequence

pytestmark = pytest.mark.long

FOLDER = ROOT / ".clients"
SERVE = (*AGENT, "serve", "--no-seed-from-kms", "--listen", "tcp://127.0.0.1:0")
TWO_REGIONS = ("--region", "us-east-1", "--region", "eu-west-1")


def served(*command: str | Path, options: Sequence[str] = ()) -> subprocess.CompletedProcess[str]:
    """Run a program under the endpoint, in an enclave whose KMS has the key alias/app."""
    words = [str(word) for word in command]
    return run(*SIMULATOR, "--key", "alias/app", "--", *SERVE, *options, "--", *words)


def python_of(environment: str) -> Path:
    python = FOLDER / environment / "bin/python"
    if not python.exists():
        pytest.skip(f"no .clients/{environment}: `make test-clients` installs it, with pip")
    return python


def program(*names: str) -> str:
    """Return the path of the first of these programs that there is."""
    for name in names:
        if path := shutil.which(name):
            return path
    pytest.skip(f"no {' or '.join(names)} in PATH")


def javascript_folder() -> Path:
    if not (FOLDER / "node_modules/@aws-sdk/client-kms").exists():
        pytest.skip("no AWS SDK for JavaScript: `make test-clients` installs it, with npm")
    return FOLDER


def check(done: subprocess.CompletedProcess[str]) -> str:
    assert (done.stderr, done.returncode) == ("", 0), done.stderr
    return done.stdout


AWS_CLI = """
set -eu
key=$("$@" kms describe-key --key-id alias/app --query KeyMetadata.Arn --output text)
made=$("$@" kms generate-data-key --key-id "$key" --key-spec AES_256 --encryption-context a=b \
  --query '[CiphertextBlob,Plaintext]' --output text)
set -- "$key" $made -- "$@"
key=$1 blob=$2 plain=$3; shift 4
opened=$("$@" kms decrypt --key-id "$key" --encryption-context a=b --query Plaintext --output text \
  --ciphertext-blob "$blob")
test "$opened" = "$plain"
"$@" kms generate-random --number-of-bytes 32 --output text --query Plaintext | base64 -d | wc -c
"""


def test_aws_cli_version_1(tmp_path: Path) -> None:
    aws = Path(sys.executable).with_name("aws")
    if not aws.exists():
        pytest.skip("no AWS CLI version 1: pip install -e '.[dev]'")
    # Version 1 takes the text of a blob as it is.
    script = AWS_CLI.replace('--ciphertext-blob "$blob"', '--ciphertext-blob fileb://"$T"').replace(
        "opened=", 'printf %s "$blob" | base64 -d >"$T"\nopened='
    )
    script = f"T={tmp_path}/blob\n{script}"
    assert check(served("sh", "-c", script, "sh", aws)).strip() == "32"


def test_aws_cli_version_2() -> None:
    found = installed_aws_cli()
    if found is None:
        pytest.skip("no AWS CLI version 2: `make test-clients` installs it, with mmdebstrap")
    command, variables = found
    environ = [f"{name}={value}" for name, value in variables.items()]
    runs = (*command, "-c", "import awscli.clidriver, sys; sys.exit(awscli.clidriver.main())")
    assert check(served("sh", "-c", AWS_CLI, "sh", "env", *environ, *runs)).strip() == "32"


def test_aioboto3() -> None:
    script = """
import asyncio, aioboto3
async def main():
    async with aioboto3.Session().client("kms") as kms:
        made = await kms.generate_data_key(KeyId="alias/app", KeySpec="AES_256")
        opened = await kms.decrypt(CiphertextBlob=made["CiphertextBlob"], KeyId="alias/app")
        assert opened["Plaintext"] == made["Plaintext"]
        many = await asyncio.gather(*(kms.generate_random(NumberOfBytes=32) for _ in range(20)))
        print(len({each["Plaintext"] for each in many}))
asyncio.run(main())
"""
    assert check(served(python_of("aioboto3"), "-c", script)).strip() == "20"


def test_the_aws_sdk_for_javascript(tmp_path: Path) -> None:
    node = program("node")
    script = javascript_folder() / "client.mjs"
    script.write_text(_JAVASCRIPT)
    done = run(
        *SIMULATOR, "--key", "alias/demo", "--fault", "refuse:1", "--fault", "unavailable:4", "--",
        *SERVE, "--", node, str(script),
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    shown = json.loads(done.stdout)
    # Readiness took the refusal, which shows that KMS responds; the SDK retried once.
    assert shown["random"] == [32, 2]
    assert shown["same"] is True
    assert shown["error"][0] == "NotFoundException"
    assert "alias/none" in shown["error"][1]
    assert len(shown["error"][2]) == 36


_JAVASCRIPT = """
import {
  KMSClient, GenerateRandomCommand, GenerateDataKeyCommand, DecryptCommand,
} from "@aws-sdk/client-kms";
const kms = new KMSClient({});
const random = await kms.send(new GenerateRandomCommand({ NumberOfBytes: 32 }));
const key = await kms.send(new GenerateDataKeyCommand({ KeyId: "alias/demo", NumberOfBytes: 64 }));
const { CiphertextBlob } = key;
const opened = await kms.send(new DecryptCommand({ CiphertextBlob, KeyId: "alias/demo" }));
let error = null;
try {
  await kms.send(new GenerateDataKeyCommand({ KeyId: "alias/none", NumberOfBytes: 64 }));
} catch (e) {
  error = [e.name, e.message, e.$metadata.requestId];
}
console.log(JSON.stringify({
  random: [random.Plaintext.length, random.$metadata.attempts],
  same: Buffer.from(key.Plaintext).equals(Buffer.from(opened.Plaintext)),
  error,
}));
"""


def test_the_http_client_of_the_jdk(tmp_path: Path) -> None:
    """In its default form, which asks for HTTP/2 (Upgrade: h2c), with bodies of both framings."""
    java = program("java")
    source = tmp_path / "Client.java"
    source.write_text(_JAVA)
    done = served(java, source)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["HTTP_1_1", "200", "44"] * 4


_JAVA = """
import java.io.ByteArrayInputStream;
import java.net.URI;
import java.net.http.HttpClient;
import java.net.http.HttpRequest;
import java.net.http.HttpRequest.BodyPublishers;
import java.net.http.HttpResponse.BodyHandlers;

public class Client {
  public static void main(String[] arguments) throws Exception {
    var uri = URI.create(System.getenv("AWS_ENDPOINT_URL_KMS"));
    var body = "{\\"NumberOfBytes\\":32}";
    for (var client : new HttpClient[] {
        HttpClient.newHttpClient(),
        HttpClient.newBuilder().version(HttpClient.Version.HTTP_1_1).build()}) {
      for (var publisher : new HttpRequest.BodyPublisher[] {
          BodyPublishers.ofString(body),
          BodyPublishers.ofInputStream(() -> new ByteArrayInputStream(body.getBytes()))}) {
        var request = HttpRequest.newBuilder(uri.resolve("/"))
            .header("X-Amz-Target", "TrentService.GenerateRandom")
            .header("Content-Type", "application/x-amz-json-1.1").POST(publisher).build();
        var response = client.send(request, BodyHandlers.ofString());
        var plaintext = response.body().replaceAll(".*\\"Plaintext\\":\\"|\\".*", "");
        System.out.println(
            response.version() + " " + response.statusCode() + " " + plaintext.length());
      }
    }
  }
}
"""


def test_curl_that_asks_for_http_2() -> None:
    script = (
        'curl -sS --http2 --noproxy "*" -H "X-Amz-Target: TrentService.GenerateRandom" '
        '-d "{\\"NumberOfBytes\\":32}" -w "%{http_version} %{http_code}" -o /dev/null '
        '"$AWS_ENDPOINT_URL_KMS"'
    )
    program("curl")
    assert check(served("sh", "-c", script)) == "1.1 200"


def test_the_aws_encryption_sdk_for_python() -> None:
    done = served(python_of("encryption"), "-c", _KEYRINGS, options=TWO_REGIONS)
    assert check(done).splitlines() == [
        "KMS", "multi-keyring", "multi-keyring, by the second region", "MRK, by its replica",
        "caching", "discovery",
    ]  # fmt: skip


_KEYRINGS = """
import aws_encryption_sdk, boto3
from aws_cryptographic_material_providers.mpl import AwsCryptographicMaterialProviders
from aws_cryptographic_material_providers.mpl import models
from aws_cryptographic_material_providers.mpl.config import MaterialProvidersConfig

client = aws_encryption_sdk.EncryptionSDKClient()
mpl = AwsCryptographicMaterialProviders(config=MaterialProvidersConfig())
first, second = (boto3.client("kms", region_name=name) for name in ("us-east-1", "eu-west-1"))


def new(kms, **parameters):
    return kms.create_key(**parameters)["KeyMetadata"]["Arn"]


def check(name, writer, reader=None):
    sealed, _ = client.encrypt(source=b"secret", encryption_context={"a": "b"}, **writer)
    opened, _ = client.decrypt(source=sealed, **(reader or writer))
    assert opened == b"secret"
    print(name)


def kms_keyring(key, kms):
    return mpl.create_aws_kms_keyring(
        models.CreateAwsKmsKeyringInput(kms_key_id=key, kms_client=kms)
    )


def mrk_keyring(key, kms):
    return mpl.create_aws_kms_mrk_keyring(
        models.CreateAwsKmsMrkKeyringInput(kms_key_id=key, kms_client=kms)
    )


one, two = new(first), new(second)
check("KMS", {"keyring": kms_keyring(one, first)})
supplier = mpl.create_default_client_supplier(models.CreateDefaultClientSupplierInput())
multi = mpl.create_aws_kms_multi_keyring(models.CreateAwsKmsMultiKeyringInput(
    generator=one, kms_key_ids=[two], client_supplier=supplier,
))
check("multi-keyring", {"keyring": multi})
other = {"keyring": kms_keyring(two, second)}
check("multi-keyring, by the second region", {"keyring": multi}, other)
mrk = new(first, MultiRegion=True)
first.replicate_key(KeyId=mrk, ReplicaRegion="eu-west-1")
check(
    "MRK, by its replica",
    {"keyring": mrk_keyring(mrk, first)},
    {"keyring": mrk_keyring(mrk.replace("us-east-1", "eu-west-1"), second)},
)
caching = aws_encryption_sdk.CachingCryptoMaterialsManager(
    master_key_provider=aws_encryption_sdk.StrictAwsKmsMasterKeyProvider(key_ids=[one, two]),
    cache=aws_encryption_sdk.LocalCryptoMaterialsCache(10),
    max_age=60.0,
)
check("caching", {"materials_manager": caching})
check(
    "discovery",
    {"keyring": kms_keyring(one, first)},
    {"keyring": mpl.create_aws_kms_discovery_keyring(
        models.CreateAwsKmsDiscoveryKeyringInput(kms_client=first)
    )},
)
"""


# docs/encryption.md: every example runs as it stands.


def examples(language: str) -> list[str]:
    document = (ROOT / "docs/encryption.md").read_text(encoding="utf-8")
    return re.findall(rf"^```{language}\n(.*?)^```$", document, re.MULTILINE | re.DOTALL)


@pytest.mark.parametrize("example", examples("python"), ids=range(len(examples("python"))))
def test_the_examples_in_python(example: str, tmp_path: Path) -> None:
    python = python_of("encryption")
    runner, script = tmp_path / "runner.py", tmp_path / "example.py"
    runner.write_text(_RUNNER)
    script.write_text(example)
    if "enclave.attach" in example:
        done = run(*SIMULATOR, "--key", "alias/app", "--", str(python), str(runner), str(script))
    else:
        done = served(python, runner, script, options=TWO_REGIONS)
    assert check(done) == "done\n"


_RUNNER = """
# Runs an example with two keys, and a server that stands for S3.
import http.server, os, runpy, sys, threading

import boto3

import enclave


class S3(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    objects = {}

    def do_PUT(self):
        body = self.rfile.read(int(self.headers["Content-Length"]))
        kept = {name: self.headers[name] for name in self.headers if name.startswith("x-amz-meta-")}
        self.objects[self.path] = kept, body
        self.respond({}, b"")

    def do_GET(self):
        self.respond(*self.objects[self.path.partition("?")[0]])

    def respond(self, headers, body):
        self.send_response(200)
        for name, value in {"ETag": '"x"', **headers, "Content-Length": len(body)}.items():
            self.send_header(name, str(value))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass


server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), S3)
threading.Thread(target=server.serve_forever, daemon=True).start()
os.environ["AWS_ENDPOINT_URL_S3"] = f"http://127.0.0.1:{server.server_port}"
for variable, region in (("KEY_ARN", "us-east-1"), ("KEY_ARN_2", "eu-west-1")):
    kms = boto3.client("kms", region_name=region)
    if "AWS_ENDPOINT_URL_KMS" not in os.environ:
        kms = enclave.attach(kms)
    os.environ[variable] = kms.describe_key(KeyId="alias/app")["KeyMetadata"]["Arn"]
sys.argv = sys.argv[1:]
runpy.run_path(sys.argv[0], run_name="__main__")
print("done")
"""


def test_the_example_in_javascript() -> None:
    node = program("node")
    (example,) = examples("javascript")
    script = javascript_folder() / "example.mjs"
    script.write_text(example)
    query = "--query KeyMetadata.Arn --output text"
    key = f'KEY_ARN=$("$1" kms describe-key --key-id alias/app {query})'
    aws = Path(sys.executable).with_name("aws")
    if not aws.exists():
        pytest.skip("no AWS CLI, which finds the key: pip install -e '.[dev]'")
    run_with_key = f'{key} && export KEY_ARN && exec "$2" "$3"'
    done = served("sh", "-c", run_with_key, "sh", aws, node, script)
    assert done.returncode == 0, done.stderr
