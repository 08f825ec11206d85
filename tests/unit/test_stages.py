"""Stages → loads: what is merged, what stays alone and why, and in what order they are loaded."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pytest

from megamod.build.stages import Load, import_edges, split_into_loads
from megamod.common.errors import MegamodError
from megamod.common.text import canonical
from megamod.kernel.export_sources import KernelExport, KernelExports
from megamod.prelink.mergeable import why_single
from megamod.prelink.read import read_member
from megamod.select.select import SelectedModule, SelectedStage
from tests.unit.module_factory import Ko, read


def make(text: str) -> dict[str, Ko]:
    """ "a b:a single!:b" → b imports from a; ! marks a livepatch, which may not be merged."""
    made: dict[str, Ko] = {}
    for word in text.split():
        name, _, needed = word.partition(":")
        ko = Ko(name.rstrip("!"), info={"livepatch": "Y"} if name.endswith("!") else {})
        ko.exports(f"{ko.name}_sym", 1)
        for other in needed.split(",") if needed else []:
            ko.calls(f"{other}_sym", 1)
        made[ko.name] = ko
    return made


def stage(names: list[str], name: str = "critical") -> SelectedStage:
    modules = tuple(
        SelectedModule(name=n, path=Path(f"{n}.ko"), relpath=f"kernel/{n}.ko", reason="named", rank=(6, 0), after=())
        for n in sorted(names)
    )
    return SelectedStage(name=name, trigger=None, modules=modules)


def loads_of(
    kos: Mapping[str, Ko],
    *,
    inside: list[str] | None = None,
    exports: KernelExports | None = None,
    name: str = "critical",
) -> list[Load]:
    members = {member.name: member for member in read(*kos.values())}
    return split_into_loads(stage(inside or list(kos), name), members, import_edges(members), exports)


def shown(loads: list[Load]) -> list[str]:
    return [
        load.module if load.single else f"{load.module}({' '.join(m.name for m in load.modules)})" for load in loads
    ]


def test_members_of_a_stage_become_one_megamodule() -> None:
    assert shown(loads_of(make("a b:a c"))) == ["megamod_critical(a b c)"]


def test_empty_stage_has_no_loads() -> None:
    assert split_into_loads(stage([]), {}, {}, None) == []


def test_dash_in_a_stage_name_becomes_an_underscore() -> None:
    assert shown(loads_of(make("a"), name="usb-later")) == ["megamod_usb_later(a)"]


def test_single_that_needs_nothing_is_loaded_first() -> None:
    assert shown(loads_of(make("a:lp lp!"))) == ["lp", "megamod_critical(a)"]


def test_single_that_needs_a_member_is_loaded_after_it() -> None:
    assert shown(loads_of(make("a lp!:a"))) == ["megamod_critical(a)", "lp"]


def test_member_that_needs_such_a_single_goes_to_a_second_megamodule() -> None:
    assert shown(loads_of(make("a lp!:a b:lp c:b d"))) == ["megamod_critical(a d)", "lp", "megamod_critical_2(b c)"]


def test_rounds_go_on_as_long_as_they_must() -> None:
    found = shown(loads_of(make("a s1!:a b:s1 s2!:b c:s2")))
    assert found == ["megamod_critical(a)", "s1", "megamod_critical_2(b)", "s2", "megamod_critical_3(c)"]


def test_singles_of_one_round_go_by_need() -> None:
    assert shown(loads_of(make("z1!:a1 a1!:m1 m1! x:z1"))) == ["m1", "a1", "z1", "megamod_critical(x)"]


def test_single_says_why() -> None:
    assert loads_of(make("lp!"))[0].single == "is a livepatch, which finds its sections and symbols by name"


@pytest.mark.parametrize("name", ["thinkpad_acpi", "qemu_fw_cfg"])
def test_module_that_compares_parameter_names_is_single(name: str) -> None:
    assert loads_of({name: Ko(name).param("debug")})[0].single == "compares the names of its own parameters"
    assert loads_of({name: Ko(name)})[0].single is None


def test_module_with_livepatch_sections_is_single() -> None:
    ko = Ko("lp")
    ko.section(".klp.rela.vmlinux..text", bytes(24))
    assert loads_of({"lp": ko})[0].single is not None


def test_modules_built_with_kcfi_are_merged() -> None:
    kos = {name: Ko(name) for name in ("a", "b")}
    for ko in kos.values():
        ko.section("__kcfi_traps", bytes(4))
    assert [load.single for load in loads_of(kos)] == [None]


def reserving(namespace: str) -> KernelExports:
    symbols = {"special": KernelExport(crc=5, gpl=True, namespace=namespace)}
    return KernelExports(source=Path("vmlinuz"), symbols=symbols)


def test_module_whose_file_kmod_and_the_kernel_name_differently_is_single() -> None:
    member = read_member(bytes(Ko("thead_aon")), file="thead,aon.ko")
    assert canonical("thead,aon") == member.name
    assert "a comma in its file name" in str(why_single(member))


def test_module_whose_import_the_kernel_reserves_by_name_is_single() -> None:
    kos = {"a": Ko("a"), "btrfs": Ko("btrfs").calls("special", 5)}
    found = loads_of(kos, exports=reserving("module:btrfs"))
    assert shown(found) == ["btrfs", "megamod_critical(a)"]
    assert "special" in (found[0].single or "")


def test_ordinary_namespace_reserves_nothing() -> None:
    kos = {"a": Ko("a"), "btrfs": Ko("btrfs", info={"import_ns": "NS"}).calls("special", 5)}
    assert shown(loads_of(kos, exports=reserving("NS"))) == ["megamod_critical(a btrfs)"]


def test_symbol_reserved_by_a_member_of_the_load_is_bound_by_the_link() -> None:
    kos = {"core": Ko("core").exports("core_sym", 1, namespace="module:user"), "user": Ko("user").calls("core_sym", 1)}
    assert shown(loads_of(kos)) == ["megamod_critical(core user)"]


def test_symbol_that_a_module_of_an_earlier_load_reserves_makes_a_single() -> None:
    kos = {"core": Ko("core").exports("core_sym", 1, namespace="module:user"), "user": Ko("user").calls("core_sym", 1)}
    found = loads_of(kos, inside=["user"])
    assert found[0].single == "imports core_sym, which core reserves for user"


def test_needs_are_by_symbols_and_not_of_oneself() -> None:
    members = {member.name: member for member in read(*make("a:a b:a c").values())}
    assert import_edges(members) == {"a": frozenset(), "b": frozenset("a"), "c": frozenset()}


def test_cycle_is_named_whole() -> None:
    with pytest.raises(MegamodError, match=r"^[abc]\.ko: cyclic dependency: . needs . needs . needs ."):
        loads_of(make("a:b b:c c:a"))


def test_long_chain_is_no_recursion() -> None:
    text = " ".join([*(f"m{n}:m{n + 1}" for n in range(1200)), "m1200"])
    assert len(loads_of(make(text))[0].modules) == 1201


def asks_for(ko: Ko, *names: str) -> Ko:
    """*ko*, which asks the kernel for the symbols *names* when its init runs."""
    ko.calls("__symbol_get", 1)
    ko.section(".rodata.str1.1", b"".join(f"{name}\0".encode() for name in names))
    return ko


def test_a_member_that_asks_for_a_symbol_by_name_comes_a_call_later() -> None:
    kos = make("tuner dvb other")
    asks_for(kos["dvb"], "tuner_sym")
    assert shown(loads_of(kos)) == ["megamod_critical(other tuner)", "megamod_critical_2(dvb)"]


def test_what_a_format_names_is_asked_for_by_name_too() -> None:
    kos = make("cmdset cfi:gen gen")
    kos["cmdset"].exports("cfi_cmdset_0001", 1)
    asks_for(kos["gen"], "cfi_cmdset_%4.4X")
    assert shown(loads_of(kos)) == ["megamod_critical(cmdset)", "megamod_critical_2(cfi gen)"]


def test_a_map_driver_comes_after_the_chip_drivers_and_ubi_after_the_flash() -> None:
    kos = make("cfi chipreg map mtd ubi ubifs:ubi")
    kos["cfi"].calls("register_mtd_chip_driver", 1)
    kos["map"].calls("do_map_probe", 1).calls("mtd_device_parse_register", 1)
    kos["ubi"].calls("get_mtd_device_nm", 1)
    assert shown(loads_of(kos)) == [
        "megamod_critical(cfi chipreg mtd)",
        "megamod_critical_2(map)",
        "megamod_critical_3(ubi ubifs)",
    ]


def test_what_another_member_needs_is_never_put_after_it() -> None:
    kos = make("gen user:gen")
    asks_for(kos["gen"], "user_sym")
    assert shown(loads_of(kos)) == ["megamod_critical(gen user)"]


def test_two_that_ask_for_each_other_stay_loadable() -> None:
    kos = make("a b")
    asks_for(kos["a"], "b_sym")
    asks_for(kos["b"], "a_sym")
    assert shown(loads_of(kos)) == ["megamod_critical(b)", "megamod_critical_2(a)"]


def test_a_single_that_asks_for_a_members_symbol_is_loaded_after_it() -> None:
    kos = make("a lp!")
    asks_for(kos["lp"], "a_sym")
    assert shown(loads_of(kos)) == ["megamod_critical(a)", "lp"]


def test_a_flash_that_is_set_alone_still_comes_before_ubi() -> None:
    kos = make("disk mtd flash!:mtd ubi:mtd other!")
    kos["flash"].calls("mtd_device_parse_register", 1)
    kos["ubi"].calls("get_mtd_device_nm", 1)
    assert shown(loads_of(kos)) == ["other", "megamod_critical(disk mtd)", "flash", "megamod_critical_2(ubi)"]
