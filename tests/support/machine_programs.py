"""The steps about real programs and kinds of sockets: who opened and accepted their connections."""

import os
import socket
import subprocess

from tests.support.machine_guest import (
    CONNECTION,
    FAILED,
    HOST,
    LISTENER,
    SHORT,
    Entry,
    between_polls,
    connections,
    entries,
    number_of,
    peer,
    run,
    say,
    short,
    wait_for,
    wait_for_connections,
    write_unit,
)

USER = "alice"  # root_image.MACHINE_HOOKS
RUN = f"XDG_RUNTIME_DIR=/run/user/$(id --user {USER})"
OWNER = (
    "SOURCE_PORT",
    "DESTINATION_ADDRESS",
    "DESTINATION_PORT",
    "NETWORK_DIRECTION",
    "USER_ID",
    "USER_NAME",
    "OBJECT_SYSTEMD_UNIT",
    "OBJECT_SYSTEMD_USER_UNIT",
    "PROCESS_NAME",
    "PROCESS_THREAD_ID",
    "PROCESS_THREAD_NAME",
    "TCPNEWCONN_ATTRIBUTED_BY",
    "TCPNEWCONN_ACCEPTED_BY_UNIT",
    "TCPNEWCONN_ACCEPTED_BY_PROCESS",
    "TCPNEWCONN_DETECTED_BY",
    "ERROR_CODE",
    "EVENT_START",
)
BLACK_HOLE = "10.72.0.9"

# A client for each kind of socket, by the name of its thread; the server, where nginx is none, in a thread of the same process.
KINDS = r"""
import contextlib, errno, select, socket, threading

MPTCP, FAST_OPEN = 262, 23

def named(name, target, *arguments):
    def call():
        with open("/proc/thread-self/comm", "w") as file:
            file.write(name)
        target(*arguments)
    thread = threading.Thread(target=call)
    thread.start()
    return thread

def take(listener, count):
    for _ in range(count):
        with listener.accept()[0] as accepted:
            accepted.recv(1)

@contextlib.contextmanager
def server(address, protocol, count):
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM, protocol) as listener:
        if protocol != MPTCP:
            listener.setsockopt(socket.SOL_TCP, FAST_OPEN, 16)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((address, 7020))
        listener.listen()
        taker = named("server", take, listener, count)
        yield
        taker.join()

def by_mptcp():
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM, MPTCP) as client:
        client.connect(("127.0.2.20", 7020))
        client.sendall(b"x")

def by_fast_open():
    # The first asks for the cookie, the second sends with its SYN.
    for _ in range(2):
        with socket.socket() as client:
            client.sendto(b"x", socket.MSG_FASTOPEN, ("127.0.2.21", 7020))

def without_blocking():
    with socket.socket() as client:
        client.setblocking(False)
        assert client.connect_ex(("127.0.2.22", 80)) == errno.EINPROGRESS
        select.select([], [client], [])

with server("127.0.2.20", MPTCP, 5):
    for _ in range(5):
        named("mptcp", by_mptcp).join()
with server("127.0.2.21", 0, 2):
    named("fast open", by_fast_open).join()
named("not blocking", without_blocking).join()
"""

# Accepts from the socket that systemd passes, then ends.
ACTIVATED = """
import socket
with socket.socket(fileno=3) as listener, listener.accept()[0] as accepted:
    accepted.sendall(b"hello")
"""

# A process for each connection.
FORKING = """
import os, signal, socket
signal.signal(signal.SIGCHLD, signal.SIG_IGN)
with socket.create_server(("", 7030)) as listener:
    while True:
        accepted, _ = listener.accept()
        if os.fork() == 0:
            accepted.recv(1)
            os._exit(0)
        accepted.close()
"""

# All of them wait in accept() at once.
WAITING = 500
BLOCKED = f"""
import socket, sys, threading
threading.stack_size(65536)
listener = socket.create_server(("127.0.2.31", 7031), backlog=1024)
def take():
    accepted, _ = listener.accept()
    with accepted:
        accepted.recv(1)
for _ in range({WAITING}):
    threading.Thread(target=take).start()
print("waiting", flush=True)
"""

TIMED_OUT = f"""
import socket
with socket.socket() as client:
    client.setsockopt(socket.SOL_TCP, socket.TCP_SYNCNT, 1)
    client.connect(("{BLACK_HOLE}", 80))
"""

UNITS = {
    "by-ssh.service": f"[Unit]\nAfter=ssh.service\n[Service]\nUser={USER}\nType=oneshot\n"
    "ExecStart=ssh -o BatchMode=yes -o StrictHostKeyChecking=no -o KexAlgorithms=curve25519-sha256 127.0.2.1 true\n",
    "by-kinds.service": f"[Service]\nUser={USER}\nType=oneshot\nExecStart=/usr/bin/python3 /run/kinds.py\n",
    "activated.socket": "[Socket]\nListenStream=127.0.2.3:7003\n",
    "activated.service": "[Service]\nUser=www-data\nExecStart=/usr/bin/python3 /run/activated.py\n",
    "each.socket": "[Socket]\nListenStream=127.0.2.4:7004\nAccept=yes\n",
    "each@.service": "[Service]\nUser=www-data\nStandardInput=socket\nExecStart=cat\n",
    "forking.service": "[Service]\nUser=www-data\nExecStart=/usr/bin/python3 /run/forking.py\n",
    "blocked.service": "[Service]\nUser=www-data\nExecStart=/usr/bin/python3 /run/blocked.py\n",
    "timed-out.service": "[Service]\nUser=daemon\nExecStart=/usr/bin/python3 /run/timed-out.py\n",
}
PROGRAMS = {
    "kinds": KINDS,
    "activated": ACTIVATED,
    "forking": FORKING,
    "blocked": BLOCKED,
    "timed-out": TIMED_OUT,
}


def prepare() -> None:
    """Before the package is installed: its installation has systemd load the units."""
    for name, text in UNITS.items():
        write_unit(name, text)
    for name, text in PROGRAMS.items():
        with open(f"/run/{name}.py", "w", encoding="utf-8") as file:
            file.write(text)
    os.makedirs("/etc/systemd/user", exist_ok=True)
    with open("/etc/systemd/user/by-session.service", "w", encoding="utf-8") as file:
        file.write(f"[Service]\nType=oneshot\nExecStart={SHORT} http://127.0.2.5/\n")


def by_ssh() -> None:
    with between_polls():
        run("systemctl start ssh.service by-ssh.service")
        say("of ssh", short(wait_for_connections("127.0.2.1"), *OWNER))


def by_apt() -> None:
    """From a repository that nginx serves."""
    with open("/run/by-apt.list", "w", encoding="utf-8") as sources:
        sources.write("deb [trusted=yes] http://127.0.2.2/repository ./\n")
    run("ln -s /srv/repository /var/www/html/repository")
    run("apt-get update --quiet=2 -o Dir::Etc::sourcelist=/run/by-apt.list -o Dir::Etc::sourceparts=-")
    say("of apt", short(wait_for_connections("127.0.2.2"), *OWNER))


def by_a_session() -> None:
    """A user's unit, below user@UID.service; one entry whole, as a person reads it."""
    # Ten seconds after the end of a user's last session, here by ssh, logind stops the user's manager, whoever started it.
    run(f"loginctl enable-linger {USER} && systemctl start user@$(id --user {USER}).service")
    run(f"runuser --user {USER} -- env {RUN} systemctl --user start by-session.service")
    say("of a session", short(wait_for_connections("127.0.2.5"), *OWNER))
    say("verbose", run(f"journalctl --boot --output=verbose MESSAGE_ID={CONNECTION} DESTINATION_ADDRESS=127.0.2.5"))
    run(f"loginctl disable-linger {USER} && systemctl stop user@$(id --user {USER}).service")


def by_kinds() -> None:
    """MPTCP, Fast Open, and connect() without blocking."""
    run("systemctl start by-kinds.service")
    for address, count in (("127.0.2.20", 5), ("127.0.2.21", 2), ("127.0.2.22", 1)):
        wait_for_connections(address, count)
    found = [connections(address) for address in ("127.0.2.20", "127.0.2.21", "127.0.2.22")]
    say("of kinds", [short(each, *OWNER) for each in found])


def activated() -> None:
    """A service that takes the listener from systemd, and one that takes each connection."""
    run("systemctl start activated.socket each.socket")
    # As below: a client can be faster than accept().
    for address in ("127.0.2.3", "127.0.2.4"):
        wait_for(lambda address=address: number_of(LISTENER, address), "the listeners")  # type: ignore[misc]
    run("exec 3<>/dev/tcp/127.0.2.3/7003; cat <&3; exec 4<>/dev/tcp/127.0.2.4/7004; echo hello >&4")
    found = [wait_for_connections(address) for address in ("127.0.2.3", "127.0.2.4")]
    say("of activated services", [short(each, *OWNER) for each in found])
    run("systemctl stop activated.socket each.socket")


def accepting() -> None:
    """A server with a process for each connection, from this host and from another; and sshd."""
    run("systemctl start ssh.service forking.service")
    # A client that is faster than accept() is known to be this server's once a poll has shown the listener.
    wait_for(lambda: number_of(LISTENER, "0.0.0.0", DESTINATION_PORT="7030"), "the listener")
    run("for number in $(seq 20); do echo x >/dev/tcp/127.0.2.30/7030; done")
    with peer() as there, between_polls():
        run(f"{there} bash -c 'for number in $(seq 20); do echo x >/dev/tcp/{HOST}/7030; done'")
        # Its first line, and away.
        run(f"{there} bash -c 'for number in 1 2 3; do read line </dev/tcp/{HOST}/22; done'")
        say("of a forking server", short(wait_for_connections("127.0.2.30", 20), *OWNER))
        for name, port, count in (("accepted by a forking server", "7030", 20), ("accepted by sshd", "22", 3)):
            say(name, short(wait_for_connections(HOST, count, DESTINATION_PORT=port), *OWNER))
    run("systemctl stop ssh.service forking.service")


def blocked() -> None:
    """500 threads wait in accept() at the same time: none of them is missed."""
    run("systemctl start blocked.service")
    wait_for(lambda: _threads("blocked.service") > WAITING, "threads that wait")
    wait_for(lambda: number_of(LISTENER, "127.0.2.31"), "the listener")
    run(f"/srv/connections fork {WAITING} 127.0.2.31 7031")
    found = wait_for_connections("127.0.2.31", WAITING)
    say("of blocked threads", short(found, "TCPNEWCONN_ACCEPTED_BY_UNIT", "TCPNEWCONN_CONNECTION_ID"))


def _threads(unit: str) -> int:
    return int(run(f"systemctl show --value --property=TasksCurrent {unit}"))


def in_another_namespace() -> None:
    """The same 4-tuple here and in another network namespace, by another user: only this one is this host's."""
    run("ip netns add there; ip -n there link set lo up")
    client = (
        "import socket; c = socket.create_connection(('127.0.2.6', 80), source_address=('127.0.0.1', 21000)); c.recv(1)"
    )
    server = "import socket; s = socket.create_server(('127.0.2.6', 80)); s.accept()[0].close()"
    there = "ip netns exec there"
    with subprocess.Popen([*there.split(), "python3", "-c", server]):
        once = f'{there} setpriv --reuid=daemon --clear-groups python3 -c "{client}"'
        run(f"until {once}; do sleep 0.1; done 2>/dev/null")
    run(f"setpriv --reuid={USER} --clear-groups {SHORT} --local-port 21000 --interface 127.0.0.1 http://127.0.2.6/")
    wait_for_connections("127.0.2.6")
    run("ip netns delete there")
    say("of two namespaces", short(connections("127.0.2.6"), *OWNER))


def of_the_kernel() -> None:
    """NFS: the kernel itself connects, in a thread of its own. Its server says nothing."""
    with socket.create_server(("127.0.2.7", 2049)) as listener:
        options = "addr=127.0.2.7,clientaddr=127.0.0.1,vers=4.2,soft,timeo=600,retrans=1"
        # Who listens is asked of a connection that was accepted; this one never is, as far as the kernel tells.
        wait_for(lambda: number_of(LISTENER, "127.0.2.7"), "the listener")
        with subprocess.Popen(
            ["mount", "--internal-only", "-t", "nfs4", "-o", options, "127.0.2.7:/", "/mnt"]
        ) as mount:
            accepted, _ = listener.accept()
            mount.kill()
            mount.wait()
            accepted.close()
    say("of the kernel", short(wait_for_connections("127.0.2.7"), *OWNER))


def start_to_time_out() -> None:
    """Towards a host whose answers never come. It takes its seconds; the other steps go on meanwhile."""
    run("ip link add hole type veth peer name nowhere; ip address add 10.72.0.1/24 dev hole")
    run("ip link set hole up; ip link set nowhere up")
    run(f"ip neighbour add {BLACK_HOLE} lladdr 02:00:00:00:00:09 dev hole")
    run("systemctl start timed-out.service")


def timed_out() -> None:
    def found() -> list[Entry]:
        return entries(FAILED, DESTINATION_ADDRESS=BLACK_HOLE)

    wait_for(found, "an attempt that timed out")
    say("timed out", short(found(), *OWNER))
    run("ip link delete hole; systemctl reset-failed timed-out.service", check=False)


def steps() -> None:
    start_to_time_out()
    for step in (
        by_ssh,
        by_apt,
        by_a_session,
        by_kinds,
        activated,
        accepting,
        blocked,
        in_another_namespace,
        of_the_kernel,
        timed_out,
    ):
        step()
