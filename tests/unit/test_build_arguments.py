"""Options of a profile → words for the load, as the kernel's own lexer reads them back."""

from __future__ import annotations

import pytest

from megamod.build.arguments import arguments, own_setter, parameters_of, prefixes_of, usable_options
from megamod.common.errors import Location, MegamodError
from megamod.modules.modprobe_d import Option
from tests.unit.module_factory import Ko, read


def words(ko: Ko, parameter: str, value: str, *, merged: bool = True) -> tuple[str, ...]:
    (member,) = read(ko)
    option = Option(
        module=member.name, parameter=parameter, value=value, location=Location(file="p.yaml", line=3, column=7)
    )
    options, notes = usable_options([option], {member.name: member})
    assert not notes
    return arguments(options, {member.name: member}, [member.name], merged=merged)


def notes(ko: Ko, *wrong: tuple[str, str]) -> tuple[str, ...]:
    """The notes about options of modprobe.d, none of which is passed on."""
    (member,) = read(ko)
    options = [
        Option(
            module=member.name,
            parameter=parameter,
            value=value,
            location=Location(file="a.conf", line=line, column=1),
            lenient=True,
        )
        for line, (parameter, value) in enumerate(wrong, 1)
    ]
    kept, found = usable_options(options, {member.name: member})
    assert kept == ()
    return found


def test_option_of_a_member_has_its_name_in_front() -> None:
    assert words(Ko("snd-hda").param("debug"), "debug", "1") == ("snd_hda.debug=1",)


def test_option_of_a_single_is_bare() -> None:
    assert words(Ko("disk").param("debug"), "debug", "1", merged=False) == ("debug=1",)


def test_dash_and_underscore_are_alike() -> None:
    assert words(Ko("disk").param("power_save"), "power-save", "1") == ("disk.power_save=1",)


def test_parameter_with_its_own_prefix_keeps_it() -> None:
    ko = Ko("mmc_block").param("mmcblk.perdev_minors")
    assert words(ko, "perdev_minors", "8") == ("mmcblk.perdev_minors=8",)
    assert prefixes_of(read(ko)) == ("mmcblk",)


def test_parameters_are_those_of_the_table() -> None:
    (member,) = read(Ko("disk").param("debug").param("size"))
    assert parameters_of(member) == ["debug", "size"]
    assert parameters_of(read(Ko("disk"))[0]) == []


def test_option_of_a_module_in_another_load_is_left_out() -> None:
    (member,) = read(Ko("disk").param("debug"))
    option = Option(module="disk", parameter="debug", value="1", location=Location(file="p", line=1, column=1))
    assert arguments([option], {"disk": member}, ["core"], merged=True) == ()


@pytest.mark.parametrize("name", ["async_probe", "dyndbg"])
def test_parameters_of_every_module_are_for_singles_only(name: str) -> None:
    assert words(Ko("disk"), name, "1", merged=False) == (f"{name}=1",)
    with pytest.raises(MegamodError, match=rf"^p\.yaml:3:7: disk has no parameter {name}"):
        words(Ko("disk"), name, "1")


def test_unknown_parameter_is_refused_with_the_nearest() -> None:
    with pytest.raises(MegamodError) as caught:
        words(Ko("disk").param("debug").param("size"), "debgu", "1")
    assert str(caught.value) == "p.yaml:3:7: disk has no parameter debgu (hint: nearest: debug)"


@pytest.mark.parametrize("value", ["a b", "a\tb", " "])
def test_value_with_a_blank_is_quoted(value: str) -> None:
    assert words(Ko("disk").param("name", ops="param_ops_charp"), "name", value) == (f'disk.name="{value}"',)


@pytest.mark.parametrize("value", ['say "x"', '"', "a\0b", "a\nb", "\x1b[2J"])
def test_value_that_the_kernel_could_not_read_back_is_refused(value: str) -> None:
    with pytest.raises(MegamodError, match=r"^p\.yaml:3:7: disk\.debug: "):
        words(Ko("disk").param("debug"), "debug", value)


@pytest.mark.parametrize("value", ["", "abc", "2147483648", "1.5", "0x"])
def test_value_that_the_kernel_would_refuse_is_refused(value: str) -> None:
    with pytest.raises(MegamodError, match=r"^p\.yaml:3:7: disk\.debug does not take `.*int\)$"):
        words(Ko("disk").param("debug"), "debug", value)


def test_mistakes_in_modprobe_d_are_one_note_a_kind() -> None:
    ko = Ko("disk").param("debug").param("on", ops="param_ops_bool")
    assert notes(ko, ("debug", "abc"), ("on", "2"), ("nothing", "1"), ("debug", 'say "x"')) == (
        "values that the kernel would refuse, together with the module, left out: "
        "a.conf:1: disk.debug does not take `abc`; a.conf:2: disk.on does not take `2`",
        "parameters that the modules do not have, left out as the kernel would: "
        "a.conf:3: disk has no parameter nothing",
        "values that cannot be passed to the kernel, left out: a.conf:4: disk.debug: 'say \"x\"'",
    )


def test_parameters_of_every_module_are_left_out_for_members_where_modprobe_d_has_them() -> None:
    (member,) = read(Ko("disk"))
    place = Location(file="a.conf", line=1, column=1)
    option = Option(module="disk", parameter="dyndbg", value="+p", location=place, lenient=True)
    for merged, expected in ((True, ()), (False, ("dyndbg=+p",))):
        assert arguments([option], {"disk": member}, ["disk"], merged=merged) == expected


def test_option_with_a_setter_of_the_modules_own_is_found() -> None:
    (member,) = read(Ko("disk").param("debug").param("target", ops="disk_ops"))
    place = Location(file="a.conf", line=1, column=1)

    def option(name: str) -> Option:
        return Option(module="disk", parameter=name, value="anything", location=place)

    assert own_setter([option("debug")], member) is None
    assert own_setter([option("debug"), option("target")], member) == "target"
    assert words(Ko("disk").param("target", ops="disk_ops"), "target", "x y") == ('disk.target="x y"',)
