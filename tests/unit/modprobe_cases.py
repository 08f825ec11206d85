"""Lines of modprobe.d and words of the kernel command line: what modprobe makes of each, and what a member does.

The manual's table (initramfs/docs/modprobe.md) is made of these cases: ``python -m tests.unit.modprobe_cases FILE``.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path

Words = tuple[tuple[str, str | None], ...]

ETC, RUN, LOCAL, LIB = "etc/modprobe.d", "run/modprobe.d", "usr/local/lib/modprobe.d", "usr/lib/modprobe.d"
BEGIN, END = "<!-- cases -->\n", "<!-- end of cases -->\n"


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """*files* (path → text) or *cmdline*, and what becomes of *module*: *options* that its load gets, a *command* run
    in its place, *hidden* from devices, *before* and *after* what softdeps bring, *instead* what is loaded for it.
    *member*: what a member does where that is another thing."""

    files: tuple[tuple[str, str], ...] = ()
    cmdline: str = ""
    module: str = "loop"
    options: Words = ()
    command: str | None = None
    hidden: bool = False
    before: tuple[str, ...] = ()
    after: tuple[str, ...] = ()
    instead: str = ""
    member: str = ""

    @property
    def name(self) -> str:
        return (self.cmdline or " + ".join(text for _path, text in self.files)).strip()

    @property
    def modprobe(self) -> str:
        """What modprobe does, in words."""
        parts = [f"gives it `{_shown(self.options)}`"] if self.options else []
        parts += [f"runs `{_visible(self.command)}`"] if self.command is not None else []
        parts += ["does not load it for a device"] if self.hidden else []
        parts += [f"loads {', '.join(self.before)} before it"] if self.before else []
        parts += [f"loads {', '.join(self.after)} after it"] if self.after else []
        parts += [f"loads {self.instead} in its place"] if self.instead else []
        return ", ".join(parts) or "passes over it"

    @property
    def effect(self) -> str:
        """What a member does, in words."""
        if self.member:
            return self.member
        if self.hidden and self.cmdline:
            return "is left out, with what needs it"
        if self.command is not None:
            words = self.command.split()
            if len(words) == 1 and words[0].rpartition("/")[2] in ("true", "false"):
                return "is left out, with what needs it"
            return "is loaded all the same, with a note; in an image of a generator it stays a file"
        return "the same"


def _shown(words: Words) -> str:
    return _visible(" ".join(name if value is None else f"{name}={_quoted(value)}" for name, value in words))


def _quoted(value: str) -> str:
    return f'"{value}"' if " " in value else value


def _visible(text: str) -> str:
    return text.replace("\r", "␍")


def line(text: str, **expected: object) -> Case:
    """One file in /etc/modprobe.d with this text."""
    return Case(files=((f"{ETC}/a.conf", text),), **expected)  # type: ignore[arg-type]


def files(*found: tuple[str, str], **expected: object) -> Case:
    return Case(files=found, **expected)  # type: ignore[arg-type]


def words(cmdline: str, **expected: object) -> Case:
    return Case(cmdline=cmdline, **expected)  # type: ignore[arg-type]


NOT_BY_NAME = "is left out where a pattern or a device asks for it, not by its name"
FOUR: Words = (("max_loop", "4"),)

CASES = (
    # options
    line("options loop max_loop=4\n", options=FOUR),
    line("options loop max_loop=4", options=FOUR),
    line("  \toptions\tloop  max_loop=4\n", options=FOUR),
    line("options loop max_loop=4 max_part=2\n", options=(*FOUR, ("max_part", "2"))),
    line("options loop max_part=2\noptions loop max_loop=4\n", options=(("max_part", "2"), *FOUR)),
    line("options loop max_loop=4\r\n", options=FOUR),
    line("options loop \\\n max_loop=4\n", options=FOUR),
    line("options loop max_lo\\\nop=4\n", options=FOUR),
    line("options loop max_loop=\\4\n", options=FOUR),
    line("options loop max-loop=4\n", options=(("max-loop", "4"),)),
    line('options loop max_loop="4"\n', options=FOUR),
    line('options loop "max_loop=4"\n', options=FOUR),
    line("options loop max_part='4'\n", options=(("max_part", "'4'"),), member="is loaded without it, with a note"),
    line(
        'options usb-storage quirks="1:2:u 3:4:i"\n', module="usb_storage", options=(("quirks", "1:2:u 3:4:i"),)
    ),
    line("options usb_storage swi_tru_install=1\n", module="usb_storage", options=(("swi_tru_install", "1"),)),
    line("options usbcore nousb\n", module="usbcore", options=(("nousb", None),)),
    line("options loop max_part\n", options=(("max_part", None),), member="is loaded without it, with a note"),
    line(
        "options loop max_loop=4 # four are enough\n",
        options=(*FOUR, ("#", None), ("four", None), ("are", None), ("enough", None)),
        member="is loaded without what it has no parameter for, with a note",
    ),
    line(
        "options loop max_loop=4 colour=blue\n",
        options=(*FOUR, ("colour", "blue")),
        member="is loaded without what it has no parameter for, with a note",
    ),
    line(
        "options e1000e debug=notanumber\n",
        module="e1000e",
        options=(("debug", "notanumber"),),
        member="is loaded without it, with a note; on its own the kernel refuses the module",
    ),
    line("options loop\n"),
    line("options\n"),
    line("options lo[op max_loop=4\n"),
    line("options loo* max_loop=4\n"),
    line("Options loop max_loop=4\n"),
    line("\ufeffoptions loop max_loop=4\n"),
    line("\ufeff\noptions loop max_loop=4\n", options=FOUR),
    line("# options loop max_loop=4\n"),
    line(" # options loop max_loop=4\n"),
    line("# a comment \\\noptions loop max_loop=4\n"),
    line("junk\noptions loop max_loop=4\n", options=FOUR),
    line("options: loop max_loop=9\noptions loop max_loop=4\n", options=FOUR),
    line("include /etc/other.conf\noptions loop max_loop=4\n", options=FOUR),
    line("\n\n\noptions loop max_loop=4\n", options=FOUR),
    # which file
    files((f"{ETC}/b.conf", "options loop max_part=2\n"), (f"{ETC}/a.conf", "options loop max_loop=4\n"),
          options=(*FOUR, ("max_part", "2"))),
    files((f"{ETC}/a.conf", "options loop max_loop=4\n"), (f"{LIB}/a.conf", "options loop max_part=2\n"), options=FOUR),
    files((f"{LIB}/a.conf", "options loop max_loop=4\n"), (f"{RUN}/b.conf", "options loop max_part=2\n"),
          options=(*FOUR, ("max_part", "2"))),
    files((f"{LOCAL}/a.conf", "options loop max_loop=4\n"), (f"{LIB}/a.conf", "options loop max_part=2\n"),
          options=FOUR),
    files((f"{ETC}/a.conf", ""), (f"{LIB}/a.conf", "options loop max_loop=4\n")),
    files((f"{ETC}/a", "options loop max_loop=4\n")),
    files((f"{ETC}/a.conf.dpkg-old", "options loop max_loop=4\n")),
    files((f"{ETC}/a.modprobe", "options loop max_loop=4\n")),
    files((f"{ETC}/.conf", "options loop max_loop=4\n")),
    files((f"{ETC}/.a.conf", "options loop max_loop=4\n")),
    files((f"{ETC}/a.conf/b.conf", "options loop max_loop=4\n")),
    # blacklist
    line("blacklist loop\n", hidden=True, member=NOT_BY_NAME),
    line("blacklist usb-storage\n", module="usb_storage", hidden=True, member=NOT_BY_NAME),
    line("blacklist loop # noisy\n", hidden=True, member=NOT_BY_NAME),
    line("blacklist loop\r\n"),
    line("blacklist\n"),
    line("blacklist loo*\n"),
    # install and remove
    line("install loop /bin/false\n", command="/bin/false"),
    line("install loop /bin/true\n", command="/bin/true"),
    line("install usb-storage /bin/false\n", module="usb_storage", command="/bin/false"),
    line("install loo* /bin/false\n", command="/bin/false"),
    line("install l[m-p]op /bin/false\n", command="/bin/false"),
    line("install loop /bin/false\ninstall loop /bin/true\n", command="/bin/false"),
    line("install loop /bin/true; echo no\n", command="/bin/true; echo no"),
    line("install loop /sbin/modprobe -i loop $CMDLINE_OPTS\n", command="/sbin/modprobe -i loop $CMDLINE_OPTS"),
    line("install loop\n"),
    line("remove loop /bin/false\n"),
    # soft and weak dependencies, aliases
    line("softdep loop pre: e1000e post: snd\n", before=("e1000e",), after=("snd",)),
    line("softdep loop e1000e\n"),
    line("softdep loop pre: no-such-module\n"),
    line("softdep lo?p pre: e1000e\n", before=("e1000e",)),
    line("softdep loop pre: e1000e\nsoftdep loop pre: snd\n", before=("e1000e",)),
    line("softdep uhci_hcd pre:\n", module="uhci_hcd"),
    files((f"{ETC}/z.conf", "softdep uhci_hcd pre: snd\n"), module="uhci_hcd", before=("ehci_pci",)),
    files((f"{ETC}/a.conf", "softdep uhci_hcd pre: snd\n"), module="uhci_hcd", before=("snd",)),
    line("weakdep loop snd\n"),
    line("alias loop snd\n", instead="snd", member="is loaded: names in a profile are those of the kernel's modules"),
    # the kernel command line
    words("loop.max_loop=4", options=FOUR),
    words("loop.max_loop=4 loop.max_part=2", options=(*FOUR, ("max_part", "2"))),
    words("usb-storage.delay_use=9", module="usb_storage", options=(("delay_use", "9"),)),
    words("usb_storage.delay-use=9", module="usb_storage", options=(("delay-use", "9"),)),
    words('usb_storage.quirks="1:2:u 3:4:i"', module="usb_storage", options=(("quirks", "1:2:u 3:4:i"),)),
    words('"usb_storage.quirks=1:2:u 3:4:i"', module="usb_storage", options=(("quirks", "1:2:u 3:4:i"),)),
    words("usbcore.nousb", module="usbcore", options=(("nousb", None),)),
    words("quiet  loop.max_loop=4\troot=/dev/vda", options=FOUR),
    words("max_loop=4"),
    words("loop=4"),
    words("modprobe.blacklist=loop", hidden=True),
    words("modprobe.blacklist=snd,loop,dummy", hidden=True),
    words("modprobe.blacklist=loop modprobe.blacklist=snd", hidden=True),
    words("modprobe.blacklist=usb_storage", module="usb_storage", hidden=True),
    words("modprobe.blacklist=usb-storage", module="usb_storage"),
    words("modprobe.blacklist=loo*"),
    words("modprobe.blacklist="),
    words("module_blacklist=loop", member="is left out, with what needs it, as the kernel refuses it on its own"),
    words("rd.driver.blacklist=loop",
          member="is left out of the critical stage, as dracut writes `blacklist` lines in its image"),
    words("loop.max_loop=4 -- loop.max_part=2", options=(*FOUR, ("max_part", "2")),
          member="as the kernel has it: what follows `--` is for init"),
    words("loop.max.loop=4", member="hands the word on, and the kernel ignores a parameter that it does not have"),
)  # fmt: skip


def table() -> str:
    """The manual's table."""
    lines = ["| line or word | modprobe | a member |", "| --- | --- | --- |"]
    for case in CASES:
        shown = " + ".join(
            f"{_code(text)} in `{'/' + path}`" if len(case.files) > 1 or not path.endswith("/a.conf") else _code(text)
            for path, text in case.files
        )
        lines.append(f"| {shown or _code(case.cmdline)} | {_cell(case.modprobe)} | {_cell(case.effect)} |")
    return "".join(f"{text}\n" for text in lines)


def _code(text: str) -> str:
    visible = text.rstrip("\n").replace("\r", "␍").replace("\ufeff", "BOM").replace("\t", "→").replace("\n", "⏎")
    return f"`{_cell(visible)}`" if visible.strip() else "an empty file"


def _cell(text: str) -> str:
    return text.replace("|", "\\|")


if __name__ == "__main__":
    path = Path(sys.argv[1])
    head, _, rest = path.read_text().partition(BEGIN)
    path.write_text(head + BEGIN + table() + END + rest.partition(END)[2])
