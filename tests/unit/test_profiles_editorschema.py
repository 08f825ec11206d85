"""The JSON Schema of profiles: it takes what the reader takes, and refuses what can be told wrong without a kernel."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, ClassVar

import jsonschema
import pytest
import yaml

from megamod.common.errors import MegamodError
from megamod.profile.model import profile_keys
from megamod.profile.reference import profile_schema
from megamod.profile.schema import load_profile, shipped_profiles


class Yaml12Loader(yaml.SafeLoader):
    """YAML as editors read it (1.2, core schema): only true and false are booleans."""

    yaml_implicit_resolvers: ClassVar[dict[str, Any]] = {
        first: [(tag, regexp) for tag, regexp in resolvers if not tag.endswith((":bool", ":timestamp"))]
        for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }


for _word in ("true", "false"):
    Yaml12Loader.add_implicit_resolver("tag:yaml.org,2002:bool", re.compile("true|false"), [_word[0]])


def faults(text: str) -> list[str]:
    value: Any = yaml.load(text, Loader=Yaml12Loader)
    validator = jsonschema.Draft202012Validator(profile_schema())
    return [f"{error.json_path}: {error.message}" for error in validator.iter_errors(value)]


def test_the_schema_is_a_valid_schema() -> None:
    jsonschema.Draft202012Validator.check_schema(profile_schema())


def test_every_key_of_a_profile_is_in_the_schema_with_a_description() -> None:
    properties = profile_schema()["properties"]
    assert list(properties) == [key.name for key in profile_keys()]
    assert all(entry["description"] for entry in properties.values())


@pytest.mark.parametrize("name", sorted(shipped_profiles()))
def test_a_shipped_profile_fits_the_schema(name: str) -> None:
    assert faults(shipped_profiles()[name].read_text()) == []


MINIMAL = "critical: {modules: [ext4]}\n"


@pytest.mark.parametrize(
    "text",
    [
        MINIMAL,
        "extends: vm\n",
        'critical: {modules: [ext4, "nf_*", "=drivers/usb", "alias:usb:v046D*", "modalias:pci:v00008086d", 842, no]}',
        'critical: {modules: ["?virtio_blk", "!ext4", "@detected", "@builtin:disks", "?=drivers/ata"]}',
        MINIMAL + "deferred: [{name: usb, modules: [usbhid], after: {path: /run/x, timeout: 5s}}]",
        MINIMAL + "deferred: [{name: usb, modules: [usbhid], after: now}, '!sound']",
        MINIMAL + "deferred: [{name: usb, modules: [usbhid], after: {idle: 500ms, timeout: 1.5s}}]",
        MINIMAL + "deferred: [{name: usb, modules: [usbhid], after: {manual: , timeout: 2min}}]",
        MINIMAL + "options: {usbcore: {autosuspend: -1, quirks: [a, b]}, '?snd': {slots: true}}",
        MINIMAL + "root: {exec: [/bin/app, -x, 1]}",
        MINIMAL + "root: {exec: /bin/app -x}",
        MINIMAL + "tracing: off\nunwind: compact\nsymbols: trim\nprobe: async\ncompress: none\nfallback: none",
        MINIMAL + "allow-taint: yes\nmodprobe-d: host",
        MINIMAL + "fallback: modules\nroot: {from: cmdline, overlay: tmpfs}",
        MINIMAL + "root: {from: cmdline, overlay: {tmpfs: size=50%}}",
        MINIMAL + "root: {from: cmdline, verity: {root-hash: ab12, hash-device: /dev/vdb, data-blocks: 9, salt: '00'}}",
        MINIMAL + "skip: [pcspkr, '?snd-pcsp']",
        MINIMAL + "files: {camera: /usr/bin/camera, 'config/': /etc, k: {to: /etc/k, mode: 0600}, '*.so': /usr/lib/}",
        MINIMAL + "files: [{from: camera, to: /usr/bin/camera, mode: 755}, {from: 'all/', to: /}]",
        MINIMAL + "firmware: auto",
        MINIMAL + "firmware: none\nfirmware-dir: .",
        MINIMAL + "firmware: [auto, brcm/, 'intel/*', '?regulatory.db']",
    ],
)
def test_what_the_reader_takes_the_schema_takes(text: str, tmp_path: Path) -> None:
    (tmp_path / "p.yaml").write_text(text.replace('"!ext4", ', "").replace(", '!sound'", ""))
    load_profile(tmp_path / "p.yaml")
    assert faults(text) == []


@pytest.mark.parametrize(
    "text",
    [
        "name: x\n",
        "critical: [ext4]\n",
        "critical: {modules: ext4}\n",
        "critical: {modules: [ext4], after: now}\n",
        "critical: {modules: [fs/ext4]}\n",
        'critical: {modules: ["@nothing"]}\n',
        'critical: {modules: ["alias:"]}\n',
        "critical: {modules: ['a b']}\n",
        MINIMAL + "criticle: x",
        MINIMAL + "firmware: all",
        MINIMAL + "firmware: []",
        MINIMAL + "firmware: [/lib/firmware/x]",
        MINIMAL + "firmware: [../x]",
        MINIMAL + "firmware: [x.bin.xz]",
        MINIMAL + "skip: ext4",
        MINIMAL + "skip: ['nf_*']",
        MINIMAL + "files: {}",
        MINIMAL + "files: camera",
        MINIMAL + "files: [camera]",
        MINIMAL + "files: [{from: camera}]",
        MINIMAL + "files: {camera: usr/bin/camera}",
        MINIMAL + "files: {camera: /usr/../bin/camera}",
        MINIMAL + "files: {camera: /init}",
        MINIMAL + "files: {camera: /megamod/plan}",
        MINIMAL + "files: {camera: /proc/x}",
        MINIMAL + "files: {camera: {to: /bin/camera, mode: 9}}",
        MINIMAL + "files: {camera: {mode: 755}}",
        MINIMAL + "unwind: less",
        MINIMAL + "fallback: original",
        MINIMAL + "allow-taint: perhaps",
        MINIMAL + "deferred: [{modules: [usbhid]}]",
        MINIMAL + "deferred: [{name: USB, modules: [usbhid]}]",
        MINIMAL + "deferred: [{name: critical, modules: [usbhid]}]",
        MINIMAL + f"deferred: [{{name: {'x' * 48}, modules: [usbhid]}}]",
        MINIMAL + "deferred: [{name: usb, modules: [usbhid], after: sometime}]",
        MINIMAL + "deferred: [{name: usb, modules: [usbhid], after: {delay: 5}}]",
        MINIMAL + "deferred: [{name: usb, modules: [usbhid], after: {delay: 5s, timeout: 9s}}]",
        MINIMAL + "deferred: [{name: usb, modules: [usbhid], after: {path: run/x}}]",
        MINIMAL + "deferred: [{name: usb, modules: [usbhid], after: {path: /run/../x}}]",
        MINIMAL + "deferred: [{name: usb, modules: [usbhid], after: {idle: 1s, path: /run/x}}]",
        MINIMAL + "options: {usbcore: {}}",
        MINIMAL + "options: {usbcore: 1}",
        MINIMAL + "root: {from: disk}",
        MINIMAL + "root: {from: cmdline, overlay: disk}",
        MINIMAL + "root: {exec: /bin/app, overlay: tmpfs}",
        MINIMAL + "root: {from: cmdline, verity: {root-hash: ab12}}",
        MINIMAL + "root: {from: cmdline, chain: /init}",
        MINIMAL + "root: {chain: [/init, x]}",
        MINIMAL + "root: cmdline",
        MINIMAL + "modprobe-d: somewhere",
    ],
)
def test_what_the_schema_refuses_the_reader_refuses(text: str, tmp_path: Path) -> None:
    assert faults(text) != []
    (tmp_path / "p.yaml").write_text(text)
    with pytest.raises(MegamodError):
        load_profile(tmp_path / "p.yaml")
