"""The table of keys: one record is all that a key needs, and every reader of the table takes it from there."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import jsonschema
import pytest

from megamod.common.errors import MegamodError
from megamod.profile.keys import choice
from megamod.profile.model import Profile
from megamod.profile.reference import profile_schema, reference, rewritten
from megamod.profile.schema import load_as, load_profile

MINIMAL = "critical: {modules: [ext4]}\n"
README = Path(__file__).parents[2] / "profiles/README.md"


class Console(StrEnum):
    QUIET = "quiet"
    LOUD = "loud"


@dataclass(frozen=True, slots=True, kw_only=True)
class ProfileWithConsole(Profile):
    boot_console: Annotated[Console, choice(Console, help="What a boot prints.")] = Console.QUIET


def load(folder: Path, text: str) -> ProfileWithConsole:
    (folder / "p.yaml").write_text(text)
    return load_as(folder / "p.yaml", ProfileWithConsole)


def test_a_new_key_is_one_record(tmp_path: Path) -> None:
    assert load(tmp_path, MINIMAL).boot_console is Console.QUIET
    assert load(tmp_path, MINIMAL + "boot-console: loud\n").boot_console is Console.LOUD
    (tmp_path / "base.yaml").write_text(MINIMAL + "boot-console: loud\n")
    assert load(tmp_path, "extends: base.yaml\n").boot_console is Console.LOUD
    assert load(tmp_path, "extends: base.yaml\nboot-console: quiet\n").boot_console is Console.QUIET

    schema = profile_schema(ProfileWithConsole)
    assert schema["properties"]["boot-console"] == {"description": "What a boot prints.", "enum": ["quiet", "loud"]}
    jsonschema.validate({"critical": {"modules": ["ext4"]}, "boot-console": "loud"}, schema)

    row = "| `boot-console` | `quiet`, `loud` | `quiet` | replaced | What a boot prints. |"
    assert row in reference(ProfileWithConsole).splitlines()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("boot-console: lout", "2:15: boot-console: `lout` is none of quiet, loud (hint: did you mean loud?)"),
        ("boot-consol: loud", "2:1: profile: unknown key `boot-consol` (hint: did you mean boot-console?)"),
    ],
)
def test_a_mistake_with_a_new_key_is_a_located_error(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(MegamodError) as caught:
        load(tmp_path, MINIMAL + text)
    assert str(caught.value) == f"{tmp_path}/p.yaml:{message}"


def test_a_profile_without_the_record_does_not_know_the_key(tmp_path: Path) -> None:
    (tmp_path / "p.yaml").write_text(MINIMAL + "boot-console: loud\n")
    with pytest.raises(MegamodError, match="unknown key `boot-console`"):
        load_profile(tmp_path / "p.yaml")


def test_the_reference_in_the_readme_is_that_of_the_table() -> None:
    page = README.read_text()
    assert rewritten(page, "README.md") == page, "run: python -m megamod.profile.reference profiles/README.md"


def test_the_defaults_of_the_reference_are_the_parsers(tmp_path: Path) -> None:
    """A profile that says every default of the reference is the one that says nothing."""
    rows = [line.split(" | ") for line in reference().split("\n\n")[0].splitlines()]
    words = {row[0].strip("| `"): row[2].strip("`") for row in rows if row[2].startswith("`")}
    assert words.pop("firmware-dir") == "lib/firmware` next to `lib/modules"
    assert words.pop("storage") == "100MB/s"
    said = "".join(f"{key}: {word}\n" for key, word in words.items())
    assert len(words) >= 12
    (tmp_path / "p.yaml").write_text(MINIMAL)
    nothing = load_profile(tmp_path / "p.yaml")
    (tmp_path / "p.yaml").write_text(MINIMAL + said)
    assert load_profile(tmp_path / "p.yaml") == nothing


def test_the_command_writes_the_reference_into_a_page(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text(README.read_text().replace("What the profile is called.", "Old words."))
    words = [sys.executable, "-m", "megamod.profile.reference"]
    subprocess.run([*words, str(page)], check=True)
    assert page.read_text() == README.read_text()
    assert subprocess.run(words, check=True, capture_output=True, text=True).stdout == reference() + "\n"


def test_a_page_without_markers_is_left_alone(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("# nothing here\n")
    words = [sys.executable, "-m", "megamod.profile.reference", str(page)]
    done = subprocess.run(words, check=False, capture_output=True, text=True)
    assert (done.returncode, page.read_text()) == (1, "# nothing here\n")
    assert done.stderr.startswith(
        f"error: {page}: the reference's markers are missing (hint: it goes between <!-- Made by"
    )
