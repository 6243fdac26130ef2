"""The package on arm64, Debian 13, emulated: make test-arm64. It is no part of make test: its root takes minutes to make."""

from typing import Any

import pytest

from tests.support import built, machine
from tests.support.booted_package import make_repository

pytestmark = pytest.mark.arm64


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """The result of each step in the machine."""
    repository = tmp_path_factory.mktemp("repository")
    make_repository(repository, built.deb())
    return machine.outcomes("trixie", repository, "few", architecture="arm64").said


def test_it_installs_and_runs_without_a_fault(outcomes: dict[str, Any]) -> None:
    assert outcomes["boot 1"]["machine"] == "aarch64"
    assert outcomes["installed"] == {"service": "active", "socket": "active"}
    assert outcomes["warnings"] == []


def test_connections_are_reported_once_each(outcomes: dict[str, Any]) -> None:
    assert {server: len(found) for server, found in outcomes["connections"].items()} == {
        "127.0.0.1": 1,
        "::1": 1,
        "127.0.0.2": 1,
    }
    assert len(set(outcomes["short connections"])) == len(outcomes["short connections"]) == 47


def test_who_opened_and_who_accepted_is_known(outcomes: dict[str, Any]) -> None:
    assert len(outcomes["of gone units"]) == 8
    for entry in outcomes["of gone units"]:
        assert entry["OBJECT_SYSTEMD_UNIT"].partition("@")[2] == f"{entry['USER_NAME']}.service"
        assert entry["PROCESS_THREAD_NAME"] == "curl"
        assert entry["TCPNEWCONN_ACCEPTED_BY_UNIT"] == "nginx.service"
    assert [entry["PROCESS_THREAD_NAME"] for entry in outcomes["of threads"]] == ["by thread"] * 3
    assert {entry["PROCESS_THREAD_NAME"] for entry in outcomes["accepted"]} == {"nginx"}
    assert [entry["ERROR_CODE"] for entry in outcomes["failed attempts"]] == ["ECONNREFUSED"] * 3


def test_a_kill_and_a_restart_under_load_lose_no_connection(outcomes: dict[str, Any]) -> None:
    under_load = outcomes["killed under load"]
    assert under_load["ids"] == under_load["made"]
    assert under_load["ports"]
    assert set(under_load["threads"]) - {""} == {under_load["thread"]}
