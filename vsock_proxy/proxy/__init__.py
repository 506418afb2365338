"""The proxy: forwards, the allowlist, the daemon that serves them, its command.

Top room of the ground floor: it uses `net`, `service` and `relay`. The path of one connection:

    client ─────► the kernel's backlog
                     │  Loop: the listener is readable
    Acceptor         │  accepts while Admission has room                (relay.accepting)
                     ▼  AcceptEvents.accepted
    Forwarder        │  allowlist, CID, then the limit or the queue     (proxy.forwarder)
                     ▼  Opening.start
    Opening          │  Resolver.find, in a thread if it is a name      (relay.resolver)
                     │  connects to one address after another           (relay.connecting)
                     ▼  ConnectEvents.connected
    RelayedConnection│  two Flows, up and down, until both have ended   (relay.connection)
                     ▼  RelayEvents.closed
    Forwarder           counts it, and admits the next queued client

An egress listener (proxy.egress) has an `EgressOpening` instead, which reads the client's CONNECT
first; the target it names decides on the resolver.
"""
