"""/etc/tcpnewconn.conf as it is installed: every setting, with its default, and nothing in force."""

import os
import re
from pathlib import Path

import pytest

from tcpnewconn.settings import config
from tcpnewconn.settings.setting import SETTINGS
from tests.support import built
from tests.support.debfile import control_of

SHIPPED = built.TREE / "tcpnewconn.conf"


def test_the_configuration_file_shows_every_setting_with_its_default() -> None:
    lines = SHIPPED.read_text().split("\n")
    head, rest = lines[: lines.index("")], lines[lines.index("") :]
    assert all(line.startswith("# ") for line in head)
    expected: list[str] = []
    for section in dict.fromkeys(setting.section for setting in SETTINGS):
        expected += ["", f"[{section}]"]
        for setting in SETTINGS:
            if setting.section == section:
                expected += [f"# {setting.meaning}", f"#{setting.name}={setting.default}"]
    assert rest == [*expected, ""]


def test_the_configuration_file_changes_nothing(tmp_path: Path) -> None:
    assert config.load(str(SHIPPED)) == config.load(os.devnull)
    # Nor does it with every setting in force.
    given = tmp_path / "given.conf"
    given.write_text(re.sub(r"(?m)^#(?=\w+=)", "", SHIPPED.read_text()))
    assert config.load(str(given)) == config.load(os.devnull)


@pytest.mark.apt
def test_it_is_a_conffile(tmp_path: Path) -> None:
    assert "/etc/tcpnewconn.conf" in control_of(built.deb(), tmp_path / "control")["conffiles"].split()
