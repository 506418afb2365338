"""AWS's aws-nitro-enclaves-sdk-c under the agent's Python API, without its hangs and crashes.

Three layers: `declarations/` (C headers, by hand), `bindings` (bytes in, bytes out; alone knows
`ffi`), and what the agent uses: `recipient` (key pair, document and opening in this process) and
`client` (the SDK's own KMS client, in worker processes).

Nothing is imported here: a worker must start without what only the agent needs.
"""
