"""Modules stripped by binutils as distributions and OpenWrt do it: the init is found where it was, or refused."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from megamod.boot.debian import Kernel
from megamod.common.compression import read_module_bytes
from megamod.common.errors import MegamodError
from megamod.prelink.link import prelink
from megamod.prelink.member import Member
from megamod.prelink.options import PrelinkOptions
from megamod.prelink.read import read_member

NAMES = ("virtio_blk", "usb-storage", "crc16", "snd", "loop")
JUNK = [word for name in (".comment", ".pdr", ".note.gnu.build-id", ".gnu.attributes") for word in ("-R", name)]
WAYS = {
    "debug": ["strip", "--strip-debug"],
    "g": ["strip", "-g"],
    "unneeded": ["strip", "--strip-unneeded"],
    "objcopy": ["objcopy", "--strip-unneeded", "-R", ".comment"],
    "openwrt-keep": ["objcopy", "-X", "--strip-debug", *JUNK],
    "openwrt": ["objcopy", "-x", "-G", "__this_module", "--strip-unneeded", *JUNK],
}


@pytest.fixture(scope="module", params=["amd64", "arm64"])
def modules(request: pytest.FixtureRequest, kernels: Callable[..., Kernel]) -> dict[str, bytes]:
    kernel = kernels("bookworm", request.param)
    found = {path.name.split(".ko")[0]: path for path in kernel.modules.rglob("*.ko*")}
    return {name: read_module_bytes(found[name]) for name in NAMES if name in found}


@pytest.fixture
def program(modules: dict[str, bytes], tool: Callable[..., str]) -> Callable[[str], str]:
    """``program("strip")`` of the modules' architecture."""
    arm = next(iter(modules.values()))[18] == 183

    def find(name: str) -> str:
        return (
            tool(f"aarch64-linux-gnu-{name}", package="binutils-aarch64-linux-gnu")
            if arm
            else tool(name, package="binutils")
        )

    return find


def run(*command: object) -> str:
    return subprocess.run([*map(str, command)], capture_output=True, text=True, check=True, timeout=60).stdout


def renamed(path: Path, program: Callable[[str], str]) -> None:
    """Every local symbol by another name, as OpenWrt's scripts/strip-kmod.sh does it."""
    lines = [line.split() for line in run(program("nm"), path).splitlines()]
    names = [row[2] for row in lines if len(row) == 3 and row[1] in "brtd" and "$LC" not in row[2]]
    words = [f"--redefine-sym={name}=_{number}" for number, name in enumerate(dict.fromkeys(names))]
    run(program("objcopy"), *words, path)


def place(member: Member) -> tuple[str, int] | None:
    return (member.sections[member.init[0]].name, member.init[1]) if member.init else None


def stripped(data: bytes, path: Path, command: list[str], program: Callable[[str], str]) -> Member:
    path.write_bytes(data)
    run(program(command[0]), *command[1:], path)
    if "-x" in command:
        renamed(path, program)
    return read_member(path.read_bytes(), file=path.name)


@pytest.mark.parametrize("way", WAYS)
def test_init_is_found_where_it_was(
    way: str, modules: dict[str, bytes], program: Callable[[str], str], tmp_path: Path
) -> None:
    found = []
    for name, data in modules.items():
        member = stripped(data, tmp_path / f"{name}.ko", WAYS[way], program)
        assert place(member) == place(read_member(data, file=name)), name
        found.append(member)
    assert sum(member.init is not None for member in found) >= 3
    if way == "openwrt":
        assert not any(b"init_module\0" in member.strings for member in found)
    # What has an init is called: each has a call of its own in the glue, or is a library.
    chosen = [member for member in found if member.name in ("crc16", "loop", "virtio_blk")]
    whole = prelink(chosen, PrelinkOptions(name="megamod_test"), ranks=None, after={}, donors=None)
    assert {m.name: m.init is not None for m in whole.members} == {
        member.name: member.init is not None for member in chosen
    }


@pytest.mark.parametrize(
    ("command", "message"),
    [
        (["strip", "--strip-all"], "one is needed (hint: stripped too far"),
        (["objcopy", "-R", ".rela.gnu.linkonce.this_module"], "no relocation to its init_module"),
        (
            ["objcopy", "-x", "-G", "__this_module", "-R", ".rela.gnu.linkonce.this_module"],
            "although there is .init.text",
        ),
    ],
)
def test_init_that_cannot_be_found_is_refused_with_the_way_out(
    command: list[str], message: str, modules: dict[str, bytes], program: Callable[[str], str], tmp_path: Path
) -> None:
    path = tmp_path / "loop.ko"
    with pytest.raises(MegamodError) as caught:
        stripped(modules["loop"], path, command, program)
    assert str(caught.value).startswith("loop.ko: ") and message in str(caught.value)
    # The build takes it as a module of its own, and says why, or refuses it where the kernel would too.
    try:
        member = read_member(path.read_bytes(), file="loop.ko", lenient=True)
    except MegamodError:
        assert "--strip-all" in command
    else:
        assert member.refused is not None and "the kernel would load it and never call it" in member.refused
