"""The project's one version number; packaging reads it from here.

A constant, because an enclave image contains the folders but not the distribution's metadata.
"""

VERSION = "0.1.0"
