"""TAB in real shells: bash, zsh and fish complete commands, profiles, kernels, modules, limits and files."""

from __future__ import annotations

import os
import pty
import re
import select
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from megamod.cli import completing

_LONGEST = 120.0
_SHELLS = {
    "bash": ("bash", ["--noprofile", "--norc", "-i"], "source /usr/share/bash-completion/bash_completion"),
    "zsh": ("zsh", ["-f", "-i"], "fpath=($XDG_DATA_HOME/zsh/site-functions $fpath); autoload -U compinit; compinit -u"),
    "fish": ("fish", ["--no-config", "-i"], "set fish_complete_path $XDG_CONFIG_HOME/fish/completions"),
}

# The program as it is installed, with kernels that this machine need not have.
_PROGRAM = """\
#!{python}
import sys
from pathlib import Path
from megamod.cli import completing
from megamod.cli.main import main
completing._MODULES = (Path({modules!r}),)
sys.exit(main())
"""


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """A home with `megamod` in ~/bin, a kernel, and files."""
    kernel = tmp_path / "modules/6.1.0-42-test"
    kernel.mkdir(parents=True)
    (kernel / "modules.order").touch()
    (kernel / "modules.dep").write_text("kernel/fs/ext4/ext4.ko.xz: kernel/fs/jbd2/jbd2.ko.xz\nkernel/zzz.ko:\n")
    (tmp_path / "bin").mkdir()
    program = tmp_path / "bin/megamod"
    program.write_text(_PROGRAM.format(python=sys.executable, modules=str(tmp_path / "modules")))
    program.chmod(0o755)
    (tmp_path / "mycam.yaml").write_text("critical: {modules: [ext4]}\n")
    (tmp_path / "serial.log").touch()
    return tmp_path


def environment(home: Path) -> dict[str, str]:
    kept = {key: value for key, value in os.environ.items() if not key.startswith(("XDG_", "ZDOTDIR", "BASH_"))}
    top = Path(__file__).parents[2] / "initramfs"
    return kept | {
        "HOME": str(home),
        "PATH": f"{home / 'bin'}:{os.environ['PATH']}",
        "PYTHONPATH": str(top),
        "TERM": "xterm",
        "COLUMNS": "200",
        "XDG_DATA_HOME": str(home / ".local/share"),
        "XDG_CONFIG_HOME": str(home / ".config"),
    }


class Terminal:
    """An interactive shell behind a pseudo-terminal."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self.seen = ""

    def send(self, text: str) -> None:
        os.write(self._descriptor, text.encode())

    def wait_for(self, pattern: str) -> None:
        """Read until what the terminal shows has *pattern*."""
        end = time.monotonic() + _LONGEST
        while not re.search(pattern, self.shown()):
            assert time.monotonic() < end, f"no {pattern!r} in {self.shown()[-600:]!r}"
            if select.select([self._descriptor], [], [], 1.0)[0]:
                self.seen += os.read(self._descriptor, 65536).decode(errors="replace")
                if self.seen.endswith(("\x1b[c", "\x1b[0c", "\x1b[>0q")):
                    self.send("\x1b[?62c")  # what are you? a VT220

    def shown(self) -> str:
        """Without the sequences that move the cursor and change colours."""
        return re.sub(
            r"\x1b(?:\[[0-9;?>=]*[a-zA-Z]|\][^\x07\x1b]*(?:\x07|\x1b\\)|[=>]|\([A-Z])|[\r\x07\x08]", "", self.seen
        )


@contextmanager
def shell(name: str, home: Path, tool: Callable[..., str]) -> Iterator[Terminal]:
    program, arguments, setup = _SHELLS[name]
    command = [tool(program, package=program), *arguments]
    child, descriptor = pty.fork()
    if child == 0:
        os.chdir(home)
        os.execve(command[0], command, environment(home))
    try:
        terminal = Terminal(descriptor)
        terminal.send(f"{setup}\n")
        terminal.send("echo READY-$(expr 20 + 2)\n" if name != "fish" else "echo READY-(expr 20 + 2)\n")
        terminal.wait_for(r"READY-22")
        yield terminal
    finally:
        os.kill(child, 9)
        os.waitpid(child, 0)
        os.close(descriptor)


@pytest.mark.heavy
@pytest.mark.parametrize("name", _SHELLS)
def test_tab_completes_in_a_real_shell_after_the_install(name: str, home: Path, tool: Callable[..., str]) -> None:
    done = subprocess.run(
        [home / "bin/megamod", "completion", name, "--install"],
        env=environment(home),
        capture_output=True,
        text=True,
        check=True,
    )
    assert Path(done.stdout.split(": installed")[0]).is_file()
    if name == "bash" and not Path("/usr/share/bash-completion/bash_completion").exists():
        tool("bash-completion", package="bash-completion")
    with shell(name, home, tool) as terminal:
        for typed, completed in (
            ("megamod symb", r"megamod symbolize"),
            ("megamod build deskt", r"megamod build desktop"),
            ("megamod build myc", r"megamod build mycam\.yaml"),
            ("megamod build vm -k 6.1.0-4", r"-k 6\.1\.0-42-test"),
            ("megamod explain vm -k 6.1.0-42-test ext", r"-test ext4"),
            ("megamod boot x.img --budget use", r"--budget userspace="),
            ("megamod chart ser", r"megamod chart serial\.log"),
            ("megamod hook install drac", r"hook install dracut"),
        ):
            terminal.seen = ""
            terminal.send(f"{typed}\t")
            terminal.wait_for(completed)
            terminal.send("\x15")  # the line is empty again


@pytest.mark.parametrize("name", completing.SHELLS)
def test_the_script_of_a_shell_is_one_that_the_shell_reads(name: str, tool: Callable[..., str]) -> None:
    words = [tool(name, package=name), "--no-execute" if name == "fish" else "-n"]
    done = subprocess.run(words, input=completing.script_of(name), capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
