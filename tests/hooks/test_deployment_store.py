"""Deployments on disk, ended at each step: a boot finds a whole one or none, the next command settles the rest."""

from __future__ import annotations

import shutil
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from megamod.common.errors import MegamodError
from megamod.hooks.deploy.deployment_store import changed, put, read_record, take_away, withdraw
from megamod.hooks.transaction import SYSTEM_JOURNAL, NewFile, locked, recover
from tests.hooks.killkit import How, each_step
from tests.hooks.test_deploy import everything

KVER = "6.1.0-1-amd64"
PROGRAM = Path("/opt/megamod/bin/megamod")


def files(content: str, *names: str) -> dict[str, NewFile]:
    return {
        f"usr/lib/megamod/deployments/{KVER}-{content}/{name}": NewFile(data=f"{name} of {content}\n".encode() * 100)
        for name in names
    }


OLD = files("old", "plan", "mask", "megamod_a.ko", "megamod_b.ko")
NEW = files("new", "plan", "mask", "megamod_a.ko")


def make_root(root: Path) -> Path:
    for folder in ("var/lib", "etc/kernel/postinst.d", "usr/lib"):
        (root / folder).mkdir(parents=True)
    return root


def deploy(root: Path, what: dict[str, NewFile], kernel: str = KVER) -> None:
    with locked(root):
        put(root, kernel, what, {"profile": "vm"}, PROGRAM)


def at_boot(root: Path) -> dict[str, bytes] | None:
    """What the unit finds: the files of the kernel's link, None where it is not started."""
    folder = root / "usr/lib/megamod" / KVER
    return {path.name: path.read_bytes() for path in folder.iterdir()} if (folder / "plan").exists() else None


def content(what: dict[str, NewFile]) -> dict[str, bytes]:
    return {name.rpartition("/")[2]: new.data for name, new in what.items()}


WORKS: dict[str, tuple[bool, Callable[[Path], object]]] = {
    "first": (False, lambda root: deploy(root, NEW)),
    "another": (True, lambda root: deploy(root, NEW)),
    "removed": (True, lambda root: take_away(root, None)),
    "withdrawn": (True, lambda root: withdraw(root, KVER)),
}


@pytest.mark.parametrize("work", WORKS)
@pytest.mark.parametrize("how", ["killed", "full"])
def test_ended_at_any_step_it_is_as_before_or_as_after(how: How, work: str, tmp_path: Path) -> None:
    begun, change = WORKS[work]
    start = make_root(tmp_path / "start")
    if begun:
        deploy(start, OLD)
    done = tmp_path / "done"
    shutil.copytree(start, done, symlinks=True)
    change(done)
    before, after = everything(start), everything(done)
    found = set()
    root = tmp_path / "root"

    def prepare() -> Callable[[], object]:
        shutil.rmtree(root, ignore_errors=True)
        shutil.copytree(start, root, symlinks=True)
        return lambda: change(root)

    def check(step: int) -> None:
        # A power cut now: a whole deployment, old or new, or none where that is one of the two.
        assert at_boot(root) in (at_boot(start), at_boot(done)), step
        recover(root, SYSTEM_JOURNAL)
        now = everything(root)
        if work == "withdrawn" and how == "full":
            # Its last resort leaves the rest to the next command.
            assert now in (before, after) or at_boot(root) is None
        else:
            assert now in (before, after), step
        found.add(now == after)

    assert each_step(how, prepare, check) > 2
    assert how == "full" or found == {False, True}


def test_a_deployment_takes_the_place_of_another_by_its_link(tmp_path: Path) -> None:
    root = make_root(tmp_path)
    deploy(root, OLD)
    assert at_boot(root) == content(OLD)
    deploy(root, NEW)
    assert at_boot(root) == content(NEW)
    assert [path.name for path in (root / "usr/lib/megamod/deployments").iterdir()] == [f"{KVER}-new"]
    assert list(changed(root, read_record(root))) == []
    assert list(root.rglob(".megamod-*")) == []


def test_what_the_shell_has_withdrawn_is_named_deployed_again_and_removed(tmp_path: Path) -> None:
    root = make_root(tmp_path)
    before = everything(root)
    deploy(root, OLD)
    (root / "usr/lib/megamod" / KVER).unlink()
    assert list(changed(root, read_record(root))) == [str(root / "usr/lib/megamod" / KVER)]
    deploy(root, OLD)
    assert at_boot(root) == content(OLD)
    (root / "usr/lib/megamod" / KVER).unlink()
    take_away(root, None)
    assert everything(root) == before


def test_two_at_once_lose_no_record(tmp_path: Path) -> None:
    root = make_root(tmp_path)
    before = everything(root)
    kernels = [f"6.1.0-{number}-amd64" for number in range(8)]
    made = {k: {name.replace(KVER, k): new for name, new in NEW.items()} for k in kernels}
    threads = [threading.Thread(target=deploy, args=(root, made[kernel], kernel)) for kernel in kernels]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=120)
    record = read_record(root)
    assert set(record.kernels) == set(kernels)
    assert list(changed(root, record)) == []
    take_away(root, None)
    assert everything(root) == before


def test_nothing_deployed_cannot_be_taken_away(tmp_path: Path) -> None:
    with pytest.raises(MegamodError, match="nothing is deployed"):
        take_away(make_root(tmp_path), None)
