"""This project's Python API as ``enclave-simulator attack`` runs it."""

from __future__ import annotations

import base64
import hashlib
import json
import os
from typing import TYPE_CHECKING

from enclave import Agent, AgentError

if TYPE_CHECKING:
    from collections.abc import Callable

KEY = os.environ["ATTACK_KEY_ID"]
CONTEXT = json.loads(os.environ["ATTACK_CONTEXT"])


def report(call: Callable[[], bytes]) -> None:
    """Print what a call gave, or why it gave nothing."""
    try:
        secret = call()
    except AgentError as e:
        print("ATTACK-RESULT refused:", e)
    else:
        print("ATTACK-RESULT sha256:" + hashlib.sha256(secret).hexdigest())


with Agent(connect_timeout=5, read_timeout=5, deadline=10) as agent:
    for text in os.environ["ATTACK_CIPHERTEXTS"].split():
        ciphertext = base64.b64decode(text)
        # Key and context are the program's own, and not what the parent hands in.
        report(
            lambda: agent.decrypt(ciphertext, key_id=KEY, encryption_context=CONTEXT).plaintext  # noqa: B023
        )
    report(lambda: agent.generate_random(32))
