"""The glue's code, run: which inits are called in what order, what is skipped and recorded, what is left intact."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from typing import Any

import pytest
import unicorn

from megamod.prelink.link import Megamodule
from tests.unit.glue_runner import ENODEV, Loaded, load
from tests.unit.module_factory import ALLOC, EXEC, GLUE_IMPORTS, INIT_AT, R_PC32, Back, Ko, link

ENOMEM = 12
ASKED, NEEDS, NOT_RUN = 1, 2, 3
JUST_RETURN = bytes.fromhex("f30f1efa c3")


def chain(text: str) -> list[Ko]:
    """ "a b:a c:b" → b imports from a, c from b; "lib!" has no init."""
    made: dict[str, Ko] = {}
    for word in text.split():
        name, _, needs = word.partition(":")
        ko = Ko(name.rstrip("!"), init=None if name.endswith("!") else JUST_RETURN).exports(f"{name.rstrip('!')}_sym")
        for needed in needs.split(",") if needs else []:
            ko.calls(f"{needed}_sym", 0x99)
        made[ko.name] = ko
    return list(made.values())


def make(text: str, *, timed: bool = True) -> Loaded:
    crcs = {name: crc for name, crc in GLUE_IMPORTS.items() if timed or name != "ktime_get"}
    return load(link(*chain(text), donors=crcs))


def members_called(loaded: Loaded, answers: Mapping[str, int] = {}, **lists: Sequence[int]) -> list[str]:
    """Of a run that returns 0; it fails by itself if registers or the stack pointer are other ones."""
    run = loaded.run(answers=answers, **lists)
    assert run.value == 0
    return run.members


def test_every_init_is_called_once_in_order() -> None:
    loaded = make("a b c:a d:c,b")
    assert members_called(loaded) == ["a", "b", "c", "d"]
    assert set(loaded.results().values()) == {0}


def test_results_say_not_run_before_the_call() -> None:
    assert make("a b").results() == {"a": NOT_RUN, "b": NOT_RUN}


def test_without_result_parameters_all_inits_are_called() -> None:
    loaded = load(link(*chain("a b:a")))
    assert members_called(loaded) == ["a", "b"]
    assert "__param" not in loaded.home


def test_users_of_a_failed_member_are_skipped_without_result_parameters() -> None:
    loaded = load(link(*chain("a b:a c:b d")))
    assert members_called(loaded, {"a": -ENODEV}) == ["a", "d"]


def test_failed_init_is_recorded_and_all_its_users_are_skipped() -> None:
    loaded = make("a b:a c:b d e:d")
    assert members_called(loaded, {"a": -ENODEV}) == ["a", "d", "e"]
    assert loaded.results() == {"a": -ENODEV, "b": NEEDS, "c": NEEDS, "d": 0, "e": 0}


def test_member_with_two_needs_is_skipped_when_either_fails() -> None:
    for bad in ("a", "b"):
        loaded = make("a b c:a,b")
        members_called(loaded, {bad: -ENOMEM})
        assert loaded.results()["c"] == NEEDS


@pytest.mark.parametrize("value", [1, 5, 0x7FFFFFFF])
def test_positive_return_is_success(value: int) -> None:
    loaded = make("a b:a")
    assert members_called(loaded, {"a": value}) == ["a", "b"]
    assert loaded.results() == {"a": 0, "b": 0}


@pytest.mark.parametrize("value", [-1, -4095, -(1 << 31)])
def test_any_negative_return_is_recorded_as_it_is(value: int) -> None:
    loaded = make("a")
    members_called(loaded, {"a": value})
    assert loaded.results() == {"a": value}


def test_init_returns_zero_when_every_member_fails() -> None:
    loaded = make("a b c")
    assert loaded.run(answers=dict.fromkeys("abc", -ENODEV)).value == 0


def test_library_without_init_succeeds_unless_what_it_needs_failed() -> None:
    loaded = make("a lib!:a b:lib lone! c:lone")
    assert members_called(loaded) == ["a", "b", "c"]
    assert set(loaded.results().values()) == {0}
    loaded = make("a lib!:a b:lib lone! c:lone")
    assert members_called(loaded, {"a": -ENODEV}) == ["a", "c"]
    assert loaded.results() == {"a": -ENODEV, "lib": NEEDS, "b": NEEDS, "lone": 0, "c": 0}


# Skipping as asked


def test_asked_members_are_skipped_and_their_users_too() -> None:
    loaded = make("a b:a c")
    assert members_called(loaded, skip=[0]) == ["c"]
    assert loaded.results() == {"a": ASKED, "b": NEEDS, "c": 0}


def test_asked_user_is_reported_as_asked_though_its_need_failed() -> None:
    loaded = make("a b:a")
    assert members_called(loaded, {"a": -ENODEV}, skip=[1]) == ["a"]
    assert loaded.results() == {"a": -ENODEV, "b": ASKED}


def test_asked_library_is_skipped() -> None:
    loaded = make("lib! b:lib c")
    assert members_called(loaded, skip=[0]) == ["c"]
    assert loaded.results() == {"lib": ASKED, "b": NEEDS, "c": 0}


def test_all_may_be_skipped_in_any_order_and_twice() -> None:
    loaded = make("a b c")
    assert members_called(loaded, skip=[2, 0, 1]) == []
    loaded = make("a b c")
    assert members_called(loaded, skip=[2, 2]) == ["a", "b"]


@pytest.mark.parametrize("index", [3, 4, 255, 256, 1 << 20, 0x7FFFFFFF, -1, -256, -(1 << 31)])
def test_index_out_of_range_is_ignored(index: int) -> None:
    loaded = make("a b c")
    # Nothing but the glue's own tables is written: members' data comes first.
    start = len(chain("a b c")[0].data.data) * 3
    before = loaded.machine.get(loaded.home[".data"], start)
    assert members_called(loaded, skip=[index, 1, index]) == ["a", "c"]
    assert loaded.results() == {"a": 0, "b": ASKED, "c": 0}
    assert loaded.machine.get(loaded.home[".data"], start) == before


@pytest.fixture(scope="module")
def many() -> Megamodule:
    """600 members: three result and skip lists, five of times."""
    kos = [Ko(f"m{n}", init=JUST_RETURN).exports(f"m{n}_sym") for n in range(600)]
    for needed, user in ((0, 599), (255, 256), (256, 511), (511, 512)):
        kos[user].calls(f"m{needed}_sym", 0x99)
    return link(*kos, donors=GLUE_IMPORTS)


def test_lists_are_split_so_that_each_file_fits_a_page(many: Megamodule) -> None:
    loaded = load(many)
    sizes = {name: loaded.array(name)[0] for name in loaded.parameters() if name != "resume"}
    assert {n: s for n, s in sizes.items() if n.startswith("result")} == {"result": 256, "result1": 256, "result2": 88}
    assert {n: s for n, s in sizes.items() if n.startswith("skip")} == {"skip": 256, "skip1": 256, "skip2": 88}
    assert [sizes[f"nanoseconds{n or ''}"] for n in range(5)] == [128, 128, 128, 128, 88]


def test_skip_lists_of_several_chunks_count_from_their_own_start(many: Megamodule) -> None:
    names = [member.name for member in many.members]
    loaded = load(many)
    # 256 in the first list is 256 still: the lists share one numbering from their start.
    called = members_called(loaded, skip=[3, 255, 256], skip1=[1, 255], skip2=[0, 87, 88, -1])
    # -1 in the third list is 511, 256 in the first is 256: both are members, and asked for.
    asked = {3, 255, 256, 257, 511, 512, 599}
    results = loaded.results()
    assert {names.index(n) for n, r in results.items() if r == ASKED} == asked
    assert called == [n for n in names if results[n] == 0]


def test_full_skip_list_skips_its_whole_chunk(many: Megamodule) -> None:
    loaded = load(many)
    called = members_called(loaded, skip1=range(256))
    names = [member.name for member in many.members]
    assert not set(called) & set(names[256:512])
    assert {names[0], names[255], names[599]} <= set(called)


def test_random_failures_and_wishes_agree_with_a_model() -> None:
    rng = random.Random(7)
    for _ in range(12):
        count = rng.randint(1, 40)
        text = " ".join(
            f"m{n}{'!' if n and rng.random() < 0.2 else ''}"
            + (":" + ",".join(f"m{d}" for d in sorted(rng.sample(range(n), min(n, rng.randint(1, 3))))) if n else "")
            for n in range(count)
        )
        loaded = make(text)
        members = loaded.megamodule.members
        answers = {m.name: -ENODEV for m in members if rng.random() < 0.1}
        skip = rng.sample(range(count), rng.randint(0, count // 5))
        expected: list[int] = []
        for number, member in enumerate(members):
            if number in skip:
                expected.append(ASKED)
            elif any(expected[n] for n in loaded.megamodule.depends[number]):
                expected.append(NEEDS)
            else:
                expected.append(answers.get(member.name, 0) if member.init else 0)
        members_called(loaded, answers, skip=skip)
        assert list(loaded.results().values()) == expected


# Time


def test_nanoseconds_are_recorded_for_each_init() -> None:
    loaded = make("a b c")
    loaded.ticks = lambda n: 1 << 40 | n * n * 1000
    members_called(loaded)
    assert loaded.get_all("nanoseconds") == [1000, 3000, 5000]


def test_skipped_members_have_no_time_and_do_not_add_to_the_next() -> None:
    loaded = make("a b c")
    loaded.ticks = lambda n: n * 10
    members_called(loaded, skip=[1])
    assert loaded.get_all("nanoseconds") == [10, 0, 10]


def test_clock_is_not_asked_where_it_is_not_known() -> None:
    loaded = make("a b", timed=False)
    calls = loaded.run().calls
    assert [name for name in calls if "param_lock" not in name and "unlock" not in name] == ["a", "b"]


# Parameters as the kernel sees them


def test_parameters_of_the_glue_are_as_the_kernel_wants_them() -> None:
    loaded = make("a b")
    module = loaded.home[".gnu.linkonce.this_module"]
    stubs = loaded.machine.imports
    assert loaded.word(loaded.parameters().pop("resume") + 24, "<H") == 0o200
    for name, address in loaded.parameters().items():
        assert loaded.word(address + 8) == module
        if name == "resume":
            continue
        assert loaded.word(address + 16) == stubs["param_array_ops"]
        assert loaded.word(address + 24, "<H") == (0 if name == "skip" else 0o444)
        assert loaded.word(address + 26, "<b") == -1
        limit, size, number, elements = loaded.array(name)
        assert limit == 2
        assert size == (8 if name == "nanoseconds" else 4)
        assert bool(number) == (name == "skip")
        assert elements % size == 0
        operations = loaded.word(loaded.word(address + 32) + 16)
        assert operations == stubs["param_ops_ulong" if name == "nanoseconds" else "param_ops_int"]


# Returning


def thunked() -> list[Ko]:
    ko = Ko("a", init=JUST_RETURN).calls("__x86_return_thunk", 5)
    ko.reloc(ko.section(".return_sites", bytes(4)), 0, R_PC32, ko.text, 16)
    return [ko]


def test_glue_returns_through_the_thunk_where_members_do() -> None:
    loaded = load(link(*thunked(), donors=GLUE_IMPORTS))
    run = loaded.run()
    assert run.calls[-1] == "__x86_return_thunk"
    assert run.value == 0  # registers and stack pointer are as before, or there would be no run


def test_glues_return_is_listed_among_the_return_sites() -> None:
    back = Back(link(*thunked(), donors=GLUE_IMPORTS).data)
    kind, section, offset = back.relocs(".return_sites")[4]
    assert (kind, section) == (R_PC32, ".init.text")
    assert back[".init.text"][offset] == 0xE9
    assert back.relocs(".init.text")[offset + 1][1] == "__x86_return_thunk"


def test_glue_starts_with_endbr64_and_ends_with_a_trap() -> None:
    back = Back(link(*chain("a")).data)
    start = back.relocs(".gnu.linkonce.this_module")[312][2]
    assert back[".init.text"][start : start + 4] == bytes.fromhex("f30f1efa")
    assert back[".init.text"][-2:] == bytes.fromhex("c3cc")


def test_init_in_another_code_section_is_called() -> None:
    ko = Ko("a", init=None)
    place = ko.section(".init.text.late", JUST_RETURN, flags=ALLOC | EXEC, align=16)
    ko.reloc(ko.this, 312, 1, ko.symbol("init_module", place))
    assert members_called(load(link(ko))) == ["a"]
    ko = Ko("b", init=None)
    ko.text.data += JUST_RETURN
    ko.reloc(ko.this, 312, 1, ko.symbol("init_module", ko.text, 16))
    assert members_called(load(link(ko))) == ["b"]


# Unwind entries


def test_orc_entries_of_the_glue_follow_its_stack() -> None:
    usual = bytes.fromhex("15100000")
    kos = chain("a b:a")
    kos[0].orc([(0, b"\x08\0" + usual), (8, b"\x10\0" + usual), (16, bytes(6))])
    for unwind in ("keep", "compact"):
        megamodule = link(*kos, donors=GLUE_IMPORTS, unwind=unwind)
        back, loaded = Back(megamodule.data), load(megamodule)
        rows = back.relocs(".orc_unwind_ip")
        states = back[".orc_unwind"]
        places = {
            loaded.home[rows[4 * n][1]] + rows[4 * n][2]: states[6 * n : 6 * n + 6] for n in range(len(states) // 6)
        }
        seen: dict[int, int] = {}
        start = loaded.word(loaded.home[".gnu.linkonce.this_module"] + INIT_AT)
        machine = loaded.machine

        def watch(uc: Any, address: int, size: int, user: object) -> None:
            seen[address] = machine.stack - uc.reg_read(machine.processor.sp)  # noqa: B023

        machine.hook(unicorn.UC_HOOK_CODE, watch, start, 4096)
        loaded.run()
        inside = {address: depth for address, depth in seen.items() if address < start + 4096}
        assert len(inside) > 20
        for address, depth in inside.items():
            entry = places[max(place for place in places if place <= address)]
            assert entry == (depth + 8).to_bytes(2, "little") + usual, hex(address - start)
