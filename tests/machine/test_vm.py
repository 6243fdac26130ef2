"""The package on Debian's own kernels, 6.1 and 6.12, in emulated machines: install, connections, reboot, purge."""

from typing import Any

import pytest

from bench import owners
from tests.support import built, machine
from tests.support.booted_package import make_repository, on_each_distribution

KERNELS = {"bookworm": "6.1.", "trixie": "6.12."}


@pytest.fixture(scope="module", params=on_each_distribution("vm"))
def outcomes(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """The result of each step in the machine."""
    repository = tmp_path_factory.mktemp("repository")
    make_repository(repository, built.deb())
    return {"distribution": request.param, **machine.outcomes(request.param, repository).said}


def test_the_kernel_is_debians(outcomes: dict[str, Any]) -> None:
    assert outcomes["boot 1"]["kernel"].startswith(KERNELS[outcomes["distribution"]])


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
    assert "PROCESS_THREAD_ID" not in only(outcomes["connection when masked"])
    assert without(outcomes["trace when unmasked"], "others") == RECORDED


# --- the kernel's own event of connect()


def test_with_the_drop_in_a_kernel_without_types_records_its_own_event(outcomes: dict[str, Any]) -> None:
    recorded = outcomes["plain event"]["recorded"]
    assert (recorded["plain"], recorded["ours"]) == ("1", [])
    assert "connect() is recorded by the kernel's own event" in recorded["said"]


@pytest.mark.parametrize("way", ["curl", "shell", "once"])
def test_by_the_kernels_own_event_each_has_its_thread_and_none_a_wrong_owner(
    outcomes: dict[str, Any], way: str
) -> None:
    found = outcomes["plain event"][way]
    assert found["wrong"] == []
    assert found["logged"] == found["made"]
    assert found["known"]["PROCESS_THREAD_ID"] == found["made"]


def test_by_the_kernels_own_event_most_curls_have_unit_and_user(outcomes: dict[str, Any]) -> None:
    found = outcomes["plain event"]["curl"]
    assert found["known"].get("OBJECT_SYSTEMD_UNIT", 0) > found["made"] / 2
    # PrivateUsers=identity: systemd 257.
    if outcomes["distribution"] == "trixie":
        assert found["known"].get("USER_NAME", 0) > found["made"] / 2


def test_without_the_drop_in_our_own_events_are_recorded_again(outcomes: dict[str, Any]) -> None:
    assert without(outcomes["trace after the plain event"], "others") == RECORDED


# --- other network namespaces


@pytest.mark.parametrize("step", ["an unseen namespace", "other namespaces"])
def test_every_connection_of_every_namespace_is_logged_once_with_who_made_it(
    outcomes: dict[str, Any], step: str
) -> None:
    found = outcomes[step]
    assert found["missing"] == found["more"] == [], listed(found)
    assert found["made"] == found["logged"] >= 20
    assert found["refused"] == 0
    assert set(found["threads"]) - {"unknown", "several"} == {"connections"}, listed(found)
    assert found["threads"].get("unknown", 0) <= found["in an unknown one"]
    assert {unit.partition("@")[0] for unit in found["units"]} - {"-"} <= {"apart", "long", "joined", "fresh", "later"}


def listed(found: dict[str, Any]) -> str:
    """The entries that are not as they should be, in full."""
    return "\n".join(map(str, [found["more"], *found["examples"], *found["because"]]))


def test_a_short_one_between_host_and_namespace_has_both_sides(outcomes: dict[str, Any]) -> None:
    found = outcomes["other namespaces"]
    assert set(found["directions"]) == {"internal"}, listed(found)
    # Two namespaces that were polled before, two that were not, and one that was joined once more, with 20 each.
    assert found["accepted by"]["nginx.service"] >= 100, listed(found)


def test_of_a_namespace_that_nobody_has_seen_the_trace_alone_shows_the_connections(outcomes: dict[str, Any]) -> None:
    found = outcomes["an unseen namespace"]
    assert set(found["detected by"]) == {"trace"}
    assert found["in an unknown one"] == found["made"]
    assert set(found["units"]) == {"apart@0.service"}


def test_where_the_service_was_killed_what_is_missing_is_counted(outcomes: dict[str, Any]) -> None:
    found = outcomes["killed"]
    assert found["more"] == [], found["examples"]
    assert found["made"] > 40
    assert found["made"] - found["logged"] <= found["lost"]


# --- who opened and accepted


def test_units_users_and_threads_that_are_gone_are_known(outcomes: dict[str, Any]) -> None:
    users = ("nobody", "www-data", "daemon", "root")
    found = outcomes["of gone units"]
    assert len(found) == 8
    for entry in found:
        assert entry["OBJECT_SYSTEMD_UNIT"].partition("@")[2] == f"{entry['USER_NAME']}.service"
        assert entry["PROCESS_THREAD_NAME"] == "curl"
        assert entry["TCPNEWCONN_ATTRIBUTED_BY"] == "connect"
        assert entry["TCPNEWCONN_ACCEPTED_BY_UNIT"] == "nginx.service"
        assert entry["EVENT_START"]
    units = {f"gone-{number}@{user}.service" for number in range(2) for user in users}
    assert {entry["OBJECT_SYSTEMD_UNIT"] for entry in found} == units
    assert len({entry["PROCESS_THREAD_ID"] for entry in found}) == 8


def test_a_thread_is_not_taken_for_a_process_over_ipv4_ipv6_and_mapped(outcomes: dict[str, Any]) -> None:
    found = outcomes["of threads"]
    assert [entry["DESTINATION_ADDRESS"] for entry in found] == ["127.0.1.2", "::1", "127.0.1.3"]
    for entry in found:
        assert entry["PROCESS_THREAD_NAME"] == "by thread"
        assert entry.get("PROCESS_NAME", "python3") == "python3"
        assert entry.get("PROCESS_PID") != entry["PROCESS_THREAD_ID"]


def test_an_accepted_connection_is_attributed_to_who_accepted_it(outcomes: dict[str, Any]) -> None:
    assert len(outcomes["accepted"]) == 20
    for entry in outcomes["accepted"]:
        assert entry["NETWORK_DIRECTION"] == "ingress"
        assert entry["OBJECT_SYSTEMD_UNIT"] == "nginx.service"
        assert entry["USER_NAME"] == "www-data"
        assert entry["PROCESS_NAME"] == entry["PROCESS_THREAD_NAME"] == "nginx"
        assert "accept" in entry["TCPNEWCONN_ATTRIBUTED_BY"]


def test_a_refused_attempt_is_logged_with_its_error_and_who_tried(outcomes: dict[str, Any]) -> None:
    found = outcomes["failed attempts"]
    assert [entry["ERROR_CODE"] for entry in found] == ["ECONNREFUSED"] * 3
    assert {entry["OBJECT_SYSTEMD_UNIT"] for entry in found} == {f"refused@{number}.service" for number in range(3)}
    assert {entry["USER_NAME"] for entry in found} == {"daemon"}


def test_the_service_notices_that_trace_cmd_deleted_its_events_and_attributes_again_after_the_repair(
    outcomes: dict[str, Any],
) -> None:
    lost, *_, back = outcomes["said of the trace"]
    assert "another tool has deleted its events" in lost
    assert "records again" in back
    assert outcomes["after a repair"]["PROCESS_THREAD_NAME"] == "curl"


def test_without_the_oneshot_connections_are_logged_and_with_it_again_attributed(outcomes: dict[str, Any]) -> None:
    assert "PROCESS_THREAD_ID" not in outcomes["without the oneshot"]
    assert outcomes["with the oneshot again"]["PROCESS_THREAD_NAME"] == "curl"


def test_a_kill_and_a_restart_under_load_lose_no_connection_and_attribute_none_wrongly(
    outcomes: dict[str, Any],
) -> None:
    under_load = outcomes["killed under load"]
    assert under_load["ids"] == under_load["made"]
    assert under_load["ports"]
    assert set(under_load["threads"]) - {""} == {under_load["thread"]}
    # Two rings, and a page of each has no more than so many records.
    assert under_load["threads"].get("", 0) <= 2 * 4096 // 100


# --- programs and kinds of sockets


def only(found: list[dict[str, str]]) -> dict[str, str]:
    assert len(found) == 1, found
    return found[0]


def assert_opened(entry: dict[str, str], user: str, unit: str, thread: str) -> None:
    names = ("USER_NAME", "OBJECT_SYSTEMD_UNIT", "PROCESS_THREAD_NAME")
    assert tuple(entry.get(name) for name in names) == (user, unit, thread), entry
    assert "connect" in entry["TCPNEWCONN_ATTRIBUTED_BY"]
    assert entry["EVENT_START"]


def test_ssh_and_sshd_are_known(outcomes: dict[str, Any]) -> None:
    entry = only(outcomes["of ssh"])
    assert_opened(entry, "alice", "by-ssh.service", "ssh")
    assert entry["TCPNEWCONN_ACCEPTED_BY_UNIT"] == "ssh.service"
    assert entry["TCPNEWCONN_ACCEPTED_BY_PROCESS"] == "sshd"


def test_apt_is_known(outcomes: dict[str, Any]) -> None:
    assert outcomes["of apt"]
    for entry in outcomes["of apt"]:
        assert_opened(entry, "_apt", "steps.service", "http")


def test_a_unit_of_a_users_session_is_known(outcomes: dict[str, Any]) -> None:
    entry = only(outcomes["of a session"])
    assert_opened(entry, "alice", "user@1000.service", "curl")
    assert entry["OBJECT_SYSTEMD_USER_UNIT"] == "by-session.service"
    assert "    OBJECT_SYSTEMD_USER_UNIT=by-session.service" in outcomes["verbose"].splitlines()


def test_mptcp_fast_open_and_connect_without_blocking_are_known(outcomes: dict[str, Any]) -> None:
    threads = ("mptcp", "fast open", "not blocking")
    assert [len(found) for found in outcomes["of kinds"]] == [5, 2, 1], outcomes["of kinds"]
    for thread, found in zip(threads, outcomes["of kinds"], strict=True):
        for entry in found:
            assert_opened(entry, "alice", "by-kinds.service", thread)


def test_a_socket_activated_service_is_known(outcomes: dict[str, Any]) -> None:
    listening, each = map(only, outcomes["of activated services"])
    for entry in (listening, each):
        assert_opened(entry, "root", "steps.service", "bash")
    assert listening["TCPNEWCONN_ACCEPTED_BY_UNIT"] == "activated.socket"
    assert each["TCPNEWCONN_ACCEPTED_BY_UNIT"] == "each.socket"


def test_a_server_that_forks_is_known(outcomes: dict[str, Any]) -> None:
    assert len(outcomes["of a forking server"]) == 20
    for entry in outcomes["of a forking server"]:
        assert_opened(entry, "root", "steps.service", "bash")
        assert entry["TCPNEWCONN_ACCEPTED_BY_UNIT"] == "forking.service"
        assert entry.get("TCPNEWCONN_ACCEPTED_BY_PROCESS", "python3") == "python3"


def test_a_server_that_forks_and_sshd_are_known_to_have_accepted(outcomes: dict[str, Any]) -> None:
    for server, count, expected in (
        ("a forking server", 20, ("ingress", "www-data", "forking.service", "python3")),
        ("sshd", 3, ("ingress", "root", "ssh.service", "sshd")),
    ):
        found = outcomes[f"accepted by {server}"]
        names = ("NETWORK_DIRECTION", "USER_NAME", "OBJECT_SYSTEMD_UNIT", "PROCESS_THREAD_NAME")
        assert [tuple(entry.get(name) for name in names) for entry in found] == [expected] * count
        assert all("accept" in entry["TCPNEWCONN_ATTRIBUTED_BY"] for entry in found)


def test_of_500_threads_that_wait_in_accept_none_is_missed(outcomes: dict[str, Any]) -> None:
    found = outcomes["of blocked threads"]
    assert len({entry["TCPNEWCONN_CONNECTION_ID"] for entry in found}) == len(found) == 500
    assert {entry.get("TCPNEWCONN_ACCEPTED_BY_UNIT") for entry in found} == {"blocked.service"}


def test_the_same_4_tuple_in_another_namespace_is_not_taken_for_this_one(outcomes: dict[str, Any]) -> None:
    entry = only(outcomes["of two namespaces"])
    assert entry["SOURCE_PORT"] == "21000"
    assert_opened(entry, "alice", "steps.service", "curl")


def test_a_connection_of_the_kernel_has_its_thread_and_no_unit(outcomes: dict[str, Any]) -> None:
    assert outcomes["of the kernel"]
    for entry in outcomes["of the kernel"]:
        assert entry["USER_ID"] == "0"
        assert entry["PROCESS_THREAD_NAME"].startswith("kworker/")
        assert "OBJECT_SYSTEMD_UNIT" not in entry
        assert entry["TCPNEWCONN_ACCEPTED_BY_UNIT"] == "steps.service"


def test_an_attempt_that_timed_out_is_logged_with_its_error_and_who_tried(outcomes: dict[str, Any]) -> None:
    entry = only(outcomes["timed out"])
    assert entry["ERROR_CODE"] == "ETIMEDOUT"
    assert_opened(entry, "daemon", "timed-out.service", "python3")


def test_trace_cmd_records_at_the_same_time(outcomes: dict[str, Any]) -> None:
    assert outcomes["recorded by trace-cmd"] is True, outcomes["recorded by trace-cmd"]
    found = outcomes["beside trace-cmd record"]
    assert {(each.get("PROCESS_THREAD_NAME"), each.get("USER_NAME")) for each in found} == {("curl", "root")}


# --- many connections


def test_every_way_to_connect_has_user_and_unit_also_on_busy_cores(outcomes: dict[str, Any]) -> None:
    ways = outcomes["ways"]
    assert (ways["lost"], ways["restarts"]) == (0, "0")
    for way, user, thread in (
        ("curl", "nobody", "curl"),
        ("shell", "www-data", "bash"),
        ("once", "daemon", "connections"),
        ("fork", "games", "connections"),
    ):
        count, found = ways["made"][way], ways[way]["owners"]
        known, no_thread = (f"{user} way-{way}.service {name} nginx.service" for name in (thread, "-"))
        assert (ways[way]["logged"], ways[way]["no thread"]) == (count, 0)
        # Only these are so many that the kernel gives a port again.
        assert found.keys() <= ({known, no_thread} if way == "fork" else {known}), found
        assert sum(found.values()) == count
        assert found[known] > count / 2


def test_records_that_the_rings_overwrote_are_counted_exactly_and_no_connection_is_lost(
    outcomes: dict[str, Any],
) -> None:
    small = outcomes["small rings"]
    assert small["logged"] == small["made"]
    assert small["reported"] == small["overwritten"] > 0
    assert set(small["units"]) <= {"steps.service", "-"}


def test_many_users_and_units_with_few_pids_and_ports_are_never_mixed_up(outcomes: dict[str, Any]) -> None:
    mixed = outcomes["mixed"]
    assert mixed["ids"] == mixed["opened"] == mixed["made"]
    assert mixed["wrong"] == 0, mixed["examples"]
    # A client that found its 4-tuple in use took the next port: it had sent nothing.
    assert mixed["failed"] == 0
    # Where a port was used again before the service had seen the end of its last connection, two could be meant.
    assert mixed["right"] > mixed["left out"]
    assert mixed["right"] + mixed["left out"] == mixed["made"]
    assert mixed["used again"] > mixed["made"] / 2


def test_the_bench_shows_these_results(outcomes: dict[str, Any]) -> None:
    results = owners.shown(outcomes).results
    assert [result.what for result in results if result.reached is False] == []
    assert sum(result.reached is True for result in results) == 7
