"""Attested TLS: a client knows which enclave image holds the key of its own TLS connection.

`binding` says what a document holds, and both sides import it. The enclave's side: `identity` makes
the key, `server_tls` ends TLS, `first_request` finds requests for documents among the program's
bytes, `documents` fetches documents from the NSM, `connection` is one client, `server` all of them,
`options` the command line. The relying party's side: `exchange` requests a document and checks it,
`context` does that as a part of every TLS handshake, and the rest are clients that use this context
(ADR 21).
"""
