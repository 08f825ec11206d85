"""A kernel source tree → the modules whose initcall is other than `module_init`: the maker of initcall-levels.tsv.

Three things are read, none of them with a compiler: Kconfig files say which options can be `m`; Makefiles say which
object files make which module; C files say which macro registers the init. For a module the level is that of the
initcall that is its init when MODULE is defined, or of the one that takes the same function in the other branch:

    #ifdef MODULE
    module_init(dev_init);
    #else
    subsys_initcall(dev_init);
    #endif

An initcall of another function beside a `module_init` (early hooks of drivers that are built in, consoles) says nothing
about the module's init and is left out.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from megamod.common.errors import MegamodError
from megamod.common.text import canonical
from megamod.modules.levels import LEVELS

_SKIPPED = frozenset(("Documentation", "tools", "samples", "scripts", ".git", "debian"))

_MACRO = re.compile(
    rf"^[ \t]*(?P<macro>(?:{'|'.join(LEVELS)})_initcall(?:_sync)?|module_init|module_\w*driver\w*)"
    r"[ \t]*\(\s*(?P<function>\w+)",
    re.MULTILINE,
)
_COMMENT = re.compile(r"/\*.*?\*/|//[^\n]*", re.DOTALL)
_IF_MODULE = re.compile(r"ifdef\s+MODULE\b|if\s+IS_MODULE\(|if\s+defined\s*\(?\s*MODULE\b\s*\)?\s*$")
_IF_BUILTIN = re.compile(r"ifndef\s+MODULE\b|if\s+IS_BUILTIN\(|if\s+!\s*defined\s*\(?\s*MODULE\b\s*\)?\s*$")
_ASSIGN = re.compile(r"^[ \t]*([\w.$(){}/-]+)[ \t]*(\+=|:=|\?=|=)[ \t]*(.*)$")
_MEMBERS = re.compile(r"^(.+)-(?:y|m|objs|objs-y|\$[({]\w+[)}])$")
_OBJ = re.compile(r"^obj-(?:m|\$[({]CONFIG_(\w+)[)}])$")
_VARIABLE = re.compile(r"\$[({]([\w-]+)[)}]")


@dataclass(frozen=True, slots=True, kw_only=True, order=True)
class ModuleInitcall:
    """One line of the table: *macro* such as "subsys_initcall", *source* relative to the source tree."""

    module: str
    macro: str
    source: str


@dataclass(frozen=True, slots=True, kw_only=True)
class _Initcall:
    """*in_module*: it is one when MODULE is defined; *certain*: no other condition stands around it."""

    macro: str
    function: str
    in_module: bool
    certain: bool


def extract_levels(source: Path) -> list[ModuleInitcall]:
    """The initcalls, sorted by module, of all modules of the kernel source tree *source* that are not `module_init`.

    All architectures are read. Raises MegamodError if *source* is not a kernel source tree.
    """
    if not (source / "Kbuild").is_file() or not (source / "Kconfig").is_file():
        raise MegamodError(f"{source}: no kernel source tree", hint="unpack a linux-source package and name its folder")
    kconfigs, makefiles = _files(source)
    tristate = _tristate(kconfigs)
    modules: dict[tuple[str, Path], set[Path]] = {}
    for makefile in makefiles:
        for name, files in _modules_of(makefile, tristate).items():
            modules.setdefault((canonical(name), makefile.parent), set()).update(files)
    found: set[ModuleInitcall] = set()
    for (name, _folder), files in modules.items():
        calls = {file: _initcalls(file) for file in sorted(files) if file.is_file()}
        found.update(_levels_of(name, calls, source))
    return sorted(found)


def table_text(rows: Iterable[ModuleInitcall], *, made_from: str) -> str:
    """The text of initcall-levels.tsv; *made_from* names the source ("Linux 6.1.176") in its first line."""
    head = f"# Made by `megamod levels SOURCE` from {made_from}: modules whose initcall is other than module_init.\n"
    lines = (f"{row.module}\t{row.macro}\t{row.source}\n" for row in rows)
    return head + "module\tinitcall\tsource file\n" + "".join(lines)


def kernel_version(source: Path) -> str:
    """ "Linux 6.1.192": the version that the top Makefile of *source* names."""
    variables = _variables(source / "Makefile")
    parts = (next(iter(variables.get(name, [])), "?") for name in ("VERSION", "PATCHLEVEL", "SUBLEVEL"))
    return f"Linux {'.'.join(parts)}"


def _files(source: Path) -> tuple[list[Path], list[Path]]:
    """Kconfig files and Makefiles, sorted."""
    kconfigs: list[Path] = []
    makefiles: list[Path] = []
    for folder, folders, names in os.walk(source):
        if Path(folder) == source:
            folders[:] = [name for name in folders if name not in _SKIPPED]
        folders.sort()
        kconfigs += [Path(folder, name) for name in names if name.startswith("Kconfig")]
        # Kbuild wins over a Makefile beside it (scripts/Makefile.build, 6.1).
        make = next((name for name in ("Kbuild", "Makefile") if name in names), None)
        if make:
            makefiles.append(Path(folder, make))
    return sorted(kconfigs), makefiles


def _read(path: Path) -> str:
    try:
        return path.read_bytes().decode("utf-8", "replace")
    except OSError as error:
        raise MegamodError(f"{path}: {error.strerror or error}") from None


def _tristate(kconfigs: Iterable[Path]) -> frozenset[str]:
    """The options that may be `m`."""
    found: set[str] = set()
    for path in kconfigs:
        option = ""
        for line in _read(path).splitlines():
            words = line.split(None, 2)
            if words and words[0] in ("config", "menuconfig") and len(words) > 1:
                option = words[1]
            elif words and words[0] in ("tristate", "def_tristate"):
                found.add(option)
    return frozenset(found)


def _modules_of(makefile: Path, tristate: frozenset[str]) -> dict[str, set[Path]]:
    """Module name → its source files, of the modules that *makefile* lists."""
    variables = _variables(makefile)
    objects: set[str] = set()
    for variable, words in variables.items():
        obj = _OBJ.match(variable)
        if obj and (obj.group(1) is None or obj.group(1) in tristate):
            objects.update(word for word in _expand(words, variables) if word.endswith(".o"))
    members = _members(variables)
    found: dict[str, set[Path]] = {}
    for obj_file in objects:
        stem = obj_file.removesuffix(".o")
        parts = members.get(stem, []) or [obj_file]
        files = {makefile.parent / (part.removesuffix(".o") + ".c") for part in parts if part.endswith(".o")}
        found.setdefault(stem.rpartition("/")[2], set()).update(files)
    return found


def _members(variables: Mapping[str, list[str]]) -> dict[str, list[str]]:
    """Composite → its objects, from `foo-y`, `foo-objs`, `foo-$(CONFIG_X)`."""
    members: dict[str, list[str]] = {}
    for variable, words in variables.items():
        match = _MEMBERS.match(variable)
        if match and match.group(1) != "obj":
            members.setdefault(match.group(1), []).extend(_expand(words, variables))
    return members


def _variables(makefile: Path) -> dict[str, list[str]]:
    """Variable → words, all assignments taken together: what a condition leaves out is still possible."""
    variables: dict[str, list[str]] = {}
    text = re.sub(r"\\\n", " ", _read(makefile))
    for line in text.splitlines():
        assignment = _ASSIGN.match(line.split("#", 1)[0])
        if assignment:
            name, _operator, value = assignment.groups()
            variables.setdefault(name, []).extend(value.split())
    return variables


def _expand(words: Iterable[str], variables: Mapping[str, list[str]], depth: int = 0) -> Iterator[str]:
    """*words* with references to variables of the same file replaced."""
    for word in words:
        reference = _VARIABLE.fullmatch(word)
        if reference and depth < 8:
            yield from _expand(variables.get(reference.group(1), []), variables, depth + 1)
        else:
            yield word


def _initcalls(path: Path) -> list[_Initcall]:
    """The initcalls of a C file."""
    text = _read(path)
    if "_initcall" not in text and "module_" not in text:
        return []
    text = _COMMENT.sub(lambda comment: "\n" * comment.group().count("\n"), text)
    calls: list[_Initcall] = []
    # One entry a nested condition: True and False for code with and without MODULE, None for any other condition.
    stack: list[bool | None] = []
    for line in re.sub(r"\\\n", " ", text).splitlines():
        directive = re.match(r"[ \t]*#[ \t]*(.*)", line)
        if directive:
            _step(stack, directive.group(1).strip())
        elif match := _MACRO.match(line):
            macro, function = match.group("macro"), match.group("function")
            in_module, certain = False not in stack, None not in stack
            calls.append(_Initcall(macro=macro, function=function, in_module=in_module, certain=certain))
    return calls


def _step(stack: list[bool | None], directive: str) -> None:
    if directive.startswith("if"):
        stack.append(True if _IF_MODULE.match(directive) else False if _IF_BUILTIN.match(directive) else None)
    elif directive.startswith(("else", "elif")) and stack:
        stack[-1] = None if stack[-1] is None else not stack[-1]
    elif directive.startswith("endif") and stack:
        stack.pop()


def _levels_of(name: str, files: Mapping[Path, list[_Initcall]], source: Path) -> Iterator[ModuleInitcall]:
    calls = [(path, call) for path, found in files.items() for call in found]
    own = [call for _path, call in calls if call.in_module and _is_plain(call.macro)]
    others = [(path, call) for path, call in calls if not _is_plain(call.macro)]
    if any(call.in_module and call.certain for _path, call in others):
        # libphy: a module_init for kernels without PHYLIB does not stand against the subsys_initcall of all others.
        own = [call for call in own if call.certain]
    functions = {call.function for call in own}
    for path, call in others:
        if call.function in functions if own else call.in_module:
            yield ModuleInitcall(module=name, macro=call.macro, source=path.relative_to(source).as_posix())


def _is_plain(macro: str) -> bool:
    """Whether the macro is `module_init` or one of the `module_…_driver` family, which end in it."""
    return macro.startswith("module_")
