"""Enclave images (EIF): read, described, checked, built, signed; in plain Python."""
