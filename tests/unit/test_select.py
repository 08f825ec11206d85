"""Selection: closures, stages, promotion, exclusion, notes and errors, on small fake trees."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pytest

from megamod.common.errors import MegamodError
from megamod.modules.tree import open_tree
from megamod.profile.schema import load_profile
from megamod.select.select import SelectedModule, Selection, select
from tests.unit.module_trees import RELEASE, make_tree, small_tree


def run(root: Path, text: str, folder: Path | None = None) -> Selection:
    profile = root / "p.yaml"
    profile.write_text(text)
    return select(load_profile(profile), open_tree(str(folder or small_tree(root))))


def error_of(root: Path, text: str, folder: Path | None = None) -> str:
    with pytest.raises(MegamodError) as caught:
        run(root, text, folder)
    assert "\n" not in str(caught.value)
    return str(caught.value).replace(f"{root}/", "")


def critical(modules: str) -> str:
    return f"critical: {{modules: {modules}}}\n"


def names(selection: Selection) -> dict[str, list[str]]:
    return {stage.name: [module.name for module in stage.modules] for stage in selection.stages}


def reasons(selection: Selection) -> Mapping[str, str]:
    return {name: module.reason for name, module in modules(selection).items()}


def modules(selection: Selection) -> Mapping[str, SelectedModule]:
    return {module.name: module for stage in selection.stages for module in stage.modules}


def test_dependencies_and_softdeps_come_along_with_their_reasons(tmp_path: Path) -> None:
    selection = run(tmp_path, critical("[ext4]"))
    assert reasons(selection) == {
        "crc16": "needed by ext4",
        "crc32c_generic": "softdep of ext4",
        "crc32c_intel": "softdep of ext4",
        "ext4": "named",
        "jbd2": "needed by ext4",
        "mbcache": "needed by ext4",
    }
    assert names(selection) == {"critical": sorted(reasons(selection))}
    assert selection.notes == ()


def test_softdeps_of_dependencies_come_along_too(tmp_path: Path) -> None:
    assert reasons(run(tmp_path, critical("[btrfs]")))["crc32c_intel"] == "softdep of libcrc32c"


def test_what_a_softdep_names_after_a_module_comes_along(tmp_path: Path) -> None:
    selection = run(tmp_path, critical("[act_mpls]"))
    assert reasons(selection) == {"act_mpls": "named", "mpls_gso": "softdep of act_mpls"}
    assert modules(selection)["mpls_gso"].after == ("act_mpls",)
    assert modules(selection)["act_mpls"].after == ()


def test_weak_dependencies_stay_out(tmp_path: Path) -> None:
    assert names(run(tmp_path, critical("[virtio_blk]"))) == {"critical": ["virtio_blk", "virtio_ring"]}


def test_a_module_knows_its_file_rank_and_whom_it_follows(tmp_path: Path) -> None:
    ext4 = modules(run(tmp_path, critical("[ext4]")))["ext4"]
    assert ext4.path.is_file()
    assert ext4.relpath == "kernel/fs/ext4/ext4.ko"
    assert ext4.rank == (6, 5), "the last of the six that are selected with it"
    assert ext4.after == ("crc32c_generic", "crc32c_intel")


@pytest.mark.parametrize(
    ("selector", "expected", "reason"),
    [
        ("snd-hda-intel", ["snd_hda_intel"], "named"),
        ("snd_hda_intel", ["snd_hda_intel"], "named"),
        ("snd-hda-*", ["snd_hda_intel"], "matches snd-hda-*"),
        ("[eu]hci?*ci*", ["ehci_pci"], "matches [eu]hci?*ci*"),
        ("=drivers/usb/core", ["usbcore"], "matches =drivers/usb/core"),
        ("=drivers/usb/core/", ["usbcore"], "matches =drivers/usb/core/"),
        ("=kernel/drivers/usb/core", ["usbcore"], "matches =kernel/drivers/usb/core"),
        ("=drivers/*/host", ["ehci_pci", "uhci_hcd"], "matches =drivers/*/host"),
        ("=fs/ext4/ext4", ["ext4"], "matches =fs/ext4/ext4"),
        ("=drivers/usb/host/ehci_pci", ["ehci_pci"], "matches =drivers/usb/host/ehci_pci"),
        ("alias:usb:v0781*", ["usb_storage"], "matches alias:usb:v0781*"),
        ("alias:fs-ext4", ["ext4"], "matches alias:fs-ext4"),
        ("modalias:virtio:d00000002v00001AF4", ["virtio_blk"], "matches modalias:virtio:d00000002v00001AF4"),
        ("crypto-crc32c", ["crc32c_generic", "crc32c_intel"], "provides crypto_crc32c"),
        ("virtio:d00000002v1", ["virtio_blk"], "provides virtio:d00000002v1"),
        ("?ext4", ["ext4"], "named"),
    ],
)
def test_each_selector_finds_its_modules(tmp_path: Path, selector: str, expected: list[str], reason: str) -> None:
    found = reasons(run(tmp_path, critical(f'["{selector}"]')))
    assert [name for name, text in found.items() if text == reason] == expected


@pytest.mark.parametrize(
    ("selector", "message"),
    [
        ("ext5", f"no module or alias ext5 in {RELEASE} (hint: did you mean ext4?)"),
        ("virtio_pcl", f"no module or alias virtio_pcl in {RELEASE} (hint: did you mean virtio_pci"),
        ("zzzzzz", f"no module or alias zzzzzz in {RELEASE} (hint: `?zzzzzz` if it may be missing)"),
        (
            "usb:v046D",
            "no module or alias usb:v046D in 6.1.0-test (hint: a pattern over aliases is written alias:GLOB)",
        ),
        ("ext5*", f"ext5* matches nothing in {RELEASE} (hint: did you mean ext4?)"),
        ("=driver/usb", f"=driver/usb matches nothing in {RELEASE} (hint: did you mean drivers/usb"),
        ("=usb", f"=usb matches nothing in {RELEASE}"),
        ("alias:usb:v9999*", f"alias:usb:v9999* matches nothing in {RELEASE}"),
        ("modalias:usb:v0781", f"modalias:usb:v0781 matches nothing in {RELEASE}"),
    ],
)
def test_a_selector_that_matches_nothing_is_located_with_the_nearest_names(
    tmp_path: Path, selector: str, message: str
) -> None:
    assert error_of(tmp_path, critical(f'[crc16, "{selector}"]')).startswith(f"p.yaml:1:29: {message}")


def test_where_the_tree_does_not_say_what_is_built_in_the_hint_says_so(tmp_path: Path) -> None:
    folder = small_tree(tmp_path)
    (folder / "modules.builtin").unlink()
    assert "the tree has no modules.builtin" in error_of(tmp_path, critical("[virtio_pci]"), folder)


def test_an_optional_name_that_is_not_there_is_a_note(tmp_path: Path) -> None:
    selection = run(tmp_path, critical('[crc16, "?zzz", "?x*"]'))
    assert names(selection) == {"critical": ["crc16"]}
    assert selection.notes == ("not in this kernel, and optional: zzz, x*",)


@pytest.mark.parametrize("selector", ["virtio-pci", "crypto-aes", "virtio_p*", "=drivers/virtio/virtio_pci"])
def test_a_builtin_is_noted_and_skipped(tmp_path: Path, selector: str) -> None:
    selection = run(tmp_path, critical(f'[crc16, "{selector}"]'))
    assert names(selection) == {"critical": ["crc16"]}
    assert selection.notes[0].startswith("built into the kernel, skipped: ")


def test_a_critical_stage_of_builtins_only_is_empty_and_noted(tmp_path: Path) -> None:
    selection = run(tmp_path, critical("[virtio_pci]"))
    assert names(selection) == {"critical": []}
    assert "the critical stage is empty: nothing that it names is a module of this kernel" in selection.notes


def test_a_deferred_module_that_a_critical_one_needs_is_promoted(tmp_path: Path) -> None:
    selection = run(tmp_path, critical("[usb_storage]") + "deferred: [{name: usb, modules: [usbcore, uhci_hcd]}]\n")
    assert names(selection) == {
        "critical": ["usb_common", "usb_storage", "usbcore"],
        "usb": ["ehci_pci", "uhci_hcd"],
    }
    assert reasons(selection)["usbcore"] == "needed by usb_storage, promoted from usb"
    assert selection.notes == ("usbcore is promoted from usb to critical: needed by usb_storage",)


def test_between_deferred_stages_a_needed_module_moves_to_the_earlier_one(tmp_path: Path) -> None:
    selection = run(
        tmp_path,
        critical("[crc16]") + "deferred: [{name: one, modules: [uhci_hcd]}, {name: two, modules: [ehci_pci, snd]}]\n",
    )
    assert names(selection)["one"] == ["ehci_pci", "uhci_hcd", "usb_common", "usbcore"]
    assert names(selection)["two"] == ["snd"]
    assert selection.notes == ("ehci_pci is promoted from two to one: softdep of uhci_hcd",)


def test_promotion_out_of_a_pattern_is_one_note(tmp_path: Path) -> None:
    selection = run(tmp_path, critical("[usb_storage]") + 'deferred: [{name: usb, modules: ["=drivers/usb"]}]\n')
    assert names(selection)["usb"] == ["ehci_pci", "uhci_hcd"]
    assert selection.notes == ("promoted from usb to critical, where they are needed: usb_common, usbcore",)


def test_a_stage_left_empty_by_promotion_is_out_with_a_note(tmp_path: Path) -> None:
    selection = run(tmp_path, critical("[ext4]") + "deferred: [{name: late, modules: [jbd2]}]\n")
    assert list(names(selection)) == ["critical"]
    assert selection.notes[-1] == "stage late is left out: none of its modules remains"


def test_a_softdep_to_come_after_may_stay_in_the_later_stage_that_names_it(tmp_path: Path) -> None:
    selection = run(tmp_path, critical("[act_mpls]") + "deferred: [{name: late, modules: [mpls_gso]}]\n")
    assert names(selection) == {"critical": ["act_mpls"], "late": ["mpls_gso"]}
    assert modules(selection)["mpls_gso"].after == ("act_mpls",)


def test_a_name_in_a_later_stage_counts_before_a_pattern_in_an_earlier_one(tmp_path: Path) -> None:
    selection = run(tmp_path, critical('["=drivers/usb"]') + "deferred: [{name: late, modules: [usb_storage]}]\n")
    assert names(selection)["late"] == ["usb_storage"]
    assert "usb_storage" not in names(selection)["critical"]


def test_of_two_patterns_the_earlier_stage_wins(tmp_path: Path) -> None:
    selection = run(tmp_path, critical('["usb*"]') + 'deferred: [{name: late, modules: ["=drivers/usb"]}]\n')
    assert names(selection)["late"] == ["ehci_pci", "uhci_hcd"]


def test_a_name_gives_the_reason_before_a_pattern_and_a_dependency(tmp_path: Path) -> None:
    selection = run(tmp_path, critical('["j*", jbd2, ext4]'))
    assert reasons(selection)["jbd2"] == "named"


def test_excluded_modules_are_left_out_of_patterns(tmp_path: Path) -> None:
    selection = run(tmp_path, critical('["=drivers/usb"]') + 'exclude: ["uhci*", ehci-pci]\n')
    assert names(selection) == {"critical": ["usb_common", "usb_storage", "usbcore"]}


def test_what_needs_an_excluded_module_goes_with_a_note(tmp_path: Path) -> None:
    selection = run(tmp_path, critical('[crc16, "=fs"]') + "exclude: [jbd2]\n")
    assert "ext4" not in names(selection)["critical"]
    assert "left out, because they need jbd2, which is excluded: ext4" in selection.notes


def test_an_excluded_softdep_leaves_the_module_in_with_a_note(tmp_path: Path) -> None:
    selection = run(tmp_path, critical("[btrfs]") + 'exclude: ["crc32c*"]\n')
    assert names(selection) == {"critical": ["btrfs", "libcrc32c"]}
    assert modules(selection)["libcrc32c"].after == ()
    assert selection.notes == (
        "excluded, although a selected module has a softdep on them: crc32c_generic, crc32c_intel",
    )


def test_a_module_both_named_and_excluded_is_an_error(tmp_path: Path) -> None:
    error = error_of(tmp_path, critical("[ext4]") + "exclude: [ext4]\n")
    assert error == (
        "p.yaml:2:11: ext4 is excluded, and stage critical names it at p.yaml:1:22 "
        '(hint: take one of the two out; `"!ext4"` removes an inherited entry)'
    )


def test_a_named_module_that_needs_an_excluded_one_is_an_error(tmp_path: Path) -> None:
    error = error_of(tmp_path, critical("[ext4]") + "exclude: [jbd2]\n")
    assert error == "p.yaml:1:22: ext4 needs jbd2, which is excluded at p.yaml:2:11 (hint: `?ext4` leaves it out)"


def test_an_optional_module_that_needs_an_excluded_one_is_left_out(tmp_path: Path) -> None:
    assert names(run(tmp_path, critical('[crc16, "?ext4"]') + "exclude: [jbd2]\n")) == {"critical": ["crc16"]}


def test_an_exclusion_without_a_match_is_an_error_and_a_builtin_a_note(tmp_path: Path) -> None:
    assert error_of(tmp_path, critical("[crc16]") + 'exclude: ["*_test"]\n').startswith("p.yaml:2:11: *_test matches")
    (tmp_path / "lib").rename(tmp_path / "old")
    selection = run(tmp_path, critical("[crc16]") + 'exclude: ["?*_test", virtio_pci]\n')
    assert "built into the kernel, so not excluded: virtio_pci" in selection.notes


def test_options_are_checked_against_the_tree(tmp_path: Path) -> None:
    selection = run(
        tmp_path, critical("[crc16]") + 'options: {crc16: {a: 1}, snd: {b: 2}, virtio_pci: {c: 3}, "?zzz": {d: 4}}\n'
    )
    assert selection.notes == (
        "options without effect, the modules are in no stage: snd",
        "options of what is built into the kernel belong on its command line, as: virtio_pci.c=3",
        "not in this kernel, and optional: zzz",
    )
    (tmp_path / "lib").rename(tmp_path / "old")
    error = error_of(tmp_path, critical("[crc16]") + "options: {usbcoer: {a: 1}}\n")
    assert error == f"p.yaml:2:21: options: no module usbcoer in {RELEASE} (hint: did you mean usbcore?)"


def cyclic(root: Path, lists: Mapping[str, str]) -> Path:
    return make_tree(root, {f"kernel/{name}.ko": [f"kernel/{d}.ko" for d in deps] for name, deps in lists.items()})


@pytest.mark.parametrize(
    ("lists", "ring"),
    [
        ({"a": "b", "b": "c", "c": "a"}, "a → b → c → a"),
        ({"a": "bc", "b": "ca", "c": "ab"}, "a → b → c → a"),
        ({"a": "a"}, "a → a"),
        ({"a": "xb", "b": "c", "c": "b", "x": ""}, "b → c → b"),
    ],
)
def test_a_cyclic_dependency_is_named_whole(tmp_path: Path, lists: Mapping[str, str], ring: str) -> None:
    folder = cyclic(tmp_path, lists)
    assert error_of(tmp_path, critical("[a]"), folder).startswith(
        f"lib/modules/{RELEASE}/modules.dep: cyclic dependency: {ring} (hint: "
    )


def test_a_cycle_elsewhere_in_the_tree_does_not_matter(tmp_path: Path) -> None:
    folder = cyclic(tmp_path, {"a": "b", "b": "a", "x": "y", "y": ""})
    assert names(run(tmp_path, critical("[x]"), folder)) == {"critical": ["x", "y"]}


def test_softdeps_in_a_circle_are_no_error(tmp_path: Path) -> None:
    folder = make_tree(tmp_path, {"kernel/a.ko": [], "kernel/b.ko": []}, softdep=["a pre: b", "b pre: a"])
    selection = run(tmp_path, critical("[a]"), folder)
    assert {name: module.after for name, module in modules(selection).items()} == {"a": ("b",), "b": ("a",)}


def test_a_listed_file_that_is_gone_is_an_error(tmp_path: Path) -> None:
    folder = small_tree(tmp_path)
    (folder / "kernel/lib/crc16.ko").unlink()
    error = error_of(tmp_path, critical("[ext4]"), folder)
    assert error.startswith(f"lib/modules/{RELEASE}/modules.dep: kernel/lib/crc16.ko is listed, but there is no such")


def test_closures_hold_even_if_modules_dep_lists_only_direct_needs(tmp_path: Path) -> None:
    folder = cyclic(tmp_path, {"a": "b", "b": "c", "c": ""})
    assert names(run(tmp_path, critical("[a]"), folder)) == {"critical": ["a", "b", "c"]}
    error = error_of(tmp_path, critical("[a]") + "exclude: [c]\n", folder)
    assert "a needs c, which is excluded" in error


def test_stages_that_wait_for_a_path_without_a_timeout_are_one_note(tmp_path: Path) -> None:
    later = "\n".join(
        f"  - {{name: {name}, modules: [{module}], after: {{path: /run/{name}{end}}}}}"
        for name, module, end in (("a", "snd", ""), ("b", "btrfs", ""), ("c", "crc16", ", timeout: 5s"))
    )
    (tmp_path / "p.yaml").write_text(f"critical: {{modules: [usb_storage]}}\ndeferred:\n{later}\n")
    selection = select(load_profile(tmp_path / "p.yaml"), open_tree(str(small_tree(tmp_path))))
    assert [note for note in selection.notes if "timeout" in note] == [
        "waits without a timeout, for ever if the path never comes (`timeout: 30s` in `after`): "
        "stage a for /run/a, stage b for /run/b"
    ]


def flash_tree(root: Path) -> Path:
    return make_tree(
        root,
        {
            "kernel/crypto/lzo.ko": [],
            "kernel/crypto/zstd.ko": [],
            "kernel/crypto/sha512_generic.ko": [],
            "kernel/drivers/md/dm-mod.ko": [],
            "kernel/drivers/md/dm-crypt.ko": ["kernel/drivers/md/dm-mod.ko"],
            "kernel/crypto/xts.ko": [],
            "kernel/drivers/md/dm-verity.ko": ["kernel/drivers/md/dm-mod.ko"],
            "kernel/drivers/mtd/mtd.ko": [],
            "kernel/drivers/mtd/parsers/ofpart.ko": ["kernel/drivers/mtd/mtd.ko"],
            "kernel/drivers/mtd/ubi/ubi.ko": ["kernel/drivers/mtd/mtd.ko"],
            "kernel/fs/ubifs/ubifs.ko": ["kernel/drivers/mtd/ubi/ubi.ko", "kernel/drivers/mtd/mtd.ko"],
            "kernel/fs/fat/vfat.ko": [],
            "kernel/fs/nls/nls_cp437.ko": [],
            "kernel/fs/nls/nls_utf8.ko": [],
            "kernel/fs/nls/nls_koi8-r.ko": [],
        },
        alias=[
            "crypto-lzo lzo",
            "crypto-zstd zstd",
            "crypto-sha512 sha512_generic",
            "crypto-xts xts",
        ],
        builtin=["kernel/crypto/deflate.ko", "kernel/crypto/aes_generic.ko", "kernel/crypto/ecb.ko"],
        builtin_modinfo=["aes_generic.alias=crypto-aes", "ecb.alias=crypto-ecb"],
    )


def test_what_an_init_asks_for_by_name_comes_along_and_comes_first(tmp_path: Path) -> None:
    selection = run(tmp_path, critical("[ubifs]"), flash_tree(tmp_path))
    assert reasons(selection) == {
        "lzo": "asked for by ubifs at run time",
        "mtd": "needed by ubifs",
        "ofpart": "asked for by mtd at run time",
        "ubi": "needed by ubifs",
        "ubifs": "named",
        "zstd": "asked for by ubifs at run time",
    }
    assert modules(selection)["ubifs"].after == ("lzo", "zstd")


def test_what_a_mount_asks_for_comes_along_only_before_user_space(tmp_path: Path) -> None:
    text = critical("[mtd]") + "deferred: [{name: files, modules: [vfat], after: userspace}]\n"
    assert names(run(tmp_path, text, flash_tree(tmp_path)))["files"] == ["vfat"]
    assert names(run(tmp_path, critical("[vfat]"), tmp_path / "lib/modules" / RELEASE))["critical"] == [
        "nls_cp437",
        "nls_utf8",
        "vfat",
    ]


def test_the_hash_of_verity_comes_along(tmp_path: Path) -> None:
    verity = "{root-hash: ab, hash-device: /dev/vdb, data-blocks: 1, algorithm: sha512}"
    text = critical("[dm_verity]") + f"root: {{from: cmdline, verity: {verity}}}\n"
    assert names(run(tmp_path, text, flash_tree(tmp_path)))["critical"] == ["dm_mod", "dm_verity", "sha512_generic"]


def test_what_may_be_asked_for_is_a_note(tmp_path: Path) -> None:
    assert run(tmp_path, critical("[dm_crypt]"), flash_tree(tmp_path)).notes == (
        "dm_crypt asks for its cipher by name: if it is needed, add crypto-xts",
    )
    assert run(tmp_path, critical("[dm_crypt, xts]"), tmp_path / "lib/modules" / RELEASE).notes == ()


def test_what_is_asked_for_and_excluded_is_said(tmp_path: Path) -> None:
    text = critical("[ubifs]") + "exclude: [zstd]\n"
    assert run(tmp_path, text, flash_tree(tmp_path)).notes == (
        "excluded, although a selected module asks at run time for them: zstd",
    )


def test_names_that_kernels_have_dropped_are_answered_all_at_once(tmp_path: Path) -> None:
    folder = make_tree(tmp_path, {"kernel/drivers/pinctrl/pinctrl-intel.ko": []}, release="7.2.0-test")
    error = error_of(tmp_path, critical("[crc32c_intel, libcrc32c, pinctrl_intle]"), folder)
    assert error.startswith(
        "p.yaml:1:22: no module or alias crc32c_intel in 7.2.0-test; p.yaml:1:36: no module or alias"
    )
    assert "crc32c_intel has become the kernel's CRC library" in error
    assert ": leave it out, or write `?crc32c_intel`" in error
    assert "libcrc32c has become" in error
    assert "did you mean pinctrl_intel?" in error


def test_an_older_kernel_that_lacks_such_a_module_is_not_told_so(tmp_path: Path) -> None:
    folder = make_tree(tmp_path, {"kernel/fs/ext4/ext4.ko": []}, release="6.1.0-test")
    assert "has become" not in error_of(tmp_path, critical("[crc32c_intel]"), folder)
