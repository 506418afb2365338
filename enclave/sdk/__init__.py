"""AWS's aws-nitro-enclaves-sdk-c behind the agent's Python API, without its hangs and crashes.

Three layers: `declarations/` (hand-written C headers), `bindings` (bytes in, bytes out; alone knows
`ffi`), and what the agent uses: `recipient` (key pair, document and decryption in this process) and
`client` (the SDK's own KMS client, in worker processes).

This file imports nothing: a worker starts without the modules that only the agent needs.
"""
