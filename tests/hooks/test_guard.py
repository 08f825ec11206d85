"""The script between a generator's hook and megamod: whatever becomes of megamod, an image results."""

from __future__ import annotations

import os
import shlex
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from megamod.common.errors import MegamodError
from megamod.hooks.generators.install import install
from megamod.hooks.generators.program_trust import trust_list
from tests.hooks.debian_systems import need_root

ENVIRONMENT = {"PATH": "/usr/local/bin:/usr/bin:/bin"}
GUARD = Path(__file__).resolve().parents[2] / "initramfs/megamod/hooks/generators/guard"
WARNING = "megamod: warning: the image is as dracut made it: "
SETTLED = """\
case "$*" in *--image-root*) while [ "$1" != --image-root ]; do shift; done ;; esac
cd "$2" || exit 9
echo new >.megamod-1-0
: >.megamod-lock
"""


@pytest.fixture
def system(tmp_path: Path) -> Path:
    """A system with dracut's hook, which is to call `program`; `image` is an image root."""
    (tmp_path / "usr/lib/dracut/modules.d").mkdir(parents=True)
    (tmp_path / "image").mkdir()
    (tmp_path / "image/init").write_text("#!/bin/sh\n")
    install("dracut", root=tmp_path, entry="hook-points", program=tmp_path / "program")
    return tmp_path


def program(system: Path, text: str, *, interpreter: str = "/bin/sh") -> None:
    (system / "program").write_text(f"#!{interpreter}\n{text}")
    (system / "program").chmod(0o755)


def guard(system: Path, *options: str, settings: str = "", **environment: str) -> subprocess.CompletedProcess[str]:
    (system / "etc/megamod/hook.conf").write_text(settings)
    command = [system / "etc/megamod/hooks/dracut.run", "dracut", system / "image", "6.1.0", "/lib/modules/6.1.0"]
    return subprocess.run(
        [*command, *options], env={**ENVIRONMENT, **environment}, capture_output=True, text=True, check=False
    )


def image(system: Path) -> dict[str, str]:
    return {path.name: path.read_text() for path in (system / "image").iterdir()}


FAULTS = {
    "missing": (None, "/bin/sh", "/program is not there"),
    "broken interpreter": ("", "/nowhere/python", "/program ended with status 127: "),
    "no package": ("import megamod_that_is_gone\n", sys.executable, "No module named 'megamod_that_is_gone'"),
    "exit status": (
        "echo a traceback >&2; echo megamod: no >&2; exit 3\n",
        "/bin/sh",
        "ended with status 3: megamod: no",
    ),
    "killed": ("kill -KILL $$\n", "/bin/sh", "megamod was killed: was there not enough memory?"),
    "hangs": ("sleep 600\n", "/bin/sh", "megamod took longer than 1 s (MEGAMOD_TIMEOUT)"),
}


@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("strict", [False, True])
def test_whatever_becomes_of_megamod_the_generators_own_image_results(strict: bool, fault: str, system: Path) -> None:
    text, interpreter, reason = FAULTS[fault]
    if text is not None:
        program(system, text, interpreter=interpreter)
    before = image(system)
    settings = "MEGAMOD_TIMEOUT=1\nnonsense ' here\n" + ("MEGAMOD_STRICT='yes' # please\n" if strict else "")
    done = guard(system, settings=settings)
    assert done.returncode == (1 if strict else 0)
    assert image(system) == before
    [line] = done.stderr.splitlines()
    assert line.startswith("megamod: error: MEGAMOD_STRICT is set, and " if strict else WARNING)
    assert reason in line


def test_what_a_killed_run_has_begun_is_taken_back(system: Path) -> None:
    undo = "put\\t.megamod-1-0\\tinit\\nmade\\tmegamod\\n"
    program(system, f"{SETTLED}mkdir megamod\nprintf '{undo}' >.megamod-journal.undo\nkill -KILL $$\n")
    before = image(system)
    done = guard(system)
    assert (done.returncode, done.stderr.count("\n")) == (0, 1)
    assert image(system) == before


def test_what_a_killed_run_has_decided_is_completed_and_is_no_failure(system: Path) -> None:
    program(system, f"{SETTLED}printf 'put\\t.megamod-1-0\\tinit\\n' >.megamod-journal.redo\nkill -KILL $$\n")
    done = guard(system, settings="MEGAMOD_STRICT=yes\n")
    assert done.returncode == 0
    assert done.stderr == "megamod: the image was completed after megamod had ended with status 137\n"
    assert image(system) == {"init": "new\n"}


def test_what_cannot_be_completed_ends_the_generator(system: Path) -> None:
    (system / "image/folder").mkdir()
    program(system, f"{SETTLED}printf 'put\\t.megamod-1-0\\tfolder\\n' >.megamod-journal.redo\nexit 1\n")
    done = guard(system)
    assert done.returncode == 1
    assert done.stderr.endswith("image: a change that was interrupted cannot be completed\n")


def test_megamod_gets_all_words_its_input_and_nothing_of_the_environment(system: Path) -> None:
    program(system, 'echo "$*"\ncat\nenv | cut -d= -f1 | sort | tr "\\n" " "\n')
    command = [system / "etc/megamod/hooks/dracut.run", "dracut", system / "image", "6.1.0", "/m", "--chosen", "-"]
    done = subprocess.run(
        command,
        env={**ENVIRONMENT, "PYTHONPATH": "/home/user", "HOME": "/home/user", "SOURCE_DATE_EPOCH": "7", "IFS": "x"},
        input="a file\n",
        capture_output=True,
        text=True,
        check=True,
    )
    words, given, names = done.stderr.splitlines()
    assert words == f"hook run dracut --image-root {system}/image --kernel 6.1.0 --modules-dir /m --chosen -"
    assert given == "a file"
    wanted = {"HOME", "LC_ALL", "PATH", "PWD", "PYTHONNOUSERSITE", "PYTHONSAFEPATH", "SOURCE_DATE_EPOCH"}
    assert set(names.split()) - {"_", "SHLVL", "OLDPWD"} == wanted


@pytest.mark.parametrize("change", ["owner", "writable", "folder", "link", "inside"])
def test_root_runs_nothing_that_others_can_change(change: str, system: Path) -> None:
    need_root()
    program(system, "echo ran >&2\n")
    tree = system / "tree"
    tree.mkdir()
    (tree / "module.py").touch()
    (system / "link").symlink_to("program")
    # The root of all is on every way, and has /proc below it, where everybody may write.
    listed = ["/", system, system / "program", system / "link", f"{tree}/"]
    (system / "etc/megamod/hooks/dracut.trust").write_text("".join(f"{path}\n" for path in listed))
    assert guard(system).stderr == "ran\n"
    if change == "owner":
        os.chown(system / "program", 1000, 0)
    elif change == "link":
        os.lchown(system / "link", 1000, 0)
    elif change == "writable":
        (system / "program").chmod(0o777)
    elif change == "folder":
        os.chown(system, 0, 1000)
        system.chmod(0o775)
    else:
        (tree / "module.py").chmod(0o666)
    done = guard(system)
    assert done.returncode == 0
    assert done.stderr.startswith(f"{WARNING}root would run files that others can change: {system}")
    assert "python3 -m venv /opt/megamod" in done.stderr
    assert "ran\n" not in done.stderr


def test_the_program_of_a_user_is_refused_at_once(tmp_path: Path) -> None:
    need_root()
    (tmp_path / "usr/lib/dracut/modules.d").mkdir(parents=True)
    (tmp_path / "home/user/bin").mkdir(parents=True)
    (tmp_path / "home/user/bin/megamod").write_text("#!/bin/sh\n")
    os.chown(tmp_path / "home/user", 1000, 1000)
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(MegamodError, match=r"others can change: .*/home/user belongs to user 1000 \(hint: python3 -m "):
        install("dracut", root=tmp_path, entry=None, program=Path("/home/user/bin/megamod"))
    assert sorted(tmp_path.rglob("*")) == before


def test_the_interpreter_and_a_link_on_the_way_are_looked_at_too(tmp_path: Path) -> None:
    need_root()
    for folder in ("opt/megamod/bin", "home/user", "usr/bin"):
        (tmp_path / folder).mkdir(parents=True)
    (tmp_path / "usr/bin/python3").touch()
    (tmp_path / "opt/megamod/bin/python3").symlink_to("/home/user/python")
    (tmp_path / "home/user/python").symlink_to("/usr/bin/python3")
    (tmp_path / "opt/megamod/bin/megamod").write_text("#!/opt/megamod/bin/python3\n")
    program = Path("/opt/megamod/bin/megamod")
    listed = trust_list(program, root=tmp_path)
    assert {"/", "/opt/megamod/bin/megamod", "/home/user", "/home/user/python", "/usr/bin/python3"} <= set(listed)
    os.chown(tmp_path / "home/user", 1000, 1000)
    with pytest.raises(MegamodError, match="/home/user belongs to user 1000"):
        trust_list(program, root=tmp_path)


def test_the_list_of_this_very_program_names_its_environment(tmp_path: Path) -> None:
    listed = trust_list(Path(sys.prefix) / "bin/megamod", root=Path("/"))
    assert f"{sys.prefix}/" in listed
    assert sys.executable in listed
    assert all(Path(name).exists() or Path(name).is_symlink() for name in listed), shlex.join(listed)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_a_signal_ends_a_command_and_leaves_no_folder_behind(number: signal.Signals, tmp_path: Path) -> None:
    """As the time limit does."""
    script = (
        "import pathlib, sys, tempfile, time\nimport click\nfrom megamod.cli import main as program\n"
        "def command(**_words):\n    with tempfile.TemporaryDirectory(dir=sys.argv[1]):\n"
        "        print('ready', flush=True)\n        time.sleep(600)\n"
        "program.cli.main = command\nsys.exit(program.main())\n"
    )
    process = subprocess.Popen([sys.executable, "-c", script, tmp_path], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    assert len(list(tmp_path.iterdir())) == 1
    process.send_signal(number)
    assert process.wait(timeout=300) == -number
    assert list(tmp_path.iterdir()) == []


_DRACUT = """\
dwarn() { echo "$*" >&2; }; dfatal() { echo "$*" >&2; }; dracut_module_included() { return 1; }
inst_hook() { echo "inst_hook $*"; }
initdir=$1 kernel=6.1.0 srcmods=/lib/modules/6.1.0 moddir=/hook
. "$2"; installkernel
"""
_INITRAMFS_TOOLS = (
    'DESTDIR=$1 version=6.1.0 MODULESDIR=/lib/modules/6.1.0; export DESTDIR version MODULESDIR; sh "$2"\n'
)


@pytest.mark.parametrize(
    ("generator", "hook", "driver"),
    [
        ("dracut", "usr/lib/dracut/modules.d/99megamod/module-setup.sh", _DRACUT),
        ("initramfs-tools", "etc/initramfs-tools/hooks/zz-megamod", _INITRAMFS_TOOLS),
    ],
)
@pytest.mark.parametrize("state", ["merged", "failed", "strict", "no guard"])
def test_the_hook_of_a_generator_fails_only_when_strict(
    state: str, generator: str, hook: str, driver: str, tmp_path: Path
) -> None:
    for folder in ("usr/lib/dracut/modules.d", "usr/share/initramfs-tools", "image/conf/conf.d"):
        (tmp_path / folder).mkdir(parents=True)
    (tmp_path / "usr/share/initramfs-tools/hook-functions").touch()
    install(generator, root=tmp_path, entry="hook-points", program=tmp_path / "program")  # type: ignore[arg-type]
    program(tmp_path, "mkdir image/megamod && touch image/megamod/plan\n" if state == "merged" else "exit 7\n")
    (tmp_path / "etc/megamod/hook.conf").write_text("MEGAMOD_STRICT=yes\n" if state == "strict" else "")
    if state == "no guard":
        (tmp_path / f"etc/megamod/hooks/{generator}.run").unlink()
    # Hooks name files by absolute paths; here they are below a folder.
    text = (tmp_path / hook).read_text().replace("/etc/megamod", f"{tmp_path}/etc/megamod")
    (tmp_path / "hook").write_text(text.replace("/usr/share/", f"{tmp_path}/usr/share/"))
    command = ["bash", "-c", f"{driver}\nstatus=$?; echo went on; exit $status", "bash", "image", tmp_path / "hook"]
    done = subprocess.run(command, env=ENVIRONMENT, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert (done.returncode != 0) == (state == "strict"), done.stderr
    assert ("megamod: warning: the image is as " in done.stderr or "megamod: the image is as" in done.stderr) == (
        state in ("failed", "no guard")
    )
    if generator != "dracut":  # whose link is made by another function
        assert (tmp_path / "image/megamod-init").readlink() == Path("init")
    started = "inst_hook pre-udev" in done.stdout or (tmp_path / "image/conf/conf.d/megamod").exists()
    assert started == (state == "merged")


@pytest.mark.parametrize("fault", ["missing", "fails"])
def test_an_image_of_older_modules_is_not_started_once_its_update_fails(fault: str, tmp_path: Path) -> None:
    """Whatever the boot loader, and with nothing but the shell; other kernels' images and entries stay."""
    ours = {
        "boot/megamod/6.1.0-5-0123456789ab.img",
        "boot/efi/loader/entries/token-6.1.0-5.megamod.conf",
        "boot/efi/loader/entries/token-6.1.0-5.megamod+2-1.conf",
        "efi/EFI/Linux/token-6.1.0-5.megamod-old.efi",
    }
    others = {
        "boot/megamod/6.1.0-57-0123456789ab.img",
        "boot/megamod/entries",
        "boot/efi/loader/entries/token-6.1.0-5.conf",
        "boot/efi/loader/entries/token-6.1.0-57.megamod.conf",
        "efi/EFI/Linux/token-6.1.0-5.efi",
    }
    for name in (*ours, *others):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    guard_file = tmp_path / "usr/lib/megamod/image-guard"
    guard_file.parent.mkdir(parents=True)
    guard_file.write_bytes(GUARD.read_bytes())
    (tmp_path / "etc/megamod").mkdir(parents=True)
    if fault == "fails":
        program(tmp_path, "exit 1\n")
    (tmp_path / "etc/megamod/image.conf").write_text(f"MEGAMOD={tmp_path}/program\n")
    command = ["sh", guard_file, "image", "--update", "--menu", "-k", "6.1.0-5"]
    done = subprocess.run(command, env=ENVIRONMENT, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "megamod: warning: this kernel boots as the generator has made it: " in done.stderr
    assert not [name for name in ours if (tmp_path / name).exists()]
    assert all((tmp_path / name).exists() for name in others)
