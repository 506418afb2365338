"""Load for the endpoint, as a process: ``python -m tests.programs.bench.load PORT CLIENTS CALLS``.

Each client is a connection that sends its next request when it has the answer to the last. Plain
sockets and epoll: the generator must not need more of the machine than what it measures. It makes
one loop for all clients, and looks only for what no wrong answer has. Prints JSON: calls a second,
latencies in ms, wrong answers, and CPU of its own in seconds.
"""

from __future__ import annotations

import json
import select
import socket
import statistics
import sys
import time

REQUEST = (
    b"POST / HTTP/1.1\r\nHost: 127.0.0.1\r\nAccept-Encoding: identity\r\n"
    b"X-Amz-Target: TrentService.GenerateRandom\r\nContent-Type: application/x-amz-json-1.1\r\n"
    b"User-Agent: bench\r\nAuthorization: AWS4-HMAC-SHA256 Credential=AKIDEXAMPLE, "
    b"SignedHeaders=host;x-amz-target, Signature=00000000000000000000000000000000\r\n"
    b'Content-Length: 20\r\n\r\n{"NumberOfBytes":32}'
)
PLAINTEXT = b'{"Plaintext":"'
DEADLINE = 60.0


def main() -> None:
    """Run and print."""
    port, clients, calls = (int(word) for word in sys.argv[1:])
    poll = select.epoll()
    sockets = {}
    for _ in range(clients):
        client = socket.create_connection(("127.0.0.1", port), DEADLINE)
        client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        sockets[client.fileno()] = client
        poll.register(client, select.EPOLLIN)
    clock = time.perf_counter
    latencies: list[float] = []
    wrong = 0
    began, busy = clock(), time.process_time()
    sent = dict.fromkeys(sockets, began)
    for client in sockets.values():
        client.send(REQUEST)
    while len(latencies) < calls:
        ready = poll.poll(DEADLINE)
        if not ready:
            raise TimeoutError("the endpoint does not answer")
        for fd, _ in ready:
            client = sockets[fd]
            answer = client.recv(4096)  # one answer is one segment
            if not answer:
                raise ConnectionError("the endpoint has closed a connection")
            if PLAINTEXT not in answer:
                wrong += 1
            now = clock()
            latencies.append(now - sent[fd])
            sent[fd] = now
            client.send(REQUEST)
    took, busy = clock() - began, time.process_time() - busy
    for client in sockets.values():
        client.close()
    steps = statistics.quantiles(latencies, n=100)
    figures = {
        "rate": len(latencies) / took,
        "p50": 1000 * steps[49],
        "p99": 1000 * steps[98],
        "wrong": wrong,
        "cpu": busy,
    }
    print(json.dumps(figures))


if __name__ == "__main__":
    main()
