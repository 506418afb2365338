"""The credential service: gives enclaves the AWS credentials of the parent's role, over vsock.

The protocol is in docs/credentials.md; the source of the credentials, and how they are renewed, in
docs/parent.md.
"""

from parent.credentials.service import CredentialService
from parent.credentials.settings import CredentialSettings, read_credentials_section

__all__ = ["CredentialService", "CredentialSettings", "read_credentials_section"]
