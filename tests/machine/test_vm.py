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


# --- the trace

EVENTS = ["connect", "accept", "failed"]
RECORDED = {"defined": sorted(EVENTS), "recorded": EVENTS, "instances": ["tcpnewconn"]}
NOTHING: dict[str, list[str]] = {"defined": [], "recorded": []}


def without(state: dict[str, Any], *names: str) -> dict[str, Any]:
    return {name: value for name, value in state.items() if name not in names}


def test_the_events_are_checked_and_recorded_from_the_installation_on(outcomes: dict[str, Any]) -> None:
    assert outcomes["trace"] == {**RECORDED, "others": []}


def test_the_service_can_read_the_rings_and_nothing_else_of_tracefs(outcomes: dict[str, Any]) -> None:
    formats = [f"events/tcpnewconn/{event}/{name}" for event in EVENTS for name in ("enable", "format")]
    rings = ["per_cpu/cpuN/stats", "per_cpu/cpuN/trace_pipe_raw"]
    assert outcomes["open to the service"]["readable"] == sorted([*formats, *rings, "tracing_on"])
    assert outcomes["open to the service"]["writable"] == []
    assert "Permission denied" in "".join(outcomes["open to the service"]["tracefs"])


def test_events_that_another_tool_deleted_are_defined_again(outcomes: dict[str, Any]) -> None:
    assert without(outcomes["trace after a deletion"], "others", "instances") == NOTHING
    assert without(outcomes["trace after a repair"], "others") == RECORDED
    assert without(outcomes["trace after a reload"], "others") == RECORDED


def test_definitions_of_others_stay(outcomes: dict[str, Any]) -> None:
    for name in ("a repair", "a reload", "its stop", "its start", "a kill of the service", "a stop of the service"):
        assert outcomes[f"trace after {name}"]["others"] == ["p:others/theirs tcp_close"], name


def test_a_stop_of_the_oneshot_removes_its_events_and_a_start_defines_them_again(outcomes: dict[str, Any]) -> None:
    assert without(outcomes["trace after its stop"], "others", "instances") == NOTHING
    assert without(outcomes["trace after its start"], "others") == RECORDED


def test_a_repair_does_not_start_what_was_stopped(outcomes: dict[str, Any]) -> None:
    assert without(outcomes["trace after a refused repair"], "others", "instances") == NOTHING


def test_the_trace_stays_over_a_kill_of_the_service_and_stops_with_it(outcomes: dict[str, Any]) -> None:
    assert without(outcomes["trace after a kill of the service"], "others") == RECORDED
    assert without(outcomes["trace after a stop of the service"], "others") == {**NOTHING, "instances": []}


def test_an_event_that_records_something_else_is_removed(outcomes: dict[str, Any]) -> None:
    assert outcomes["wrong offset"]["said"].startswith("cannot record connect(): the check found: recorded uid ")
    assert without(outcomes["wrong offset"], "said", "others") == {**NOTHING, "instances": []}


def test_a_masked_oneshot_records_nothing_until_it_is_unmasked(outcomes: dict[str, Any]) -> None:
    assert without(outcomes["trace when masked"], "others") == {**NOTHING, "instances": []}
    assert without(outcomes["trace when unmasked"], "others") == RECORDED
