"""What input may cost, and what of it may reach a terminal or a stranger: ceilings, escapes, modes of images."""

from __future__ import annotations

import stat
import struct
from pathlib import Path

import pytest

from megamod.common.compression import decompress, most_unpacked
from megamod.common.errors import MegamodError
from megamod.common.flat_tree import DamagedTreeError, read_tree
from megamod.common.text import printable, printable_lines, table
from megamod.image.archive import holds_secrets, write_image
from megamod.image.cpio import Entry, read_cpio, write_cpio
from megamod.image.uki import write_uki
from tests.fuzz.damage import many_nodes
from tests.fuzz.samples import ELF, board, efi_program

FILE, FOLDER = stat.S_IFREG, stat.S_IFDIR


def mode_of(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_what_small_input_may_become_grows_with_it_up_to_the_limit() -> None:
    assert most_unpacked(0, limit=1 << 30) == 32 << 20
    assert most_unpacked(1 << 20, limit=1 << 30) == 160 << 20
    assert most_unpacked(100 << 20, limit=1 << 30) == 1 << 30


def test_streams_after_each_other_share_one_ceiling() -> None:
    import gzip

    piece = gzip.compress(bytes(20 << 20), mtime=0)
    assert len(decompress(piece, source="x")) == 20 << 20
    with pytest.raises(MegamodError, match=r"^x: gzip data unpacks to more than the "):
        decompress(piece * 4, source="x")


def test_an_archive_of_too_many_entries_is_refused() -> None:
    data = write_cpio([Entry(path=f"f{number}", mode=FILE | 0o644) for number in range(20)], mtime=0)
    assert len(read_cpio(data, most=20)) == 20
    with pytest.raises(MegamodError, match=r"^x: has too many files for its size"):
        read_cpio(data, source="x", most=19)


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("plain é 😀", "plain é 😀"),
        ("\x1b[2J", r"\x1b[2J"),
        ("\x9b31m", r"\x9b31m"),
        ("a\rb\x07", r"a\rb\x07"),
        ("\u202edcba", r"\u202edcba"),
        ("\udcff", r"\udcff"),
    ],
)
def test_what_a_terminal_would_act_on_is_written_out(text: str, shown: str) -> None:
    assert printable(text) == shown
    assert printable_lines(f"{text}\nnext\tcell") == f"{shown}\nnext\tcell"
    assert shown in table(["name"], [[text]], left=1)
    assert str(MegamodError(f"{text}: is not there")) == f"{shown}: is not there"


@pytest.mark.parametrize(
    ("entries", "private"),
    [
        ([Entry(path="a", mode=FILE | 0o644)], False),
        ([Entry(path="a", mode=FILE | 0o640)], True),
        ([Entry(path="a", mode=FILE | 0o600), Entry(path="b", mode=FILE | 0o644)], True),
        ([Entry(path="keys", mode=FOLDER | 0o700), Entry(path="keys/deep/a", mode=FILE | 0o644)], True),
        ([Entry(path="keys", mode=FOLDER | 0o700), Entry(path="keysa", mode=FILE | 0o644)], False),
        ([Entry(path="dev/console", mode=stat.S_IFCHR | 0o600, rdev=(5, 1))], False),
    ],
)
def test_an_image_is_closed_to_others_if_something_in_it_is(
    entries: list[Entry], private: bool, tmp_path: Path
) -> None:
    assert holds_secrets(entries) is private
    write_image(tmp_path / "image", entries, method="zstd")
    assert mode_of(tmp_path / "image") == (0o600 if private else 0o644)


@pytest.mark.parametrize("mode", [0o600, 0o644])
def test_what_is_made_of_an_image_is_as_closed_as_the_image(mode: int, tmp_path: Path) -> None:
    (tmp_path / "stub").write_bytes(efi_program(0x8664))
    (tmp_path / "vmlinuz").write_bytes(efi_program(0x8664, sections=[b".text"]))
    image = tmp_path / "image"
    write_image(image, [Entry(path="init", mode=FILE | 0o755, data=ELF)], method="none")
    image.chmod(mode)
    out = tmp_path / "out.efi"
    write_uki(out, kernel=tmp_path / "vmlinuz", image=image, command_line="", stub=tmp_path / "stub")
    assert mode_of(out) == mode


def test_what_was_taken_out_of_a_tree_in_place_is_passed_over() -> None:
    """fdt_nop_property() and fdt_nop_node() of libfdt leave FDT_NOP tags, in overlays too."""
    data = board()
    at = data.index(b"vendor,usb\0") - 12
    assert struct.unpack_from(">I", data, at + 24) == (3,)
    size = 12 + 12  # the property's tag, size, name, and its text with its padding
    data = data[:at] + struct.pack(">I", 4) * (size // 4) + data[at + size :]
    soc = read_tree(data).find("soc")
    assert soc is not None
    (node,) = [node for node in soc.children if node.name == "usb@3"]
    assert list(node.properties) == ["status"]


def test_a_tree_of_more_levels_than_the_kernel_reads_is_refused() -> None:
    assert read_tree(many_nodes(63, deep=True)).name == ""
    with pytest.raises(DamagedTreeError, match=r"^it has more than 64 levels$"):
        read_tree(many_nodes(64, deep=True))
