"""Modules whose inits go wrong, built against Debian's headers, one for each way to do so."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

# What the init does; all of them return 0 afterwards if they come so far. do_exit() is not exported.
FAULTS = {
    "oops": "*(volatile int *)8 = 1;",
    "bug": "BUG();",
    "hang": "static DECLARE_COMPLETION(never); wait_for_completion(&never);",
    "wait": "static DECLARE_COMPLETION(never); if (wait_for_completion_killable(&never)) return -EINTR;",
    "loop": "for (;;) cpu_relax();",
    "positive": "return 12345;",
    "negative": "return -5000;",
    "sleep": "msleep(10000);",
    "request": 'return request_module("faulty-nothing") ? 0 : -EIO;',
    "exit": """
	struct kprobe probe = { .symbol_name = "do_exit" };
	void (*leave)(long code);
	if (register_kprobe(&probe)) return -EIO;
	leave = (void *)probe.addr;
	unregister_kprobe(&probe);
	leave(0);""",
}

_SOURCE = """\
#include <linux/completion.h>
#include <linux/delay.h>
#include <linux/init.h>
#include <linux/kmod.h>
#include <linux/kprobes.h>
#include <linux/module.h>
static int __init faulty_start(void)
{
	{ BODY }
	return 0;
}
module_init(faulty_start);
MODULE_LICENSE("GPL");
"""


def build_faulty_modules(headers: Path, folder: Path) -> dict[str, Path]:
    """name → file of the modules ``faulty_FAULT``, and ``after_FAULT``, with nothing wrong, for each of them."""
    bodies = {f"faulty_{fault}": body for fault, body in FAULTS.items()} | {f"after_{fault}": "" for fault in FAULTS}
    for name, body in bodies.items():
        (folder / f"{name}.c").write_text(_SOURCE.replace("BODY", body))
    (folder / "Kbuild").write_text("".join(f"obj-m += {name}.o\n" for name in bodies))
    command = ["make", "-C", str(headers), f"M={folder}", "CC=gcc", "CONFIG_DEBUG_INFO_BTF_MODULES=", "modules"]
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("MAKE", "MFLAGS"))}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False, timeout=600)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    return {name: folder / f"{name}.ko" for name in bodies}


def faulty_tree(modules: Path, files: dict[str, Path], folder: Path) -> Path:
    """A kernel's module tree in *folder* that has *files* (module → file), too, or in place of its own."""
    tree = folder / modules.name
    tree.mkdir()
    for path in modules.iterdir():
        if path.name != "modules.dep":
            (tree / path.name).symlink_to(path)
    kept, left = [], dict(files)
    for line in (modules / "modules.dep").read_text().splitlines():
        path, _, needs = line.partition(":")
        own = left.pop(Path(path).name.split(".")[0].replace("-", "_"), path)
        kept.append(f"{own}:{needs}\n")
    (tree / "modules.dep").write_text("".join([*kept, *(f"{path}:\n" for path in left.values())]))
    return tree
