"""ModuleTree: what is read from the index files, and how a folder or a release is found."""

from __future__ import annotations

import lzma
import re
import shutil
from pathlib import Path

import pytest

from megamod.common.errors import MegamodError
from megamod.modules import depmod
from megamod.modules.tree import UNORDERED, Softdep, module_name, open_tree
from tests.unit.module_factory import Ko
from tests.unit.module_trees import RELEASE, make_tree, small_tree


def error_of(kernel: Path | str, **keywords: tuple[Path, ...]) -> str:
    with pytest.raises(MegamodError) as caught:
        open_tree(str(kernel), **keywords)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_modules_carry_canonical_names_paths_and_ordered_dependencies(tmp_path: Path) -> None:
    folder = small_tree(tmp_path)
    tree = open_tree(str(folder))
    hda = tree.modules["snd_hda_intel"]
    assert (hda.name, hda.relpath) == ("snd_hda_intel", "kernel/sound/pci/hda/snd-hda-intel.ko")
    assert hda.path == folder / hda.relpath
    assert tree.modules["ext4"].depends == ("mbcache", "crc16", "jbd2")
    assert (tree.release, tree.folder) == (RELEASE, folder)


def test_order_is_the_rank_in_modules_order_whatever_the_compression(tmp_path: Path) -> None:
    folder = make_tree(
        tmp_path,
        {"kernel/b.ko.xz": [], "kernel/a.ko.zst": [], "kernel/c.ko.gz": []},
        order=["kernel/a.ko", "kernel/b.ko"],
    )
    modules = open_tree(str(folder)).modules
    assert [modules[name].order for name in "abc"] == [0, 1, UNORDERED]


def test_builtins_come_from_both_files(tmp_path: Path) -> None:
    tree = open_tree(str(small_tree(tmp_path)))
    assert tree.builtin == {"virtio_pci", "aes_generic", "libblake2s_x86_64"}
    assert tree.has_builtin_list


def test_softdeps_of_all_lines_count_and_words_before_pre_do_not(tmp_path: Path) -> None:
    folder = make_tree(
        tmp_path,
        {"kernel/btrfs.ko": []},
        softdep=["btrfs pre: blake2b-256 sha256", "btrfs gcm pre: xxhash64 post: a b", "cifs nls"],
    )
    softdeps = open_tree(str(folder)).softdeps
    assert softdeps["btrfs"] == Softdep(pre=("blake2b-256", "sha256", "xxhash64"), post=("a", "b"))
    assert softdeps["cifs"] == Softdep()


def test_weakdeps_and_device_nodes_are_read(tmp_path: Path) -> None:
    folder = make_tree(
        tmp_path, {"kernel/a.ko": []}, weakdep=["lan78xx microchip", "lan78xx smsc"], devname=["cuse cuse c10:203"]
    )
    tree = open_tree(str(folder))
    assert tree.weakdeps == {"lan78xx": ("microchip", "smsc")}
    assert tree.devnames == {"cuse": "cuse"}


def test_a_tree_without_the_optional_indexes_is_read(tmp_path: Path) -> None:
    folder = make_tree(tmp_path, {"kernel/a.ko": []})
    for path in folder.glob("modules.*"):
        if path.name not in ("modules.dep", "modules.softdep", "modules.alias"):
            path.unlink()
    tree = open_tree(str(folder))
    assert (tree.builtin, dict(tree.softdeps), dict(tree.weakdeps)) == (frozenset(), {}, {})
    assert tree.aliases.providers("x") == ()
    assert not tree.has_builtin_list


@pytest.mark.parametrize("way", ["depmod", "no depmod", "a file that is no module", "a stray module", "a folder"])
def test_softdeps_of_a_tree_with_modules_dep_alone_come_from_the_modules(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, way: str
) -> None:
    """What depmod finds is found without it, and whatever makes depmod fail does not stop a tree with modules.dep."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    modules = {f"kernel/{name}.ko": [] for name in ("disk", "sums", "arm", "big")}
    odd = {"a file that is no module": b"", "a stray module": b"\x7fELF\2\1", "a folder": None}
    if way in odd:
        modules["kernel/odd.ko"] = []
    folder = make_tree(tmp_path, modules)
    (folder / "kernel/disk.ko").write_bytes(bytes(Ko("disk", info={"softdep": "pre: crypto-sums"})))
    (folder / "kernel/sums.ko").write_bytes(bytes(Ko("sums", info={"alias": "crypto-sums"})))
    (folder / "kernel/arm.ko").write_bytes(bytes(Ko("arm", info={"alias": "of:N*T*Cacme,arm"}, machine=40)))
    (folder / "kernel/big.ko").write_bytes(lzma.compress(bytes(Ko("big", info={"alias": "mt8183 soc card"}))))
    if way in odd:
        (folder / "kernel/odd.ko").unlink(missing_ok=True)
        content = odd[way]
        (folder / "kernel/odd.ko").mkdir() if content is None else (folder / "kernel/odd.ko").write_bytes(content)
    for index in ("modules.softdep", "modules.alias"):
        (folder / index).unlink()
    if way == "no depmod":
        monkeypatch.setattr(depmod.shutil, "which", lambda *_args, **_keywords: None)
    tree = open_tree(str(folder))
    assert tree.softdeps == {"disk": Softdep(pre=("crypto-sums",))}
    assert tree.resolve("crypto-sums") == (("sums",), ())
    assert tree.resolve("of:NplatformT(null)Cacme,arm") == (("arm",), ())
    assert tree.resolve("mt8183 soc card") == (("big",), ())
    assert not (folder / "modules.alias").exists(), "the tree is only read"


def test_a_name_is_looked_up_as_modprobe_does(tmp_path: Path) -> None:
    tree = open_tree(str(small_tree(tmp_path)))
    assert tree.resolve("snd-hda-intel") == (("snd_hda_intel",), ())
    assert tree.resolve("crypto-crc32c") == (("crc32c_generic", "crc32c_intel"), ())
    assert tree.resolve("crypto_crc32c") == (("crc32c_generic", "crc32c_intel"), ())
    assert tree.resolve("virtio:d00000002v00001AF4") == (("virtio_blk",), ())
    assert tree.resolve("crypto-aes") == ((), ("aes_generic",))
    assert tree.resolve("virtio-pci") == ((), ("virtio_pci",))
    assert tree.resolve("nothing") == ((), ())


def test_an_alias_of_a_module_that_is_not_there_is_passed_over(tmp_path: Path) -> None:
    folder = make_tree(tmp_path, {"kernel/a.ko": []}, alias=["x gone", "x a"])
    assert open_tree(str(folder)).resolve("x") == (("a",), ())


def test_brackets_in_an_alias_keep_their_dash(tmp_path: Path) -> None:
    folder = make_tree(tmp_path, {"kernel/a.ko": []}, alias=["dmi-x:v[0-9]-* a"])
    tree = open_tree(str(folder))
    assert tree.resolve("dmi-x:v5-1") == (("a",), ())
    assert tree.resolve("dmi-x:v_-1") == ((), ())


@pytest.mark.parametrize(
    ("path", "name"),
    [
        ("kernel/snd-pcm.ko", "snd_pcm"),
        ("a.ko.xz", "a"),
        ("a.ko.zst", "a"),
        ("a.ko.gz", "a"),
        ("a.b.ko", "a.b"),
        ("a.ko.bz2", None),
        ("a.o", None),
        (".ko", None),
    ],
)
def test_module_files_are_known_by_their_suffix(path: str, name: str | None) -> None:
    assert module_name(path) == name


@pytest.mark.parametrize("lib", ["lib/modules", "usr/lib/modules"])
def test_an_unpacked_package_is_as_good_as_the_folder_in_it(tmp_path: Path, lib: str) -> None:
    folder = make_tree(tmp_path, {"kernel/a.ko": []}, modules_folder=lib)
    assert open_tree(str(tmp_path)).folder == folder
    assert open_tree(str(tmp_path / lib)).folder == folder


def test_a_merged_usr_is_one_folder_not_two(tmp_path: Path) -> None:
    folder = make_tree(tmp_path, {"kernel/a.ko": []}, modules_folder="usr/lib/modules")
    (tmp_path / "lib").symlink_to("usr/lib")
    assert open_tree(str(tmp_path)).folder == folder


def test_a_release_is_looked_up_where_the_system_keeps_its_kernels(tmp_path: Path) -> None:
    folder = make_tree(tmp_path, {"kernel/a.ko": []})
    roots = (tmp_path / "none", tmp_path / "lib/modules")
    assert open_tree(RELEASE, release_folders=roots).folder == folder
    assert error_of("6.1.0-tets", release_folders=roots) == (
        f"6.1.0-tets: no such folder, and no kernel of that release (hint: did you mean {RELEASE}?)"
    )
    assert error_of("zzz", release_folders=roots).endswith(f"(hint: here are: {RELEASE})")


def test_two_kernels_in_one_folder_must_be_told_apart(tmp_path: Path) -> None:
    make_tree(tmp_path, {"kernel/a.ko": []}, release="1")
    make_tree(tmp_path, {"kernel/a.ko": []}, release="2")
    error = error_of(tmp_path)
    assert error.startswith(f"{tmp_path}: it has more than one kernel (hint: name one: {tmp_path}/lib/modules/1, ")


def test_what_is_no_module_folder_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    assert error_of(tmp_path).startswith(f"{tmp_path}: it has no kernel modules")
    assert error_of(tmp_path / "file") == f"{tmp_path}/file: a file, not a lib/modules/KVER folder"
    assert error_of(tmp_path / "none").startswith(f"{tmp_path}/none: no such folder")
    assert error_of("").startswith("the kernel name is empty")


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("kernel/a.ko", "`kernel/a.ko` is not a `MODULE.ko: DEPENDENCY…` line"),
        ("kernel/a.o: ", "`kernel/a.o:` is not a `MODULE.ko: DEPENDENCY…` line"),
        ("\x00\x01garbage", "is not a `MODULE.ko: DEPENDENCY…` line"),
        ("kernel/a.ko: kernel/b.ko", "a needs kernel/b.ko, which has no line of its own"),
        ("kernel/x/first.ko:", "first is given twice, as kernel/first.ko and kernel/x/first.ko"),
    ],
)
def test_a_broken_line_of_modules_dep_is_located(tmp_path: Path, line: str, message: str) -> None:
    folder = make_tree(tmp_path, {"kernel/first.ko": []})
    with (folder / "modules.dep").open("a") as stream:
        stream.write(line.rstrip() + "\n")
    error = error_of(folder)
    assert error.startswith(f"{folder}/modules.dep:2: ") and message in error
    assert error.endswith("(hint: depmod writes this file again)")


@pytest.mark.parametrize(
    ("index", "line"),
    [("softdep", "softdep"), ("softdep", "sofdep a pre: b"), ("alias", "alias x"), ("weakdep", "x y z")],
)
def test_a_broken_line_of_another_index_is_located_when_it_is_read(tmp_path: Path, index: str, line: str) -> None:
    folder = make_tree(tmp_path, {"kernel/a.ko": []})
    (folder / f"modules.{index}").write_text(f"# comment\n\n{line}\n")
    tree = open_tree(str(folder))
    attribute = {"softdep": "softdeps", "alias": "aliases", "weakdep": "weakdeps"}[index]
    with pytest.raises(MegamodError, match=re.escape(f"modules.{index}:3: `{line}` is not a line of modules.{index}")):
        getattr(tree, attribute)


def test_an_index_that_is_a_folder_is_one_line(tmp_path: Path) -> None:
    folder = make_tree(tmp_path, {"kernel/a.ko": []})
    (folder / "modules.dep").unlink()
    (folder / "modules.dep").mkdir()
    assert error_of(folder) == f"{folder}/modules.dep: Is a directory"


def test_bytes_that_are_no_utf_8_do_not_stop_the_reader(tmp_path: Path) -> None:
    folder = make_tree(tmp_path, {"kernel/a.ko": []}, alias=["x a"])
    (folder / "modules.builtin.modinfo").write_bytes(b"m.author=Andr\xe9\0m.file=x/m\0")
    assert open_tree(str(folder)).builtin == {"m"}


def test_without_depmod_a_missing_modules_dep_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = make_tree(tmp_path, {"kernel/a.ko": []})
    (folder / "modules.dep").unlink()
    monkeypatch.setattr(depmod.shutil, "which", lambda *_args, **_keywords: None)
    assert error_of(folder) == (
        f"{folder}: some of depmod's indexes are missing, and there is no depmod to make them "
        f"(hint: install kmod, or run `depmod -b ROOT {RELEASE}` where there is one)"
    )


def test_an_error_of_depmod_is_passed_on_in_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = make_tree(tmp_path, {"kernel/a.ko": []})
    (folder / "modules.dep").unlink()
    fake = tmp_path / "depmod"
    fake.write_text("#!/bin/sh\necho 'depmod: ERROR: Cycle detected: a -> b -> a' >&2\nexit 0\n")
    fake.chmod(0o755)
    monkeypatch.setattr(depmod.shutil, "which", lambda *_args, **_keywords: str(fake))
    assert error_of(folder) == f"{folder}: depmod failed: ERROR: Cycle detected: a -> b -> a"


def test_a_module_that_depmod_leaves_out_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = make_tree(tmp_path, {"kernel/a-b.ko": [], "kernel/c.ko.gz": []})
    (folder / "modules.dep").unlink()
    fake = tmp_path / "depmod"
    fake.write_text('#!/bin/sh\necho "kernel/a-b.ko:" > "$2/lib/modules/$5/modules.dep"\n')
    fake.chmod(0o755)
    monkeypatch.setattr(depmod.shutil, "which", lambda *_args, **_keywords: str(fake))
    assert error_of(folder).startswith(f"{folder}: depmod left out c.ko.gz (hint: ")
    (folder / "kernel/c.ko.gz").unlink()
    assert set(open_tree(str(folder)).modules) == {"a_b"}


def test_a_folder_without_a_single_module_is_an_error_after_depmod(tmp_path: Path) -> None:
    assert shutil.which("depmod", path="/usr/sbin:/sbin:/usr/bin"), "kmod is needed for this test"
    folder = tmp_path / "lib/modules" / RELEASE
    (folder / "kernel").mkdir(parents=True)
    assert error_of(folder).startswith(f"{folder}: it has no kernel modules")
    assert [path.name for path in folder.iterdir()] == ["kernel"], "the tree is only read"
