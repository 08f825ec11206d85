"""Alias patterns match as fnmatch has it, whichever way they are compared."""

from __future__ import annotations

from fnmatch import fnmatchcase

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from megamod.modules.aliases import parse_aliases

COMPATIBLE = st.text(alphabet="aCT,", min_size=1, max_size=5)


@pytest.mark.heavy
@settings(max_examples=3000, derandomize=True, deadline=None)
@given(pattern=COMPATIBLE, more=st.booleans(), name=COMPATIBLE, texts=st.lists(COMPATIBLE, max_size=3))
def test_patterns_of_device_trees_match_what_fnmatch_matches(
    pattern: str, more: bool, name: str, texts: list[str]
) -> None:
    alias = f"of:N*T*C{pattern}{'C*' if more else ''}"
    modalias = f"of:N{name}T(null){''.join(f'C{text}' for text in texts)}"
    assert bool(parse_aliases([(alias, "found")]).providers(modalias)) is fnmatchcase(modalias, alias)
    assert parse_aliases([(alias, "found")]).matching("of:N[*]T[*]*") == ("found",)


@pytest.mark.parametrize(
    ("pattern", "text", "expected"),
    [
        ("of:N*T*Cacme,mmc", "of:NmmcT(null)Cacme,mmc", True),
        ("of:N*T*Cacme,mmc", "of:NmmcT(null)Cacme,mmc2", False),
        ("of:N*T*Cacme,mmcC*", "of:NmmcT(null)Cacme,mmcCacme,old", True),
        ("of:N*T*Cacme,mmcC*", "of:NmmcT(null)Cacme,mmc", False),
        ("usb:v*p*d*dc*dsc*dp*ic03isc*", "usb:v046DpC31Cd6400dc00dsc00dp00ic03isc01", True),
        ("pci:v0000[18]086d*", "pci:v00008086d0001", True),
        ("cpu:type:x86,ven000?", "cpu:type:x86,ven0002", True),
    ],
)
def test_real_kinds_of_patterns_match(pattern: str, text: str, expected: bool) -> None:
    assert bool(parse_aliases([(pattern, "found")]).providers(text)) is expected
