"""``stand_in_worker.py MODULE``: the worker, over the stand-in instead of the C SDK."""

from __future__ import annotations

import importlib.util
import sys

from enclave.sdk.bindings.native import Native
from enclave.sdk.worker import main


def load_stand_in() -> Native:
    spec = importlib.util.spec_from_file_location("_stand_in_for_tests", sys.argv[1])
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return Native(module)


main(load_stand_in)
