"""What the two sides of the boot test agree on: vsock ports, names, files in the image."""

from __future__ import annotations

DOCUMENT_PORT = 7100
ECHO_PORT = 7101
GUEST_PORT = 5000

TLS_PORT = 8443
"""Of attested TLS, in the guest."""

PROGRAM_PORT = 8080
"""Behind it."""

S3_NAME = "s3.eu-central-1.amazonaws.com"
OTHER_NAME = "other.example.com"
"""On the image's allowlist, and not on the parent's."""

SERVER_NAME = "app.example"
BUCKET = "in-the-booted-image"
WELCOME = b"hello from the booted image\n"
SEALED = "etc/sealed.enc.env"
SERVERS_CA = "etc/servers-ca.pem"
