"""Options of a profile → words for the load, as the kernel's own lexer reads them back."""

from __future__ import annotations

import pytest

from megamod.build.arguments import arguments, parameters_of, prefixes_of
from megamod.common.errors import Location, MegamodError
from megamod.modules.modprobe_d import Option
from tests.unit.module_factory import Ko, read


def words(ko: Ko, parameter: str, value: str, *, merged: bool = True) -> tuple[str, ...]:
    (member,) = read(ko)
    option = Option(
        module=member.name, parameter=parameter, value=value, location=Location(file="p.yaml", line=3, column=7)
    )
    return arguments([option], {member.name: member}, [member.name], merged=merged)


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
    assert words(Ko("disk").param("debug"), "debug", value) == (f'disk.debug="{value}"',)


@pytest.mark.parametrize("value", ['say "x"', '"', "a\0b", "a\nb", "\x1b[2J"])
def test_value_that_the_kernel_could_not_read_back_is_refused(value: str) -> None:
    with pytest.raises(MegamodError, match=r"^p\.yaml:3:7: disk\.debug: "):
        words(Ko("disk").param("debug"), "debug", value)
