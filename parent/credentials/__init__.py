"""The credential service: gives enclaves the AWS credentials of the parent's role, over vsock.

What it answers is docs/credentials.md; where the credentials come from, and how they are kept
fresh, docs/parent.md.
"""

from parent.credentials.service import CredentialService
from parent.credentials.settings import CredentialSettings, read_credentials_section

__all__ = ["CredentialService", "CredentialSettings", "read_credentials_section"]
