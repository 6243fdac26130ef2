"""Users of sockets, by the name that the system gives."""

import pwd

import pytest

from tcpnewconn.attribution.users import Users
from tests.support.clock import Clock


def test_users_have_the_names_that_the_system_gives_them() -> None:
    users = Users()
    for entry in pwd.getpwall():
        assert users.name(entry.pw_uid) == pwd.getpwuid(entry.pw_uid).pw_name
    assert users.name(0) == "root"


@pytest.mark.parametrize("uid", [4242424242, -1, 2**32 - 1, 2**32, 2**64])
def test_a_user_without_a_name_has_none(uid: int) -> None:
    assert Users().name(uid) is None


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The user ids that the system was asked for."""
    uids: list[int] = []
    genuine = pwd.getpwuid

    def noting(uid: int) -> pwd.struct_passwd:
        uids.append(uid)
        return genuine(uid)

    monkeypatch.setattr(pwd, "getpwuid", noting)
    return uids


def test_a_name_is_believed_for_a_minute(asked: list[int]) -> None:
    clock = Clock()
    users = Users(clock)
    for _ in range(2):
        assert users.name(0) == "root"
        assert users.name(4242424242) is None
    assert asked == [0, 4242424242]
    clock.now += 59
    users.name(0)
    assert asked == [0, 4242424242]
    clock.now += 1
    users.name(0)
    users.name(4242424242)
    assert asked == [0, 4242424242] * 2


def test_of_too_many_users_the_first_is_asked_for_again(asked: list[int]) -> None:
    users = Users(Clock(), most=3)
    for uid in (0, 5_000_001, 5_000_002, 0, 5_000_003, 5_000_002, 0):
        users.name(uid)
    assert asked == [0, 5_000_001, 5_000_002, 5_000_003, 0]
