"""Selection on whole Debian kernels, judged by modprobe: the same closures, in the same load order."""

from __future__ import annotations

import random
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Protocol

import pytest

from megamod.common.errors import Location
from megamod.modules.tree import ModuleTree, module_name, open_tree
from megamod.profile.model import Profile, Selector, Stage
from megamod.select.select import Cause, select

SUITES = ("bookworm", "bookworm-backports")
SAMPLE = 150
ALWAYS = ("btrfs", "ext4", "cifs", "ksmbd", "f2fs", "uhci_hcd", "vfio", "xt_LOG", "act_mpls", "i915", "snd_hda_intel")


class Kernel(Protocol):
    """What the fixture gives, as far as it is used here."""

    modules: Path


Kernels = Callable[[str], Kernel]


def only(name: str) -> Profile:
    place = Location(file="test", line=1, column=1)
    stage = Stage(name="critical", selectors=(Selector(text=name, location=place),), trigger=None)
    return Profile(name="test", source="test", critical=stage)


def sample(tree: ModuleTree) -> list[str]:
    names = sorted(tree.modules)
    chosen = random.Random(20110519).sample(names, SAMPLE)
    return sorted({*chosen, *(name for name in ALWAYS if name in tree.modules)})


def modprobe(root: Path, release: str, name: str) -> list[str]:
    """The module names that `modprobe --show-depends` would insert, in its order."""
    tool = shutil.which("modprobe", path="/usr/sbin:/sbin:/usr/bin")
    assert tool, "kmod is needed for this test"
    command = [tool, "-C", str(root / "empty"), "-d", str(root), "-S", release, "--show-depends", name]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=1200)
    inserted = (line.split() for line in done.stdout.splitlines() if line.startswith("insmod "))
    return [found for words in inserted if (found := module_name(words[1]))]


def linked(tree: ModuleTree, root: Path) -> Path:
    """A root with links to the tree, but one softdep line a module: modprobe would take the first of several only."""
    folder = root / "lib/modules" / tree.release
    folder.mkdir(parents=True)
    (root / "empty").mkdir()
    for entry in tree.folder.iterdir():
        if entry.name != "modules.softdep":
            (folder / entry.name).symlink_to(entry.resolve())
    lines = (
        f"softdep {name} pre: {' '.join(softdep.pre)} post: {' '.join(softdep.post)}\n"
        for name, softdep in tree.softdeps.items()
    )
    (folder / "modules.softdep").write_text("".join(lines))
    return root


@pytest.mark.parametrize("suite", SUITES)
def test_the_closure_of_a_module_is_that_of_modprobe(suite: str, kernels: Kernels, tmp_path: Path) -> None:
    tree = open_tree(str(kernels(suite).modules))
    root = linked(tree, tmp_path)
    different = {}
    for name in sample(tree):
        [stage] = select(only(name), tree).stages
        # modprobe does not know what a module asks for by name when it runs.
        asked = {module.name for module in stage.modules if module.cause is Cause.REQUEST}
        beyond = {need for module in asked for need in (module, *tree.modules[module].depends)}
        theirs = set(modprobe(root, tree.release, name))
        ours = {module.name for module in stage.modules} - (beyond - theirs)
        if ours != theirs:
            different[name] = (sorted(ours - theirs), sorted(theirs - ours))
    assert not different


@pytest.mark.parametrize("suite", SUITES)
def test_dependencies_are_in_the_order_in_which_modprobe_loads_them(
    suite: str, kernels: Kernels, tmp_path: Path
) -> None:
    tree = open_tree(str(kernels(suite).modules))
    root = linked(tree, tmp_path)
    plain = [
        name
        for name in sample(tree)
        if not any(softdep in tree.softdeps for softdep in (name, *tree.modules[name].depends))
    ]
    assert len(plain) > SAMPLE // 2
    for name in plain:
        assert [*tree.modules[name].depends, name] == modprobe(root, tree.release, name)


def test_a_folder_without_indexes_gives_the_same_tree_through_depmod(kernels: Kernels, tmp_path: Path) -> None:
    """A part of the tree, closed under dependencies, so that depmod has little to read."""
    whole = open_tree(str(kernels("bookworm").modules))
    [stage] = select(only("ext4"), whole).stages
    folder = tmp_path / "lib/modules/no-version-at-all"
    for module in stage.modules:
        target = folder / module.relpath
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(module.path, target)
    for index in ("modules.order", "modules.builtin"):
        shutil.copyfile(whole.folder / index, folder / index)
    before = sorted(folder.rglob("*"))
    tree = open_tree(str(tmp_path))
    assert tree.release == "no-version-at-all"
    assert tree.builtin_paths == whole.builtin_paths
    [again] = select(only("ext4"), tree).stages
    assert [(m.name, m.reason, m.rank, m.after) for m in again.modules] == [
        (m.name, m.reason, m.rank, m.after) for m in stage.modules
    ]
    assert sorted(folder.rglob("*")) == before, "nothing is written into the tree"
