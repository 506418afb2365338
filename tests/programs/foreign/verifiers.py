"""Run with a foreign verifier, a package of PyPI: prints accepted, or rejected and why.

``python verifiers.py NAME CASE``: CASE is a file of JSON (`cases`).
"""

import importlib
import json
import sys
from base64 import b64decode
from pathlib import Path


def epsilon(case: dict[str, str]) -> None:
    result = importlib.import_module("epsilon_verifier").verify_attestation(
        case["document"], expected_pcr0=case["pcr0"], aws_root_cert_path=case["root"]
    )
    if not result.valid:
        raise ValueError(result.error)


def attested_relay(case: dict[str, str]) -> None:
    verify = importlib.import_module("attested_relay.verify")
    # The package pins AWS's root, by file and by fingerprint: here, the simulated one.
    vars(verify)["files"] = lambda _package: Path(case["root"]).parent
    vars(verify)["ROOT_SHA256"] = case["fingerprint"]
    assert Path(case["root"]).name == "nitro-root.pem"
    verify.verify_document(
        b64decode(case["document"]),
        nonce=b64decode(case["nonce"]),
        peer_der=b64decode(case["certificate"]),
        expected_pcr0=case["pcr0"],
        require_graviton5=False,
    )


def evervault(case: dict[str, str]) -> None:
    bindings = importlib.import_module("evervault_attestation_bindings")
    pcrs = bindings.PCRs(case["pcr0"], None, None, None)
    if not bindings.attest_enclave(
        b64decode(case["certificate"]), [pcrs], b64decode(case["document"])
    ):
        raise ValueError("false")


def main() -> None:
    case = json.loads(Path(sys.argv[2]).read_text())
    try:
        globals()[sys.argv[1]](case)
    except (ImportError, AttributeError, TypeError):
        raise  # a fault of ours, no verdict
    except Exception as e:  # noqa: BLE001 (the packages have many kinds)
        print("rejected:", " ".join(str(e).split()))
    else:
        print("accepted")


main()
