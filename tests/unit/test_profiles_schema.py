"""YAML → Profile: what is accepted, and the place and the words of every error."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from megamod.common.errors import MegamodError
from megamod.profile.model import Profile, Root, Trigger, TriggerKind
from megamod.profile.schema import load_profile

MINIMAL = "critical: {modules: [ext4]}\n"


def write(folder: Path, text: str | bytes, name: str = "p.yaml") -> Path:
    path = folder / name
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


def load(folder: Path, text: str | bytes) -> Profile:
    return load_profile(write(folder, text))


def error_of(folder: Path, text: str | bytes) -> str:
    """The one line of the error, without the folder."""
    with pytest.raises(MegamodError) as caught:
        load(folder, text)
    line = str(caught.value)
    assert "\n" not in line
    return line.replace(f"{folder}/", "")


def stage(after: str, *, root: str = "") -> str:
    """A profile with one deferred stage; the value of `after` is in line 2, column 44."""
    extra = f"root: {root}\n" if root else ""
    return MINIMAL + f"deferred: [{{name: ub, modules: [x], after: {after}}}]\n" + extra


def test_the_profile_of_the_design_page_loads_as_it_says(tmp_path: Path) -> None:
    profile = load(
        tmp_path,
        """\
name: camera
critical:
  modules: [mmc_block, ext4, "=drivers/media/i2c", "alias:usb:v046Dp*"]
deferred:
  - name: usb
    modules: [xhci_pci, usb_storage, uas, usbhid]
    after: {path: /run/camera/first-frame, timeout: 5s}
  - name: rest
    modules: ["=net/bluetooth", snd_usb_audio]
    after: {idle: 500ms, timeout: 30s}
exclude: ["*_test"]
options: {usbcore: {autosuspend: -1}}
root: {from: cmdline}
tracing: off
unwind: drop
symbols: trim
probe: async
compress: zstd
""",
    )
    assert [s.text for s in profile.critical.selectors] == [
        "mmc_block",
        "ext4",
        "=drivers/media/i2c",
        "alias:usb:v046Dp*",
    ]
    assert profile.deferred[0].trigger == Trigger(
        kind=TriggerKind.PATH, path="/run/camera/first-frame", timeout_ms=5000
    )
    assert profile.deferred[1].trigger == Trigger(kind=TriggerKind.IDLE, delay_ms=500, timeout_ms=30_000)
    assert [(o.module, o.parameter, o.value) for o in profile.options] == [("usbcore", "autosuspend", "-1")]
    assert (profile.tracing, profile.unwind, profile.symbols, profile.probe) == ("off", "drop", "trim", "async")
    assert profile.root == Root(kind="cmdline")
    assert str(profile.exclude[0].location) == f"{tmp_path}/p.yaml:11:11"


def test_what_a_profile_leaves_out_has_a_default(tmp_path: Path) -> None:
    profile = load(tmp_path, MINIMAL + "deferred: [{name: usb, modules: [usbhid]}]\n")
    assert profile.name == "p"
    assert profile.deferred[0].trigger == Trigger(kind=TriggerKind.USERSPACE)
    assert profile.root == Root(kind="cmdline")
    assert (profile.tracing, profile.unwind, profile.symbols, profile.probe) == ("off", "keep", "keep", "sync")
    assert (profile.compress, profile.fallback, profile.allow_taint) == ("zstd", "none", False)


def test_words_that_yaml_takes_for_booleans_and_numbers_stay_words(tmp_path: Path) -> None:
    profile = load(tmp_path, "critical: {modules: [no, on, 8021q, 1e3, null]}\ntracing: off\ncompress: none\n")
    assert [s.text for s in profile.critical.selectors] == ["no", "on", "8021q", "1e3", "null"]
    assert (profile.tracing, profile.compress) == ("off", "none")


@pytest.mark.parametrize(
    ("after", "trigger"),
    [
        ("now", Trigger(kind=TriggerKind.NOW)),
        ("userspace", Trigger(kind=TriggerKind.USERSPACE)),
        ("manual", Trigger(kind=TriggerKind.MANUAL)),
        ("{userspace: }", Trigger(kind=TriggerKind.USERSPACE)),
        ("{userspace: true, timeout: 10s}", Trigger(kind=TriggerKind.USERSPACE, timeout_ms=10_000)),
        ("{manual: , timeout: 2min}", Trigger(kind=TriggerKind.MANUAL, timeout_ms=120_000)),
        ("{now: }", Trigger(kind=TriggerKind.NOW)),
        ("{delay: 2s}", Trigger(kind=TriggerKind.DELAY, delay_ms=2000)),
        ("{delay: 1.5s}", Trigger(kind=TriggerKind.DELAY, delay_ms=1500)),
        ("{delay: 1 ms}", Trigger(kind=TriggerKind.DELAY, delay_ms=1)),
        ("{path: /run/x}", Trigger(kind=TriggerKind.PATH, path="/run/x")),
        ("{path: /run/x, timeout: 0}", Trigger(kind=TriggerKind.PATH, path="/run/x")),
        ("{idle: 1440min}", Trigger(kind=TriggerKind.IDLE, delay_ms=86_400_000)),
    ],
)
def test_each_form_of_after_is_read(tmp_path: Path, after: str, trigger: Trigger) -> None:
    assert load(tmp_path, stage(after)).deferred[0].trigger == trigger


@pytest.mark.parametrize(
    ("after", "message"),
    [
        ("never", "2:44: after: `never` is not a trigger (hint: now, userspace, manual"),
        ("usersapce", "2:44: after: `usersapce` is not a trigger (hint: did you mean userspace?)"),
        ("path", "2:44: after: `path` needs a value (hint: write {path: /run/x})"),
        ("[now]", "2:44: after: a word or a mapping expected, not a list"),
        ("", "2:43: after: a trigger expected, not nothing"),
        ("{}", "2:44: after: no trigger"),
        ("{timeout: 5s}", "2:44: after: no trigger"),
        ("{delay: 1s, idle: 1s}", "2:44: after: more than one trigger (delay, idle)"),
        ("{pth: /run/x}", "2:45: after: unknown key `pth` (hint: did you mean path?)"),
        ("{now: , timeout: 5s}", "2:52: after: `now` takes no timeout (hint: `now` takes no timeout)"),
        ("{delay: 1s, timeout: 5s}", "2:56: after: `delay` takes no timeout"),
        ("{userspace: 5s}", "2:56: after: `userspace` takes no value, not `5s`"),
        ("{delay: 5}", "2:52: delay: `5` is not a duration (hint: write 5ms or 5s)"),
        ("{delay: 5h}", "2:52: delay: `5h` is not a duration (hint: write it like 500ms, 5s or 2min)"),
        ("{delay: -5s}", "2:52: delay: `-5s` is not a duration"),
        ("{delay: 0s}", "2:52: delay: zero (hint: `after: now` waits for nothing)"),
        ("{delay: 0}", "2:52: delay: zero"),
        ("{delay: 1.5ms}", "2:52: delay: `1.5ms` is not a whole number of milliseconds"),
        ("{delay: 1441min}", "2:52: delay: `1441min` is longer than a day"),
        ("{delay: [1s]}", "2:52: delay: a duration expected, not a list"),
        ("{path: run/x}", "2:51: path: `run/x` is not absolute (hint: it begins with a slash: /run/x)"),
        ("{path: /run/../x}", "2:51: path: `/run/../x` must name a file"),
        ("{path: /run/}", "2:51: path: `/run/` must name a file"),
        ('{path: "/run/\\0"}', "2:51: path: `/run/\\x00` is not a path"),
        ("{idle: 5s, timeout: 5s}", "2:55: after: the timeout ends before the idle time can have passed"),
        ("{path: /tmp/x}", "2:44: after: path /tmp/x is not below /run"),
    ],
)
def test_each_wrong_trigger_is_a_located_error(tmp_path: Path, after: str, message: str) -> None:
    assert f"p.yaml:{message}" in error_of(tmp_path, stage(after))


@pytest.mark.parametrize("after", ["userspace", "{idle: 1s}", "{userspace: , timeout: 5s}"])
def test_a_trigger_that_means_nothing_under_chain_is_refused(tmp_path: Path, after: str) -> None:
    error = error_of(tmp_path, stage(after, root="{chain: /init}"))
    assert error.startswith("p.yaml:2:44: after: `") and "is impossible with root: {chain: …}" in error


def test_the_default_trigger_is_refused_under_chain_too(tmp_path: Path) -> None:
    text = MINIMAL + "deferred: [{name: usb, modules: [x]}]\nroot: {chain: /init}\n"
    assert error_of(tmp_path, text).startswith("p.yaml:2:12: after: `userspace` is impossible with root: {chain: …}")


@pytest.mark.parametrize("after", ["now", "manual", "{delay: 1s}", "{path: /run/x}"])
def test_the_other_triggers_work_under_chain(tmp_path: Path, after: str) -> None:
    assert load(tmp_path, stage(after, root="{chain: /init}")).deferred[0].trigger is not None


def test_a_path_trigger_may_lie_anywhere_if_the_image_is_the_whole_system(tmp_path: Path) -> None:
    assert load(tmp_path, stage("{path: /data/x}", root="{exec: /sbin/app}")).deferred


@pytest.mark.parametrize(
    ("root", "expected"),
    [
        ("{from: cmdline}", Root(kind="cmdline")),
        ("{exec: /usr/bin/camera}", Root(kind="exec", path="/usr/bin/camera")),
        (
            "{exec: \"/bin/sh -c 'echo a b'\"}",
            Root(kind="exec", path="/bin/sh", args=("-c", "echo a b")),
        ),
        ('{exec: [/bin/sh, -c, "a b"]}', Root(kind="exec", path="/bin/sh", args=("-c", "a b"))),
        ("{chain: /init}", Root(kind="chain", path="/init")),
    ],
)
def test_each_form_of_root_is_read(tmp_path: Path, root: str, expected: Root) -> None:
    assert load(tmp_path, MINIMAL + f"root: {root}\n").root == expected


@pytest.mark.parametrize(
    ("root", "message"),
    [
        ("cmdline", "2:7: root: a mapping expected, not `cmdline` (hint: write root: {from: cmdline})"),
        ("[a]", "2:7: root: a mapping expected, not a list"),
        ("{}", "2:7: root: exactly one of from, exec, chain expected, not nothing"),
        ("{from: cmdline, exec: /x}", "2:7: root: exactly one of from, exec, chain expected, not from and exec"),
        ("{from: disk}", "2:14: root: from `disk`: only `cmdline` is known"),
        ("{form: cmdline}", "2:8: root: unknown key `form` (hint: did you mean from?)"),
        ("{exec: app}", "2:14: root: exec: `app` is not absolute"),
        ("{exec: []}", "2:14: root: exec: the list is empty"),
        ('{exec: " "}', "2:14: root: exec: a path expected"),
        ('{exec: "/x \'y"}', "2:14: root: exec: No closing quotation"),
        ('{exec: [/x, "\\0"]}', "2:14: root: exec: NUL characters are not allowed"),
        ("{chain: /init now}", "2:15: root: chain takes a path alone"),
    ],
)
def test_each_wrong_root_is_a_located_error(tmp_path: Path, root: str, message: str) -> None:
    assert f"p.yaml:{message}" in error_of(tmp_path, MINIMAL + f"root: {root}\n")


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ("true", "Y"),
        ("False", "N"),
        ('"true"', "true"),
        ("on", "on"),
        ("yes", "yes"),
        ("-1", "-1"),
        ("0x10", "0x10"),
        ("[1, 2, true]", "1,2,Y"),
        ('""', ""),
        ('"a b"', "a b"),
        ('"1,2"', "1,2"),
    ],
)
def test_option_values_become_the_kernels_text(tmp_path: Path, value: str, text: str) -> None:
    [option] = load(tmp_path, MINIMAL + f"options: {{snd-hda-intel: {{index: {value}}}}}\n").options
    assert (option.module, option.parameter, option.value) == ("snd_hda_intel", "index", text)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("[a]", "2:10: options: a mapping expected, not a list"),
        ("{usbcore: 5}", "2:20: options: usbcore: a mapping expected, not `5`"),
        ("{usbcore: {}}", "2:20: options: usbcore: no parameters"),
        ("{usb*: {a: 1}}", "2:11: options: `usb*` is not a module name"),
        ("{a-b: {x: 1}, a_b: {y: 1}}", "2:24: options: a_b is given twice"),
        ("{a: {x-y: 1, x_y: 2}}", "2:23: options: a.x_y is given twice"),
        ("{a: {x y: 1}}", "2:15: options: `x y` is not a parameter name"),
        ("{a: {x: }}", "2:17: options: a.x: a value expected, not nothing"),
        ("{a: {x: {y: 1}}}", "2:18: options: a.x: a value expected, not a mapping"),
        ("{a: {x: []}}", "2:18: options: a.x: the list is empty"),
        ("{a: {x: 'a\"b'}}", "2:18: options: a.x: quotes and control characters are not allowed in a value"),
        ('{a: {x: "a\\nb"}}', "2:18: options: a.x: quotes and control characters are not allowed in a value"),
    ],
)
def test_each_wrong_option_is_a_located_error(tmp_path: Path, options: str, message: str) -> None:
    assert f"p.yaml:{message}" in error_of(tmp_path, MINIMAL + f"options: {options}\n")


@pytest.mark.parametrize(
    ("selector", "message"),
    [
        ("ext4", "1:21: modules: a list expected, not `ext4` (hint: write modules: [ext4])"),
        ("", "1:20: modules: a list expected, not nothing"),
        ("[{a: b}]", "1:22: modules: a selector expected, not a mapping"),
        ("[?ext4]", 'modules: a selector expected, not a mapping (hint: if an optional module is meant, quote it: "?'),
        ("[[ext4]]", "1:22: modules: a selector expected, not a list"),
        ('[""]', "1:22: modules: a selector expected, not an empty text"),
        ('["?"]', "1:22: a module name expected after `?`"),
        ("[ext4.ko]", "1:22: `ext4.ko` is a file name (hint: write ext4)"),
        ("[ext4.ko.xz]", "1:22: `ext4.ko.xz` is a file name (hint: write ext4)"),
        ("[drivers/usb]", "1:22: `drivers/usb` has a slash (hint: a folder is written =drivers/usb)"),
        ('["=/drivers"]', "1:22: `=/drivers`: a folder below kernel/ expected"),
        ('["=../x"]', "1:22: `=../x`: a folder below kernel/ expected"),
        ('["="]', "1:22: `=`: a folder below kernel/ expected"),
        ('["alias:"]', "1:22: `alias:`: nothing follows `alias:`"),
        (
            "[ext4 xfs]",
            "1:22: `ext4 xfs`: spaces and control characters are not allowed in a selector (hint: one",
        ),
        ('["ext4\\n"]', "1:22: `ext4\\n`: spaces and control characters"),
        ("[$ext4]", "1:22: `$ext4` is not a module name"),
        (
            '["@builtin:"]',
            "1:22: `@builtin:`: unknown kind of selector (hint: @detected, @builtin:NAME, @dtb:FILE and "
            "@list:FILE are known)",
        ),
        ('["@x"]', "1:22: `@x`: unknown kind of selector"),
        ("[@detected]", "1:22: found character '@' that cannot start any token (hint: quote selectors that begin"),
        ("[*_test]", "1:22: found undefined alias '_test' (hint: quote selectors that begin with a sign"),
        ('["!ext4"]', "1:22: `!ext4`: nothing is inherited here"),
        ("[!ext4 ]", "1:22: `!ext4`: nothing is inherited here"),
        ("[!ext4, xfs]", '1:22: YAML takes !ext4, for a tag (hint: quote it: "!ext4,")'),
        ("[ext4, xfs, ext4]", "1:33: ext4 is twice in critical (hint: first in line 1)"),
        ('[snd-pcm, "?snd_pcm"]', "1:31: ?snd_pcm is twice in critical"),
    ],
)
def test_each_wrong_selector_is_a_located_error(tmp_path: Path, selector: str, message: str) -> None:
    error = error_of(tmp_path, f"critical: {{modules: {selector}}}\n")
    assert error.startswith("p.yaml:1:") and message in error


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "1:1: the profile is empty"),
        ("# only a comment\n", "1:1: the profile is empty"),
        ("ext4", "1:1: a profile is a mapping, not `ext4`"),
        ("- ext4", "1:1: a profile is a mapping, not a list"),
        ("name: x", "1:1: profile: `critical` is missing (hint: write critical: {modules: […]})"),
        ("critical: [ext4]", "1:11: critical: a mapping expected, not a list (hint: write critical: {modules: […]})"),
        ("critical: ext4", "1:11: critical: a mapping expected, not `ext4`"),
        ("critical: {}", "1:11: critical: the stage has no modules"),
        ("critical: {module: [ext4]}", "1:12: critical: unknown key `module` (hint: did you mean modules?)"),
        ("critical: {modules: [a], after: now}", "1:26: critical: `after` is for deferred stages"),
        (MINIMAL + "critcal: {}", "2:1: profile: unknown key `critcal` (hint: did you mean critical?)"),
        (MINIMAL + "zzz: 1", "2:1: profile: unknown key `zzz` (hint: known keys: name, extends, critical"),
        (MINIMAL + "<<: {a: b}", "2:1: profile: unknown key `<<` (hint: YAML's merge keys are not read"),
        (MINIMAL + "? [a]\n: b", "2:3: profile: a key expected, not a list"),
        (MINIMAL + MINIMAL, "2:1: profile: `critical` is given twice (hint: first in line 1)"),
        (MINIMAL + "name: a b", "2:7: name: `a b`"),
        (MINIMAL + "name: [a]", "2:7: name: a name expected, not a list"),
        (MINIMAL + "storage: x", "2:10: storage: `x` is not a rate (hint: write it like 25MB/s or 1.5GB/s)"),
        (MINIMAL + "storage: 0MB/s", "2:10: storage: `0MB/s` is not a rate"),
        (MINIMAL + "storage: 25Mbit/s", "2:10: storage: `25Mbit/s` is not a rate"),
        (MINIMAL + "compress: lzo", "2:11: compress: `lzo` is none of none, gzip, lz4, xz, zstd, auto"),
        (MINIMAL + "sign: x", "2:7: sign: a mapping expected, not `x`"),
        (MINIMAL + "microcode: x", "2:12: microcode: `x` is none of auto, none"),
        (MINIMAL + "fallback: shell", "2:11: fallback: `shell` is none of none, modules"),
        (MINIMAL + "tracing: on", "2:10: tracing: `on` is none of off, keep"),
        (MINIMAL + "unwind: dorp", "2:9: unwind: `dorp` is none of keep, compact, drop (hint: did you mean drop?)"),
        (MINIMAL + "compress: [zstd]", "2:11: compress: one of none, gzip, lz4, xz, zstd, auto expected, not a list"),
        (MINIMAL + "allow-taint: maybe", "2:14: allow-taint: `maybe` is neither true nor false"),
        (MINIMAL + "exclude: []", "2:10: exclude: the list is empty"),
        (MINIMAL + "exclude: x_test", "2:10: exclude: a list expected, not `x_test`"),
        (MINIMAL + "deferred: []", "2:11: deferred: the list is empty"),
        (MINIMAL + "deferred: {name: usb}", "2:11: deferred: a list expected, not a mapping"),
        (MINIMAL + "deferred: [usb]", "2:12: deferred: a mapping expected, not `usb`"),
        (MINIMAL + "deferred: ['!usb']", "2:12: deferred: !usb: no such stage to remove"),
        (MINIMAL + "deferred: [{modules: [a]}]", "2:12: deferred: a stage without a name"),
        (MINIMAL + "deferred: [{name: usb}]", "2:12: usb: the stage has no modules"),
        (MINIMAL + "deferred: [{name: usb, modules: []}]", "2:33: modules: the list is empty"),
        (MINIMAL + "deferred: [{name: USB, modules: [a]}]", "2:19: name: `USB` is not a stage name"),
        (MINIMAL + "deferred: [{name: a b, modules: [a]}]", "2:19: name: `a b` is not a stage name"),
        (MINIMAL + "deferred: [{name: critical, modules: [a]}]", "2:19: name: `critical` is the stage before user"),
        (
            MINIMAL + f"deferred: [{{name: {'a' * 48}, modules: [a]}}]",
            f"2:19: name: `{'a' * 48}` has 48 characters, a stage name at most 47",
        ),
        (
            MINIMAL + "deferred: [{name: a-b, modules: [a]}, {name: a_b, modules: [b]}]",
            "2:46: deferred: duplicate stage `a_b` (hint: first in line 2)",
        ),
        (
            MINIMAL + "deferred: [{name: usb, modules: [ext4]}]",
            "2:34: ext4 is in two stages, critical and usb (hint: first in line 1)",
        ),
        ("critical: {modules: [ext4]", "1:27: expected ',' or '}', but got '<stream end>'"),
        ("critical:\n\tmodules: [a]", "2:1: found character '\\t' that cannot start any token"),
        (MINIMAL + "---\n" + MINIMAL, "2:1: but found another document (hint: a profile is one document"),
        (b"critical: {modules: [\xff]}", "1:22: byte 0xff is not UTF-8 (hint: save the file as UTF-8)"),
        ("critical: {modules: [a\0b]}", "1:23: character U+0000 is not allowed in YAML"),
        ("[" * 5000, "1:1: nested too deeply"),
        ("critical: &a {modules: *a}", "1:11: the alias is inside its own anchor"),
        ("critical: {modules: &a [*a]}", "1:21: the alias is inside its own anchor"),
        ('critical: {modules: ["\\U00110000"]}', "1:1: no YAML"),
        ("critical: !!python/object:os.system {}", "1:11: critical: the stage has no modules"),
    ],
)
def test_each_mistake_is_a_located_error(tmp_path: Path, text: str | bytes, message: str) -> None:
    assert error_of(tmp_path, text).startswith(f"p.yaml:{message}")


def test_a_bomb_of_anchors_ends_at_once(tmp_path: Path) -> None:
    lines = ["a0: &a0 [x]"] + [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]" for i in range(1, 40)]
    assert "7:5: aliases make more than 131,072 values" in error_of(tmp_path, "\n".join(lines))


def test_a_list_may_be_shared_through_an_anchor(tmp_path: Path) -> None:
    profile = load(tmp_path, "critical: {modules: [ext4]}\nexclude: &list [foo_test]\n")
    assert profile.exclude[0].text == "foo_test"


def test_a_stage_name_of_47_characters_fits(tmp_path: Path) -> None:
    assert load(tmp_path, MINIMAL + f"deferred: [{{name: {'a' * 47}, modules: [a]}}]\n").deferred


def test_a_byte_order_mark_is_passed_over(tmp_path: Path) -> None:
    assert load(tmp_path, b"\xef\xbb\xbf" + MINIMAL.encode()).critical.selectors


def test_a_folder_and_a_missing_file_give_one_line(tmp_path: Path) -> None:
    with pytest.raises(MegamodError, match=re.escape(f"{tmp_path}: Is a directory")):
        load_profile(tmp_path)
    with pytest.raises(MegamodError, match=r"none\.yaml: No such file or directory"):
        load_profile(tmp_path / "none.yaml")


def test_a_file_too_long_for_a_profile_is_not_read(tmp_path: Path) -> None:
    assert error_of(tmp_path, "#" * (256 * 1024 + 1)) == "p.yaml: longer than 256 KiB, too long for a profile"


def test_the_example_of_the_readme_is_a_profile(tmp_path: Path) -> None:
    readme = Path(__file__).parents[2] / "profiles" / "README.md"
    example = readme.read_text().split("```yaml\n", 1)[1].split("```", 1)[0]
    profile = load(tmp_path, example)
    assert [stage.name for stage in profile.stages] == ["critical", "usb", "rest"]
    for key in ("name", "critical", "deferred", "exclude", "options", "root", "unwind", "symbols"):
        assert f"| `{key}` |" in readme.read_text()
