"""The JSON documents that megamod writes: published schemas are those of the types, and documents fit them."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Literal, get_args, get_type_hints

import jsonschema
import pytest

from megamod.analyze.chart.record_json import record_json
from megamod.analyze.chart.record_source import record_from_log
from megamod.analyze.chart.status_json import StatusDocument, StatusLoad, StatusMember, StatusStage
from megamod.build.link_map import map_bytes
from megamod.cli import main as cli
from megamod.cli.schemas import NAMES
from megamod.common.documents import document_bytes, plain, read_document, typed
from megamod.common.errors import MegamodError
from megamod.prelink.map_form import MegamoduleMap
from tests.unit.boot_logs import LOG, STATUS
from tests.unit.module_factory import Ko, link
from tests.unit.test_install_record import RECORD
from tests.unit.test_manifest import MANIFEST

TOP = Path(__file__).resolve().parents[2]
SCHEMAS = TOP / "initramfs/docs/schemas"


def megamodule_map() -> dict[str, Any]:
    """The map of two linked modules, after a trip through JSON."""
    linked = link(Ko("core").exports("core_add", 1), Ko("disk").calls("core_add", 1))
    return dict(json.loads(json.dumps(linked.map)))


DOCUMENTS: dict[str, Callable[[], bytes]] = {
    "manifest": MANIFEST.to_json,
    "map": lambda: map_bytes(kernel="6.1.0", profile="p", megamodules={"megamod_test": megamodule_map()}),
    "megamodule-map": lambda: json.dumps(megamodule_map()).encode(),
    "chart": lambda: record_json(record_from_log(LOG, name="a.log")).encode(),
    "install-record": RECORD.to_json,
    "status": lambda: json.dumps(STATUS).encode(),
}


@pytest.mark.parametrize("name", NAMES)
def test_the_published_schema_is_the_one_of_the_type(
    name: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["megamod", "schema", name])
    assert cli.main() == 0
    printed = json.loads(capsys.readouterr().out)
    assert printed == json.loads((SCHEMAS / f"{name}.json").read_text()), "megamod schema NAME prints the new one"


def test_every_published_schema_belongs_to_a_document() -> None:
    assert sorted(path.stem for path in SCHEMAS.iterdir()) == sorted(NAMES) == sorted(DOCUMENTS)


@pytest.mark.parametrize("name", NAMES)
def test_a_document_fits_its_published_schema_and_a_damaged_one_does_not(name: str) -> None:
    validator = jsonschema.Draft202012Validator(json.loads((SCHEMAS / f"{name}.json").read_text()))
    document = json.loads(DOCUMENTS[name]())
    validator.check_schema(validator.schema)
    validator.validate(document)
    for change in (lambda value: value.pop("version"), lambda value: value.update(version=99)):
        damaged = json.loads(DOCUMENTS[name]())
        change(damaged)
        assert not validator.is_valid(damaged)
    for key in document:
        assert not validator.is_valid({**document, key: object}), key


def test_the_type_of_the_map_has_all_that_the_linker_writes() -> None:
    written = megamodule_map()
    read = typed(written, MegamoduleMap, source="m")
    assert json.loads(json.dumps(plain(read))) == written
    assert list(plain(read)) == list(written)


def test_the_type_of_the_status_has_the_keys_and_words_that_the_loader_writes() -> None:
    source = (TOP / "loader/status.c").read_text()
    of_json = source[source.index("static void add_string(") :]
    written = re.findall(r'add_named\(&?t, "(\w+)"|\\"(\w+)\\": ', of_json)
    types = (StatusDocument, StatusStage, StatusLoad, StatusMember)
    assert {named or plain_key for named, plain_key in written} == {key.name for each in types for key in fields(each)}
    for table, each, key in (("fates", StatusMember, "state"), ("methods", StatusLoad, "loaded")):
        (words,) = re.findall(rf"{table}\[\] = {{ (.*?) }}", source)
        assert set(re.findall(r'"(\w+)"', words)) == set(get_args(get_type_hints(each)[key]))


@dataclass(frozen=True, slots=True, kw_only=True)
class Small:
    version: Literal[3] = 3
    words: tuple[str, ...] = ()
    pair: tuple[int, str] | None = None


def test_a_document_is_read_back_with_names_that_are_not_utf8() -> None:
    document = Small(words=("a\udcff", "ß"))
    data = document_bytes(document)
    assert data == b'{\n "version": 3,\n "words": [\n  "a\\udcff",\n  "\\u00df"\n ],\n "pair": null\n}\n'
    assert read_document(data, Small, source="x") == document


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "x: is not JSON: Expecting value: line 1 column 1 (char 0) (hint: h)"),
        ("[]", "x: is not an object (hint: h)"),
        ("{}", "x: version: is missing (hint: h)"),
        ('{"version": 4}', "x: has version 4, this megamod reads 3 (hint: use the megamod that wrote it, or write it "
                           "again with this one)"),
        ('{"version": true}', "x: has version True, this megamod reads 3 (hint: use the megamod that wrote it, "
                              "or write it again with this one)"),
        ('{"version": 3, "words": [1]}', "x: words[0]: must be a string, not a whole number (hint: h)"),
        ('{"version": 3, "words": "a"}', "x: words: must be a list, not a string (hint: h)"),
        ('{"version": 3, "pair": [1]}', "x: pair: must be a list of length 2, not 1 (hint: h)"),
        ('{"version": 3, "pair": 1.5}', "x: pair: must be a list or null, not a number (hint: h)"),
    ],
    ids=lambda text: text[:20],
)  # fmt: skip
def test_a_document_that_is_not_of_the_form_is_refused_with_its_place(text: str, message: str) -> None:
    with pytest.raises(MegamodError) as refused:
        read_document(text.encode(), Small, source="x", hint="h")
    assert str(refused.value) == message
