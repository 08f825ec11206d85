"""Initcall levels: the table, and its maker on a small kernel source tree."""

from __future__ import annotations

from pathlib import Path

import pytest

from megamod.common.errors import MegamodError
from megamod.modules.initcall_source import ModuleInitcall, extract_levels, kernel_version, table_text
from megamod.modules.levels import inherited_ranks, initcall_level, level_of, parse_table, static_rank, tagged_rank


@pytest.mark.parametrize(
    ("level", "modules"),
    [
        (1, "virtio configfs"),
        (2, "i2c_core"),
        (4, "usbcore scsi_mod libata mmc_core input_core bluetooth libphy"),
        (5, "cfg80211"),
        (6, "drm hid xhci_hcd nvme sd_mod ext4 no_such_module"),
        (7, "btrfs aesni_intel"),
    ],
)
def test_the_levels_of_well_known_modules_are_those_of_their_source(level: int, modules: str) -> None:
    assert {name: initcall_level(name) for name in modules.split()} == dict.fromkeys(modules.split(), level)


def test_a_dash_in_a_name_is_an_underscore() -> None:
    assert initcall_level("i2c-core") == initcall_level("i2c_core")


def test_of_several_levels_the_earliest_counts() -> None:
    assert parse_table("# c\nmodule\tinitcall\tsource file\na\tlate_initcall\tx.c\na\tfs_initcall_sync\ty.c\n") == {
        "a": 5
    }


def test_every_initcall_macro_has_a_level() -> None:
    names = "early pure core postcore arch subsys fs rootfs device late console".split()
    assert [level_of(f"{name}_initcall") for name in names] == [0, 0, 1, 2, 3, 4, 5, 5, 6, 7, 6]


def source_tree(root: Path, files: dict[str, str]) -> Path:
    base = {
        "Kbuild": "obj-y += drivers/\n",
        "Makefile": "VERSION = 6\nPATCHLEVEL = 1\nSUBLEVEL = 9\n",
        "Kconfig": 'config A\n\ttristate "a"\nconfig B\n\tbool "b"\nmenuconfig C\n\tdef_tristate m\n',
    }
    for name, text in {**base, **files}.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    return root


def extract(root: Path, makefile: str, **sources: str) -> list[tuple[str, str, str]]:
    files = {f"drivers/{name}.c": text for name, text in sources.items()}
    rows = extract_levels(source_tree(root, {"drivers/Makefile": makefile, **files}))
    return [(row.module, row.macro, row.source) for row in rows]


def test_a_module_of_one_file_is_found(tmp_path: Path) -> None:
    rows = extract(tmp_path, "obj-$(CONFIG_A) += my-dev.o\n", **{"my-dev": "subsys_initcall(init);\n"})
    assert rows == [("my_dev", "subsys_initcall", "drivers/my-dev.c")]


def test_a_composite_is_found_through_all_its_spellings(tmp_path: Path) -> None:
    makefile = (
        "obj-$(CONFIG_A) += one.o two.o\nobj-m += three.o\nobj-${CONFIG_C} += four.o \\\n\tfive.o # why\n"
        "one-y := a.o \\\n\tb.o\ntwo-objs := c.o\nthree-$(CONFIG_B) += d.o\nlist := e.o\nfour-y += $(list)\n"
    )
    initcalls = {name: f"fs_initcall({name}_init);\n" for name in ("b", "c", "d", "e", "five")}
    assert extract(tmp_path, makefile, a="", **initcalls) == [
        ("five", "fs_initcall", "drivers/five.c"),
        ("four", "fs_initcall", "drivers/e.c"),
        ("one", "fs_initcall", "drivers/b.c"),
        ("three", "fs_initcall", "drivers/d.c"),
        ("two", "fs_initcall", "drivers/c.c"),
    ]


def test_what_can_only_be_built_in_is_left_out(tmp_path: Path) -> None:
    assert (
        extract(tmp_path, "obj-y += a.o\nobj-$(CONFIG_B) += b.o\n", a="core_initcall(a);", b="core_initcall(b);") == []
    )


@pytest.mark.parametrize(
    ("text", "macros"),
    [
        ("module_init(f);\n", []),
        ("module_platform_driver(d);\n", []),
        ("  late_initcall_sync(f);\n", ["late_initcall_sync"]),
        ("/* subsys_initcall(f); */\n// fs_initcall(f);\n", []),
        (" * subsys_initcall would be too early\n", []),
        ("#ifdef MODULE\nmodule_init(f);\n#else\nsubsys_initcall(f);\n#endif\n", ["subsys_initcall"]),
        ("#ifndef MODULE\nsubsys_initcall(f);\n#else\nmodule_init(f);\n#endif\n", ["subsys_initcall"]),
        ("#if !defined(MODULE)\nfs_initcall(f);\n#else\nmodule_init(f);\n#endif\n", ["fs_initcall"]),
        ("#ifndef MODULE\ncore_initcall(early);\n#endif\nmodule_init(f);\n", []),
        ("#ifdef CONFIG_X_CONSOLE\nconsole_initcall(c);\n#endif\nmodule_init(f);\n", []),
        ("#if IS_MODULE(CONFIG_A)\n#else\nlate_initcall(f);\n#endif\nsubsys_initcall(g);\n", ["subsys_initcall"]),
        ("#ifdef CONFIG_X\nmodule_init(g);\n#endif\nsubsys_initcall(f);\n", ["subsys_initcall"]),
        ("#ifndef MODULE\nlate_initcall(f);\n#endif\n", []),
    ],
)
def test_the_initcall_that_a_module_would_have_had_is_told_from_the_others(
    tmp_path: Path, text: str, macros: list[str]
) -> None:
    assert [macro for _, macro, _ in extract(tmp_path, "obj-$(CONFIG_A) += a.o\n", a=text)] == macros


def test_the_table_reads_back_what_was_written_and_says_how_it_was_made(tmp_path: Path) -> None:
    root = source_tree(tmp_path, {})
    rows = [ModuleInitcall(module="a", macro="core_initcall", source="x/a.c")]
    text = table_text(rows, made_from=kernel_version(root))
    assert text.startswith("# Made by `megamod levels SOURCE` from Linux 6.1.9: ")
    assert parse_table(text) == {"a": 1}


def test_a_folder_that_is_no_kernel_source_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(MegamodError, match="no kernel source tree"):
        extract_levels(tmp_path)


@pytest.mark.parametrize(
    ("tag", "level"),
    [(None, 6), ("4", 4), ("4s", 4), ("0", 0), ("7", 7), ("subsys", 4), ("fs_sync", 5), ("8", 6), ("", 6), ("²", 6)],
)
def test_the_level_that_a_module_records_wins_if_it_is_one(tag: str | None, level: int) -> None:
    assert tagged_rank((6, 17), tag) == (level, 17)


def test_a_module_comes_as_early_as_the_earliest_that_needs_it() -> None:
    ranks = {"virtio": (1, 395), "virtio_ring": (6, 396), "virtio_blk": (6, 300), "ext4": (6, 106), "deep": (7, 1)}
    needs = {"virtio": ["virtio_ring"], "virtio_ring": ["deep"], "virtio_blk": ["virtio", "not_selected"]}
    found = inherited_ranks(ranks, needs)
    assert sorted(found, key=lambda name: found[name]) == ["virtio", "virtio_ring", "deep", "ext4", "virtio_blk"]
    assert [found[name][0] for name in ("virtio", "virtio_ring", "deep", "ext4")] == [1, 1, 1, 6]


def test_modules_that_need_each_other_have_ranks_all_the_same() -> None:
    found = inherited_ranks({"a": (6, 1), "b": (4, 2)}, {"a": ["b"], "b": ["a"]})
    assert found == {"b": (4, 0), "a": (4, 1)}


def test_a_sync_level_comes_after_all_of_its_level_and_before_the_next() -> None:
    assert static_rank("watchdog", 1) > static_rank("mmc_core", 1 << 30)
    assert static_rank("watchdog", 1) < (initcall_level("cfg80211"), 0)
