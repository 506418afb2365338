"""A call of an `Agent` whose request was sent, and whose response nobody waits for.

A program with an event loop, such as the local endpoint, begins a call, is told by the kernel when
more of its response has come, and needs no thread that waits for it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from enclave.errors import AgentError
from enclave.kms.client import KmsResponse, read_response
from enclave.recipient.exchange import opened_response

if TYPE_CHECKING:
    from collections.abc import Mapping

    from enclave.kms.client import KmsClient
    from enclave.kms.transport import BegunPost
    from enclave.recipient.recipient import Recipient


class BegunCall:
    """One that will not be received to its end must be closed.

    Args:
        operation: as the KMS API names it.
        parameters: of the caller, without the Recipient that was added.
        post: the request that was sent.
        kms: what sent it.
        recipient: opens the response; None: the call is not attested.

    Attributes:
        timeout: seconds for the response.
    """

    __slots__ = ("_kms", "_operation", "_parameters", "_post", "_recipient", "_response", "timeout")

    def __init__(
        self,
        operation: str,
        parameters: Mapping[str, Any],
        post: BegunPost,
        kms: KmsClient,
        recipient: Recipient | None,
    ) -> None:
        self._operation = operation
        self._parameters = parameters
        self._post = post
        self._kms = kms
        self._recipient = recipient
        self._response: KmsResponse | None = None
        self.timeout = kms.read_timeout

    def fileno(self) -> int:
        """Return the file descriptor that is readable when more of the response has come."""
        return self._post.fileno()

    def receive(self) -> bool:
        """Read what has come without waiting; return whether that is all of the response.

        After a response or an error nothing is left to close.

        Raises:
            AgentError: the attempt has failed. `Agent.call` goes on, if it gets the error.
        """
        response = self._post.receive()
        if response is None:
            return False
        self._response = read_response(response)
        return True

    def expire(self) -> AgentError:
        """Receive no more; return the error of a response that did not come within `timeout`."""
        return self._post.expire(self.timeout)

    def close(self) -> None:
        """Receive no more: the connection is closed."""
        self._post.close()

    def result(self) -> KmsResponse:
        """Return what `Agent.call` returns, once all is received. It takes an RSA decryption.

        Raises:
            AgentError: the response does not fit the request, or does not open.
        """
        response = self._response
        assert response is not None  # noqa: S101 (the contract)
        if self._recipient is None:
            return response
        return opened(self._operation, self._parameters, response, self._recipient, self._kms)


def opened(
    operation: str,
    parameters: Mapping[str, Any],
    response: KmsResponse,
    recipient: Recipient,
    kms: KmsClient,
) -> KmsResponse:
    """Return the response of an attested call, opened.

    Raises:
        AgentError: it does not fit the request, or does not open.
    """
    try:
        content = opened_response(operation, parameters, response.content, recipient.open)
    except AgentError:
        # It may have been another call's: then its connection is out of step.
        kms.renew_connections()
        raise
    return KmsResponse(content, response.request_id)
