"""The table of keys in two other forms: the reference of a profile's keys, in Markdown, and a JSON Schema for editors.

`python -m megamod.profile.reference` prints it; with a file (profiles/README.md) it replaces what lies between the
markers there. Editors check and complete with the schema; what it cannot say (a trigger that does not fit the root, a
module that a kernel does not have) `megamod profile check` says. The YAML is taken as YAML 1.2 has it, where `off` and
`no` are texts.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator
from enum import StrEnum
from pathlib import Path

from megamod.common.errors import MegamodError
from megamod.common.files import atomic_write
from megamod.profile.keys import Json, Key, code, mapping_schema
from megamod.profile.model import CRITICAL, Profile, profile_keys

BEGIN = "<!-- Made by `python -m megamod.profile.reference profiles/README.md` from model.py: edit that. -->"
END = "<!-- End of the keys. -->"


DRAFT = "https://json-schema.org/draft/2020-12/schema"


def profile_schema(form: type[Profile] = Profile) -> Json:
    """The JSON Schema (draft 2020-12) of a profile, as a value for `json.dumps`."""
    return {
        "$schema": DRAFT,
        "title": "megamod profile",
        "description": "Which kernel modules are loaded before user space, and which later.",
        **mapping_schema(profile_keys(form)),
        "anyOf": [{"required": [CRITICAL]}, {"required": ["extends"]}],
    }


def reference(form: type[Profile] = Profile) -> str:
    """The tables of all keys: those of a profile, then those of each mapping in it."""
    keys = profile_keys(form)
    return "\n".join([*_table(keys, merged=True), *_inside(keys, "")])


def _table(keys: Iterable[Key], *, merged: bool = False) -> Iterator[str]:
    columns = ["key", "values", "default", *(["with `extends`"] if merged else []), "meaning"]
    yield f"| {' | '.join(columns)} |"
    yield f"|{' --- |' * len(columns)}"
    for key in keys:
        words = [key.merge.words] if merged else []
        cells = [code(key.name), key.values, default_words(key), *words, key.help]
        yield "|" + "".join(f" {cell} |" if cell else " |" for cell in cells)


def _inside(keys: Iterable[Key], place: str) -> Iterator[str]:
    for key in keys:
        if key.inside:
            path = f"{place}{key.name}: "
            yield from ("", f"Keys of `{path.rstrip()}`", "", *_table(key.inside), *_inside(key.inside, path))


def default_words(key: Key) -> str:
    """The default of a key, for its row."""
    if key.default_text:
        return key.default_text
    if key.required:
        return "required"
    if isinstance(key.default, StrEnum | str):
        return code(key.default) if key.default else "none"
    if isinstance(key.default, int):
        return code(str(key.default).lower())
    return "none"


def rewritten(page: str, file: str) -> str:
    """*page* with the present reference between the markers; *file* is for the message if they are not there."""
    before, begin, rest = page.partition(BEGIN)
    _old, end, after = rest.partition(END)
    if not begin or not end:
        raise MegamodError(f"{file}: the reference's markers are missing", hint=f"it goes between {BEGIN} and {END}")
    return f"{before}{begin}\n\n{reference()}\n\n{end}{after}"


def main(arguments: list[str]) -> int:
    """Print the reference, or write it into the pages that are named; 1 for a page without markers."""
    if not arguments:
        print(reference())
    try:
        for name in arguments:
            page = Path(name).read_text(encoding="utf-8")
            atomic_write(Path(name), rewritten(page, name).encode())
    except (OSError, MegamodError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
