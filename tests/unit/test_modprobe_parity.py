"""modprobe.d and the kernel command line as real modprobe reads them, and what members make of them, case by case."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from megamod.boot.debian import Kernel, fetch_package_files
from megamod.build.arguments import usable_options
from megamod.common.compression import read_module_bytes
from megamod.common.host import cache_folder, data_folder
from megamod.common.text import canonical
from megamod.loader.programs import compile_program
from megamod.modules.modprobe_d import HOST_FOLDERS, ModprobeConfig, host_config
from megamod.modules.modprobe_lines import argument_words
from megamod.modules.tree import ModuleTree, open_tree
from megamod.prelink.read import read_member
from tests.conftest import missing
from tests.unit.modprobe_cases import BEGIN, CASES, END, Case, Words, table

MODULES = """loop snd soundcore e1000e usb-common usbcore usb-storage scsi_common scsi_mod uhci-hcd ehci-hcd ehci-pci
dummy""".split()
NAMESPACE = ("unshare", "--user", "--map-root-user", "--mount", "sh", "-c")
RUN = 'mount --bind "$1" /proc/cmdline && shift && exec "$@"'

PROGRAM = """
#include "arguments.h"
#include "results.h"
static struct boot boot;
int main(int argc, char **argv, char **envp)
{
    struct member member = { .name = argv[1] };
    struct load load = { .name = argv[1], .member_count = 1 };
    const char *who;
    TEXT(t, 4096);
    (void)argc; (void)envp;
    memcpy(boot.cmdline, argv[2], length(argv[2]) + 1);
    boot.plan.stages[0].name = "critical";
    boot.plan.stages[0].load_count = 1;
    boot.plan.stage_count = 1;
    boot.plan.loads = &load;
    boot.plan.load_count = 1;
    boot.plan.members = &member;
    boot.plan.member_count = 1;
    read_options(boot.cmdline, &boot.options);
    who = who_skips(&boot, &load, argv[1]);
    text_format(&t, "%s|%s", who ? who : "", command_line_words(&boot, &load));
    sys_write(1, t.data, t.used);
    return 0;
}
"""


@pytest.fixture(scope="module")
def root(kernels: Callable[[str], Kernel], tool: Callable[..., str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A root with some of a real kernel's modules, indexed by real depmod."""
    kernel, folder = kernels("bookworm"), tmp_path_factory.mktemp("root")
    target = folder / "lib/modules" / kernel.release
    found = {path.name.split(".ko")[0]: path for path in kernel.modules.rglob("*.ko*")}
    for name in MODULES:
        path = target / found[name].relative_to(kernel.modules)
        path.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(found[name], path)
    for name in ("modules.order", "modules.builtin", "modules.builtin.modinfo"):
        shutil.copy(kernel.modules / name, target)
    depmod = tool("depmod", package="kmod")
    subprocess.run([depmod, "-b", folder, kernel.release], check=True, timeout=120, capture_output=True)
    return folder


@pytest.fixture(scope="module")
def tree(root: Path) -> ModuleTree:
    return open_tree(str(next((root / "lib/modules").iterdir())))


@pytest.fixture(scope="module")
def loader(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("program")
    (folder / "main.c").write_text(PROGRAM)
    parts = [p for p in sorted(data_folder("loader").glob("*.c")) if p.name not in ("init.c", "ctl.c")]
    program = folder / "program"
    program.write_bytes(compile_program("x86_64", [folder / "main.c", *parts]))
    program.chmod(0o755)
    return program


def trixies_modprobe() -> list[str]:
    """kmod 34, with the C library that it was built for."""
    packages = ("kmod", "libkmod2", "libc6", "libzstd1", "liblzma5", "libssl3t64", "zlib1g")
    trees = [fetch_package_files(name, "trixie", architecture="amd64", cache=cache_folder()) for name in packages]
    libraries = sorted({path.parent for tree in trees for path in tree.rglob("*.so.*")})
    [start, *_] = sorted(path for tree in trees for path in tree.rglob("ld-linux-x86-64.so.2"))
    program = trees[0] / "usr/bin/kmod"
    return [str(start), "--argv0", "modprobe", "--library-path", ":".join(map(str, libraries)), str(program)]


@pytest.fixture(scope="module", params=["machine", pytest.param("trixie", marks=pytest.mark.slow)])
def real(request: pytest.FixtureRequest, tool: Callable[..., str]) -> list[str]:
    """The command of a real modprobe: this machine's, or Debian 13's."""
    return [tool("modprobe", package="kmod")] if request.param == "machine" else trixies_modprobe()


@pytest.fixture
def modprobe(root: Path, tree: ModuleTree, real: list[str], tmp_path: Path) -> Callable[..., str]:
    """``modprobe(case, "-D", …)``: what the real one prints with the case's files and command line."""

    def run(case: Case, *arguments: str) -> str:
        own = tmp_path / "cmdline"
        own.write_text(f"{case.cmdline}\n")
        folders = [argument for name in HOST_FOLDERS for argument in ("-C", str(tmp_path / name))]
        command = [*NAMESPACE, RUN, "sh", own, *real, *folders, "-d", root, "-S", tree.release, *arguments]
        done = subprocess.run(command, capture_output=True, check=False, timeout=60)
        if done.stderr.startswith(b"unshare:"):
            missing(f"no user namespaces: {done.stderr.decode()}")
        return done.stdout.decode()

    return run


def write(case: Case, folder: Path) -> None:
    for path, text in case.files:
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_bytes(text.encode())
    for name in HOST_FOLDERS:
        (folder / name).mkdir(parents=True, exist_ok=True)


def around(module: str, order: list[str], tree: ModuleTree) -> list[str]:
    """What comes before *module* and after it, apart from what it needs; modprobe prints some twice."""
    if module not in order:
        return order
    at = order.index(module)
    needs = tree.modules[module].depends
    return [*sorted(set(order[:at]) - set(needs)), module, *sorted(set(order[at + 1 :]))]


def its_view(case: Case, modprobe: Callable[..., str], tree: ModuleTree) -> tuple[Words, str | None, bool, list[str]]:
    """(options, command, hidden from devices, modules loaded with it in order) by modprobe."""
    lines = [text.split(maxsplit=1) for text in modprobe(case, "-D", case.module).split("\n") if text]
    options, command, order = "", None, []
    for word, rest in lines:
        if word == "install":
            command = rest.rstrip(" \t")
            continue
        path, _, words = rest.partition(" ")
        name = canonical(Path(path).name.split(".ko")[0])
        order.append(name)
        if name == case.module:
            options = words
    hidden = not modprobe(case, "-b", "-D", case.module).strip()
    return tuple(argument_words(options)), command, hidden, around(case.module, order, tree)


def our_view(case: Case, config: ModprobeConfig, tree: ModuleTree) -> tuple[Words, str | None, bool, list[str]]:
    options = tuple((o.parameter, None if o.bare else o.value) for o in config.options if o.module == case.module)
    command = config.install(case.module)
    softdep = config.softdep(case.module, tree.softdeps.get(case.module))
    order: list[str] = []
    for name in (*softdep.pre, case.module, *softdep.post):
        for found in tree.resolve(name)[0]:
            order += [need for need in (*tree.modules[found].depends, found) if need not in order]
    order = around(case.module, order, tree)
    return options, command.command if command else None, case.module in config.blacklist, order


def expected(case: Case, tree: ModuleTree) -> tuple[Words, str | None, bool, list[str]]:
    order: list[str] = []
    for name in (*case.before, case.module, *case.after):
        order += [need for need in (*tree.modules[name].depends, name) if need not in order]
    return case.options, case.command, case.hidden, around(case.module, order, tree)


@pytest.mark.parametrize("case", [case for case in CASES if case.files], ids=lambda case: case.name[:60])
def test_line_means_what_it_means_to_modprobe(
    case: Case, modprobe: Callable[..., str], tree: ModuleTree, tmp_path: Path
) -> None:
    write(case, tmp_path)
    config = host_config(tmp_path)
    theirs, ours, right = its_view(case, modprobe, tree), our_view(case, config, tree), expected(case, tree)
    if case.instead:
        assert theirs[3] == [*tree.modules[case.instead].depends, case.instead]
    elif case.command is None:
        assert theirs == ours == right
    else:
        # Where a command stands for the module, modprobe shows nothing else of it.
        assert theirs[1] == ours[1] == right[1] and case.module not in theirs[3]
    path = tree.modules[case.module].path
    member = read_member(read_module_bytes(path), file=path.name)
    kept, notes = usable_options([o for o in config.options if o.module == case.module], {case.module: member})
    assert bool(notes) == ("with a note" in case.effect and case.command is None) == (len(kept) < len(case.options))


@pytest.mark.parametrize("case", [case for case in CASES if case.cmdline], ids=lambda case: case.name[:60])
def test_word_means_what_it_means_to_modprobe(
    case: Case, modprobe: Callable[..., str], loader: Path, tree: ModuleTree, tmp_path: Path
) -> None:
    write(case, tmp_path)
    options, command, hidden, _order = its_view(case, modprobe, tree)
    assert (options, command, hidden) == (case.options, None, case.hidden)
    said = subprocess.run([loader, case.module, case.cmdline], capture_output=True, text=True, check=True).stdout
    who, words = said.split("|")
    if not case.member:
        assert who == ("modprobe.blacklist" if hidden else "")
        assert tuple(argument_words(words)) == options


@pytest.mark.parametrize(
    ("cmdline", "who"),
    [
        ("module_blacklist=usb_storage", "module_blacklist"),
        ("module_blacklist=loop,usb_storage", "module_blacklist"),
        # The kernel compares byte by byte with the module's own name, and keeps the last word.
        ("module_blacklist=usb-storage", ""),
        ("module_blacklist=usb_storage module_blacklist=loop", ""),
        ("module_blacklist=usb", ""),
        # dracut writes `blacklist` lines, in which - and _ are equal, of every word.
        ("rd.driver.blacklist=usb-storage", "rd.driver.blacklist"),
        ("rd.driver.blacklist=usb_storage rd.driver.blacklist=loop", "rd.driver.blacklist"),
        ("rd.driver.blacklist=usb", ""),
        ("loop.max.loop=4", ""),
    ],
)
def test_blacklists_of_the_kernel_and_of_dracut_are_theirs(cmdline: str, who: str, loader: Path) -> None:
    said = subprocess.run([loader, "usb_storage", cmdline], capture_output=True, text=True, check=True).stdout
    assert said == f"{who}|"


def test_what_dracut_writes_hides_a_module_from_modprobe(modprobe: Callable[..., str], tmp_path: Path) -> None:
    """rd.driver.blacklist=usb-storage, by 90kernel-modules/parse-kernel.sh."""
    case = Case(
        files=((f"{HOST_FOLDERS[0]}/initramfsblacklist.conf", "blacklist usb-storage\n"),), module="usb_storage"
    )
    write(case, tmp_path)
    assert not modprobe(case, "-b", "-D", "usb_storage").strip() and modprobe(case, "-D", "usb_storage").strip()


def test_sixty_cases_are_compared_and_the_manual_has_them() -> None:
    assert len(CASES) >= 60 and len({(case.files, case.cmdline) for case in CASES}) == len(CASES)
    text = (data_folder("initramfs") / "docs/modprobe.md").read_text()
    shown = text.partition(BEGIN)[2].partition(END)[0]
    assert shown == table(), "python -m tests.unit.modprobe_cases initramfs/docs/modprobe.md"
