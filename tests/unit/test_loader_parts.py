"""Parts of the loader on this machine: small C programs around one of its files, fed with texts."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from megamod.common.host import data_folder
from megamod.loader import programs as build

# Compiles, or runs for a minute: not in tests/run.sh --unit.
pytestmark = pytest.mark.heavy

_WORDS = """
#include "cmdline.h"
#include "files.h"
static void put(const char *s, size_t n) { write_all(1, s, n); }
int main(int argc, char **argv, char **envp)
{
    static struct options o;
    struct word w;
    const char *at = argv[1];
    (void)argc; (void)envp;
    while (next_word(&at, &w)) {
        put(w.key, w.key_size); put("\\0", 1);
        if (w.value) { put("=", 1); put(w.value, w.value_size); }
        put("\\0", 1); put(w.raw, w.raw_size); put("\\0", 1);
    }
    read_options(argv[1], &o);
    put("\\1", 1);
    put(o.root, length(o.root)); put("\\0", 1); put(o.skip, length(o.skip)); put("\\0", 1);
    put(o.writable ? "rw" : "ro", 2); put("\\0", 1); put(in_list(o.skip, "snd_pcm") ? "skip" : "load", 4);
    return 0;
}
"""

_PLAN = """
#include "files.h"
#include "read_plan.h"
int main(int argc, char **argv, char **envp)
{
    static struct plan plan;
    u32 i;
    TEXT(t, 4096);
    (void)argc; (void)envp;
    if (!read_plan(AT_FDCWD, argv[1], &plan))
        return 1;
    text_format(&t, "%u %u %u\\n", plan.stage_count, plan.load_count, plan.member_count);
    for (i = 0; i < plan.stage_count; i++)
        text_format(&t, "%s %s %s %llu %llu needs %llu\\n", plan.stages[i].name, trigger_name(plan.stages[i].trigger),
                    plan.stages[i].path ? plan.stages[i].path : "-", (unsigned long long)plan.stages[i].milliseconds,
                    (unsigned long long)plan.stages[i].timeout, (unsigned long long)plan.stages[i].needs);
    for (i = 0; i < plan.member_count; i++)
        text_format(&t, "%s stage %u\\n", plan.members[i].name, stage_of(&plan, i));
    write_all(1, t.data, t.used);
    return 0;
}
"""


@pytest.fixture(scope="module")
def program(tmp_path_factory) -> Callable[..., Path]:
    """``program(text, "plan.c", "text.c")``: the C program *text* with files of the loader."""

    def make(text: str, *parts: str) -> Path:
        folder = tmp_path_factory.mktemp("program")
        source = folder / "main.c"
        source.write_text(text)
        own = data_folder("loader")
        target = folder / "program"
        target.write_bytes(
            build.compile_program("x86_64", [source, *(own / part for part in (*parts, "files.c", "text.c", "sys.c"))])
        )
        target.chmod(0o755)
        return target

    return make


@pytest.fixture(scope="module")
def words(program) -> Path:
    return program(_WORDS, "cmdline.c")


@pytest.fixture(scope="module")
def check_plan(program, tmp_path_factory) -> Callable[[bytes], tuple[str, str]]:
    """``check_plan(text)``: what the parser understood, and what it complains of, without the file's name."""
    parser = program(_PLAN, "plan.c", "plan_records.c", "root_records.c", "read_plan.c", "log.c")
    path = tmp_path_factory.mktemp("plan") / "plan"

    def check(text: bytes) -> tuple[str, str]:
        path.write_bytes(text)
        result = subprocess.run([parser, path], capture_output=True, check=False)
        assert result.returncode == bool(result.stderr), result
        complaint = result.stderr.decode("latin-1").removeprefix("megamod: error: /megamod/plan:")
        return result.stdout.decode(), complaint.strip()

    return check


# ---- the command line ----


def _kernel_words(line: str) -> list[tuple[str, str | None]]:
    """next_arg() of lib/cmdline.c (6.1), called as parse_args() of kernel/params.c calls it."""
    found = []
    space = " \t\n\v\f\r"
    line = line.lstrip(space)
    while line:
        quoted = inside = line[0] == '"'
        if quoted:
            line = line[1:]
        equals = 0
        i = 0
        while i < len(line):
            if line[i] in space and not inside:
                break
            if equals == 0 and line[i] == "=":
                equals = i
            if line[i] == '"':
                inside = not inside
            i += 1
        word = list(line[:i])
        value_at = None
        if equals:
            value_at = equals + 1
            if value_at < i and word[value_at] == '"':
                value_at += 1
                if word[i - 1] == '"':
                    word[i - 1] = "\0"
        if quoted and i > 0 and word[i - 1] == '"':
            word[i - 1] = "\0"
        text = "".join(word)
        if equals:
            assert value_at is not None
            item = (text[:equals], text[value_at:].partition("\0")[0])
        else:
            item = (text.partition("\0")[0], None)
        if item == ("--", None):
            break
        found.append(item)
        line = line[i:].lstrip(space)
    return found


def _loader_words(words: Path, line: str) -> tuple[list[tuple[str, str | None]], list[str]]:
    output = subprocess.run([words, line], capture_output=True, check=True).stdout.decode()
    listed, _, options = output.partition("\1")
    parts = listed.split("\0")[:-1]
    pairs = [(key, value[1:] if value else None) for key, value in zip(parts[::3], parts[1::3], strict=True)]
    assert all(raw in line for raw in parts[2::3])
    return pairs, options.split("\0")


@settings(max_examples=400, deadline=None)
@given(line=st.text(alphabet='ab=". -\t', max_size=24))
def test_command_line_is_cut_as_the_kernel_cuts_it(words, line):
    expected = _kernel_words(line)
    # A lone quoted `"--"` ends the kernel's list too; for the loader only the bare word does.
    assert _loader_words(words, line)[0][: len(expected)] == expected


@pytest.mark.parametrize(
    ("line", "options"),
    [
        ('root="LABEL=my disk" rw', ["LABEL=my disk", "", "rw", "load"]),
        ("root=/dev/a root=/dev/b rw ro", ["/dev/b", "", "ro", "load"]),
        ("megamod.skip=a,snd-pcm megamod.skip=b root=x -- root=y", ["x", "a,snd-pcm,b", "ro", "skip"]),
        ("rootfoo=1 ro=1 rw=2 megamod.skip=snd_pcm_oss", ["", "snd_pcm_oss", "ro", "load"]),
        (f"root={'x' * 5000}", ["", "", "ro", "load"]),
    ],
)
def test_options_are_taken_from_the_command_line(words, line, options):
    assert _loader_words(words, line)[1] == options


# ---- the plan ----

_HEAD = b"megamod-plan 1\nkernel 6.1.0\nfallback none\nroot cmdline\n"
_CRITICAL = _HEAD + b"stage critical now - 0\n"


def test_plan_with_every_record_is_understood(check_plan):
    text = _HEAD.replace(b"none", b"modules") + b"overlay tmpfs size=1m\n"
    text += b"verity /dev/vdb sha256 4096 4096 10 1 00 - ignore_zero_blocks\n"
    text += b"probe async\nwatchdog 7\nshell none\nskip z\nstage critical now - 0\n"
    text += b"merged /megamod/a.ko a 1\nargument x.y=%20%25\n"
    text += b"member x\nparameters a=int b.c=bool[2]\nmember y\noriginal /x\noriginal /y\n"
    text += b"prefix z\nrequests -\n"
    text += b"single /megamod/b.ko b 0 1\nargument k=v\n"
    text += b"stage one userspace - 0\nsingle /megamod/c.ko c 2\nstage two delay 250 9000\n"
    text += b"stage three path /run/a%20b 0\nmerged /megamod/d.ko d 0\nmember m 0 3\nmember n\n"
    text += b"original /m\noriginal /n\n"
    text += b"stage four idle 500 0\nstage five manual - 0\nsoftdep x\ndependents 0 p q\ndependents 4 r\n"
    understood, complaint = check_plan(text)
    assert complaint == ""
    assert understood.splitlines() == [
        "6 4 6",
        "critical now - 0 0 needs 0",
        "one userspace - 0 0 needs 1",
        "two delay - 250 9000 needs 0",
        "three path /run/a b 0 0 needs 3",
        "four idle - 500 0 needs 0",
        "five manual - 0 0 needs 0",
        *("x stage 0", "y stage 0", "b stage 0", "c stage 1", "m stage 3", "n stage 3"),
    ]


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        (b"", "0: no stage: the file was cut off"),
        (b"megamod-plan 2\n", "1: the first line is not: megamod-plan 1"),
        (_HEAD, "4: no stage: the file was cut off"),
        (_CRITICAL + b"single /a", "6: the last line has no end: the file was cut off"),
        (_CRITICAL + b"surprise 1\n", "6: unknown record surprise"),
        (_CRITICAL + b"\n", "6: an empty line, or a space at its end"),
        (_CRITICAL + b"single /a a \n", "6: an empty line, or a space at its end"),
        (_CRITICAL + b"single  /a a\n", "6: two spaces, or a space at an end"),
        (_CRITICAL + b"single /a\ta\n", "6: a byte that ought to be escaped"),
        (_CRITICAL + b"single /a \xc3\xa4\n", "6: a byte that ought to be escaped"),
        (_CRITICAL + b"single /a %2\n", "6: a bad %XX escape"),
        (_CRITICAL + b"single /a a%\n", "6: a bad %XX escape"),
        (_CRITICAL + b"single /a %00\n", "6: a bad %XX escape"),
        (_CRITICAL + b"single /a\n", "6: wrong number of fields: single"),
        (_CRITICAL + b"stage two delay 5\n", "6: wrong number of fields: stage"),
        (_CRITICAL + b"requests\n", "6: wrong number of fields: requests"),
        (_CRITICAL + b"single /a a 0\n", "6: not the id of an earlier member: 0"),
        (_CRITICAL + b"merged /a a 1\nmember x\nmember y 1\n", "8: not the id of an earlier member: 1"),
        (_CRITICAL + b"single /a a\nsingle /b b zero\n", "7: not a decimal number: zero"),
        (_CRITICAL + b"single /a a\nmember x\n", "7: a member outside a merged load: x"),
        (_CRITICAL + b"merged /a a 2\n", "6: neither 0 nor 1: 2"),
        (_CRITICAL + b"argument a=b\n", "6: an argument outside a load: a=b"),
        (_CRITICAL + b"prefix a\n", "6: a prefix outside a load: a"),
        (_CRITICAL + b"requests -\n", "6: requests outside a load"),
        (_CRITICAL + b"kernel 5\n", "6: out of order: kernel"),
        (_CRITICAL + b"softdep a\nstage two manual - 0\n", "7: out of order: stage"),
        (_CRITICAL + b"dependents 0 a\n", "6: not a plan id: 0"),
        (_CRITICAL + b"stage two sometime - 0\n", "6: unknown trigger sometime"),
        (_CRITICAL + b"stage two timeout - 0\n", "6: unknown trigger timeout"),
        (_CRITICAL + b"stage two path run/a 0\n", "6: not an absolute path: run/a"),
        (_CRITICAL + b"stage two manual 5 0\n", "6: this trigger takes no argument: 5"),
        (_CRITICAL + b"stage two delay 5s 0\n", "6: not a decimal number: 5s"),
        (_CRITICAL + b"stage two delay 99999999999999999999 0\n", "6: not a decimal number: 99999999999999999999"),
        (_CRITICAL + b"".join(b"stage s%d manual - 0\n" % n for n in range(64)), "69: more than 64 stages"),
        (_HEAD + b"stage first now - 0\n", "5: the first stage must be: critical now"),
        (_HEAD + b"single /a a\n", "5: a load before the first stage"),
        (_HEAD + b"root cmdline\n", "5: a second root record"),
        (_HEAD + b"probe sync\n", "5: unknown probe record sync"),
        (_HEAD + b"shell some\n", "5: unknown shell record some"),
        (_HEAD + b"watchdog soon\n", "5: not a decimal number: soon"),
        (_CRITICAL + b"parameters a=int\n", "6: parameters without a member before them: a=int"),
        (_CRITICAL + b"merged /a a 1\nparameters a=int\n", "7: parameters without a member before them: a=int"),
        (_CRITICAL + b"merged /a a 1\nmember x\nparameters a=int b\n", "8: not NAME=KIND: b"),
        (b"megamod-plan 1\nfallback shell\n", "2: unknown fallback shell"),
        (_HEAD + b"overlay disk\n", "5: unknown overlay disk"),
        (_HEAD + b"overlay tmpfs a b\n", "5: unknown overlay tmpfs"),
        (_HEAD + b"verity /dev/vdb sha256 4096 4096 10 1 00\n", "5: wrong number of fields: verity"),
        (_HEAD + b"verity /dev/vdb sha256 4096 4k 10 1 00 -\n", "5: not a decimal number: 4k"),
        (_HEAD + b"skip\n", "5: wrong number of fields: skip"),
        (_CRITICAL + b"original /x\n", "6: an original without a member before it: /x"),
        (_CRITICAL + b"merged /a a 1\noriginal /x\n", "7: an original without a member before it: /x"),
        (
            _CRITICAL.replace(b"none", b"modules") + b"merged /a a 1\nmember x\n",
            "7: a member without its original, in a",
        ),
        (b"megamod-plan 1\nroot exec\n", "2: unknown root record exec"),
        (b"megamod-plan 1\nroot chain /a b\n", "2: unknown root record chain"),
        (b"megamod-plan 1\nkernel x\nstage critical now - 0\n", "3: a stage before kernel and root"),
    ],
)
def test_broken_plan_is_refused_with_its_line(check_plan, text, complaint):
    assert check_plan(text) == ("", complaint)


def test_plan_cut_off_anywhere_is_refused_or_shorter_by_whole_records(check_plan):
    text = (
        _CRITICAL
        + b"merged /a a 1\nmember x\nmember y\nstage two delay 5 7\nsingle /b b 0\nsoftdep x\ndependents 1 q\n"
    )
    for end in range(len(text)):
        understood, complaint = check_plan(text[:end])
        assert bool(understood) != bool(complaint)
        assert not understood or text[:end].endswith(b"\n")


@settings(max_examples=150, deadline=None)
@given(text=st.binary(max_size=80), at=st.integers(0, 200))
def test_damaged_plan_never_crashes_the_parser(check_plan, text, at):
    whole = _CRITICAL + b"merged /a a 1\nmember x\nstage two delay 5 7\nsingle /b b 0\ndependents 1 q\n"
    check_plan(whole[:at] + text + whole[at + len(text) :])


def test_large_plan_is_read_whole(check_plan):
    lines = b"".join(b"member module_number_%d\n" % n for n in range(100_000))
    text = _CRITICAL + b"merged /a a 1\n" + lines + b"stage two manual - 0\nsingle /b b 99999\n"
    text = text.replace(b"member", b"argument x=%41\nmember", 1)
    understood, complaint = check_plan(text)
    assert complaint == "" and understood.startswith("2 2 100001\n")
