"""The package on Debian's own kernels, 6.1 and 6.12, in emulated machines: install, connections, reboot, purge."""

from typing import Any

import pytest

from tests.support import built, machine
from tests.support.booted_package import make_repository, on_each_distribution

KERNELS = {"bookworm": "6.1.", "trixie": "6.12."}


@pytest.fixture(scope="module", params=on_each_distribution("vm"))
def outcomes(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """The result of each step in the machine."""
    repository = tmp_path_factory.mktemp("repository")
    make_repository(repository, built.deb())
    return {"distribution": request.param, **machine.outcomes(request.param, repository)}


def test_the_kernel_is_debians(outcomes: dict[str, Any]) -> None:
    assert outcomes["kernel"].startswith(KERNELS[outcomes["distribution"]])


def test_it_installs_and_runs_without_a_fault(outcomes: dict[str, Any]) -> None:
    assert outcomes["installed"] == {"service": "active", "socket": "active"}
    assert outcomes["warnings"] == []


def test_connections_of_real_programs_are_reported_with_direction_unit_and_user(outcomes: dict[str, Any]) -> None:
    found = outcomes["connections"]
    for server, kind in (("127.0.0.1", "ipv4"), ("::1", "ipv6"), ("127.0.0.2", "ipv4")):
        (connection,) = found[server]
        assert connection["NETWORK_DIRECTION"] == "internal"
        assert connection["NETWORK_TYPE"] == kind
        assert connection["DESTINATION_PORT"] == "80"
    assert {found[server][0]["TCPNEWCONN_DETECTED_BY"] for server in ("127.0.0.1", "::1")} == {"poll"}
    assert all("USER_NAME" in found[server][0] for server in ("127.0.0.1", "::1"))
    assert all("OBJECT_SYSTEMD_UNIT" in found[server][0] for server in ("127.0.0.1", "::1"))


def test_connections_that_no_poll_could_see_are_reported_once_each(outcomes: dict[str, Any]) -> None:
    assert len(outcomes["short connections"]) == 47
    assert len(set(outcomes["short connections"])) == 47


def test_a_step_of_the_clock_stops_no_poll_and_reports_nothing_twice(outcomes: dict[str, Any]) -> None:
    for step in outcomes["clock steps"]:
        assert step["same process"]
        assert "poll" in step["detected_by"]
        assert len(step["ids"]) == len(set(step["ids"])) == 2


def test_after_a_reboot_it_runs_and_the_old_snapshot_is_not_believed(outcomes: dict[str, Any]) -> None:
    assert outcomes["installed after reboot"] == {"service": "active", "socket": "active"}
    assert len(outcomes["connections after reboot"]) == 1, outcomes["connections after reboot"]
    assert outcomes["warnings after reboot"] == []
    old, new = outcomes["snapshot"], outcomes["snapshot after reboot"]
    assert old["boot_id"].replace("-", "") in old["text"].replace("-", "")
    assert new["boot_id"].replace("-", "") in new["text"].replace("-", "")
    assert old["boot_id"].replace("-", "") not in new["text"].replace("-", "")


def test_a_purge_leaves_nothing(outcomes: dict[str, Any]) -> None:
    assert outcomes["remains"] == ""
    assert outcomes["units"] == ""
