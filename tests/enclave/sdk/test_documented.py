"""What docs/sdk.md says of a machine without the bindings."""

from __future__ import annotations

import re

import pytest

from enclave.sdk.bindings.native import load
from enclave.sdk.errors import SdkNotBuiltError
from tests.chain.commands import AGENT, SIMULATOR, run
from tests.paths import ROOT


@pytest.mark.parametrize("engine", ["sdk", "sdk-client"])
def test_without_the_bindings_the_exit_code_is_the_documented_one(engine: str) -> None:
    try:
        load()
    except SdkNotBuiltError as e:
        message, hint = str(e), e.hint
    else:
        pytest.skip("the bindings to the C SDK are built")
    page = (ROOT / "docs/sdk.md").read_text(encoding="utf-8")
    (code,) = re.findall(r"configuration error with a hint \(exit code (\d+)\)", page)
    words = (*AGENT, "generate-random", "--number-of-bytes", "8", "--engine", engine)
    done = run(*SIMULATOR, "--", *words)
    assert (done.stdout, done.returncode) == ("", int(code))
    assert f"enclave-agent: error: {message}\nenclave-agent: hint: {hint}\n" in done.stderr
