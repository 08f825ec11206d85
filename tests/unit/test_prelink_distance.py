"""Imports bound by distance: what is and what is not, the names form beside it, and the look at the kernel."""

from __future__ import annotations

import random
from dataclasses import replace

import pytest

from megamod.common.errors import MegamodError
from megamod.prelink.distance import ImageSymbol, KernelImage
from megamod.prelink.link import Megamodule, prelink
from megamod.prelink.names_form import apply_patch, make_patch
from megamod.prelink.options import PrelinkOptions
from megamod.prelink.read import read_member
from tests.oracle import judge
from tests.oracle.distance import compare_distances
from tests.oracle.fabricate_arches import make_arch_module
from tests.oracle.model import load_model
from tests.oracle.whole import undefined
from tests.unit.glue_runner import load
from tests.unit.module_factory import GLUE_IMPORTS, R_64, Ko, read

KERNEL = 0x1FF00000  # where the emulator has its kernel; functions lie 64 bytes apart from 4096 on
FUNCTIONS = [f"function_{number:02}" for number in range(40)]
BUILD_ID = bytes(range(0x40, 0x54))


def image(**changes: ImageSymbol) -> KernelImage:
    """A kernel with 40 functions, and what a glue needs."""
    names = [*FUNCTIONS, *GLUE_IMPORTS, "__x86_return_thunk", "param_ops_uint", "__tracepoint_x"]
    symbols = {
        name: ImageSymbol(address=KERNEL + 4096 + 64 * number, crc=GLUE_IMPORTS.get(name, 0x77), namespace="")
        for number, name in enumerate(names)
    }
    return KernelImage(build_id=BUILD_ID.hex(), note=KERNEL + 0x8000, symbols=symbols | changes)


def modules() -> list[Ko]:
    """Two modules that call all functions, one of them by a pointer too, with parameters."""
    one = Ko("one").glue_imports().exports("one_sym", 0x77).param("size", ops="param_ops_uint")
    two = Ko("two").glue_imports().calls("one_sym")
    for name in FUNCTIONS[:30]:
        one.calls(name)
    for name in FUNCTIONS[20:]:
        two.calls(name)
    two.reloc(two.data, 8, R_64, two.wants("function_05"), 0)
    return [one, two]


def made(*kos: Ko, kernel: KernelImage | None = None, **options: str) -> Megamodule:
    chosen = PrelinkOptions(name="megamod_test", **options)  # type: ignore[arg-type]
    return prelink(read(*(kos or modules())), chosen, image=kernel or image())


def addresses(kernel: KernelImage) -> dict[str, int]:
    return {name: symbol.address for name, symbol in kernel.symbols.items()}


def test_both_forms_are_proven_equal() -> None:
    found = made()
    members = [(ko.name, bytes(ko)) for ko in modules()]
    assert found.names is not None and found.build_id == BUILD_ID.hex()
    assert judge(members, found.names, found.map) == []
    assert compare_distances(found.data, found.names, addresses(image())) == []
    asked = undefined(load_model(found.data))
    assert len(asked) < len(undefined(load_model(found.names))) - 20


def test_the_oracle_sees_one_wrong_address() -> None:
    found = made()
    assert found.names is not None
    wrong = addresses(image()) | {"function_33": KERNEL}
    assert {each.kind for each in compare_distances(found.data, found.names, wrong)} == {"reference"}


def test_the_patch_makes_the_names_form() -> None:
    found = made()
    assert found.names is not None
    patch = make_patch(found.data, found.names)
    assert apply_patch(found.data, patch) == found.names
    with pytest.raises(MegamodError, match="another megamodule"):
        apply_patch(found.data + b"\0", patch)
    signed = make_patch(found.data + b"signature", found.names + b"another one")
    assert apply_patch(found.data + b"signature", signed) == found.names + b"another one"


@pytest.mark.parametrize(
    "options", [{"imports": "names"}, {"tracing": "keep"}], ids=["asked for", "trace events are registered early"]
)
def test_names_alone(options: dict[str, str]) -> None:
    found = made(**options)
    assert found.names is None and found.build_id is None
    assert undefined(load_model(found.data)) >= set(FUNCTIONS)


def test_a_kernel_without_versions_searches_nothing() -> None:
    kos = [Ko(name, versions=False) for name in ("one", "two")]
    for name in FUNCTIONS:
        kos[0].calls(name, None)
    assert made(*kos).build_id is None


@pytest.mark.parametrize(
    ("symbol", "why"),
    [
        (ImageSymbol(address=KERNEL + 4096, crc=0x78, namespace=""), "another CRC"),
        (ImageSymbol(address=KERNEL + 4096, crc=None, namespace=""), "no CRC"),
        (ImageSymbol(address=KERNEL + 4096, crc=0x77, namespace="HIDDEN"), "a namespace that is not imported"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_the_kernel_would_refuse_is_left_to_it(symbol: ImageSymbol, why: str) -> None:
    found = made(kernel=image(function_17=symbol))
    assert "function_17" in undefined(load_model(found.data)), why


def test_an_imported_namespace_is_no_hindrance() -> None:
    hidden = ImageSymbol(address=KERNEL + 4096, crc=0x77, namespace="HIDDEN")
    kos = modules()
    for ko in kos:
        ko.modinfo.append(("import_ns", "HIDDEN"))
    assert "function_17" not in undefined(load_model(made(*kos, kernel=image(function_17=hidden)).data))


def test_a_symbol_that_is_not_part_of_the_image_stays_a_name() -> None:
    kernel = image()
    known = {name: symbol for name, symbol in kernel.symbols.items() if name != "function_17"}
    found = made(kernel=replace(kernel, symbols=known))
    assert "function_17" in undefined(load_model(found.data))


@pytest.mark.parametrize("table", ["__jump_table", ".static_call_sites", ".altinstr_replacement", "__tracepoints"])
def test_what_tables_hold_stays_a_name(table: str) -> None:
    kos = modules()
    section = kos[0].section(table, bytes(16), align=8)
    kos[0].reloc(section, 8, R_64, kos[0].wants("function_17"), 0)
    assert "function_17" in undefined(load_model(made(*kos, static_calls="patch").data))


def test_the_field_of_a_patched_instruction_stays_a_name() -> None:
    kos = modules()
    call = next(row for row in kos[0].text.relocs if row[2].name == "function_17")  # type: ignore[union-attr]
    sites = kos[0].section(".retpoline_sites", bytes(4), align=1)
    kos[0].reloc(sites, 0, 2, kos[0].at(kos[0].text), call[0] - 1)
    assert undefined(load_model(made(*kos).data)) - undefined(load_model(made().data)) == {"function_17"}


@pytest.mark.parametrize("name", ["__x86_return_thunk", "__tracepoint_x"])
def test_what_the_kernel_follows_early_stays_a_name(name: str) -> None:
    kos = modules()
    kos[1].calls(name)
    assert name in undefined(load_model(made(*kos).data))


def test_a_setter_of_the_members_own_stays_by_name() -> None:
    """parse_args() calls it before the init has looked at the kernel."""
    kos = modules()
    ko = kos[0]
    start = len(ko.text.data)
    ko.calls("function_31")
    setter = ko.symbol("set_it", ko.text, start, size=5)
    ops = ko.section(".rodata.ops", bytes(32), align=8)
    ko.reloc(ops, 8, R_64, setter, 0)
    ko.param("own")
    table = next(section for section in ko.sections if section.name == "__param")
    row = next(n for n, each in enumerate(table.relocs) if each[0] == len(table.data) - 40 + 16)
    table.relocs[row] = (*table.relocs[row][:2], ko.at(ops), 0)
    assert "function_31" in undefined(load_model(made(*kos).data))


def test_in_its_own_kernel_every_member_runs() -> None:
    found = made()
    loaded = load(found, kernel=addresses(image()))
    loaded.machine.put(image().note, BUILD_ID)
    run = loaded.run()
    assert run.value == 0 and run.members == ["one", "two"]


def test_the_names_form_runs_in_any_kernel() -> None:
    found = made()
    assert load(found, data=found.names).run().members == ["one", "two"]


@pytest.mark.parametrize("number", range(20))
def test_in_another_build_no_member_is_called(number: int) -> None:
    """One function more, another order, data moved alone, the same shape with another build id, ..."""
    rng = random.Random(number)
    found, kernel = made(), addresses(image())
    build_id = bytearray(BUILD_ID)
    if number < 4:
        build_id[(0, 7, 15, 19)[number]] ^= 1 << rng.randrange(8)
    elif number < 8:
        kernel = {name: at + 64 * (at > KERNEL + 4096 + 64 * rng.randrange(20)) for name, at in kernel.items()}
        build_id[rng.randrange(20)] ^= 0x10
    elif number < 12:
        names = list(kernel)
        rng.shuffle(names)
        kernel = dict(zip(names, kernel.values(), strict=True))
    elif number < 16:
        kernel = {name: at + 16 * rng.randrange(1, 4) for name, at in kernel.items()}
    else:
        build_id = bytearray(rng.randbytes(20))
    loaded = load(found, kernel=kernel)
    loaded.machine.put(image().note, bytes(build_id))
    run = loaded.run()
    assert run.value == 0x100000000 - 8 and run.calls == []


def other_modules(machine: str) -> list[tuple[str, bytes]]:
    return [
        (name, make_arch_module(machine, name, exports={f"{name}_sym": 0x99}, imports=dict.fromkeys(used, 0x77)))
        for name, used in (("one", FUNCTIONS[:30]), ("two", FUNCTIONS[20:]))
    ]


def made_for(machine: str) -> tuple[list[tuple[str, bytes]], KernelImage, Megamodule]:
    files = other_modules(machine)
    members = [read_member(data, file=f"{name}.ko") for name, data in files]
    crcs = {name: crc for member in members for name, crc in member.versions.items()}
    symbols = {name: replace(symbol, crc=crcs.get(name, symbol.crc)) for name, symbol in image().symbols.items()}
    kernel = replace(image(), symbols=symbols)
    return files, kernel, prelink(members, PrelinkOptions(name="megamod_test"), image=kernel)


@pytest.mark.parametrize("machine", ["arm64", "riscv64"])
def test_other_architectures_are_proven_equal(machine: str) -> None:
    files, kernel, found = made_for(machine)
    assert found.names is not None
    assert judge(files, found.names, found.map) == []
    assert compare_distances(found.data, found.names, addresses(kernel)) == []
    assert not set(FUNCTIONS[1:39]) <= undefined(load_model(found.data))


@pytest.mark.parametrize("machine", ["arm64", "riscv64"])
def test_other_architectures_look_at_the_kernel(machine: str) -> None:
    _, kernel, found = made_for(machine)
    right = load(found, kernel=addresses(kernel))
    right.machine.put(kernel.note, BUILD_ID)
    assert right.run().members == ["one", "two"]
    assert load(found, data=found.names).run().members == ["one", "two"]
    for byte in range(20):
        wrong = load(found, kernel=addresses(kernel))
        wrong.machine.put(kernel.note, BUILD_ID[:byte] + bytes([BUILD_ID[byte] ^ 0x81]) + BUILD_ID[byte + 1 :])
        run = wrong.run()
        assert run.value == 0x100000000 - 8 and run.calls == []
    farther = {name: at + 16 * (at > KERNEL + 4096 + 64 * 20) for name, at in addresses(kernel).items()}
    other = load(found, kernel=farther)
    other.machine.put(kernel.note, BUILD_ID)
    assert other.run().calls == []


def test_a_veneer_that_leads_elsewhere_is_seen() -> None:
    files, _, found = made_for("arm64")
    assert found.names is not None
    model = load_model(found.names)
    names = bytearray(found.names)
    text = next(section for section in model.sections if section.name == ".text")
    start = text.offset + int(names[text.offset : text.offset + text.size].rfind(bytes.fromhex("00021fd6"))) - 8
    names[start + 8 : start + 12] = bytes.fromhex("20021fd6")  # br x17
    assert {each.kind for each in judge(files, bytes(names), found.map)} >= {"lost"}
