"""The tables that the kernel reads by name: exports, versions, .modinfo, parameters, struct module, ORC.

Each function decodes what a Model holds, for a member and for the megamodule alike. Layouts are those of Linux 5.10 to
7.2; where they differ the section names or the relocations tell, never a version number.
"""

from dataclasses import dataclass

import numpy as np

from tests.oracle.elffile import Section, c_string
from tests.oracle.model import SHN_ABS, Bools, Ints, Model

# A megamodule's table that is sorted already (settle.py), by address and by state; the kernel does not know the names.
SORTED_UNWIND = (".orc_unwind_ip.sorted", ".orc_unwind.sorted")

_KSYM_TABLES = (
    ("__ksymtab", "__kcrctab", False),
    ("__ksymtab_gpl", "__kcrctab_gpl", True),
    ("__ksymtab_gpl_future", "__kcrctab_gpl_future", True),
    ("__ksymtab_unused", "__kcrctab_unused", False),
    ("__ksymtab_unused_gpl", "__kcrctab_unused_gpl", True),
)


@dataclass(frozen=True, slots=True)
class Export:
    """One exported symbol: where it is, and what find_symbol() says about it.

    crc: None without a CRC table. flags: its byte of __kflagstab; without that table 1 for a GPL-only symbol, else 0.
    """

    home: int
    offset: int
    crc: int | None
    flags: int
    namespace: str


def exports(model: Model) -> tuple[dict[str, Export], list[str]]:
    """The exports by name, and sentences on what would make find_symbol() miss or mistake one."""
    found: dict[str, Export] = {}
    problems: list[str] = []
    flags = model.find("__kflagstab")
    step = model.arch.ksym_field
    for table_name, crc_name, gpl in _KSYM_TABLES:
        table = model.find(table_name)
        if table is None or not table.size:
            continue
        if table.size % (3 * step):
            problems.append(f"{table_name}: {table.size} bytes are not a whole number of entries")
        crcs = model.find(crc_name)
        count = table.size // (3 * step)
        if crcs is not None and crcs.size != 4 * count:
            problems.append(f"{crc_name}: {crcs.size} bytes for {count} symbols")
        if flags is not None and table_name == "__ksymtab" and flags.size != count:
            problems.append(f"__kflagstab: {flags.size} bytes for {count} symbols")
        before: bytes | None = None
        for entry in range(count):
            at = 3 * step * entry
            value, name_ref = model.refers(table, at), model.refers(table, at + step)
            if value is None or name_ref is None:
                problems.append(f"{table_name}: entry {entry} has no value or no name")
                continue
            name = model.text_at(*name_ref)
            space_ref = model.refers(table, at + 2 * step)
            # bsearch() by strcmp: cmp_name() in kernel/module/main.c. A member's tables are sorted by modpost's script.
            if before is not None and name.encode() <= before:
                problems.append(f"{table_name}: {name} is not sorted, find_symbol() would miss it")
            before = name.encode()
            if name in found:
                problems.append(f"{table_name}: {name} is exported twice")
            flag = int(model.content(flags)[entry]) if flags is not None and entry < flags.size else int(gpl)
            found[name] = Export(
                home=value[0],
                offset=value[1],
                crc=_crc(model, crcs, entry) if crcs is not None else None,
                flags=flag,
                namespace=model.text_at(*space_ref) if space_ref is not None else "",
            )
    return found, problems


def _crc(model: Model, table: Section, entry: int) -> int | None:
    at = 4 * entry
    if at + 4 > table.size:
        return None
    reference = model.refers(table, at)
    if reference is None:
        return int(model.content(table)[at : at + 4].view("<u4")[0])
    home, value = reference
    if home == SHN_ABS:  # up to 5.18 the word is filled by a relocation to an absolute __crc_ symbol
        return value & 0xFFFFFFFF
    return int.from_bytes(bytes(model.content(model.sections[home])[value : value + 4]), "little")  # MODULE_REL_CRCS


def versions(model: Model) -> dict[str, int] | None:
    """Imported name → CRC, as check_version() would find it (first match); None without CONFIG_MODVERSIONS."""
    table = model.find("__versions")
    found: dict[str, int] = {}
    if table is not None:
        raw = bytes(model.content(table))
        word = model.arch.word  # struct modversion_info: unsigned long and char[MODULE_NAME_LEN]
        for at in range(0, len(raw) - 63, 64):
            crc = int.from_bytes(raw[at : at + word], "little")
            found.setdefault(c_string(raw[at + word : at + 64], 0), crc)
    extended = extended_versions(model)
    for name, crc in (extended or {}).items():
        found.setdefault(name, crc)
    return found if table is not None or extended is not None else None


def extended_versions(model: Model) -> dict[str, int] | None:
    """__version_ext_crcs and __version_ext_names (6.14+): words, and as many NUL-terminated names."""
    crcs, names = model.find("__version_ext_crcs"), model.find("__version_ext_names")
    if crcs is None or names is None:
        return None
    words = np.frombuffer(bytes(model.content(crcs)), "<u4").tolist()
    texts = bytes(model.content(names)).split(b"\0")[:-1]
    if len(words) != len(texts):
        return {}
    return {text.decode(): word for text, word in reversed(list(zip(texts, words, strict=True)))}


def modinfo(model: Model) -> list[tuple[str, str]]:
    """The key=value strings of .modinfo in file order."""
    section = model.find(".modinfo")
    if section is None:
        return []
    texts = bytes(model.content(section)).split(b"\0")
    pairs = [text.decode("utf-8", "replace").partition("=") for text in texts if text]
    return [(key, value) for key, _, value in pairs]


def modinfo_first(model: Model, key: str) -> str | None:
    """get_modinfo(): the first value of a key."""
    return next((value for name, value in modinfo(model) if name == key), None)


def parameter_names(model: Model) -> list[str]:
    """The names of __param's entries that get a file in sysfs, in table order; "" where the name refers to nothing.

    module_param_sysfs_setup() leaves out entries without permissions, so those may have the same name (sfc.ko does).
    """
    table = model.find("__param")
    if table is None:
        return []
    names = []
    size, perm = model.arch.param_size, model.arch.param_perm
    for at in range(0, table.size - size + 1, size):
        if not model.content(table)[at + perm : at + perm + 2].any():
            continue
        reference = model.refers(table, at)
        names.append(model.text_at(*reference) if reference is not None else "")
    return names


def module_name(model: Model) -> str:
    """struct module's name field, found by the name that .modinfo claims (else "")."""
    owner, claimed = model.find(".gnu.linkonce.this_module"), modinfo_first(model, "name")
    if owner is None or claimed is None:
        return ""
    content = model.content(owner).copy()
    for row in range(*model.rows(owner).indices(len(model.place))):
        # What the kernel adds to or writes over.
        content[model.place[row] : model.place[row] + model.arch.word] = 0
    raw = bytes(content)
    at = raw.find(claimed.encode() + b"\0")
    return claimed if at >= 0 and not any(raw[:at]) and not any(raw[at + len(claimed) :]) else ""


def entry_point(model: Model, symbol_name: str) -> tuple[int, int, int] | None:
    """(offset in struct module, section, offset) of the init or cleanup function, or None without one.

    symbol_name: init_module or cleanup_module, which modpost's generated .mod.c always uses.
    """
    owner = model.find(".gnu.linkonce.this_module")
    if owner is None:
        return None
    for row in range(*model.rows(owner).indices(len(model.place))):
        symbol = int(model.symbol[row])
        if model.name_of_symbol(symbol) == symbol_name:
            value = int(model.symbol_value[symbol]) + int(model.addend[row])
            return int(model.place[row]), int(model.symbol_section[symbol]), value
    return None


@dataclass(frozen=True, slots=True)
class Unwind:
    """The ORC table by entry: home section index, offset (n,), and the six bytes of each entry as one integer."""

    home: Ints
    offset: Ints
    data: Ints

    def weak(self) -> Bools:
        """Terminators that orc_sort_cmp() puts before a real entry of the same address: the flag word is zero."""
        flags: Bools = ((self.data >> 32) & 0xFFFF) == 0
        return flags


def unwind_table(model: Model) -> tuple[Unwind, list[str]]:
    """Decodes .orc_unwind_ip and .orc_unwind pairwise (unwind_module_init)."""
    ips, data = model.find(".orc_unwind_ip"), model.find(".orc_unwind")
    empty = Unwind(np.zeros(0, np.int64), np.zeros(0, np.int64), np.zeros(0, np.int64))
    if ips is None or data is None:
        return empty, [] if ips is data else ["only one of .orc_unwind_ip and .orc_unwind is there"]
    count = ips.size // 4
    # WARN_ON_ONCE in unwind_module_init(): no unwinding at all for the module then.
    if ips.size % 4 or data.size % 6 or data.size // 6 != count:
        return empty, [f".orc_unwind_ip has {ips.size} bytes, .orc_unwind {data.size}: not the same number of entries"]
    span = model.rows(ips)
    if span.stop - span.start != count or not np.array_equal(model.place[span], 4 * np.arange(count)):
        return empty, [".orc_unwind_ip: not exactly one relocation per entry"]
    symbols = model.symbol[span]
    return Unwind(
        home=model.symbol_section[symbols],
        offset=model.symbol_value[symbols] + model.addend[span],
        data=unwind_states(bytes(model.content(data))),
    ), []


def unwind_states(content: bytes) -> Ints:
    """The six bytes of each struct orc_entry as one integer."""
    halves = np.frombuffer(content, "<u2").astype(np.int64).reshape(-1, 3)
    states: Ints = halves[:, 0] | halves[:, 1] << 16 | halves[:, 2] << 32
    return states


def has_sorted_unwind(model: Model) -> bool:
    """True for a megamodule that has the sorted table; whether it is sound, settle.py says."""
    return all(model.find(name) is not None for name in SORTED_UNWIND)
