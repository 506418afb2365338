"""``python -m enclave.cli``."""

import sys

from enclave.cli import main

sys.exit(main())
