"""Links of the installed documentation: packaging/relink turns those into the source tree into links into the repository."""

import subprocess
from pathlib import Path

import pytest

from tests.support import built

REPOSITORY = "https://github.com/tcpnewconn/tcpnewconn/"


@pytest.mark.parametrize(
    ("link", "becomes"),
    [
        ("docs/there.md#part", "docs/there.md#part"),
        ("docs/only-in-the-tree.md#part", f"{REPOSITORY}blob/main/docs/only-in-the-tree.md#part"),
        ("docs", "docs"),
        ("ansible", f"{REPOSITORY}tree/main/ansible"),
        ("https://example.org/docs/gone.md", "https://example.org/docs/gone.md"),
        ("#part", "#part"),
        ("docs/gone.md", None),
    ],
)
def test_a_link_leads_to_what_is_installed_or_into_the_repository(
    tmp_path: Path, link: str, becomes: str | None
) -> None:
    tree, installed = tmp_path / "tree", tmp_path / "installed"
    for path in (
        "tree/docs/there.md",
        "tree/docs/only-in-the-tree.md",
        "tree/ansible/README.md",
        "installed/docs/there.md",
    ):
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).touch()
    page = installed / "README.md"
    page.write_text(f"See [it]({link}), and no more.\n")
    done = subprocess.run([built.TREE / "packaging" / "relink", tree, installed], capture_output=True, text=True)
    if becomes is None:
        assert done.returncode != 0
        assert done.stderr.endswith(f"a link leads to {link}, which is neither installed nor in the tree\n")
    else:
        assert done.returncode == 0, done.stderr
        assert page.read_text() == f"See [it]({becomes}), and no more.\n"
