"""The whole of it on a real kernel: ``make boot-test``. Not part of ``make test``."""
