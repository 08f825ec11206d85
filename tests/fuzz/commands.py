"""The command lines that `fuzz_commands.py` runs, and which of the samples' files it damages for each, and how."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from tests.fuzz.damage import (
    Damage,
    some_archive,
    some_bytes,
    some_elf,
    some_journal,
    some_json,
    some_tail,
    some_text,
    some_tree,
    some_yaml,
)
from tests.unit.boot_systems import TOKEN
from tests.unit.module_trees import RELEASE

TREE = f"root/lib/modules/{RELEASE}"
KERNELS = ("bzImage", "zImage", "Image", "zboot.efi", "uImage", "boot.img", "kernel.itb")
"""The kernel of the tree when one of them is damaged; without one there is none."""

Damaged = Sequence[tuple[str, Damage]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Command:
    """*words*: the command line, in the folder of the samples; *damaged*: which of its files, and how; *standard_input*
    is one of these files; *raw*: what it prints is somebody's bytes; *status*: those that need no message."""

    words: Sequence[str]
    damaged: Damaged
    standard_input: str = ""
    raw: bool = False
    status: tuple[int, ...] = (0,)


def _images() -> Iterator[tuple[str, Damaged]]:
    for name in ("image", "plain.cpio", *(f"image.{method}" for method in ("gzip", "xz", "zstd", "lz4"))):
        damaged = [(name, some_archive)]
        for words in ("inspect", "ls", "ls -l", "cat"):
            yield f"{words} {name}{' init' if words == 'cat' else ''}", damaged
        yield f"unpack {name} out", damaged


def _judged() -> Iterator[tuple[str, Damaged]]:
    """What ends in status 1 also where nothing is refused."""
    for words in ("--json", "--tree", "--sbom", "--diff image.zstd", "--diff image"):
        yield f"inspect image {words}", [("image", some_archive)]
    for words in ("verify fuzz.ko", "verify fuzz.ko --cert modules.crt"):
        yield words, [("fuzz.ko", some_elf)]
    for words in ("verify signed.ko", "verify signed.ko --cert modules.crt"):
        yield words, [("signed.ko", some_tail)]
    yield "verify signed.ko --cert modules.crt", [("modules.crt", some_text)]
    log, plain, status = ("boot.log", some_text), ("plain.log", some_text), ("status.json", some_json)
    yield "chart boot.log", [log]
    yield "chart boot.log -o out.svg", [log]
    yield "chart --json boot.log --trace out.json", [log]
    yield "chart plain.log", [plain]
    yield "chart status.json", [status]
    yield "chart boot.log status.json", [log, status]
    yield "chart boot.log --compare plain.log", [log, plain]
    yield f"tune plain.yaml -k {TREE} --recorded boot.log --machine machine", [log]


def _modules() -> Iterator[tuple[str, Damaged]]:
    module, keys = ("core.ko", some_elf), [("modules.pem", some_text), ("modules.crt", some_text)]
    yield "inspect fuzz.ko", [("fuzz.ko", some_elf)]
    yield "inspect --json fuzz.ko", [("fuzz.ko", some_elf)]
    yield "sign core.ko --key modules.pem --cert modules.crt", [module]
    yield "sign core.ko --key modules.pem --cert modules.crt", keys
    yield "sign signed.ko --key modules.pem --cert modules.crt", [("signed.ko", some_tail)]
    yield "prelink -o out.ko core.ko disk.ko", [module, ("disk.ko", some_elf)]


def _outputs() -> Iterator[tuple[str, Damaged]]:
    programs = [("stub.efi", some_bytes), ("vmlinuz.efi", some_bytes)]
    tree, image = ("board.dtb", some_tree), ("arm64.cpio", some_archive)
    uki = "uki plain.cpio --vmlinuz vmlinuz.efi --stub stub.efi -o out.efi"
    yield uki, programs
    yield f"{uki} --dtb board.dtb", [tree]
    yield "append vmlinuz.efi plain.cpio --stub stub.efi -o out.efi", [*programs, ("plain.cpio", some_archive)]
    yield "fit arm64.cpio --vmlinuz Image --dtb board.dtb -o out.itb", [tree]
    yield "fit arm64.cpio --vmlinuz Image --dtb board.dtb -o out.itb", [image]
    yield "fit arm64.cpio --vmlinuz zboot.efi -o out.itb", [("zboot.efi", some_bytes)]


def _profiles() -> Iterator[tuple[str, Damaged]]:
    profile, plain = [("profile.yaml", some_yaml)], [("plain.yaml", some_yaml)]
    tree: list[tuple[str, Damage]] = [(f"{TREE}/kernel/fuzz/core.ko", some_elf)]
    tree += [(f"{TREE}/modules.{name}", some_text) for name in ("dep", "alias", "softdep", "builtin", "order")]
    yield "profile check profile.yaml", profile
    yield f"profile check profile.yaml -k {TREE}", profile
    yield f"explain profile.yaml -k {TREE}", profile
    yield f"explain profile.yaml -k {TREE} --json", tree
    yield f"explain profile.yaml core -k {TREE}", tree
    yield f"explain board.yaml -k {TREE}", [("board.dtb", some_tree)]
    yield f"build profile.yaml -k {TREE} -o out.img", profile
    yield f"build plain.yaml -k {TREE} -o out.img", plain
    yield f"build plain.yaml -k {TREE} -o out.img", tree
    yield f"tune plain.yaml -k {TREE}", plain
    for name in KERNELS:
        yield f"build plain.yaml -k {TREE} -o out.img", [(name, some_bytes)]
    yield f"init out.yaml --board board.dtb -k {TREE}", [("board.dtb", some_tree)]
    yield f"init out.yaml --machine machine -k {TREE}", [("machine/proc/self/mountinfo", some_text), *tree]
    machine = "machine/sys/devices/pci0000:00/0000:00:01.0/modalias"
    yield f"detect -k {TREE} --sysfs machine", [("machine/proc/self/mountinfo", some_text), *tree]
    yield f"detect -k {TREE} --sysfs machine", [(machine, some_text)]
    yield "schema manifest", []


def _systems() -> Iterator[tuple[str, Damaged]]:
    """What changes a system: hook, deploy, install. The status of `--status` and of what was damaged is 0 or 1."""
    module, dep = f"lib/modules/{RELEASE}/kernel/fuzz/core.ko", f"lib/modules/{RELEASE}/modules.dep"
    entry = (f"boot/efi/loader/entries/{TOKEN}-{RELEASE}.conf", some_text)
    options = ("etc/modprobe.d/options.conf", some_text)
    own = f"-k {RELEASE} -p system/etc/megamod/own.yaml"
    tree: list[tuple[str, Damage]] = [(module, some_elf), (dep, some_text), options]

    def below(name: str, damaged: Damaged) -> Damaged:
        return [(f"{name}/{path}", how) for path, how in damaged]

    words = [
        ("etc/kernel/cmdline", some_text),
        ("boot/grub/grub.cfg", some_text),
        ("usr/sbin/grub-mkconfig", some_text),
    ]
    yield "hook install initramfs-tools --edit-cmdline --root system", below("system", words)
    record = [("var/lib/megamod/hooks/initramfs-tools.json", some_json)]
    more = [("etc/megamod/hooks/initramfs-tools.conf", some_text), entry, ("boot/grub/grub.cfg", some_text)]
    yield "hook status --root hooked", below("hooked", [*record, *more])
    yield "hook remove initramfs-tools --root hooked", below("hooked", record)
    image: list[tuple[str, Damage]] = [
        (f"image/{module}", some_elf),
        (f"image/lib/modules/{RELEASE}/modules.builtin", some_text),
    ]
    image += [*tree, ("image/.megamod-journal.redo", some_journal), ("image/.megamod-journal.undo", some_journal)]
    run = f"--image-root system/image --kernel {RELEASE} --modules-dir system/lib/modules/{RELEASE} --machine machine"
    yield f"hook run initramfs-tools {run} --select all", below("system", image)
    yield f"hook run dracut {run} --select all --strict", below("system", image)
    yield f"hook run dracut {run} --select all", [("machine/proc/self/mountinfo", some_text)]
    linked = [("etc/megamod/own.yaml", some_yaml), (f"boot/initrd.img-{RELEASE}", some_archive), *tree]
    yield f"deploy --root system {own}", below("system", linked)
    record = [("var/lib/megamod/deploy.json", some_json), ("var/lib/megamod/journal.redo", some_journal)]
    for action in ("--status", "--remove", f"--update -k {RELEASE}"):
        yield f"deploy --root deployed {action}", below("deployed", [*record, *tree])
    files = [("etc/os-release", some_text), ("etc/machine-id", some_text), ("etc/kernel/cmdline", some_text)]
    files += [("etc/megamod/own.yaml", some_yaml), ("etc/kernel/install.conf", some_text), entry, *tree]
    yield f"install --root system --layout bls {own}", below("system", files)
    yield f"install --root system --layout bls {own} --dry-run", below("system", files)
    record = [("var/lib/megamod/install.json", some_json), entry, ("var/lib/megamod/journal.undo", some_journal)]
    for action in ("--status", "--remove", f"--update -k {RELEASE}", f"--forget -k {RELEASE}"):
        yield f"install --root booted {action}", below("booted", record)
    yield "boot image --vmlinuz bzImage", [("image", some_archive), ("bzImage", some_bytes), ("boot.log", some_text)]
    yield "boot image --vmlinuz bzImage --budget critical=100ms", [("boot.log", some_text)]


def _commands() -> Iterator[Command]:
    for words, damaged in _images():
        yield Command(words=words.split(), damaged=damaged, raw=words.startswith("cat"))
    for words, damaged in (*_judged(), *_systems()):
        yield Command(words=words.split(), damaged=damaged, status=(0, 1))
    for group in (_modules, _outputs, _profiles):
        for words, damaged in group():
            yield Command(words=words.split(), damaged=damaged)
    # What goes through symbolize is the log's own.
    symbolize, trace = "symbolize --base 0xffffffffc0000000 --map", "oops.txt"
    yield Command(words=f"{symbolize} fuzz.map".split(), damaged=[(trace, some_text)], standard_input=trace, raw=True)
    for name in ("image.map", "fuzz.map"):
        damaged = [(name, some_json)]
        yield Command(words=f"{symbolize} {name}".split(), damaged=damaged, standard_input=trace, raw=True)
    for words in ("gdb", "crash", "drgn"):
        yield Command(
            words=f"debug {words} fuzz.map --base 0xffffffffc0000000".split(), damaged=[("fuzz.map", some_json)]
        )


COMMANDS = tuple(_commands())
