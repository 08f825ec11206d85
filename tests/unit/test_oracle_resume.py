"""On all architectures the oracle finds damage to what can be resumed: the setter, its parameter, the waiting init."""

from typing import Any

import capstone
import pytest

from megamod.prelink.link import prelink
from megamod.prelink.options import PrelinkOptions
from megamod.prelink.read import read_member
from tests.oracle import judge, load_model
from tests.oracle.edit import Row, edit_relocations, flip, patch, section_of
from tests.unit.glue_runner import chain
from tests.unit.module_factory import GLUE_IMPORTS, Ko

pytestmark = pytest.mark.heavy

JUST_RETURN = bytes.fromhex("f30f1efa 31c0 c3")
PAGES = {"arm64": {275: 4096}}  # ADRP: its low part is resolved
IGNORED = {"riscv64": {24, 25}}  # the low part of a PC-relative pair: apply_relocate_add() takes no addend of it
INIT, SETTER = ".init.text", ".text"
ENGINES = {
    "x86_64": (capstone.CS_ARCH_X86, capstone.CS_MODE_64),
    "arm64": (capstone.CS_ARCH_ARM64, capstone.CS_MODE_ARM),
    "riscv64": (capstone.CS_ARCH_RISCV, capstone.CS_MODE_RISCV64),
    "arm": (capstone.CS_ARCH_ARM, capstone.CS_MODE_ARM),
    "thumb": (capstone.CS_ARCH_ARM, capstone.CS_MODE_THUMB),
}
# Conditional branch → byte and bit that make it its opposite.
BRANCHES = {
    "x86_64": dict.fromkeys(("je", "jne", "jae", "jb", "js", "jns"), (0, 1)),
    "arm64": dict.fromkeys(("b.eq", "b.ne", "b.hs", "b.lo"), (0, 1)) | dict.fromkeys(("cbz", "cbnz"), (3, 1)),
    "riscv64": dict.fromkeys(("beq", "bne", "bgeu", "bltu", "beqz", "bnez"), (1, 0x10)),
    "arm": dict.fromkeys(("beq", "bne", "bhs", "blo"), (3, 0x10)),
    "thumb": dict.fromkeys(("beq", "bne", "bhs", "blo"), (0, 0x40)),
}


class Made:
    """b needs a, c needs nothing; what the prelinker made of them."""

    def __init__(self, machine: str) -> None:
        self.machine = machine
        self.members = chain(machine, "a b:a c") if machine != "x86_64" else self.x86_64()
        options = PrelinkOptions(name="megamod_test")
        members = [read_member(data, file=f"{name}.ko") for name, data in self.members]
        made = prelink(members, options, donors=GLUE_IMPORTS if machine == "x86_64" else None)
        self.data, self.mapping = made.data, made.map

    @staticmethod
    def x86_64() -> list[tuple[str, bytes]]:
        a, b, c = (Ko(name, init=JUST_RETURN).exports(f"{name}_sym") for name in "abc")
        b.calls("a_sym", 0x99)
        return [(ko.name, bytes(ko)) for ko in (a, b, c)]

    def kinds(self, data: bytes) -> set[str]:
        return {difference.kind for difference in judge(self.members, data, self.mapping)}

    def glue(self, output: str) -> dict[str, Any]:
        return next(c for c in self.mapping["chunks"] if c["member"] < 0 and c["output"] == output)

    def code(self, section: str) -> tuple[int, bytes]:
        """Offset in the section, and bytes, of the glue's function there."""
        home, chunk = section_of(self.data, section), self.glue(section)
        at = home.offset + chunk["offset"]
        return chunk["offset"], self.data[at : at + chunk["size"]]

    def rows(self, section: str) -> list[Row]:
        """The glue's relocations in a section."""
        found: list[Row] = []
        edit_relocations(self.data, section, lambda _, row: found.append(row) or row)  # type: ignore[func-returns-value]
        chunk = self.glue(section)
        return [row for row in found if 0 <= row[0] - chunk["offset"] < chunk["size"]]


@pytest.fixture(scope="module", params=["x86_64", "arm64", "riscv64", "arm", "thumb"])
def made(request: pytest.FixtureRequest) -> Made:
    found = Made(request.param)
    assert judge(found.members, found.data, found.mapping) == []
    return found


def moved(made: Made, section: str, row: Row) -> bytes:
    """The file with a relocation of the glue going elsewhere."""
    model = load_model(made.data)
    step = PAGES.get(made.machine, {}).get(row[1], 4)
    if not model.arch.rel:
        return edit_relocations(made.data, section, lambda _, r: (*r[:3], r[3] + step) if r == row else r)
    form = model.arch.by_code(row[1])
    bit = next(b for b in range(2, 32) if form.mask >> b & 1)
    return flip(made.data, section, row[0] + bit // 8, 1 << bit % 8)


@pytest.mark.parametrize("section", [SETTER, INIT, "__param", ".rodata"])
def test_a_changed_addend_of_the_glue_is_found(made: Made, section: str) -> None:
    rows = [row for row in made.rows(section) if row[1] not in IGNORED.get(made.machine, ())]
    assert rows
    missed = [row for row in rows if not made.kinds(moved(made, section, row))]
    assert missed == []


def inverted(made: Made, section: str) -> list[bytes]:
    """The file with each conditional branch of the glue's function taking the other way, one at a time."""
    start, code = made.code(section)
    engine = capstone.Cs(*ENGINES[made.machine])
    engine.skipdata = True
    found = []
    for at, _, word, _ in engine.disasm_lite(code, 0):
        bits = BRANCHES[made.machine].get(word.removesuffix(".w"))
        if bits is not None:
            byte, mask = bits if not (made.machine == "x86_64" and code[at] == 0x0F) else (1, 1)
            found.append(flip(made.data, section, start + at + byte, mask))
    return found


@pytest.mark.parametrize("section", [SETTER, INIT])
def test_a_branch_that_goes_the_other_way_is_found(made: Made, section: str) -> None:
    damaged = inverted(made, section)
    assert len(damaged) >= {SETTER: 2, INIT: 10}[section]
    assert [n for n, data in enumerate(damaged) if not made.kinds(data)] == []


def test_a_setter_that_is_not_one_is_found(made: Made) -> None:
    arch, table = load_model(made.data).arch, made.glue("__param")
    entry = table["offset"] + table["size"] - arch.param_size
    assert made.kinds(patch(made.data, "__param", entry + arch.param_perm, b"\x24\x01")) == {"glue"}
    pointers = [row for row in made.rows("__param") if row[0] == entry + 2 * arch.word]
    model = load_model(made.data)
    operations = model.refers(section_of(made.data, "__param"), entry + 2 * arch.word)
    assert len(pointers) == 1 and operations is not None
    for at in (0, 2 * arch.word, 3 * arch.word):  # flags, get, free
        assert made.kinds(patch(made.data, ".rodata", operations[1] + at, b"\1")) == {"glue"}
    gone = edit_relocations(made.data, "__param", lambda _, r: (r[0], 0, 0, 0) if r == pointers[0] else r)
    assert made.kinds(gone) >= {"glue"}
    name = made.data.index(b"\0resume\0") + 1 - section_of(made.data, ".rodata").offset
    assert made.kinds(patch(made.data, ".rodata", name, b"R")) == {"glue"}
