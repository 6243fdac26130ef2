"""NETLINK_SOCK_DIAG: the kernel's notifications and answers, and messages that are refused."""

from __future__ import annotations

import os
import socket
import struct
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tcpnewconn.kernel.inetdiag import parse_notification
from tcpnewconn.kernel.lookup import Lookup
from tcpnewconn.kernel.sockdiag import Notifications, Unavailable, open_notifications, received
from tcpnewconn.model import (
    LISTEN,
    TIME_WAIT,
    DestroyedSocket,
    FourTuple,
    Traffic,
    endpoints,
    four_tuple_of,
    mirrored,
    unmapped,
)
from tests.support.namespace import Namespace, namespace

KERNELS = sorted(Path(__file__).parents[1].glob("fixtures/linux-*"))


def captured(kernel: Path, name: str) -> list[bytes]:
    return [bytes.fromhex(line) for line in (kernel / f"{name}.hex").read_text().splitlines()]


MESSAGES = [
    message for kernel in KERNELS for file in sorted(kernel.glob("*.hex")) for message in captured(kernel, file.stem)
]


@pytest.fixture
def here() -> Iterator[Namespace]:
    with namespace() as made:
        yield made


# --- what was captured -----------------------------------------------------------------------------------------------


def endpoints_of(destroyed: DestroyedSocket) -> tuple[str, str]:
    local, remote = endpoints(destroyed.four_tuple)
    return str(local), str(remote)


@pytest.mark.parametrize("kernel", KERNELS, ids=lambda kernel: kernel.name)
class TestCaptured:
    @staticmethod
    def parsed(kernel: Path, name: str) -> list[DestroyedSocket]:
        found = [parse_notification(message) for message in captured(kernel, name)]
        return [destroyed for destroyed in found if destroyed is not None]

    def test_a_connection_that_was_opened_here(self, kernel: Path) -> None:
        (destroyed,) = self.parsed(kernel, "end_of_a_client")
        assert endpoints_of(destroyed) == ("10.9.0.1:41001", "10.9.0.2:25")
        assert destroyed.established
        assert not destroyed.unaddressed
        assert destroyed.cookie > 0
        # Its SYN and FIN were acknowledged too, and the other's FIN received.
        assert (destroyed.traffic.sent, destroyed.traffic.received - 1, destroyed.traffic.retransmits) == (
            1000,
            2000,
            0,
        )
        assert destroyed.traffic.acked in (1001, 1002)
        assert 0 < destroyed.traffic.rtt < 1_000_000

    def test_one_of_ipv6(self, kernel: Path) -> None:
        (destroyed,) = self.parsed(kernel, "end_of_a_client_ipv6")
        assert endpoints_of(destroyed) == ("[2001:db8:9::1]:41002", "[2001:db8:9::2]:25")
        assert destroyed.established
        assert (destroyed.traffic.sent, destroyed.traffic.received - 1) == (1000, 2000)

    def test_one_that_a_dual_stack_listener_accepted_is_one_of_ipv4(self, kernel: Path) -> None:
        destroyed, listening = self.parsed(kernel, "end_of_mapped")
        assert endpoints_of(destroyed) == ("10.9.0.1:80", "10.9.0.2:41003")
        assert destroyed.established
        assert endpoints_of(listening) == ("[::]:80", "[::]:0")
        assert not listening.established

    def test_one_that_was_reset_here_lost_its_address(self, kernel: Path) -> None:
        (destroyed,) = self.parsed(kernel, "end_of_reset")
        assert endpoints_of(destroyed) == ("0.0.0.0:41004", "10.9.0.2:0")
        assert destroyed.established
        assert destroyed.unaddressed

    def test_one_that_was_bound_kept_it(self, kernel: Path) -> None:
        (destroyed,) = self.parsed(kernel, "end_of_reset_bound")
        assert endpoints_of(destroyed) == ("10.9.0.1:41005", "10.9.0.2:0")
        assert destroyed.established
        assert destroyed.unaddressed

    def test_a_refused_connect_never_was_a_connection(self, kernel: Path) -> None:
        (destroyed,) = self.parsed(kernel, "end_of_refused")
        assert endpoints_of(destroyed) == ("0.0.0.0:41006", "10.9.0.2:0")
        assert not destroyed.established

    def test_nor_was_a_listener(self, kernel: Path) -> None:
        (destroyed,) = self.parsed(kernel, "end_of_a_listener")
        assert endpoints_of(destroyed) == ("10.9.0.1:22", "0.0.0.0:0")
        assert not destroyed.established


def test_every_kernel_has_every_capture() -> None:
    assert KERNELS
    for kernel in KERNELS:
        assert len(list(kernel.glob("end_of_*.hex"))) == 7, kernel


# --- what is none ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("message", MESSAGES)
def test_a_message_that_is_cut_tells_nothing(message: bytes) -> None:
    for length in range(len(message)):
        assert parse_notification(message[:length]) is None


def changed(at: int, form: str, value: int) -> bytes:
    message = bytearray(MESSAGES[0])
    struct.pack_into(form, message, at, value)
    return bytes(message)


# Offsets: struct nlmsghdr (16 bytes), struct inet_diag_msg (72 bytes), attributes.
NONE = {
    "length too large": changed(0, "=I", 4096),
    "length of a header only": changed(0, "=I", 16),
    "length zero": changed(0, "=I", 0),
    "length negative": changed(0, "=i", -1),
    "an acknowledgement": changed(4, "=H", 2),
    "the end of a dump": changed(4, "=H", 3),
    "an unknown type": changed(4, "=H", 4711),
    "a Unix socket": changed(16, "=B", socket.AF_UNIX),
    "an unknown family": changed(16, "=B", 255),
    "attribute too large": changed(88, "=H", 0xFFFF),
    "attribute of length zero": changed(88, "=H", 0),
    "attribute of length three": changed(88, "=H", 3),
}


@pytest.mark.parametrize("name", NONE)
def test_a_message_that_is_no_notification_is_ignored(name: str) -> None:
    assert parse_notification(NONE[name]) is None


def test_without_tcp_info_nothing_is_reported() -> None:
    """Its absence says nothing of whether the socket ever was a connection."""
    message = MESSAGES[0]
    assert parse_notification(message) is not None
    header = struct.pack("=I", 88) + message[4:88]
    assert parse_notification(header) is None
    short = struct.pack("=HH", 4 + 148, 2) + b"\1" * 148
    assert parse_notification(struct.pack("=I", 88 + len(short)) + message[4:88] + short) is None
    other = struct.pack("=HH", 4 + 256, 3) + b"\1" * 256
    assert parse_notification(struct.pack("=I", 88 + len(other)) + message[4:88] + other) is None


def test_an_old_kernel_without_bytes_sent_is_understood() -> None:
    """tcp_info ends behind tcpi_min_rtt; what was acknowledged stands in for what was sent."""
    message = bytearray(MESSAGES[0])
    (size, kind), at = struct.unpack_from("=HH", message, 88), 88
    while kind != 2:
        at += (size + 3) & ~3
        size, kind = struct.unpack_from("=HH", message, at)
    old = struct.pack("=HH", 4 + 160, 2) + message[at + 4 : at + 164]
    destroyed = parse_notification(struct.pack("=I", 88 + len(old)) + message[4:88] + old)
    assert destroyed is not None
    assert destroyed.established
    assert destroyed.traffic.sent == destroyed.traffic.acked == 1001 or destroyed.traffic.acked == 1002


@given(message=st.binary(max_size=1024))
def test_random_bytes_never_raise_and_tell_nothing(message: bytes) -> None:
    assert parse_notification(message) is None


@given(
    message=st.sampled_from(MESSAGES),
    changes=st.lists(
        st.tuples(st.integers(0, 400), st.integers(0, 30), st.binary(max_size=30)), min_size=1, max_size=8
    ),
)
def test_a_damaged_message_never_raises(message: bytes, changes: list[tuple[int, int, bytes]]) -> None:
    damaged = bytearray(message)
    for at, length, put_there in changes:
        damaged[at : at + length] = put_there
    destroyed = parse_notification(damaged)
    if destroyed is not None:
        assert len(destroyed.four_tuple) in (12, 36)
        assert [str(each) for each in endpoints(destroyed.four_tuple)]
        assert isinstance(destroyed.traffic, Traffic)


@given(
    family=st.sampled_from([socket.AF_INET, socket.AF_INET6]),
    local=st.binary(min_size=16, max_size=16) | st.just(b"\0" * 10 + b"\xff\xff\x0a\0\0\1") | st.just(b"\0" * 16),
    remote=st.binary(min_size=16, max_size=16) | st.just(b"\0" * 10 + b"\xff\xff\x0a\0\0\2") | st.just(b"\0" * 16),
    local_port=st.integers(0, 0xFFFF),
    remote_port=st.integers(0, 0xFFFF),
    cookie=st.integers(0, 2**64 - 1),
)
def test_any_addresses_are_read_back(
    family: int, local: bytes, remote: bytes, local_port: int, remote_port: int, cookie: int
) -> None:
    message = bytearray(MESSAGES[0])
    message[16] = family
    struct.pack_into("=2s2s16s16sIQ", message, 20, _port(local_port), _port(remote_port), local, remote, 0, cookie)
    destroyed = parse_notification(message)
    assert destroyed is not None
    if family == socket.AF_INET:
        expected = four_tuple_of(local[:4], local_port, remote[:4], remote_port)
    elif len(unmapped(local)) == len(unmapped(remote)):
        expected = four_tuple_of(unmapped(local), local_port, unmapped(remote), remote_port)
    else:
        expected = destroyed.four_tuple
        assert len(destroyed.four_tuple) in (12, 36)
    assert (destroyed.four_tuple, destroyed.cookie, destroyed.unaddressed) == (expected, cookie, remote_port == 0)


def _port(port: int) -> bytes:
    return port.to_bytes(2, "big")


# --- notifications ---------------------------------------------------------------------------------------------------


def until(condition: Callable[[], bool], seconds: float = 10) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not come to be"
        time.sleep(0.005)


def listening(where: Namespace, address: str = "127.0.0.1", port: int = 0) -> socket.socket:
    listener = where.socket(socket.AF_INET6 if ":" in address else socket.AF_INET)
    listener.bind((address, port))
    listener.listen(4096)
    return listener


def connected(where: Namespace, listener: socket.socket) -> tuple[socket.socket, socket.socket]:
    client = where.socket(listener.family)
    client.connect(listener.getsockname())
    return client, listener.accept()[0]


def four_tuple(local: socket.socket) -> FourTuple:
    (address, port), (other, other_port) = local.getsockname()[:2], local.getpeername()[:2]
    size = local.family
    return four_tuple_of(
        unmapped(socket.inet_pton(size, address)), port, unmapped(socket.inet_pton(size, other)), other_port
    )


def take_all(notifications: Notifications) -> list[DestroyedSocket]:
    found = []
    while (destroyed := notifications.peek()) is not None:
        found.append(destroyed)
        notifications.consume()
    return found


def open_in(where: Namespace) -> socket.socket:
    with where.entered():
        return open_notifications()


def test_both_sockets_of_a_connection_are_notified_with_different_cookies(here: Namespace) -> None:
    notifications, found = Notifications(open_in(here)), []
    with listening(here) as listener:
        client, accepted = connected(here, listener)
        four_tuples = {four_tuple(client), four_tuple(accepted)}
        client.close()
        accepted.close()
        until(lambda: found.extend(take_all(notifications)) or len(found) >= 2)  # type: ignore[func-returns-value]
    assert {destroyed.four_tuple for destroyed in found} == four_tuples
    assert len({destroyed.cookie for destroyed in found}) == 2
    assert all(destroyed.established and not destroyed.unaddressed for destroyed in found)
    assert (notifications.dropped(), notifications.ignored) == (0, 0)


def test_a_notification_stays_until_it_is_taken(here: Namespace) -> None:
    source = open_in(here)
    notifications = Notifications(source)
    assert notifications.peek() is None
    with listening(here) as listener:
        for each in connected(here, listener):
            each.close()
        until(lambda: notifications.peek() is not None)
    first = notifications.peek()
    assert notifications.peek() == first
    # Somebody else who has the socket, as after a restart under systemd.
    assert Notifications(source).peek() == first
    notifications.consume()
    until(lambda: notifications.peek() is not None)
    assert notifications.peek() != first


def test_as_many_notifications_are_queued_as_is_said_at_least_and_at_most(here: Namespace) -> None:
    # The kernel sends to the socket that joined last first: what the other one has, this one has. (The listener's own end is one
    # more.)
    other, notifications = Notifications(open_in(here)), Notifications(open_in(here))
    assert notifications.queued() == notifications.queued_at_most() == 0
    with listening(here) as listener:
        for _ in range(20):
            for each in connected(here, listener):
                each.close()
        for _ in range(40):
            until(lambda: other.peek() is not None)
            other.consume()
        for left in range(40, 0, -1):
            assert left // 2 <= notifications.queued() <= left <= notifications.queued_at_most() <= 5 * left
            notifications.consume()
        assert notifications.queued() == notifications.queued_at_most() == 0


def test_a_notification_that_is_not_the_kernels_is_not_believed(here: Namespace) -> None:
    """Root can send to any netlink socket; what it says looks just like a notification."""
    source = open_in(here)
    notifications = Notifications(source)
    with here.socket(socket.AF_NETLINK, socket.SOCK_RAW, 4) as liar:
        liar.bind((0, 0))
        for _ in range(3):
            liar.sendto(MESSAGES[0], (source.getsockname()[0], 0))
    with listening(here) as listener:
        client, accepted = connected(here, listener)
        mine = four_tuple(client)
        client.close()
        accepted.close()
        until(lambda: notifications.peek() is not None)
    destroyed = notifications.peek()
    assert destroyed is not None
    assert destroyed.four_tuple in (mine, mirrored(mine))
    assert notifications.ignored == 3


def test_a_message_longer_than_any_notification_is_dropped(here: Namespace) -> None:
    source = open_in(here)
    notifications = Notifications(source)
    with here.socket(socket.AF_NETLINK, socket.SOCK_RAW, 4) as liar:
        liar.bind((0, 0))
        liar.sendto(b"x" * 60_000, (source.getsockname()[0], 0))
    assert notifications.peek() is None
    assert notifications.ignored == 1


def test_every_notification_is_received_or_counted_as_lost(here: Namespace) -> None:
    """With the smallest buffer that the kernel gives; it reports both sockets of every connection."""
    source = open_in(here)
    source.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 0)
    notifications = Notifications(source)
    got = lost = sent = 0
    with listening(here) as listener:
        for round in range(3):
            for _ in range(101):
                for each in connected(here, listener):
                    each.close()
            sent += 202

            until(lambda before=lost: notifications.dropped() > before)  # type: ignore[misc]
            got += len(take_all(notifications))

            def settled(sent: int = sent) -> bool:
                nonlocal got
                got += len(take_all(notifications))
                return got + notifications.dropped() >= sent

            until(settled)
            lost = notifications.dropped()
            assert got + lost == sent
            assert lost > 100 * (round + 1)


def test_a_buffer_of_the_size_that_was_asked_for_is_had(here: Namespace) -> None:
    assert Notifications(open_in(here)).buffer_size() == 2 * 64 * 1024 * 1024


def test_a_descriptor_that_is_another_socket_is_not_taken() -> None:
    for family, kind, protocol in (
        (socket.AF_INET, socket.SOCK_STREAM, 0),
        (socket.AF_NETLINK, socket.SOCK_RAW, socket.NETLINK_ROUTE),
        (socket.AF_UNIX, socket.SOCK_DGRAM, 0),
    ):
        with socket.socket(family, kind, protocol) as other:
            with pytest.raises(Unavailable, match=f"file descriptor {other.fileno()} is not"):
                received([other.fileno()])
            os.fstat(other.fileno())


@pytest.mark.parametrize("turned", [False, True])
def test_descriptors_are_distinguished_and_not_inherited(turned: bool, here: Namespace) -> None:
    given = [open_in(here).detach(), here.socket(socket.AF_NETLINK, socket.SOCK_RAW, 4).detach()]
    for descriptor in given:
        os.set_inheritable(descriptor, True)
    notifications, questions, namespaces = received(given[::-1] if turned else given)
    assert namespaces is None
    assert notifications is not None
    assert questions is not None
    assert [notifications.fileno(), questions.fileno()] == given
    assert not any(os.get_inheritable(descriptor) for descriptor in given)
    assert Notifications(notifications).peek() is None
    Lookup(questions).check()
    notifications.close()
    questions.close()


def test_descriptors_that_were_not_passed_are_none(here: Namespace) -> None:
    assert received([]) == (None, None, None)
    notifications, lookup, _ = received([open_in(here).detach()])
    assert notifications is not None
    assert lookup is None
    notifications.close()


# --- looking a socket up ---------------------------------------------------------------------------------------------


@pytest.fixture
def lookup(here: Namespace) -> Iterator[Lookup]:
    with here.entered():
        made = Lookup()
    yield made
    made._client._socket.close()


def addressed(here: Namespace, family: str) -> tuple[socket.socket, socket.socket, socket.socket]:
    """A listener, and both sockets of a connection to it."""
    if family == "mapped":
        listener = listening(here, "::")
        client = here.socket()
        client.connect(("127.0.0.1", listener.getsockname()[1]))
    else:
        listener = listening(here, "::1" if family == "ipv6" else "127.0.0.1")
        client = here.socket(listener.family)
        client.connect(listener.getsockname())
    return listener, client, listener.accept()[0]


@pytest.mark.parametrize("family", ["ipv4", "ipv6", "mapped"])
def test_a_socket_is_found_by_its_pair(family: str, here: Namespace, lookup: Lookup) -> None:
    lookup.check()
    listener, client, accepted = addressed(here, family)
    os.fchown(client.fileno(), 4711, -1)
    for each in (client, accepted):
        info = lookup.socket_info(four_tuple(each))
        assert info is not None
        assert info.inode == os.fstat(each.fileno()).st_ino
        assert info.uid == (4711 if each is client else 0)
        # SO_COOKIE, include/uapi/asm-generic/socket.h
        assert info.cookie == struct.unpack("=Q", each.getsockopt(socket.SOL_SOCKET, 57, 8))[0]
    assert lookup.socket_info(four_tuple(client)) != lookup.socket_info(four_tuple(accepted))
    for each in (listener, client, accepted):
        each.close()


@pytest.mark.parametrize("family", ["ipv4", "ipv6", "mapped"])
def test_of_a_connection_that_is_gone_its_listener_is_not_taken(family: str, here: Namespace, lookup: Lookup) -> None:
    listener, client, accepted = addressed(here, family)
    gone = four_tuple(accepted)
    assert lookup.socket_info(gone) is not None
    accepted.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    accepted.close()
    client.close()
    until(lambda: not here.table("tcp").count(b" 01 ") and not here.table("tcp6").count(b" 01 "))
    # It does answer with the listener.
    assert "LISTEN" in here.output("ss", "-tanH", "sport", "=", f":{listener.getsockname()[1]}")
    assert lookup.socket_info(gone) is None
    assert lookup.socket_info(mirrored(gone)) is None
    listener.close()
    assert lookup.socket_info(gone) is None


def test_a_socket_that_was_asked_for_keeps_its_cookie_to_its_end(here: Namespace, lookup: Lookup) -> None:
    notifications = Notifications(open_in(here))
    with listening(here) as listener:
        client, accepted = connected(here, listener)
        asked = {four_tuple(each): lookup.socket_info(four_tuple(each)) for each in (client, accepted)}
        closing = four_tuple(client)
        client.close()
        accepted.close()
        found: list[DestroyedSocket] = []
        until(lambda: not found.extend(take_all(notifications)) and len(found) == 2)  # type: ignore[func-returns-value]
    for destroyed in found:
        info = asked[destroyed.four_tuple]
        assert info is not None
        assert destroyed.cookie == info.cookie
    waiting = lookup.socket_info(closing)
    first = asked[closing]
    assert waiting is not None
    assert first is not None
    assert (waiting.cookie, waiting.inode, waiting.state, waiting.timewait) == (first.cookie, 0, TIME_WAIT, True)
    assert not first.timewait


@pytest.mark.parametrize("family", ["ipv4", "ipv6", "mapped"])
def test_all_established_sockets_are_had_at_once_as_each_of_them_is(
    family: str, here: Namespace, lookup: Lookup
) -> None:
    listener, *first = addressed(here, family)
    os.fchown(first[0].fileno(), 4711, -1)
    others = [connected(here, listening(here)) for _ in range(300)]
    both = [*first, *(each for pair in others for each in pair)]
    dumped = {one: more for one, *more in lookup.established()}
    assert set(dumped) == {four_tuple(each) for each in both}
    for one, (cookie, cgroup, uid, inode) in dumped.items():
        info = lookup.socket_info(one)
        assert info is not None
        assert (info.cookie, info.cgroup, info.uid, info.inode) == (cookie, cgroup, uid, inode)
    assert dumped[four_tuple(first[0])][2] == 4711
    assert len({cookie for cookie, *_ in dumped.values()}) == len(both)
    for each in (listener, *both):
        each.close()


def test_a_socket_that_was_dumped_keeps_its_cookie_to_its_end(here: Namespace, lookup: Lookup) -> None:
    notifications = Notifications(open_in(here))
    with listening(here) as listener:
        client, accepted = connected(here, listener)
        dumped = {one: cookie for one, cookie, *_ in lookup.established()}
        closing = four_tuple(client)
        client.close()
        accepted.close()
        found: list[DestroyedSocket] = []
        until(lambda: not found.extend(take_all(notifications)) and len(found) == 2)  # type: ignore[func-returns-value]
    assert {destroyed.four_tuple: destroyed.cookie for destroyed in found} == dumped
    waiting = lookup.socket_info(closing)
    assert waiting is not None
    assert (waiting.cookie, waiting.timewait) == (dumped[closing], True)


def test_a_socket_that_is_bound_to_an_interface_is_not_found_either_way(here: Namespace, lookup: Lookup) -> None:
    with listening(here) as listener, here.socket() as client:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, b"lo")
        client.connect(listener.getsockname())
        with listener.accept()[0] as accepted:
            assert [one for one, *_ in lookup.established()] == [four_tuple(accepted)]
            assert lookup.socket_info(four_tuple(client)) is None


def test_the_listeners_are_listed_and_nothing_else(here: Namespace, lookup: Lookup) -> None:
    listeners = [listening(here), listening(here, "::1"), listening(here, "::")]
    both = connected(here, listeners[0])
    found = list(lookup.listeners())
    assert {(*_here(row.four_tuple), row.state, row.inode, info.inode) for row, info in found} == {
        (unmapped(socket.inet_pton(each.family, each.getsockname()[0])), each.getsockname()[1], LISTEN, inode, inode)
        for each in listeners
        for inode in [os.fstat(each.fileno()).st_ino]
    }
    assert len({info.cookie for _, info in found}) == len(found) == 3
    for each in (*listeners, *both):
        each.close()


def _here(four_tuple: FourTuple) -> tuple[bytes, int]:
    end = endpoints(four_tuple)[0]
    assert end.address is not None
    assert end.port is not None
    return end.address, end.port


def test_many_listeners_come_in_several_messages(here: Namespace, lookup: Lookup) -> None:
    kept = [listening(here) for _ in range(503)]
    assert len(list(lookup.listeners())) == 503
    for each in kept:
        each.close()
    assert list(lookup.listeners()) == []


def test_an_answer_that_is_not_to_the_last_question_is_passed_over(here: Namespace, lookup: Lookup) -> None:
    """A dump that was not read to its end leaves its rest in the socket."""
    kept = [listening(here) for _ in range(503)]
    next(lookup.listeners())
    listener, client, accepted = addressed(here, "ipv4")
    info = lookup.socket_info(four_tuple(client))
    assert info is not None
    assert info.inode == os.fstat(client.fileno()).st_ino
    for each in (*kept, listener, client, accepted):
        each.close()


def test_an_answer_that_is_not_the_kernels_is_ignored(here: Namespace, lookup: Lookup) -> None:
    """The socket is connected to the kernel; what another one sends to it is refused or dropped."""
    own = lookup._client._socket.getsockname()[0]
    listener, client, accepted = addressed(here, "ipv4")
    with here.socket(socket.AF_NETLINK, socket.SOCK_RAW, 4) as liar:
        liar.bind((0, 0))
        lie = bytearray(MESSAGES[0])
        struct.pack_into("=I", lie, 8, 1)
        with pytest.raises(ConnectionRefusedError):
            liar.sendto(lie, (own, 0))
    info = lookup.socket_info(four_tuple(client))
    assert info is not None
    assert info.inode == os.fstat(client.fileno()).st_ino
    for each in (listener, client, accepted):
        each.close()


def test_a_pair_of_a_family_that_the_namespace_does_not_have_is_not_found(here: Namespace, lookup: Lookup) -> None:
    here.sysctl("net.ipv6.conf.all.disable_ipv6", "1")
    assert lookup.socket_info(four_tuple_of(b"\0" * 15 + b"\1", 1, b"\0" * 15 + b"\1", 2)) is None
    assert lookup.socket_info(four_tuple_of(b"\0" * 4, 0, b"\0" * 4, 0)) is None
    assert lookup.socket_info(four_tuple_of(b"\xff" * 4, 0xFFFF, b"\xff" * 4, 0xFFFF)) is None
