"""The manifest: written, read back, and refused with the place of what is wrong."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from typing import Any

import pytest

from megamod.build.manifest import Manifest, ManifestLoad, ManifestMember, ManifestStage
from megamod.common.errors import MegamodError

VIRTIO = ManifestMember(name="virtio", file="kernel/drivers/virtio/virtio.ko", reason="needed by ext4", bytes=40123)

MANIFEST = Manifest(
    megamod="0.1.0",
    profile="vm",
    kernel="6.1.0-50-amd64",
    options={"tracing": "off", "unwind": "drop"},
    root="cmdline",
    stages=(
        ManifestStage(
            name="critical",
            trigger="now",
            loads=(
                ManifestLoad(
                    file="megamod/megamod_critical.ko",
                    module="megamod_critical",
                    kind="merged",
                    reason=None,
                    bytes=1000,
                    relocations_before=900,
                    relocations_after=90,
                    members=(VIRTIO,),
                ),
                ManifestLoad(
                    file="megamod/kvm.ko",
                    module="kvm",
                    kind="single",
                    reason="imports symbols of the namespace module:kvm",
                    bytes=2000,
                    relocations_before=5,
                    relocations_after=5,
                    members=(VIRTIO,),
                ),
            ),
        ),
    ),
    notes=("größe",),
)


def test_a_manifest_is_read_back() -> None:
    assert Manifest.from_json(MANIFEST.to_json()) == MANIFEST


def test_a_manifest_is_ascii_with_its_version_first() -> None:
    data = MANIFEST.to_json()
    assert data.isascii()
    assert data.endswith(b"}\n")
    assert next(iter(json.loads(data).items())) == ("version", 1)


def test_keys_that_are_not_known_are_passed_over() -> None:
    value = json.loads(MANIFEST.to_json())
    value["stages"][0]["firmware"] = []
    assert Manifest.from_json(json.dumps(value).encode()) == MANIFEST


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda value: value.update(version=2), "has version 2, this megamod reads 1"),
        (lambda value: value.pop("kernel"), "kernel: is missing"),
        (lambda value: value.update(root=7), "root: must be a string, not a whole number"),
        (lambda value: value["options"].update(unwind=None), "options[...]: must be a string, not null"),
        (lambda value: value.update(stages={}), "stages: must be a list, not an object"),
        (lambda value: value["stages"].append(3), "stages[1]: must be an object, not a whole number"),
        (
            lambda value: value["stages"][0]["loads"][1].update(bytes=-1),
            "stages[0].loads[1].bytes: must be a whole number >= 0",
        ),
        (
            lambda value: value["stages"][0]["loads"][1].update(bytes=True),
            "stages[0].loads[1].bytes: must be a whole number, not true or false",
        ),
        (
            lambda value: value["stages"][0]["loads"][1].update(reason=None),
            "stages[0].loads[1].reason: must be a string, as the load is a single",
        ),
        (
            lambda value: value["stages"][0]["loads"][0].update(kind="x"),
            "stages[0].loads[0].kind: unknown value 'x'",
        ),
        (lambda value: value.update(notes=[1]), "notes[0]: must be a string, not a whole number"),
    ],
)
def test_what_is_wrong_is_named_with_its_place(change: Callable[[Any], object], message: str) -> None:
    value = json.loads(MANIFEST.to_json())
    change(value)
    with pytest.raises(MegamodError, match=f"^image: {re.escape(message)}"):
        Manifest.from_json(json.dumps(value).encode(), source="image")


@pytest.mark.parametrize("data", [b"", b"{", b"\xff\xfe", b"[" * 100_000, b'"\\u12"'])
def test_what_is_not_json_is_an_error(data: bytes) -> None:
    with pytest.raises(MegamodError, match="image: is not JSON"):
        Manifest.from_json(data, source="image")


@pytest.mark.parametrize("data", [b"[]", b"null", b"1"])
def test_json_that_is_no_object_is_an_error(data: bytes) -> None:
    with pytest.raises(MegamodError, match="image: is not an object"):
        Manifest.from_json(data, source="image")
