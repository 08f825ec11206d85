"""Modules whose inits go wrong, for any kernel whose module tree is here: they need no headers.

The C names what it calls; struct module's size and places, vermagic and versions are read from a module of the tree.
`faulty_modules.py` makes the same faults with the kernel's own headers and build.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

from megamod.boot.debian import Kernel
from megamod.common.compression import read_module_bytes
from megamod.kernel.export_sources import read_image_exports
from megamod.prelink.glue import IMPORTS_RESULTS, IMPORTS_RESUME, IMPORTS_TIMES
from megamod.prelink.read import read_member
from tests.boot.loader_images import module_path

# What the init does; all of them return 0 afterwards if they come so far.
FAULTS = {
    "oops": "*(volatile int *)8 = 1;",
    "bug": "BUG;",
    "exit": "leave();",
    "positive": "return 12345;",
    "negative": "return -5000;",
    "request": 'return __request_module(1, "faulty-nothing") ? 0 : -5;',
    "sleep": "msleep(10000);",
    "hang": "for (;;) msleep(1 << 30);",
    "wait": "for (;;) if (msleep_interruptible(1 << 30)) return -4;",
    "loop": 'for (;;) __asm__ volatile("");',
}
_IMPORTS = (
    *("module_layout", "msleep", "msleep_interruptible", "__request_module", "register_kprobe", "unregister_kprobe"),
    *(*IMPORTS_RESULTS, *IMPORTS_TIMES, *IMPORTS_RESUME),
)
_NAME = "a_name_of_the_module"
_TARGETS = {
    "amd64": ("x86_64-linux-musl", "-mcmodel=kernel", "-mno-red-zone", "-mgeneral-regs-only"),
    "arm64": ("aarch64-linux-musl", "-mgeneral-regs-only", "-fno-jump-tables"),
}
_FLAGS = (
    *("-c", "-std=gnu11", "-O2", "-g0", "-ffreestanding", "-fno-builtin", "-fno-pic", "-fno-pie"),
    *("-fno-stack-protector", "-fno-asynchronous-unwind-tables", "-fno-unwind-tables", "-fno-sanitize=all", "-w"),
)
# A BUG() has an entry in __bug_table (include/linux/bug.h: place, file, line, flags); of 6.19 and later that is larger,
# and an entry that is too small for the kernel is none: then it is an invalid instruction like any other.
_SOURCE = """\
typedef unsigned long word;
void msleep(unsigned int); unsigned long msleep_interruptible(unsigned int);
int __request_module(_Bool, const char *, ...); int register_kprobe(void *); void unregister_kprobe(void *);
#ifdef __x86_64__
#define TRAP ".byte 0x0f, 0x0b"
#else
#define TRAP "brk #0x800"
__asm__(".section .plt,\\"ax\\"\\n.byte 0\\n.section .init.plt,\\"ax\\"\\n.byte 0\\n"
        ".section .text.ftrace_trampoline,\\"ax\\"\\n.byte 0\\n.text");
#endif
#define BUG __asm__ volatile("1: " TRAP "\\n.pushsection __bug_table,\\"aw\\"\\n2: .long 1b - 2b\\n.long 0\\n" \\
    ".short 1\\n.short 0\\n.popsection")
/* do_exit() is not exported; struct kprobe (include/linux/kprobes.h): addr at 40, symbol_name at 48. */
static inline __attribute__((always_inline)) void leave(void)
{
	static union { char room[512]; struct { char list[40]; void (*at)(long); const char *name; }; } probe;
	probe.name = "do_exit";
	if (register_kprobe(&probe)) return;
	void (*at)(long) = probe.at;
	unregister_kprobe(&probe);
	at(0);
}
__attribute__((section(".init.text"))) int init_module(void)
{
	{ BODY }
	return 0;
}
struct {
	char list[TITLE_AT], name[INIT_AT - TITLE_AT];
	int (*init)(void);
	char rest[SIZE - INIT_AT - sizeof(word)];
} __this_module __attribute__((section(".gnu.linkonce.this_module"), aligned(64), used)) = { {0}, "NAME", init_module };
static const char modinfo[] __attribute__((section(".modinfo"), aligned(1), used)) =
	"license=GPL\\0depends=\\0retpoline=Y\\0name=NAME\\0vermagic=VERMAGIC";
struct version { word crc; char name[56]; };
VERSIONS
"""


def module_names() -> dict[str, str]:
    """Module → body of its init: for each fault one with nothing wrong, ``before_FAULT``, ``faulty_FAULT``, and another
    with nothing wrong; ``last_one`` comes after them all."""
    names = {
        f"{kind}_{fault}": body if kind == "faulty" else ""
        for fault, body in FAULTS.items()
        for kind in ("before", "faulty", "after")
    }
    return names | {"last_one": ""}


def build_bare_modules(kernel: Kernel, folder: Path, bodies: Mapping[str, str]) -> dict[str, Path]:
    """name → file in *folder* of modules with these inits (as `module_names` has them), compiled by zig if need be."""
    made = {name: folder / f"{name}.ko" for name in bodies}
    if all(path.exists() for path in made.values()):
        return made
    folder.mkdir(parents=True, exist_ok=True)
    sample = read_member(read_module_bytes(module_path(kernel.modules, "dummy")), file="dummy.ko")
    rows = ", ".join(f'{{{crc}ul, "{name}"}}' for name, crc in _versions(kernel).items())
    versions = f'static const struct version versions[] __attribute__((section("__versions"), used)) = {{{rows}}};'
    text = _SOURCE.replace("VERSIONS", versions if rows else "").replace("VERMAGIC", sample.info("vermagic") or "")
    places = {
        "TITLE_AT": sample.name_offset,
        "INIT_AT": sample.init_at,
        "SIZE": sample.sections[sample.this_module].size,
    }
    flags = [f"-D{name}={value}" for name, value in places.items()]
    compiled = {
        body: _compile(text.replace("BODY", body).replace("NAME", _NAME), kernel.architecture, flags, folder)
        for body in set(bodies.values())
    }
    for name, path in made.items():
        path.write_bytes(compiled[bodies[name]].replace(_NAME.encode(), name.encode().ljust(len(_NAME), b"\0")))
    return made


def _compile(source: str, architecture: str, flags: list[str], folder: Path) -> bytes:
    target, *own = _TARGETS[architecture]
    (folder / "module.c").write_text(source)
    command = [
        sys.executable,
        "-m",
        "ziglang",
        "cc",
        "-target",
        target,
        *own,
        *_FLAGS,
        *flags,
        "-o",
        "module.o",
        "module.c",
    ]
    caches = {f"ZIG_{kind}_CACHE_DIR": str(folder / "zig") for kind in ("LOCAL", "GLOBAL")}
    environment = os.environ | caches
    done = subprocess.run(
        command, cwd=folder, capture_output=True, text=True, env=environment, check=False, timeout=600
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return (folder / "module.o").read_bytes()


def _versions(kernel: Kernel) -> dict[str, int]:
    """name → CRC of what the modules and a glue import; nothing for a kernel without versions."""
    symbols = read_image_exports(kernel.vmlinuz).symbols
    return {name: crc for name in _IMPORTS if name in symbols and (crc := symbols[name].crc) is not None}
