"""The collection and its roles without a host: linted, built, documented, and in agreement with the settings of the program."""

import re
import subprocess
import tarfile
from pathlib import Path
from typing import Any

import pytest
import yaml  # type: ignore[import-untyped,unused-ignore]

import tcpnewconn
from tcpnewconn.reporting.fields import FIELDS
from tcpnewconn.settings.setting import SETTINGS
from tests.support import built, readme, role_variables

ANSIBLE = built.TREE / "ansible"
ROLES = (
    "tcpnewconn",
    "tcpnewconn_log_server",
    "tcpnewconn_clickhouse",
    "tcpnewconn_clickhouse_front",
    "tcpnewconn_prometheus",
)
RULES = sorted((built.TREE / "monitoring" / "prometheus").glob("*.yml"))
ENVIRONMENT = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "LANG": "C.UTF-8"}
# A setting's kind as the type of an Ansible variable.
TYPES = {"boolean": "bool", "rules": "list", "networks": "list", "limit": "int", "peers": "int"}
# Files of a checkout for its own use, and files that ansible-galaxy adds.
ONLY_IN_THE_CHECKOUT = {"ansible.cfg", "galaxy.yml"}
ADDED = {"MANIFEST.json", "FILES.json"}
# Files that administrators and tools leave in a checkout, secrets among them.
LEFT_BEHIND = (
    ".ansible/roles/other/tasks/main.yml",
    "group_vars/all.yml",
    "host_vars/web1.yml",
    "inventory",
    "inventory.yml",
    "ansible.log",
    "ca-key.pem",
    "tcpnewconn.asc",
    "tcpnewconn_0.1.0-1_all.deb",
    "tcpnewconn-tcpnewconn-0.0.9.tar.gz",
    "roles/tcpnewconn/.ansible/leftover",
)
# The sections that antsibull-changelog knows (changelogs/config.yaml).
SECTIONS = {section for section, _ in yaml.safe_load((ANSIBLE / "changelogs/config.yaml").read_text())["sections"]}


def run(
    tmp_path: Path, *command: str, directory: Path = ANSIBLE, **environment: str
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command,
        cwd=directory,
        env=ENVIRONMENT | {"HOME": str(tmp_path)} | environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )


@pytest.fixture(scope="module")
def copy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of ansible/, in a git repository: ansible-lint asks git which files there are. It leaves a directory behind."""
    tree = built.copy_of_tree(tmp_path_factory.mktemp("collection") / "tree")
    assert run(tree, "git", "init", "--quiet", directory=tree).returncode == 0
    return tree / "ansible"


@pytest.fixture(scope="module")
def collection(copy: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The collection's archive, built from a checkout that has been used."""
    place = tmp_path_factory.mktemp("built")
    for name in LEFT_BEHIND:
        (copy / name).parent.mkdir(parents=True, exist_ok=True)
        (copy / name).write_text("not for others")
    done = run(place, "ansible-galaxy", "collection", "build", "--output-path", str(place), directory=copy)
    assert done.returncode == 0, done.stdout
    (archive,) = place.glob("*.tar.gz")
    for name in LEFT_BEHIND:
        (copy / name).unlink()
    return archive


@pytest.mark.apt
def test_ansible_lint_finds_nothing_in_its_production_profile(copy: Path, tmp_path: Path) -> None:
    lint = ["ansible-lint", "--offline", "--nocolor", "--profile=production", "--strict"]
    done = run(tmp_path, *lint, directory=copy)
    assert done.returncode == 0, done.stdout
    assert "Profile 'production' was required, and it passed." in done.stdout


@pytest.mark.apt
def test_the_collection_holds_its_files_and_no_others(collection: Path) -> None:
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard", "--deduplicate"],
        cwd=ANSIBLE,
        capture_output=True,
        text=True,
        check=True,
    )
    ours = {name for name in listed.stdout.splitlines() if (ANSIBLE / name).exists()}
    with tarfile.open(collection) as packed:
        names = {member.name for member in packed if not member.isdir()}
    assert names == (ours - ONLY_IN_THE_CHECKOUT) | ADDED


@pytest.mark.apt
def test_the_collection_holds_the_rules_themselves(collection: Path) -> None:
    # In the tree they are links, which lead out of the collection.
    with tarfile.open(collection) as packed:
        rules = {path.name: packed.extractfile(f"roles/tcpnewconn_prometheus/files/{path.name}") for path in RULES}
        assert {name: file.read() for name, file in rules.items() if file} == {
            path.name: path.read_bytes() for path in RULES
        }


@pytest.mark.parametrize("playbook", ["rollout", "log_server", "clickhouse", "prometheus"])
@pytest.mark.apt
def test_the_collection_can_be_installed_and_its_playbooks_find_their_roles(
    collection: Path, playbook: str, tmp_path: Path
) -> None:
    done = run(tmp_path, "ansible-galaxy", "collection", "install", str(collection), directory=tmp_path)
    assert done.returncode == 0, done.stdout
    hosts = "localhost,"
    done = run(
        tmp_path,
        *("ansible-playbook", f"--inventory={hosts}", "--list-tasks", f"tcpnewconn.tcpnewconn.{playbook}"),
        directory=tmp_path,
    )
    assert done.returncode == 0, done.stdout
    role = "tcpnewconn" if playbook == "rollout" else f"tcpnewconn_{playbook}"
    assert re.search(rf"(?m)^ *(tcpnewconn\.tcpnewconn\.)?{role} : ", done.stdout), done.stdout


@pytest.mark.parametrize("role", ROLES)
def test_each_role_has_a_readme_with_the_table_of_its_variables(role: str) -> None:
    readme = role_variables.readme(role).read_text()
    assert readme.startswith(f"# Role {role}\n")
    assert {"Requirements", "Variables", "Example", "License"} <= set(re.findall(r"(?m)^## (.*)$", readme))
    assert role_variables.table(role) in readme, "rewrite it: python3 -m tests.support.role_variables"
    assert readme == role_variables.with_table(role, readme)


def test_the_readme_of_the_collection_leads_to_each_role() -> None:
    linked = re.findall(r"\]\((roles/\w+/README\.md)\)", (ANSIBLE / "README.md").read_text())
    assert linked == [f"roles/{role}/README.md" for role in ROLES]


def test_links_in_the_collection_stay_in_the_collection() -> None:
    for document in (ANSIBLE / "README.md", *(role_variables.readme(role) for role in ROLES)):
        for link in re.findall(r"\]\(([^)]+)\)", document.read_text()):
            if not link.startswith("https://"):
                assert (document.parent / link).resolve().is_relative_to(ANSIBLE), f"{document}: {link}"
                assert (document.parent / link).exists(), f"{document}: {link}"


@pytest.mark.parametrize("role", ROLES)
def test_each_variable_has_its_default_where_ansible_looks_for_it(role: str) -> None:
    defaults = yaml.safe_load((ANSIBLE / "roles" / role / "defaults/main.yml").read_text())
    options = role_variables.options(role)
    assert defaults == {name: option["default"] for name, option in options.items() if not option.get("required")}
    assert all(name.startswith(role) for name in options)


@pytest.mark.parametrize("role", ROLES)
def test_variables_that_a_role_sets_for_itself_have_the_prefix_of_internal_ones(role: str) -> None:
    own = set()
    for file in sorted((ANSIBLE / "roles" / role).glob("*/*.yml")):
        if file.parent.name in ("tasks", "handlers"):
            for task in yaml.safe_load(file.read_text()):
                own |= own_variables(task)
    assert own
    assert {name for name in own if not name.startswith(f"__{role}_")} == set()


def own_variables(task: dict[str, Any]) -> set[str]:
    names = {task["register"]} if "register" in task else set()
    return names | set(task.get("vars", {})) | set(task.get("ansible.builtin.set_fact", {}))


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


def test_examples_set_only_variables_that_exist() -> None:
    known = {name for role in ROLES for name in role_variables.options(role)}
    of_playbooks = {"tcpnewconn_batches", "tcpnewconn_report_directory", "tcpnewconn_report_options"}
    documents = [
        "README.md",
        "ansible/README.md",
        "docs/fleet.md",
        "docs/clickhouse.md",
        "monitoring/README.md",
        "ansible/playbooks/rollout.yml",
    ]
    documents += [str(role_variables.readme(role).relative_to(built.TREE)) for role in ROLES]
    for document in documents:
        text = (built.TREE / document).read_text()
        named = set(re.findall(r"\b(tcpnewconn_[a-z_]+)(?==|: \S|\": )", text))
        assert named <= known | of_playbooks, document


def test_the_role_for_clickhouse_writes_the_event_that_the_document_writes() -> None:
    """The same statements as docs/events.md has for rsyslog, which a test compares with --output json."""
    section = (built.TREE / "docs/events.md").read_text().split("### rsyslog\n", 1)[1].split("\n### ", 1)[0]
    template = (ANSIBLE / "roles/tcpnewconn_clickhouse/templates/rsyslog.conf.j2").read_text()

    def statements(text: str) -> list[str]:
        lines = [line.strip() for line in text[text.index('if $!_SYSTEMD_UNIT == "tcpnewconn.service"') :].splitlines()]
        return [line for line in lines if re.match(r"(if |set |\})", line)]

    assert len(statements(section)) > 50
    assert statements(template) == statements(section)


def test_the_batches_of_a_rollout_are_a_variable() -> None:
    (play,) = yaml.safe_load((ANSIBLE / "playbooks/rollout.yml").read_text())
    assert play["serial"] == "{{ tcpnewconn_batches | default([1, '10%', '50%', '100%']) }}"


def test_the_readme_shows_the_roll_out_in_ten_lines() -> None:
    (block,) = readme.commands("Roll it out")
    assert len("\n".join(step.command for step in block).splitlines()) == 10


def test_the_collection_has_the_version_of_the_program() -> None:
    assert yaml.safe_load((ANSIBLE / "galaxy.yml").read_text())["version"] == tcpnewconn.__version__


def test_the_changelog_is_what_antsibull_changelog_reads_and_writes() -> None:
    releases = yaml.safe_load((ANSIBLE / "changelogs/changelog.yaml").read_text())["releases"]
    written = (ANSIBLE / "CHANGELOG.rst").read_text()
    assert [f"v{release}" for release in reversed(releases)] == re.findall(r"(?m)^(v\S+)\n=+$", written)
    assert tcpnewconn.__version__ in releases
    for release in releases.values():
        assert release["changes"].keys() <= SECTIONS | {"release_summary"}
        assert release["changes"]["release_summary"] in written
        for section in release["changes"].keys() & SECTIONS:
            for change in release["changes"][section]:
                assert f"- {change}\n" in written


def test_the_mapping_for_other_collectors_names_every_field() -> None:
    mapping = (built.TREE / "docs/fleet.md").read_text().split("## Other collectors", 1)[1]
    missing = [
        field
        for field, key in FIELDS.items()
        if not field.startswith("TCPNEWCONN_")
        and not {f"`{field}`", f"`{key}`"} <= set(re.findall(r"`[^`]+`", mapping))
    ]
    assert missing == []
