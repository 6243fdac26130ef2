"""Completions that shells offer: the real bash, zsh and fish, each with its completion script of completion/."""

from __future__ import annotations

import fcntl
import os
import pty
import re
import select
import shlex
import struct
import subprocess
import tempfile
import termios
import time
from collections.abc import Callable
from pathlib import Path

TREE = Path(__file__).resolve().parents[2]
SCRIPTS = TREE / "completion"
SHELLS = ("bash", "zsh", "fish")
# As long as anything may take on a busy machine.
_LONGEST = 60.0

# The offers, each with its description where the shell shows one.
Offered = dict[str, str]


def offered(shell: str, line: str, directory: Path = TREE) -> Offered:
    """The completions that a shell offers for the line."""
    return {"bash": _bash, "zsh": _zsh, "fish": _fish}[shell](line, directory)


def _bash(line: str, directory: Path) -> Offered:
    words = re.findall(r"=|[^\s=]+", line) + ([""] if line.endswith(" ") else [])
    script = f"""
        compopt() {{ :; }}  # works only where readline asks
        source {shlex.quote(str(SCRIPTS / "tcpnewconn"))}
        COMP_WORDS=({shlex.join(words)}) COMP_CWORD={len(words) - 1}
        _tcpnewconn
        [ "${{#COMPREPLY[@]}}" = 0 ] || printf '%s\\n' "${{COMPREPLY[@]}}"
    """
    done = subprocess.run(["bash", "-euc", script], cwd=directory, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    return dict.fromkeys(filter(None, done.stdout.split("\n")), "")


def _fish(line: str, directory: Path) -> Offered:
    script = f"source {shlex.quote(str(SCRIPTS / 'tcpnewconn.fish'))}; complete -C {shlex.quote(line)}"
    with tempfile.TemporaryDirectory(prefix="tcpnewconn-fish-") as home:
        done = subprocess.run(
            ["fish", "--no-config", "-c", script],
            cwd=directory,
            env=os.environ | {"HOME": home},
            capture_output=True,
            text=True,
        )
    assert (done.returncode, done.stderr) == (0, "")
    found = (each.partition("\t") for each in done.stdout.splitlines())
    # fish offers --output=text as a word where the others offer text.
    return {word.partition("=")[2] if "=" in word else word.rstrip("/"): text for word, _, text in found}


# zsh completes only where its line editor runs: in a terminal. compadd gets what is offered, and the lines that show it.
_ZSH = """
PS1= PS2= RPS1=
unsetopt zle_bracketed_paste 2>/dev/null
fpath=({scripts} $fpath)
autoload -Uz compinit && compinit -u -D
compadd() {{
    local -a words shown
    # With one of these, it answers a question of the completion system and offers nothing.
    if [[ ${{@[1,(i)(-|--)]}} == *-(O|A|D)\\ * ]]; then
        builtin compadd "$@"
        return
    fi
    local -a given=("$@") display
    integer at=${{given[(I)-*d]}}
    (( at )) && [[ -n ${{given[at+1]}} ]] && display=("${{(@P)given[at+1]}}")
    builtin compadd -A words -D display "$@"
    integer number
    for (( number = 1; number <= $#words; number++ )); do
        print -r -- "${{words[number]}}	${{display[number]}}" >>{offered}
    done
    builtin compadd "$@"
}}
ended() {{ print >{ended} }}
comppostfuncs=(ended)
zstyle ':completion:*' list-separator '--'
cd {directory}
print -n READY
"""


def _zsh(line: str, directory: Path) -> Offered:
    with tempfile.TemporaryDirectory(prefix="tcpnewconn-zsh-") as scratch:
        here = Path(scratch)
        (here / "offered").touch()
        names = {"scripts": SCRIPTS, "directory": directory, "offered": here / "offered", "ended": here / "ended"}
        (here / ".zshrc").write_text(_ZSH.format(**{name: shlex.quote(str(path)) for name, path in names.items()}))
        process, terminal = pty.fork()
        if process == 0:
            os.execvpe("zsh", ["zsh", "--no-globalrcs", "-i"], os.environ | {"ZDOTDIR": scratch, "TERM": "xterm"})
        # Wide enough for every description.
        fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", 50, 400, 0, 0))
        try:
            _wait(terminal, lambda screen: b"READY" in screen)
            os.write(terminal, line.encode() + b"\t")
            _wait(terminal, lambda _: (here / "ended").exists())
        finally:
            os.kill(process, 9)
            os.waitpid(process, 0)
            os.close(terminal)
        found = {}
        for each in (here / "offered").read_text().splitlines():
            word, _, text = each.partition("\t")
            found[word.rstrip("/=")] = re.sub(r"^.*? +-- ", "", text) if " -- " in text else ""
        return found


def _wait(terminal: int, condition: Callable[[bytes], bool]) -> None:
    """Until a condition holds; what is written into the terminal meanwhile is read."""
    screen = b""
    until = time.monotonic() + _LONGEST
    while not condition(screen):
        assert time.monotonic() < until, screen
        if select.select([terminal], [], [], 0.02)[0]:
            screen += os.read(terminal, 65536)
