"""The project's one version number; packaging reads it from here.

A plain constant: an image holds the folders, not the distribution's metadata.
"""

VERSION = "0.1.0"
