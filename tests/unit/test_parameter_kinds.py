"""What parameters take, read from the modules: beside what modinfo says of Debian's, and case by case."""

from __future__ import annotations

import re
import struct
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from megamod.boot.debian import Kernel
from megamod.common.compression import read_module_bytes
from megamod.modules.tree import open_tree
from megamod.prelink.early_setters import needs_initialised
from megamod.prelink.member import Member
from megamod.prelink.parameter_kinds import own_setters, parameter_kinds
from megamod.prelink.parameter_values import expectation, takes
from megamod.prelink.read import read_member
from tests.unit.module_factory import ALLOC, R_64, R_PLT32, WRITE, Ko, Sym, read


def kinds(ko: Ko) -> list[tuple[str, str]]:
    (member,) = read(ko)
    return [(one.name, one.kind) for one in parameter_kinds(member)]


def argument(ko: Ko, data: bytes, *, ops: str | None = None) -> Ko:
    """The last parameter points to *data*, with the pointer to ops at 16 if that is asked for."""
    table, section = ko["__param"], ko.section(".data.args", data, flags=ALLOC | WRITE, align=8)
    table.relocs = [row for row in table.relocs if row[0] != len(table.data) - 8]
    ko.reloc(table, len(table.data) - 8, R_64, section)
    if ops is not None:
        ko.reloc(section, 16, R_64, ko.wants(ops))
    return ko


def own_ops(ko: Ko, setter: Sym | str | None, *, flags: int = 0) -> Ko:
    """The last parameter has ops in the module, with that setter."""
    table, section = ko["__param"], ko.section(".rodata.ops", struct.pack("<QQQQ", flags, 0, 0, 0), align=8)
    table.relocs = [row for row in table.relocs if row[0] != len(table.data) - 24]
    ko.reloc(table, len(table.data) - 24, R_64, section)
    if setter is not None:
        ko.reloc(section, 8, R_64, ko.wants(setter) if isinstance(setter, str) else setter)
    return ko


def test_kernels_own_setters_are_named() -> None:
    ko = Ko("disk")
    names = ["byte", "short", "ushort", "int", "uint", "long", "ulong", "ullong", "hexint", "bool", "invbool", "bint"]
    for name in [*names, "charp", "bool_enable_only", "size"]:
        ko.param(name, ops=f"param_ops_{name}")
    assert kinds(ko) == [(n, n) for n in [*names, "charp"]] + [("bool_enable_only", "own"), ("size", "own")]


def test_arrays_and_strings_have_their_size() -> None:
    array = argument(Ko("a").param("list", ops="param_array_ops"), struct.pack("<IIQQQ", 7, 4, 0, 0, 0))
    assert kinds(array) == [("list", "own")]
    array = argument(
        Ko("a").param("list", ops="param_array_ops"), struct.pack("<IIQQQ", 7, 4, 0, 0, 0), ops="param_ops_short"
    )
    assert kinds(array) == [("list", "short[7]")]
    string = argument(Ko("a").param("name", ops="param_ops_string"), struct.pack("<IIQ", 20, 0, 0))
    assert kinds(string) == [("name", "string:20")]


def test_ops_of_a_module_count_by_their_setter() -> None:
    assert kinds(own_ops(Ko("a").param("x"), "param_set_int")) == [("x", "int")]
    assert kinds(own_ops(Ko("a").param("x"), "param_set_bool", flags=1)) == [("x", "bool")]
    # Without the flag the word alone is refused, so it is not the kernel's bool.
    assert kinds(own_ops(Ko("a").param("x"), "param_set_bool")) == [("x", "own")]
    assert kinds(own_ops(Ko("a").param("x"), "disk_set")) == [("x", "own")]
    assert kinds(own_ops(Ko("a").param("x"), None)) == [("x", "none")]


@pytest.mark.parametrize(
    ("kind", "value", "answer"),
    [
        *(("int", value, True) for value in ("0", "-1", "0x7fffffff", "0777", "-2147483648", "+5", "12\n")),
        *(("int", value, False) for value in ("", "a", "08", "0x", "2147483648", "1 ", "--1", "1,2", None)),
        *(("byte", value, value == "255") for value in ("255", "256", "-1")),
        *(("ulong", value, value != "-1") for value in ("18446744073709551615", "-1")),
        *(("bool", value, True) for value in ("y", "N", "on", "oFF", "1", "0", "true", None)),
        *(("bool", value, False) for value in ("", "o", "2", "maybe")),
        *(("string:4", value, len(value) < 4) for value in ("", "abc", "abcd")),
        *(("int[2]", value, value in ("1", "1,0x2")) for value in ("1", "1,0x2", "1,2,3", "1,", "", "1,y")),
        *(("charp", value, value is not None) for value in ("", "x" * 1024, None)),
        *(("own", value, True) for value in ("", "anything", None)),
        *(("none", value, False) for value in ("", "0", None)),
    ],
)
def test_value_is_taken_as_the_kernel_would(kind: str, value: str | None, answer: bool) -> None:
    assert takes(kind, value, bits=64) is answer


def test_long_is_as_wide_as_a_pointer() -> None:
    assert takes("ulong", "4294967296", bits=64) and not takes("ulong", "4294967296", bits=32)


def test_expectations_are_sentences() -> None:
    assert expectation("int[3]") == "at most 3, separated by commas, each a number that fits int"
    assert [expectation(kind) for kind in ("bool", "string:8", "none")] == [
        "Y or N",
        "fewer than 8 bytes",
        "nothing: it can only be read",
    ]


@pytest.fixture(scope="module")
def kernel(kernels: Callable[[str], Kernel]) -> Kernel:
    return kernels("bookworm")


def module(kernel: Kernel, name: str) -> Member:
    path = open_tree(str(kernel.modules)).modules[name].path
    return read_member(read_module_bytes(path), file=path.name)


def test_modinfo_says_the_same_of_debians_modules(kernel: Kernel, tmp_path: Path, tool: Callable[..., str]) -> None:
    """kbuild writes parmtype beside the parameter; what a module says of a setter of its own is its own affair."""
    compared, different = 0, []
    for path in sorted(kernel.modules.rglob("*.ko*"))[::9]:
        data = read_module_bytes(path)
        if b"parmtype=" not in data:
            continue
        plain = tmp_path / "module.ko"
        plain.write_bytes(data)
        said = subprocess.run(
            [tool("modinfo", package="kmod"), "-F", "parmtype", plain], capture_output=True, text=True, check=True
        )
        types = dict(line.rpartition(":")[::2] for line in said.stdout.splitlines())
        for one in parameter_kinds(read_member(data, file=path.name, lenient=True)):
            kind = re.sub(r"(.+)\[\d+\]", r"array of \1", one.kind).partition(":")[0]
            if one.kind not in ("own", "none"):
                compared += 1
                if kind != types[one.name]:
                    different.append((path.name, one.name, kind, types[one.name]))
    # uvesafb and others declare their own name for a type of the kernel's.
    assert compared > 300 and not [row for row in different if row[3] in ("int", "uint", "bool", "charp", "string")]


def test_setters_that_need_another_modules_init_are_found(kernel: Kernel) -> None:
    mtd, drm = module(kernel, "mtd"), module(kernel, "drm")
    assert needs_initialised(module(kernel, "block2mtd"), {"mtd": mtd}) == ("block2mtd", "mtd")
    assert needs_initialised(module(kernel, "phram"), {"mtd": mtd}) == ("phram", "mtd")
    # It calls drm too, which copies the text into a buffer.
    helper = module(kernel, "drm_kms_helper")
    assert [name for name, _place in own_setters(helper)] == ["edid_firmware"]
    assert needs_initialised(helper, {"drm": drm}) is None
    # The other module already exists if it is in an earlier stage.
    assert needs_initialised(module(kernel, "phram"), {}) is None


def setter_that_calls(name: str, *, pad: int = 0) -> Ko:
    """A parameter with a setter that calls a function behind it, without a relocation, which calls *name*."""
    ko = Ko("user")
    start = len(ko.text.data)
    ko.text.data += b"\xe8" + struct.pack("<i", 11 + pad) + b"\xc3" * (11 + pad)
    setter = ko.symbol("set_it", ko.text, start, kind=2, size=16)
    ko.symbol("helper", ko.text, start + 16 + pad, kind=2, size=5)
    ko.reloc(ko.text, start + 17 + pad, R_PLT32, ko.wants(name), -4)
    ko.text.data += b"\xe8\0\0\0\0"
    return own_ops(ko.param("x"), setter)


@pytest.mark.parametrize("shared", [True, False])
@pytest.mark.parametrize("pad", [0, 200])
def test_call_that_only_a_branch_shows_is_followed(shared: bool, pad: int) -> None:
    core = Ko("core").exports("register_it")
    state = core.symbol("state", core.data, 0, kind=1, size=8)
    spare = core.symbol("spare", core.data, 8, kind=1, size=8)
    core.init.data += bytes(8)
    core.reloc(core.init, len(core.init.data) - 8, R_64, state)
    core.reloc(core.text, 24, R_64, state if shared else spare)
    members = {member.name: member for member in read(core, setter_that_calls("register_it", pad=pad))}
    assert needs_initialised(members["user"], members) == (("x", "core") if shared else None)
