"""A kernel's modules change, and the update of their deployment works, fails or never comes: at the next boot nothing
is loaded that is older than the files on the disk. What `start` decides is asked of the script itself."""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from megamod.boot.debian import Kernel
from megamod.cli.main import cli
from megamod.common.errors import MegamodError
from tests.hooks.killed_calls import make_system

pytestmark = pytest.mark.heavy

MEMBERS = ("dummy", "fat", "vfat")
_SHELL = {"PATH": "/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin"}
# The calls that a stage's loading would make, in place of the keeper.
_KEEPER = "#!/bin/sh\necho loaded >&2\n"


@pytest.fixture(scope="module", params=["times", "timeless"])
def deployed(request: pytest.FixtureRequest, kernels: Callable[[str], Kernel], tmp_path_factory) -> Path:
    """A system with a deployment; where there are no times all modules have the one that ostree gives them."""
    root = tmp_path_factory.mktemp("deployed") / "root"
    modules = make_system(root, kernels("bookworm").modules)
    for path in modules.rglob("*.ko"):
        path.chmod(0o644)
        if request.param == "timeless":
            os.utime(path, (0, 0))
    deploy(root, "-p", str(root / "etc/megamod/test.yaml"))
    return root


def deploy(root: Path, *words: str) -> None:
    release = next((root / "usr/lib/modules").iterdir()).name
    with contextlib.suppress(MegamodError), (root / "said").open("w") as said, contextlib.redirect_stdout(said):
        cli.main(["deploy", "--root", str(root), "-k", release, "--quiet", *words], standalone_mode=False)


@pytest.fixture
def root(deployed: Path, tmp_path: Path) -> Path:
    shutil.copytree(deployed, tmp_path / "root", symlinks=True)
    return tmp_path / "root"


def modules_of(root: Path) -> Path:
    return next((root / "usr/lib/modules").iterdir())


def file_of(root: Path, name: str) -> Path:
    """The file that modprobe would load, by modules.dep."""
    lines = (modules_of(root) / "modules.dep").read_text().splitlines()
    [relpath] = [line.split(":")[0] for line in lines if line.split(":")[0].endswith(f"/{name}.ko")]
    return modules_of(root) / relpath


def rebuilt(path: Path, *, same_size: bool = True) -> None:
    """Another build of a module: a word of its .modinfo is another one, and where files have times it is newer."""
    data = path.read_bytes()
    at = data.index(b"intree=") + len(b"intree=")
    stat = path.stat()
    path.unlink()
    path.write_bytes(data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :] + (b"" if same_size else bytes(8)))
    os.utime(path, (stat.st_mtime + 60, stat.st_mtime + 60) if stat.st_mtime > 1 else (stat.st_mtime, stat.st_mtime))


def depmod(root: Path) -> None:
    subprocess.run(["/sbin/depmod", "-b", root, modules_of(root).name], check=True)


def abi_kept(root: Path) -> None:
    for name in MEMBERS:
        rebuilt(file_of(root, name))


def one_grew(root: Path) -> None:
    rebuilt(file_of(root, "vfat"), same_size=False)


def by_dkms(root: Path) -> None:
    place = modules_of(root) / "updates/dkms/dummy.ko"
    place.parent.mkdir(parents=True)
    shutil.copy2(file_of(root, "dummy"), place)
    rebuilt(place)
    depmod(root)


def by_dkms_before_depmod(root: Path) -> None:
    place = file_of(root, "dummy")
    place.rename(place.with_name("dummy.ko.dkms-original"))
    shutil.copy2(place.with_name("dummy.ko.dkms-original"), place)
    rebuilt(place)


def gone(root: Path) -> None:
    file_of(root, "dummy").unlink()
    depmod(root)


def nothing(_root: Path) -> None:
    return


CHANGES = (nothing, abi_kept, one_grew, by_dkms, by_dkms_before_depmod, gone)
UPDATES = {
    "never comes": None,
    "works": "",
    "program gone": "",
    "disk full": "echo 'megamod: error: No space left on device' >&2; exit 1",
    "killed": "kill -KILL $$",
}


@pytest.mark.parametrize("update", UPDATES)
@pytest.mark.parametrize("change", CHANGES)
def test_no_boot_loads_code_older_than_the_files(change: Callable[[Path], None], update: str, root: Path) -> None:
    change(root)
    if update == "works":
        deploy(root, "--update")
    elif update != "never comes":
        by_guard(root, UPDATES[update] or "", there=update != "program gone")
    loaded = boots(root)
    if loaded:
        old = [line.split() for line in (link(root) / "digests").read_text().splitlines()]
        now = [hashlib.sha256(file_of(root, name).read_bytes()).hexdigest() for _digest, name in old]
        assert [digest for digest, _name in old] == now
    # Nothing is withdrawn for nothing.
    expected = (update == "works" and change is not gone) or (change is nothing and update == "never comes")
    assert loaded == expected, (root / "kmsg").read_text()


def by_guard(root: Path, script: str, *, there: bool) -> None:
    """What the hooks of package managers call."""
    if there:
        (root / "program").write_text(f"#!/bin/sh\n{script}\n")
        (root / "program").chmod(0o755)
    (root / "etc/megamod/deploy.conf").write_text(f"MEGAMOD={root}/program\n")
    (root / "etc/megamod/deploy.trust").write_text("")
    done = subprocess.run([root / "usr/lib/megamod/update", modules_of(root).name], env=_SHELL, capture_output=True)
    assert done.returncode == 0
    assert b"boots without deployed modules" in done.stderr


def link(root: Path) -> Path:
    return root / "usr/lib/megamod" / modules_of(root).name


def boots(root: Path) -> bool:
    """Whether `start` has the keeper load the stages; the unit's condition is that there is a plan."""
    (root / "kmsg").touch()
    if not (link(root) / "plan").exists():
        return False
    (link(root) / "ctl").write_text(_KEEPER)
    text = (root / "usr/lib/megamod/start").read_text()
    for name in ("/usr/lib/megamod", "/lib/modules", "/run/", "/sys/module", "/dev/kmsg"):
        assert name in text
        text = text.replace(name, f"{root}{name}")
    (root / "dev").mkdir()
    (root / "dev/kmsg").touch()
    # What members need is up, or is for modprobe to find.
    text = text.replace('modprobe -qa "$@"', ":")
    done = subprocess.run(["sh", "-c", text, "sh", modules_of(root).name], env=_SHELL, capture_output=True, text=True)
    assert done.returncode == 0
    (root / "kmsg").write_text((root / "dev/kmsg").read_text() + done.stderr)
    return "loaded" in done.stderr
