"""What `sudo -E` leads root to: files, folders, links and programs of the user who calls. A table of cases, each
refused or passed over by name; nothing of the system changes."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from megamod.common import trust
from megamod.common.errors import MegamodError
from megamod.common.host import find_program
from megamod.loader import programs
from tests.hooks.debian_systems import need_root
from tests.unit.boot_systems import KERNEL, put, systemd_boot_system

USER = 1000
SOURCE = Path(trust.__file__).parents[2]
PROFILE = "critical: {modules: [ext4]}\n"


@pytest.fixture
def home(tmp_path: Path) -> Iterator[Path]:
    """A user's home, with a profile, a recorded machine and a key."""
    need_root()
    # Above it all is root's: pytest's own folders are in the way of nobody.
    folder = Path(tempfile.mkdtemp(dir="/tmp"))
    folder.chmod(0o755)
    put(folder / "home", {"own.yaml": PROFILE, "machine/proc/self/mountinfo": "", "bin/depmod": "#!/bin/sh\n"})
    (folder / "home/bin/depmod").chmod(0o755)
    (folder / "home/tmp").mkdir()
    (folder / "home/loaders/x86_64").mkdir(parents=True)
    for name in ("init", "ctl"):
        (folder / f"home/loaders/x86_64/{name}").write_bytes(b"\x7fELF")
    for path in (folder / "home", *(folder / "home").rglob("*")):
        os.lchown(path, USER, USER)
    yield folder / "home"
    shutil.rmtree(folder)


def linked(home: Path) -> Path:
    (home / "link.yaml").symlink_to(roots(home))
    os.lchown(home / "link.yaml", USER, USER)
    return home / "link.yaml"


def roots(home: Path) -> Path:
    (home.parent / "roots.yaml").write_text(PROFILE)
    return home.parent / "roots.yaml"


def inside_his(home: Path) -> Path:
    (home / "roots.yaml").write_text(PROFILE)
    return home / "roots.yaml"


def writable(home: Path) -> Path:
    roots(home).chmod(0o666)
    return roots(home)


CASES: dict[str, tuple[list[str], Callable[[Path], Path], str]] = {
    "deploy, his profile": (["deploy", "-p"], lambda home: home / "own.yaml", "a profile"),
    "deploy, his link to root's profile": (["deploy", "-p"], linked, "a profile"),
    "deploy, root's profile in his folder": (["deploy", "-p"], inside_his, "a profile"),
    "deploy, his recorded machine": (["deploy", "--machine"], lambda home: home / "machine", "a recorded machine"),
    "install, his profile": (["install", "-p"], lambda home: home / "own.yaml", "a profile"),
    "install, his link to root's profile": (["install", "-p"], linked, "a profile"),
    "install, his recorded machine": (["install", "--machine"], lambda home: home / "machine", "a recorded machine"),
}


@pytest.mark.parametrize("case", CASES)
def test_what_the_user_can_change_is_refused(case: str, home: Path) -> None:
    words, make, what = CASES[case]
    root = systemd_boot_system(home.parent / "root")
    named = make(home)
    before = everything(root)
    done = megamod(*words, str(named), "--root", str(root), "-k", KERNEL, home=home)
    assert done.returncode == 1
    assert f"root does not read {what} that others can change: {home} belongs to user 1000" in done.stderr
    assert "(hint: give root a copy of its own" in done.stderr
    assert everything(root) == before


def test_roots_profile_that_everybody_can_write_is_refused(home: Path) -> None:
    root = systemd_boot_system(home.parent / "root")
    done = megamod("deploy", "-p", str(writable(home)), "--root", str(root), "-k", KERNEL, home=home)
    assert "roots.yaml can be written by everybody" in done.stderr


def megamod(*words: str, home: Path) -> subprocess.CompletedProcess[str]:
    """As `sudo -E megamod` runs it: with the user's environment."""
    command = [sys.executable, "-c", "import sys; from megamod.cli.main import main; sys.exit(main())", *words]
    environment = {**os.environ, "PYTHONPATH": str(SOURCE), "HOME": str(home), "TMPDIR": str(home / "tmp")}
    environment |= {"XDG_CACHE_HOME": str(home / ".cache"), "SUDO_UID": str(USER)}
    return subprocess.run(command, capture_output=True, text=True, check=False, env=environment)


def everything(root: Path) -> dict[str, bytes]:
    return {str(path): path.read_bytes() if path.is_file() else b"" for path in sorted(root.rglob("*"))}


def test_his_folder_for_temporary_files_is_not_roots(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """He could exchange a folder there while an image is built in it."""
    monkeypatch.setenv("SUDO_UID", str(USER))
    for name in ("TMPDIR", "TEMP", "TMP"):
        monkeypatch.setenv(name, str(home / "tmp"))
    monkeypatch.setattr(tempfile, "tempdir", None)
    trust.own_temporary_folder()
    assert tempfile.gettempdir() == "/tmp"
    assert "TMPDIR" not in os.environ
    own = home.parent / "tmp"
    own.mkdir()
    monkeypatch.setenv("TMPDIR", str(own))
    monkeypatch.setattr(tempfile, "tempdir", None)
    trust.own_temporary_folder()
    assert tempfile.gettempdir() == str(own)


def test_his_programs_are_passed_over(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", f"{home}/bin:/usr/bin:/bin")
    assert find_program("depmod", package="kmod") == f"{home}/bin/depmod"
    monkeypatch.setenv("SUDO_UID", str(USER))
    assert not find_program("depmod", package="kmod").startswith(str(home))
    (home / "bin/only-his").symlink_to("depmod")
    with pytest.raises(MegamodError, match="only-his: this program is not installed"):
        find_program("only-his", package="none")


def test_his_loaders_are_refused_and_his_compilers_cache_is_not_used(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MEGAMOD_LOADERS", str(home / "loaders"))
    # Under fakeroot, as in a build system, nobody has used sudo.
    assert programs.loader_binary("x86_64") == b"\x7fELF"
    monkeypatch.setenv("SUDO_UID", str(USER))
    with pytest.raises(MegamodError, match="init: root does not read a program that others can change: "):
        programs.loader_binary("x86_64")
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    assert programs._cache_folder() is None
    assert not (home / ".cache").exists()
