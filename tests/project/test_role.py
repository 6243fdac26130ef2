"""What can be said of the roles without a host: linted, described, and true to the program's settings."""

import re
import subprocess
import tarfile
from pathlib import Path

import pytest
import yaml  # type: ignore[import-untyped,unused-ignore]

import tcpnewconn
from tcpnewconn.reporting.entries import FIELDS
from tcpnewconn.settings.config import SETTINGS
from tests.support import built, readme, role_variables

ANSIBLE = built.TREE / "ansible"
ROLES = ("tcpnewconn", "tcpnewconn_centre", "tcpnewconn_prometheus")
RULES = sorted((built.TREE / "monitoring" / "prometheus").glob("*.yml"))
ENVIRONMENT = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "LANG": "C.UTF-8"}
# What a settings' kind is as an Ansible variable.
TYPES = {"boolean": "bool", "rules": "list", "limit": "int"}


def run(tmp_path: Path, *command: str, folder: Path = ANSIBLE) -> subprocess.CompletedProcess[str]:
    environment = ENVIRONMENT | {"HOME": str(tmp_path)}
    return subprocess.run(
        command, cwd=folder, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False
    )


def test_ansible_lint_finds_nothing_in_its_production_profile(tmp_path: Path) -> None:
    # A copy: it leaves a folder .ansible behind. A git repository, because it asks git which files there are.
    copy = built.copy_of_tree(tmp_path / "tree")
    assert run(tmp_path, "git", "init", "--quiet", folder=copy).returncode == 0
    lint = ["ansible-lint", "--offline", "--nocolor", "--profile=production", "--strict"]
    done = run(tmp_path, *lint, folder=copy / "ansible")
    assert done.returncode == 0, done.stdout
    assert "Profile 'production' was required, and it passed." in done.stdout


def test_the_collection_can_be_built(tmp_path: Path) -> None:
    done = run(tmp_path, "ansible-galaxy", "collection", "build", "--output-path", str(tmp_path))
    assert done.returncode == 0, done.stdout
    (archive,) = tmp_path.glob("*.tar.gz")
    with tarfile.open(archive) as packed:
        names = packed.getnames()
        packed_rules = {
            name: packed.extractfile(f"roles/tcpnewconn_prometheus/files/{name}")
            for name in (path.name for path in RULES)
        }
        # Contents, not links that lead out of the collection.
        assert {name: file.read() for name, file in packed_rules.items() if file} == {
            path.name: path.read_bytes() for path in RULES
        }
    assert {"roles/tcpnewconn/tasks/main.yml", "playbooks/rollout.yml", "README.md"} <= set(names)


def test_the_readme_has_the_table_of_variables() -> None:
    readme = role_variables.README.read_text()
    for role in ROLES:
        assert f"<!-- variables of {role} -->" in readme
    assert readme == role_variables.with_tables(readme), "write it anew: python3 -m tests.support.role_variables"


@pytest.mark.parametrize("role", ROLES)
def test_each_variable_has_its_default_where_ansible_looks_for_it(role: str) -> None:
    defaults = yaml.safe_load((ANSIBLE / "roles" / role / "defaults/main.yml").read_text())
    options = role_variables.options(role)
    assert defaults == {name: option["default"] for name, option in options.items() if not option.get("required")}
    assert all(name.startswith(role) for name in options)


def test_every_setting_of_the_program_is_a_setting_of_the_role() -> None:
    sections = role_variables.options("tcpnewconn")["tcpnewconn_settings"]["options"]
    named = {
        (section, name): (option["type"], option["description"])
        for section, its in sections.items()
        for name, option in its["options"].items()
    }
    assert named == {
        (setting.section, setting.name): (TYPES.get(setting.kind, "str"), setting.meaning) for setting in SETTINGS
    }


def test_what_is_shown_sets_variables_that_there_are() -> None:
    known = {name for role in ROLES for name in role_variables.options(role)}
    for document in ("README.md", "ansible/README.md", "docs/fleet.md", "ansible/playbooks/rollout.yml"):
        named = set(re.findall(r"(?m)\b(tcpnewconn_[a-z_]+)=", (built.TREE / document).read_text()))
        assert named <= known, document


def test_the_readme_shows_the_roll_out_in_ten_lines() -> None:
    (block,) = readme.commands("Roll it out")
    assert len("\n".join(step.command for step in block).splitlines()) == 10


def test_the_collection_has_the_version_of_the_program() -> None:
    assert yaml.safe_load((ANSIBLE / "galaxy.yml").read_text())["version"] == tcpnewconn.__version__
    newest = re.search(r"(?m)^## (\S+)", (ANSIBLE / "CHANGELOG.md").read_text())
    assert newest is not None
    assert newest[1] == tcpnewconn.__version__


def test_the_mapping_for_other_collectors_names_every_field() -> None:
    mapping = (built.TREE / "docs/fleet.md").read_text().split("## Other collectors", 1)[1]
    missing = [
        field
        for field, key in FIELDS.items()
        if not field.startswith("TCPNEWCONN_")
        and not {f"`{field}`", f"`{key}`"} <= set(re.findall(r"`[^`]+`", mapping))
    ]
    assert missing == []
