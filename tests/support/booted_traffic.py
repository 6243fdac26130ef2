"""
Makes connections on loopback until standard input ends, then says how many. Runs inside a container, on its own Python.

    python3 booted_traffic.py PORT RATE          (RATE: connections per second)

The number of a connection is its destination address: number 300 goes to 127.64.1.44. So each can be found in the
journal, however often the local ports are used again. A third is closed by the server first, a third by the client
first, both at once; the last third is kept open for up to 15 seconds, so that a poll sees it.
"""

import collections
import json
import selectors
import socket
import sys
import threading
import time

# A program that keeps one connection open, within the host that it runs on.
HOLD = """
import socket, time
server = socket.create_server(("127.0.0.1", 9000))
client = socket.create_connection(("127.0.0.1", 9000))
time.sleep(9999)
"""

FIRST = 127 << 24 | 64 << 16
SERVER_FIRST, CLIENT_FIRST = b"s", b"c"


def address_of(number: int) -> str:
    return socket.inet_ntoa((FIRST + number).to_bytes(4, "big"))


def number_of(address: str) -> int:
    return int.from_bytes(socket.inet_aton(address), "big") - FIRST


def serve(listener: socket.socket) -> None:
    selector = selectors.DefaultSelector()
    selector.register(listener, selectors.EVENT_READ)
    while True:
        for key, _ in selector.select():
            if key.fileobj is listener:
                selector.register(listener.accept()[0], selectors.EVENT_READ)
                continue
            connection = key.fileobj
            assert isinstance(connection, socket.socket)
            if connection.recv(1) != CLIENT_FIRST:
                selector.unregister(connection)
                connection.close()


def connect(number: int, port: int) -> socket.socket:
    connection = socket.create_connection((address_of(number), port))
    connection.sendall(SERVER_FIRST if number % 3 == 0 else CLIENT_FIRST)
    return connection


def wait_for_the_end_of_input(ended: threading.Event) -> None:
    sys.stdin.read()
    ended.set()


def main() -> None:
    port, rate = int(sys.argv[1]), float(sys.argv[2])
    listener = socket.create_server(("0.0.0.0", port), backlog=4096)
    threading.Thread(target=serve, args=(listener,), daemon=True).start()
    ended = threading.Event()
    threading.Thread(target=wait_for_the_end_of_input, args=(ended,), daemon=True).start()

    kept: collections.deque[tuple[float, socket.socket]] = collections.deque()
    began = time.monotonic()
    number = 0
    while not ended.is_set():
        connection = connect(number, port)
        if number % 3 == 0:
            connection.recv(1)
        if number % 3 == 2:
            kept.append((time.monotonic() + number % 15, connection))
        else:
            connection.close()
        while kept and (kept[0][0] < time.monotonic() or len(kept) > 800):
            kept.popleft()[1].close()
        number += 1
        ended.wait(max(0.0, began + number / rate - time.monotonic()))
    for _, connection in kept:
        connection.close()
    print(json.dumps({"made": number, "seconds": time.monotonic() - began}))


if __name__ == "__main__":
    main()
