"""The configuration: accepted values, which file counts, and the one line of an error."""

import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from tcpnewconn.settings.config import ConfigError, load, read
from tcpnewconn.settings.ignore import Rules
from tcpnewconn.settings.rule import parse_rule
from tcpnewconn.settings.setting import KINDS, SETTINGS, Setting, Settings
from tcpnewconn.settings.values import format_span, parse_boolean, parse_interval, parse_span

DEFAULTS = Settings(
    interval=10.0,
    existing=True,
    listeners=True,
    closed=False,
    failed=False,
    command_line=False,
    ignore=Rules(),
    burst_limit=100,
    total_limit=1000,
    ports=3,
    within=60.0,
    trusted=Rules(),
    trace_accept=True,
    include=False,
    cpuquota=0.01,
    container_names=None,
    keep=90 * 86400.0,
    size=64 << 20,
    peers=250,
    log=False,
    learning=7 * 86400.0,
    event_limit=50,
)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "etc" / "tcpnewconn.conf"


def write(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


def loaded(tmp_path: Path, text: str) -> Settings:
    return load(str(write(tmp_path / "given.conf", text)))


def error(file: Path, content: str | bytes) -> str:
    """The message about the file, without its name."""
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(ConfigError) as caught:
        load(str(file))
    text = str(caught.value)
    assert text.startswith(str(file))
    return text[len(str(file)) :]


def rules(*entries: str) -> Rules:
    return Rules(tuple(parse_rule(entry) for entry in entries))


# Values that are accepted


def test_without_a_file_the_defaults_are_in_force(tmp_path: Path) -> None:
    assert load(root=str(tmp_path)) == DEFAULTS


def test_every_setting_has_a_value_and_its_default_is_what_the_table_says(tmp_path: Path) -> None:
    assert [setting.attribute for setting in SETTINGS] == [*Settings._fields]
    assert {setting.kind for setting in SETTINGS} == set(KINDS)
    sections = dict.fromkeys(setting.section for setting in SETTINGS)
    text = "".join(
        f"[{section}]\n" + "".join(f"{s.name}={s.default}\n" for s in SETTINGS if s.section == section)
        for section in sections
    )
    assert loaded(tmp_path, text) == DEFAULTS


def test_all_settings_can_be_set(tmp_path: Path) -> None:
    text = """
# A comment
; another
[Poll]
Interval = 1min 30s

[Report]
Existing=no
Listeners=0
  Closed=TRUE
Ignore=127.0.0.0/8 ::1   :9100
Ignore=egress:10.0.0.0/8:443
"""
    expected = rules("127.0.0.0/8", "::1", ":9100", "egress:10.0.0.0/8:443")
    assert loaded(tmp_path, text) == DEFAULTS._replace(
        interval=90.0, existing=False, listeners=False, closed=True, ignore=expected
    )


def test_entries_of_a_list_may_stand_between_commas(tmp_path: Path) -> None:
    text = "[Report]\nIgnore=127.0.0.0/8, ::1,:8000-8099\n[PortScan]\nTrusted=192.0.2.0/24,198.51.100.1\n"
    settings = loaded(tmp_path, text)
    assert settings.ignore == rules("127.0.0.0/8", "::1", ":8000-8099")
    assert settings.trusted == rules("192.0.2.0/24", "198.51.100.1")
    assert error(tmp_path / "given.conf", "[Report]\nIgnore=,\n").startswith(":2: [Report] Ignore=,: ")


def test_units_and_users_can_be_ignored(tmp_path: Path) -> None:
    text = "[Report]\nIgnore=unit:cron.service egress:user:nobody\nIgnore=unit:user@*.service\n"
    assert loaded(tmp_path, text).ignore == rules("unit:cron.service", "egress:user:nobody", "unit:user@*.service")


def test_a_backslash_continues_a_line_and_comments_may_stand_between(tmp_path: Path) -> None:
    text = "[Report]\nIgnore=127.0.0.0/8 \\\n  # loopback, version 6:\n  ::1 \\\n; node_exporter\n\t:9100\nClosed=yes\n"
    settings = loaded(tmp_path, text)
    assert settings.ignore == rules("127.0.0.0/8", "::1", ":9100")
    assert settings.closed


def test_a_line_continued_into_the_end_of_the_file_counts(tmp_path: Path) -> None:
    assert loaded(tmp_path, "[Report]\nIgnore=:1 \\").ignore == rules(":1")


def test_only_a_single_backslash_at_the_very_end_continues_a_line(tmp_path: Path) -> None:
    for end, entry in ((r"\\", r"\\"), ("\\ ", "\\")):
        said = error(tmp_path / "given.conf", f"[Report]\nIgnore=:1 {end}\nClosed=yes\n")
        assert said.startswith(f":2: [Report] Ignore={entry}: ")


def test_an_empty_assignment_takes_back_what_was_assigned(tmp_path: Path) -> None:
    assert loaded(tmp_path, "[Report]\nIgnore=:1 :2\nIgnore=\nIgnore=:3\n").ignore == rules(":3")
    assert loaded(tmp_path, "[Report]\nIgnore=:1\nIgnore=\n").ignore == Rules()
    assert loaded(tmp_path, "[Poll]\nInterval=5\nInterval=\n").interval == 10.0


def test_the_last_assignment_counts(tmp_path: Path) -> None:
    assert loaded(tmp_path, "[Poll]\nInterval=5\n[Report]\n[Poll]\nInterval=6").interval == 6.0


def test_lines_may_end_as_on_other_systems(tmp_path: Path) -> None:
    assert loaded(tmp_path, "[Poll]\r\nInterval=5\r\n\r\n# end\r\n").interval == 5.0
    assert loaded(tmp_path, "[Report]\r\nIgnore=:1 \\\r\n  :2\r\n").ignore == rules(":1", ":2")


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("10", 10.0),
        ("10s", 10.0),
        ("10 s", 10.0),
        ("0.1", 0.1),
        (".5s", 0.5),
        ("100ms", 0.1),
        ("1min 30s", 90.0),
        ("1min30s", 90.0),
        ("30s 1min", 90.0),
        ("1.5h", 5400.0),
        ("2 days", 172800.0),
        ("1w", 604800.0),
        ("1M", 2629800.0),
        ("1m", 60.0),
        ("1y 12month", 31557600.0 + 12 * 2629800),
        ("55s500ms", 55.5),
        ("12.34 .56", 12.9),
        ("12.34s.56", 12.9),
        ("300ms20s 5day", 5 * 86400 + 20.3),
        ("0.1" + "0" * 5000, 0.1),
        ("1us", 1e-6),
        ("3µs", 3e-6),
        ("3μs", 3e-6),
        (" 7 ", 7.0),
    ],
)
def test_time_spans_are_written_as_systemd_does(text: str, seconds: float) -> None:
    assert parse_span(text) == seconds


@pytest.mark.parametrize(
    "text",
    [
        "",
        " ",
        "fast",
        "s",
        "-1",
        "+1",
        "1e3",
        "1,5",
        "10 seks",
        "10S",
        "1:30",
        "1_0",
        "٣",
        "nan",
        "inf",
        ".",
        "5.",
        "5.s",
        "1..5",
        "12.34.56",
        "1.",
        ".0.25",
        "1" * 20,
    ],
)
def test_a_value_that_is_no_time_span_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="not a time span; use for example 10s, 500ms or 1min"):
        parse_span(text)


def test_an_endless_time_is_refused() -> None:
    with pytest.raises(ValueError, match="must end; use for example 10s"):
        parse_span("infinity")


@given(st.integers(0, 10**15))
def test_a_span_is_read_as_it_was_written(microseconds: int) -> None:
    seconds = microseconds / 1e6
    assert parse_span(format_span(seconds)) == seconds


def test_spans_are_written_for_people() -> None:
    assert [format_span(seconds) for seconds in (0, 0.1, 10, 90, 86400, 3661.000001)] == [
        *("0", "100ms", "10s", "1min 30s", "1d", "1h 1min 1s 1us")
    ]


def test_an_interval_is_neither_too_short_nor_too_long() -> None:
    assert parse_interval("100ms") == 0.1
    assert parse_interval("1d") == 86400.0
    with pytest.raises(ValueError, match="^too short; use at least 100ms$"):
        parse_interval("99.999ms")
    with pytest.raises(ValueError, match="^too long; use at most 1d$"):
        parse_interval("1d 1us")


def test_booleans_are_written_as_systemd_does() -> None:
    assert all(parse_boolean(text) for text in ("1", "yes", "y", "true", "t", "on", "Yes", "TRUE"))
    assert not any(parse_boolean(text) for text in ("0", "no", "n", "false", "f", "off", "No", "FALSE"))
    for text in ("", "2", "ja", "yes yes", "ſ"):
        with pytest.raises(ValueError, match="not a boolean; use yes or no"):
            parse_boolean(text)


# Which file counts


def interval(path: Path, seconds: int) -> None:
    write(path, f"[Poll]\nInterval={seconds}\n")


def test_the_main_file_is_the_first_of_etc_run_and_usr(tmp_path: Path) -> None:
    for number, directory in enumerate(("usr/lib", "usr/local/lib", "run", "etc"), start=1):
        interval(tmp_path / directory / "tcpnewconn.conf", number)
        assert load(root=str(tmp_path)).interval == number


def test_an_empty_main_file_hides_the_others(tmp_path: Path, file: Path) -> None:
    interval(tmp_path / "usr/lib/tcpnewconn.conf", 1)
    write(file, "")
    assert load(root=str(tmp_path)) == DEFAULTS


def test_drop_ins_override_the_main_file_from_wherever_they_are(tmp_path: Path, file: Path) -> None:
    interval(file, 1)
    interval(tmp_path / "usr/lib/tcpnewconn.conf.d/50-a.conf", 2)
    assert load(root=str(tmp_path)).interval == 2


def test_drop_ins_are_read_in_the_order_of_their_names_not_of_their_directories(tmp_path: Path) -> None:
    interval(tmp_path / "etc/tcpnewconn.conf.d/10-a.conf", 1)
    interval(tmp_path / "usr/lib/tcpnewconn.conf.d/30-a.conf", 3)
    interval(tmp_path / "run/tcpnewconn.conf.d/20-a.conf", 2)
    interval(tmp_path / "usr/local/lib/tcpnewconn.conf.d/15-a.conf", 4)
    assert load(root=str(tmp_path)).interval == 3


def test_a_drop_in_hides_those_of_its_name_in_later_directories(tmp_path: Path) -> None:
    for number, directory in enumerate(("usr/lib", "usr/local/lib", "run", "etc"), start=1):
        interval(tmp_path / directory / "tcpnewconn.conf.d/50-a.conf", number)
        assert load(root=str(tmp_path)).interval == number


@pytest.mark.parametrize("mask", ["empty", "null"])
def test_an_empty_drop_in_or_a_link_to_dev_null_hides_it(tmp_path: Path, mask: str) -> None:
    interval(tmp_path / "usr/lib/tcpnewconn.conf.d/50-a.conf", 5)
    masking = write(tmp_path / "etc/tcpnewconn.conf.d/50-a.conf", "")
    if mask == "null":
        masking.unlink()
        masking.symlink_to("/dev/null")
    assert load(root=str(tmp_path)) == DEFAULTS


def test_drop_ins_add_to_lists_and_can_empty_them(tmp_path: Path, file: Path) -> None:
    write(file, "[Report]\nIgnore=:1\n")
    write(tmp_path / "etc/tcpnewconn.conf.d/1.conf", "[Report]\nIgnore=:2\n")
    assert load(root=str(tmp_path)).ignore == rules(":1", ":2")
    write(tmp_path / "etc/tcpnewconn.conf.d/2.conf", "[Report]\nIgnore=\nIgnore=:3\n")
    assert load(root=str(tmp_path)).ignore == rules(":3")


def test_a_section_does_not_reach_into_the_next_file(tmp_path: Path, file: Path) -> None:
    interval(file, 1)
    drop_in = write(tmp_path / "etc/tcpnewconn.conf.d/1.conf", "Interval=2\n")
    with pytest.raises(ConfigError) as caught:
        load(root=str(tmp_path))
    assert str(caught.value) == f"{drop_in}:1: Interval=2: outside of a section; put it below [Poll]"
    assert [(problem.file, problem.line) for problem in caught.value.problems] == [(str(drop_in), 1)]


def test_a_file_that_is_no_drop_in_is_left_alone(tmp_path: Path) -> None:
    for name in ("README", "50-a.conf~", "50-a.conf.dpkg-old", ".50-a.conf", "50-a.conf.bak"):
        write(tmp_path / "etc/tcpnewconn.conf.d" / name, "nonsense")
    assert load(root=str(tmp_path)) == DEFAULTS


def test_a_file_that_was_named_is_all_that_is_read(tmp_path: Path, file: Path) -> None:
    write(file, "nonsense")
    write(tmp_path / "etc/tcpnewconn.conf.d/1.conf", "nonsense")
    interval(tmp_path / "mine.conf", 3)
    interval(tmp_path / "mine.conf.d/1.conf", 4)
    assert load(str(tmp_path / "mine.conf"), root=str(tmp_path)).interval == 3
    assert load("/dev/null", root=str(tmp_path)) == DEFAULTS


LISTED = """
import sys
sys.addaudithook(lambda event, arguments: event in ("os.listdir", "os.scandir") and print(arguments[0]))
from tcpnewconn.settings.config import load
load()
"""


def test_the_real_directories_are_searched_by_default() -> None:
    asked = [sys.executable, "-c", LISTED]
    done = subprocess.run(asked, capture_output=True, text=True, check=True, cwd=Path(__file__).parents[2])
    for directory in ("/etc", "/run", "/usr/local/lib", "/usr/lib"):
        assert f"{directory}/tcpnewconn.conf.d" in done.stdout.splitlines()


# The one line that says what is wrong


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (
            "# first\n[Poll]\nInterval=fast\n",
            ":3: [Poll] Interval=fast: not a time span; use for example 10s, 500ms or 1min",
        ),
        ("[Poll]\nInterval=50ms", ":2: [Poll] Interval=50ms: too short; use at least 100ms"),
        ("[Poll]\nInterval=2d", ":2: [Poll] Interval=2d: too long; use at most 1d"),
        (
            "[Poll]\nInterval=infinity",
            ":2: [Poll] Interval=infinity: must end; use for example 10s, 500ms or 1min",
        ),
        ("[Report]\nClosed=ja", ":2: [Report] Closed=ja: not a boolean; use yes or no"),
        (
            "[Report]\nClosed=no # for now",
            ":2: [Report] Closed=no # for now: not a boolean; use yes or no; a comment needs a line of its own",
        ),
        (
            "[Report]\n\nIgnore=127.0.0.0/8 10.1.2.3/8 ::1",
            ":3: [Report] Ignore=10.1.2.3/8: not where a /8 network starts; "
            "use 10.0.0.0/8, or 10.1.2.3 for this address alone",
        ),
        (
            "[Report]\nIgnore=127.0.0.0/8 \\\n\n[Pol]\n",
            ":4: [Pol]: unknown section; did you mean [Poll]?",
        ),
        ("[Poll]\nIntervall=5", ":2: [Poll] Intervall=5: unknown setting; did you mean Interval=?"),
        ("[Poll]\nINTERVAL=5", ":2: [Poll] INTERVAL=5: unknown setting; did you mean Interval=?"),
        ("[Poll]\nExisting=no", ":2: [Poll] Existing=no: in the wrong section; put it below [Report]"),
        (
            "[Report]\nColour=red",
            ":2: [Report] Colour=red: unknown setting; use Existing= or Listeners= or Closed= or Failed= or CommandLine= or "
            "Ignore= or BurstLimit= or TotalLimit=",
        ),
        (
            "[Colours]\n",
            ":1: [Colours]: unknown section; use [Poll] or [Report] or [PortScan] "
            "or [Trace] or [Namespaces] or [Ledger] or [FirstSeen]",
        ),
        ("[poll]\n", ":1: [poll]: unknown section; did you mean [Poll]?"),
        ("[read]\n", ":1: [read]: unknown section; did you mean [Poll]?"),
        ("[Read]\n", ":1: [Read]: renamed; use [Poll]"),
        ("[Scan]\nPorts=5\n", ":1: [Scan]: renamed; use [PortScan]"),
        (
            "[PortScan]\nTrusted=192.0.2.0/24 :80\n",
            ":2: [PortScan] Trusted=:80: only the network has an effect here; "
            "use a network or an address, such as 10.0.0.0/8 or ::1",
        ),
        (
            "[PortScan]\nTrusted=ingress:192.0.2.0/24\n",
            ":2: [PortScan] Trusted=ingress:192.0.2.0/24: only the network has an effect here; "
            "use a network or an address, such as 10.0.0.0/8 or ::1",
        ),
        (
            "[Report]\nIgnore=:8099-8000",
            ":2: [Report] Ignore=:8099-8000: a range of ports begins with the lower one; use 8000-8099",
        ),
        (
            "[Report]\nIgnore=unit:cron",
            ":2: [Report] Ignore=unit:cron: a unit that has connections ends in "
            ".service, .scope, .socket, .mount, .swap; use for example cron.service",
        ),
        (
            "[Report]\nIgnore=:80 # the web server",
            ":2: [Report] Ignore=#: # is not an address; use a network, port or both, such as 10.0.0.0/8, "
            ":9100, 10.0.0.0/8:80-89 or egress:[2001:db8::/32]:443, or unit:, user:, thread:, container:NAME; "
            ""
            "a comment needs a line of its own",
        ),
        (
            "[]\n",
            ":1: []: unknown section; use [Poll] or [Report] or [PortScan] or [Trace] or [Namespaces] or [Ledger] or "
            "[FirstSeen]",
        ),
        (
            "[Namespaces]\nInclude=some\n",
            ":2: [Namespaces] Include=some: use host, or all",
        ),
        (
            "[Namespaces]\nCPUQuota=0.05%\n",
            ":2: [Namespaces] CPUQuota=0.05%: use a share of one CPU from 0.1% to 100%, for example 1%",
        ),
        (
            "[Namespaces]\nContainerNames=names\n",
            ":2: [Namespaces] ContainerNames=names: use an absolute path, or off",
        ),
        (
            "[Namespaces]\nCPUQuota=1\n",
            ":2: [Namespaces] CPUQuota=1: use a share of one CPU from 0.1% to 100%, for example 1%",
        ),
        ("[Read\n", ":1: [Read: a section ends with ]; use for example [Poll]"),
        ("Interval=5\n", ":1: Interval=5: outside of a section; put it below [Poll]"),
        ("Colour=red\n", ":1: Colour=red: outside of a section; put it below a section such as [Poll]"),
        ("[Poll]\nInterval 5\n", ":2: Interval 5: not an assignment; use for example Interval=10s"),
        ("[Poll]\n=5\n", ":2: =5: not an assignment; use for example Interval=10s"),
        (b"[Poll]\n\n# caf\xe9\n", ":3: byte 0xe9 is not UTF-8; save the file as UTF-8"),
        (b"[Poll]\nInterval=\x001\n", ":2: holds a NUL byte; save the file as plain text in UTF-8"),
        (b"\xef\xbb\xbf[Poll]\n", ":1: starts with a byte order mark; save the file as UTF-8 without one"),
        (b"\xff\xfe[\0R\0", ":1: holds a NUL byte; save the file as plain text in UTF-8"),
        (b"#" * (1 << 20) + b"\n", ": larger than 1 MiB; this is no configuration file"),
    ],
)
def test_it_names_file_line_setting_what_was_given_and_what_is_right(
    file: Path, content: str | bytes, said: str
) -> None:
    assert error(file, content) == said


def test_of_a_continued_line_the_first_is_named(file: Path) -> None:
    assert error(file, "[Report]\nIgnore=:1 \\\n  :2 \\\n :x\n").startswith(":2: [Report] Ignore=:x: a port is")


def test_nobody_can_forge_a_second_line_or_steer_the_terminal(file: Path) -> None:
    said = error(file, "[Poll]\nInterval=1\r2\x1b[2J\x85\u2028\u202e\x0c3\n")
    assert r"Interval=1\r2\x1b[2J\x85\u2028\u202e\x0c3: not a time span" in said
    assert said.isprintable()


def test_a_long_value_is_cut(file: Path) -> None:
    said = error(file, "[Poll]\nInterval=" + "x" * 100_000)
    assert len(said) < 400
    assert "xxx…: not a time span" in said


def test_the_name_of_a_file_cannot_forge_a_line_either(tmp_path: Path) -> None:
    name = os.fsdecode(b"/etc/tcpnewconn.conf.d/1\n\xff.conf")
    write(Path(f"{tmp_path}{name}"), "nonsense")
    with pytest.raises(ConfigError) as caught:
        load(root=str(tmp_path))
    assert str(caught.value).isprintable()
    assert r"1\n\udcff.conf:1: nonsense: not an assignment" in str(caught.value)


def test_a_file_that_was_named_must_be_there(tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        load(str(tmp_path / "none.conf"))
    assert str(caught.value) == f"{tmp_path}/none.conf: cannot be read: No such file or directory"


def test_a_link_to_nowhere_is_said(tmp_path: Path, file: Path) -> None:
    interval(tmp_path / "usr/lib/tcpnewconn.conf", 1)
    file.parent.mkdir()
    file.symlink_to("nowhere")
    with pytest.raises(ConfigError, match="etc/tcpnewconn.conf: cannot be read: No such file or directory$"):
        load(root=str(tmp_path))


def test_a_directory_in_place_of_a_file_and_a_file_in_place_of_a_directory_are_said(tmp_path: Path, file: Path) -> None:
    file.mkdir(parents=True)
    with pytest.raises(ConfigError, match="etc/tcpnewconn.conf: cannot be read: Is a directory$"):
        load(root=str(tmp_path))
    file.rmdir()
    write(tmp_path / "etc/tcpnewconn.conf.d", "")
    with pytest.raises(ConfigError, match=r"etc/tcpnewconn.conf.d: cannot be read: Not a directory$"):
        load(root=str(tmp_path))


def test_a_pipe_that_nobody_writes_to_stops_nothing(tmp_path: Path, file: Path) -> None:
    file.parent.mkdir()
    os.mkfifo(file)
    assert stat.S_ISFIFO(file.stat().st_mode)
    assert load(root=str(tmp_path)) == DEFAULTS


def test_an_endless_file_stops_nothing(tmp_path: Path, file: Path) -> None:
    file.parent.mkdir()
    file.symlink_to("/dev/zero")
    with pytest.raises(ConfigError, match="larger than 1 MiB"):
        load(root=str(tmp_path))


@pytest.mark.parametrize(
    ("path", "mode"),
    [("etc/tcpnewconn.conf", "644"), ("etc/tcpnewconn.conf.d", "755"), ("etc/tcpnewconn.conf.d/1.conf", "644")],
)
def test_a_file_that_the_service_may_not_read_is_named_with_the_remedy(tmp_path: Path, path: str, mode: str) -> None:
    interval(tmp_path / "etc/tcpnewconn.conf", 1)
    interval(tmp_path / "etc/tcpnewconn.conf.d/1.conf", 1)
    os.chmod(tmp_path / path, 0)
    program = f"""
import sys
sys.path.insert(0, {str(Path(__file__).parents[2])!r})
from tcpnewconn.settings.config import ConfigError, load
try:
    load(root={str(tmp_path)!r})
except ConfigError as error:
    print(error)
"""
    # Root may read everything, unless it has no capabilities.
    unprivileged = ["setpriv", "--inh-caps=-all", "--bounding-set=-all"] if os.getuid() == 0 else []
    command = [*unprivileged, sys.executable, "-c", program]
    said = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert said == f"{tmp_path}/{path}: cannot be read: Permission denied; make it readable with chmod {mode}\n"


# All of it


def problems(main: Path | None, root: Path) -> list[str]:
    """Everything that is wrong, without the directory of the files."""
    with pytest.raises(ConfigError) as caught:
        load(None if main is None else str(main), str(root))
    said = [str(problem) for problem in caught.value.problems]
    first = said[0] if len(said) == 1 else f"{said[0]} (and {len(said) - 1} more; see tcpnewconn check-config)"
    assert str(caught.value) == first
    assert all(line.isprintable() for line in said)
    return [line.replace(f"{root}/", "") for line in said]


def test_every_error_of_every_file_is_said_in_order(tmp_path: Path, file: Path) -> None:
    write(file, "Closed=yes\n[Read]\nInterval=fast\n[Colours]\nRed=1\n[Report]\nIgnore=:0 :80 :x, user:\nbare\n")
    (tmp_path / "run/tcpnewconn.conf.d").parent.mkdir()
    write(tmp_path / "run/tcpnewconn.conf.d", "")
    write(tmp_path / "etc/tcpnewconn.conf.d/20-b.conf", "[PortScan]\nTrusted=:80\n")
    (tmp_path / "etc/tcpnewconn.conf.d/10-a.conf").symlink_to("nowhere")
    port = "a port is a number from 1 to 65535, a range two of them, such as 8000-8099"
    assert problems(None, tmp_path) == [
        "run/tcpnewconn.conf.d: cannot be read: Not a directory",
        "etc/tcpnewconn.conf:1: Closed=yes: outside of a section; put it below [Report]",
        "etc/tcpnewconn.conf:2: [Read]: renamed; use [Poll]",
        "etc/tcpnewconn.conf:3: [Poll] Interval=fast: not a time span; use for example 10s, 500ms or 1min",
        "etc/tcpnewconn.conf:4: [Colours]: unknown section; "
        "use [Poll] or [Report] or [PortScan] or [Trace] or [Namespaces] or [Ledger] or [FirstSeen]",
        f"etc/tcpnewconn.conf:7: [Report] Ignore=:0: {port}",
        f"etc/tcpnewconn.conf:7: [Report] Ignore=:x: {port}",
        "etc/tcpnewconn.conf:7: [Report] Ignore=user:: not the name of a user; use for example user:nobody",
        "etc/tcpnewconn.conf:8: bare: not an assignment; use for example Interval=10s",
        "etc/tcpnewconn.conf.d/10-a.conf: cannot be read: No such file or directory",
        "etc/tcpnewconn.conf.d/20-b.conf:2: [PortScan] Trusted=:80: only the network has an effect here; "
        "use a network or an address, such as 10.0.0.0/8 or ::1",
    ]


def test_after_a_byte_that_is_not_utf_8_the_rest_is_checked_too(tmp_path: Path) -> None:
    file = tmp_path / "given.conf"
    file.write_bytes(b"\xef\xbb\xbf# caf\xe9\n[Poll]\nInterval=1\xff\nInterval=fast\n")
    assert problems(file, tmp_path) == [
        "given.conf:1: starts with a byte order mark; save the file as UTF-8 without one",
        "given.conf:1: byte 0xe9 is not UTF-8; save the file as UTF-8",
        "given.conf:3: byte 0xff is not UTF-8; save the file as UTF-8",
        "given.conf:4: [Poll] Interval=fast: not a time span; use for example 10s, 500ms or 1min",
    ]


# The settings in force, and where they come from


def test_it_says_which_files_were_read_and_what_each_setting_comes_from(tmp_path: Path, file: Path) -> None:
    assert read(root=str(tmp_path)).files == ()
    write(file, "[Poll]\nInterval=5\n[Report]\nIgnore=:1\nIgnore=\nIgnore=127.0.0.0/8, \\\n  ::1\nClosed=on\n")
    drop_in = write(
        tmp_path / "run/tcpnewconn.conf.d/1\n.conf",
        "[Poll]\nInterval=90\n[Report]\nIgnore=:8000-8099\nClosed=\n[PortScan]\nPorts=off\n",
    )
    configuration = read(root=str(tmp_path))
    assert configuration.files == (str(file), str(drop_in))
    place = str(drop_in).replace("\n", "\\n")
    assert (
        configuration.text()
        == f"""\
[Poll]
# {place}:2
Interval=1min 30s

[Report]
# default
Existing=yes
# default
Listeners=yes
# default
Closed=no
# default
Failed=no
# default
CommandLine=no
# {file}:6
Ignore=127.0.0.0/8 ::1
# {place}:4
Ignore=:8000-8099
# default
BurstLimit=100
# default
TotalLimit=1000

[PortScan]
# {place}:7
Ports=off
# default
Within=60s
# default
Trusted=

[Trace]
# default
Accept=yes

[Namespaces]
# default
Include=host
# default
CPUQuota=1%
# default
ContainerNames=off

[Ledger]
# default
Keep=90d
# default
Size=64M
# default
Peers=250

[FirstSeen]
# default
Log=no
# default
Learning=7d
# default
EventLimit=50
"""
    )


VALUES = {
    "interval": st.integers(100_000, 86_400_000_000).map(lambda count: format_span(count / 1e6)),
    "within": st.integers(1, 3600).map(lambda count: f"{count}s"),
    "keep": st.integers(8, 3660).map(lambda count: f"{count}d"),
    "size": st.integers(16, 16 << 10).map(lambda count: f"{count}M"),
    "peers": st.integers(1, 100_000).map(str),
    "learning": st.integers(0, 366).map(lambda count: f"{count}d"),
    "path": st.sampled_from(("off", "/run/names", "/srv/a b")),
    "include": st.sampled_from(("host", "all")),
    "quota": st.integers(1, 1000).map(lambda count: f"{count / 10}%"),
    "boolean": st.sampled_from(("yes", "no", "1", "off")),
    "limit": st.integers(0, 1_000_000).map(str),
    "ports": st.sampled_from(("off", "1", "1000")),
    "rules": st.lists(
        st.sampled_from(
            (
                ":1",
                "egress:10.0.0.0/8:1-9",
                "[::1]:2",
                "unit:a*.service",
                r"user:A\b",
                "process:a?b",
                "egress:thread:c*",
                "container:web",
                "ingress:runtime:docker",
                "netns:4026532205",
                "::/0",
            )
        )
    ).map(", ".join),
    "networks": st.lists(st.sampled_from(("10.0.0.0/8", "[::1]", "2001:db8::/32"))).map(" ".join),
}


@given(st.lists(st.sampled_from(SETTINGS).flatmap(lambda each: st.tuples(st.just(each), VALUES[each.kind]))))
def test_the_shown_text_is_a_configuration_with_the_same_settings(
    tmp_path_factory: pytest.TempPathFactory, given_values: list[tuple[Setting, str]]
) -> None:
    given = tmp_path_factory.getbasetemp() / f"given-{os.getpid()}.conf"
    given.write_text("".join(f"[{each.section}]\n{each.name}={value}\n" for each, value in given_values))
    configuration = read(str(given))
    shown = given.with_suffix(".shown")
    shown.write_text(configuration.text())
    assert load(str(shown)) == configuration.settings


PIECES = st.sampled_from(
    [
        *"[]=\\#; \t\r\n\0",
        "[Poll]\n",
        "[Report]\n",
        "Interval=",
        "Ignore=",
        "Closed=",
        "10s",
        ":443",
        "::1/",
        "\x1b",
        "é",
    ]
)


@given(st.one_of(st.binary(max_size=200), st.lists(PIECES, max_size=30).map(lambda pieces: "".join(pieces).encode())))
@example(b"[Poll]\nInterval=1\x85\n")
@example(b"\\")
def test_any_bytes_are_a_configuration_or_one_line_of_error(
    tmp_path_factory: pytest.TempPathFactory, content: bytes
) -> None:
    file = tmp_path_factory.getbasetemp() / f"any-{os.getpid()}.conf"
    file.write_bytes(content)
    try:
        settings = load(str(file))
    except ConfigError as error:
        said = [str(error), *map(str, error.problems)]
    else:
        assert 0.1 <= settings.interval <= 86400
        return
    for line in said:
        assert line.startswith(str(file))
        assert line.isprintable()
        assert len(line) < 1000
