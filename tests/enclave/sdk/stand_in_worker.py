"""``stand_in_worker.py MODULE``: the worker, over the stand-in instead of the C SDK."""

from __future__ import annotations

import sys
from pathlib import Path

from enclave.sdk.bindings.native import load_file
from enclave.sdk.worker import main

main(lambda: load_file(Path(sys.argv[1])))
