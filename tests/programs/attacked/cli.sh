#!/bin/sh
# enclave-agent's command line as `enclave-simulator attack` runs it.
for ciphertext in $ATTACK_CIPHERTEXTS; do
    if secret=$(enclave-agent decrypt --ciphertext-blob "$ciphertext" \
        --key-id "$ATTACK_KEY_ID" --encryption-context "$ATTACK_CONTEXT" \
        --cli-connect-timeout 5 --cli-read-timeout 5 --query Plaintext --output text); then
        echo "ATTACK-RESULT base64:$secret"
    else
        echo "ATTACK-RESULT exit:$?"
    fi
done
