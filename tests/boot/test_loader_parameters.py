"""Words of the command line that a parameter would refuse: the loader's judgement beside a kernel's."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from megamod.common.host import data_folder
from megamod.image.cpio import Entry
from megamod.loader import programs as build
from megamod.prelink.parameter_values import takes
from tests.boot.loader_images import LABEL, POWER_OFF, UUID, Plan, after, section, show, start_plan, write_loader_image
from tests.unit.test_levels_header import headers  # noqa: F401

NUMBERS = (
    "0",
    "1",
    "-1",
    "+7",
    "+-7",
    "",
    "-",
    "0x",
    "0x1F",
    "0X1f",
    "010",
    "08",
    "1k",
    "ab",
    "127",
    "128",
    "255",
    "256",
)
NUMBERS += ("32767", "32768", "-32768", "-32769", "65535", "65536", "2147483647", "2147483648", "-2147483648")
NUMBERS += ("-2147483649", "4294967295", "4294967296", "9223372036854775807", "9223372036854775808")
NUMBERS += (
    "-9223372036854775808",
    "-9223372036854775809",
    "18446744073709551615",
    "18446744073709551616",
    "1,2",
    "1.5",
)
BOOLS = ("y", "Y", "n", "N", "0", "1", "2", "on", "off", "oN", "yes", "no", "x", "", "of", "o", "00", "1x")
# Newer kernels take t and f, so the loader does, too.
CASES = {
    **dict.fromkeys(("byte", "short", "ushort", "int", "uint", "long", "ulong", "ullong", "hexint"), NUMBERS),
    **dict.fromkeys(("bool", "invbool", "bint"), BOOLS),
    "charp": ("", "a", "a" * 1023, "a" * 1025),
    "string:8": ("", "1234567", "12345678"),
    "int[3]": ("1", "1,2,3", "1,2,3,4", "1,,3", ",", "1,x", ""),
    "bool[2]": ("y,n", "y,n,y", "y,2"),
}
ALONE = ("int", "uint", "bool", "invbool", "bint", "charp", "int[3]")

C_TYPES = {"byte": "unsigned char", "ushort": "unsigned short", "uint": "unsigned int", "ulong": "unsigned long"}
C_TYPES |= {
    "ullong": "unsigned long long",
    "hexint": "unsigned int",
    "invbool": "bool",
    "bint": "int",
    "charp": "char *",
}
MODULE = """\
#include <linux/init.h>
#include <linux/module.h>
PARAMETERS
static int __init start(void) { return 0; }
static void __exit stop(void) { }
module_init(start);
module_exit(stop);
MODULE_LICENSE("GPL");
"""
PROGRAM = """
#include "files.h"
#include "parameters.h"
int main(int argc, char **argv, char **envp)
{
    int i;
    (void)envp;
    for (i = 1; i + 1 < argc; i += 2) {
        const char *at = argv[i + 1];
        struct word w;
        next_word(&at, &w);
        write_all(1, takes_value(argv[i], &w) ? "y" : "n", 1);
    }
    return 0;
}
"""


def parameter(kind: str) -> str:
    return kind.replace(":", "_").replace("[", "_").replace("]", "")


def words() -> list[tuple[str, str]]:
    """(kind, word of the module's arguments)."""
    found = [(kind, f"{parameter(kind)}={value}") for kind, values in CASES.items() for value in values]
    return found + [(kind, parameter(kind)) for kind in ALONE]


def split(pairs: list[tuple[str, str]]) -> list[tuple[str, tuple[str, str, str]]]:
    return [(kind, word.partition("=")) for kind, word in pairs]


def declaration(kind: str) -> str:
    name, base = parameter(kind), kind.partition("[")[0]
    if kind == "string:8":
        return f"static char {name}[8]; module_param_string({name}, {name}, 8, 0);"
    if "[" in kind:
        return f"static {base} {name}[{kind[-2]}]; module_param_array({name}, {base}, NULL, 0);"
    return f"static {C_TYPES.get(kind, kind)} {name}_; module_param_named({name}, {name}_, {kind}, 0);"


@pytest.fixture(scope="module")
def module(headers: Path, tmp_path_factory: pytest.TempPathFactory) -> bytes:  # noqa: F811
    """A module with a parameter of each kind."""
    folder = tmp_path_factory.mktemp("kinds")
    (folder / "kinds.c").write_text(MODULE.replace("PARAMETERS", "\n".join(map(declaration, CASES))))
    (folder / "Kbuild").write_text("obj-m := kinds.o\n")
    command = ["make", "-C", str(headers), f"M={folder}", "CC=gcc", "CONFIG_DEBUG_INFO_BTF_MODULES=", "modules"]
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("MAKE", "MFLAGS"))}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False, timeout=300)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    return (folder / "kinds.ko").read_bytes()


def test_loader_takes_for_wrong_what_a_kernel_refuses(kernels, boot, busybox_image, module, tmp_path):
    pairs = words()
    script = "while read -r w; do insmod /kinds.ko $w 2>/dev/null && rmmod kinds && echo y || echo n; done </words"
    image = busybox_image(
        show("answers", script) + POWER_OFF,
        entries=[
            Entry(path="kinds.ko", mode=0o100644, data=module),
            Entry(path="words", mode=0o100644, data="".join(f"{word}\n" for _kind, word in pairs).encode()),
        ],
    )
    console = boot(image=image, vmlinuz=kernels("bookworm").vmlinuz, timeout=240).console
    answers = section(console, "answers").split()
    source = tmp_path / "main.c"
    source.write_text(PROGRAM)
    parts = [data_folder("loader") / f"{name}.c" for name in ("parameters", "cmdline", "plan", "files", "text", "sys")]
    program = tmp_path / "program"
    program.write_bytes(build.compile_program("x86_64", [source, *parts]))
    program.chmod(0o755)
    arguments = [text for pair in pairs for text in pair]
    own = subprocess.run([program, *arguments], capture_output=True, text=True, check=True, timeout=60).stdout
    assert len(own) == len(answers) > 350
    assert [pair for pair, ours, its in zip(pairs, own, answers, strict=True) if ours != its] == []
    # So does the build.
    build_says = [takes(kind, value if equals else None, bits=64) for kind, (_name, equals, value) in split(pairs)]
    assert [pair for pair, ours, its in zip(pairs, build_says, answers, strict=True) if ours != (its == "y")] == []


@pytest.fixture
def run(kernels, boot, make_root, make_disk_image, tmp_path) -> Callable[..., str]:
    """``run(plan, "echo hello")``: boot with a root disk; returns the console."""

    def run(plan: Plan, init: str, *, append: str) -> str:
        disk = make_disk_image(make_root(init + POWER_OFF), label=LABEL, uuid=UUID)
        image = write_loader_image(tmp_path / "image", plan)
        append = f"root=/dev/vda {append}"
        return boot(image=image, vmlinuz=kernels("bookworm").vmlinuz, disks=[disk], append=append).console

    return run


def test_word_that_a_member_would_refuse_costs_that_member_and_what_needs_it(kernels, run):
    plan = start_plan(kernels("bookworm").modules).merged(
        "megamod_one", "soundcore", "snd", "snd_timer", "loop", "dummy"
    )
    for name, kinds in (("snd", "slots=charp[8] debug=int"), ("loop", "max_loop=own"), ("dummy", "numdummies=int")):
        line = next(at for at, text in enumerate(plan.lines) if text.split()[:2] == ["member", name])
        plan.lines.insert(line + 1, f"parameters {name and kinds}")
    console = run(
        plan,
        "ls /sys/class/net; cat /run/megamod/status",
        append="dummy.numdummies=3 loop.max_loop=banana snd.debug=banana",
    )
    rest = after(console, "megamod: snd.debug=banana: no value for a parameter of that kind (int)")
    rest = after(rest, "member snd failed: -EINVAL", "load megamod_one failed: EINVAL")
    # Only loop's own function knew.
    rest = after(rest, "load megamod_one: once more without loop", "member loop failed: -EINVAL")
    rest = after(rest, "member snd_timer skipped: needs snd", "2 ok, 2 failed, 1 skipped")
    after(rest, "dummy2", "critical done 0")


def test_call_that_fails_for_a_word_is_made_once_more_without_the_command_lines_words(kernels, run):
    """Without its kinds in the plan the loader cannot know."""
    plan = start_plan(kernels("bookworm").modules).merged("megamod_one", "loop", "dummy")
    console = run(plan, "ls /sys/class/net", append="dummy.numdummies=3 loop.max_loop=banana")
    rest = after(console, "load megamod_one failed: EINVAL")
    rest = after(rest, "load megamod_one: once more without dummy.numdummies=3 loop.max_loop=banana")
    assert "dummy0" in after(rest, "2 ok, 0 failed, 0 skipped") and "dummy1" not in rest
