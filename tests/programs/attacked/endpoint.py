"""boto3 through ``enclave-agent serve`` as ``enclave-simulator attack`` runs it."""

from __future__ import annotations

import base64
import hashlib
import json
import os

import boto3
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError

kms = boto3.client("kms", config=Config(read_timeout=60, retries={"total_max_attempts": 1}))
for text in os.environ["ATTACK_CIPHERTEXTS"].split():
    try:
        response = kms.decrypt(
            CiphertextBlob=base64.b64decode(text),
            KeyId=os.environ["ATTACK_KEY_ID"],
            EncryptionContext=json.loads(os.environ["ATTACK_CONTEXT"]),
        )
    except (ClientError, BotoCoreError) as e:
        print("ATTACK-RESULT refused:", e)
    else:
        print("ATTACK-RESULT sha256:" + hashlib.sha256(response["Plaintext"]).hexdigest())
