"""Fields that the megamodule holds no relocation for any more: they must hold what the kernel would have written.

The member is relocated as the kernel would, with every output section, and every symbol of the kernel, at an address
drawn at random: only sh_addralign holds for a section's start, and no distance between two sections is fixed. That is
done twice, with different addresses. A field that comes out differently depends on addresses that nobody knew when the
megamodule was made; it must not have lost its relocation.
"""

import random
from dataclasses import dataclass

import numpy as np

from tests.oracle.difference import Report
from tests.oracle.model import Bytes, Ints, Model, gather, scatter
from tests.oracle.placement import ABSOLUTE, KERNEL, LOST

_PAGE = 4096


@dataclass(frozen=True, slots=True, kw_only=True)
class Fields:
    """rows: the member's relocations to resolve. The other columns are for all rows: the output place, the target."""

    rows: Ints
    where: Ints
    at: Ints
    target: Ints
    target_at: Ints


def check_resolved(
    model: Model, fields: Fields, merged: Model, member: str, report: Report
) -> tuple[dict[int, Bytes], Ints]:
    """The contents of the member's sections with the resolved fields written, and the rows that need a relocation."""
    rows = fields.rows
    leader = np.where(model.pair[rows] >= 0, model.pair[rows], rows)
    known = (fields.target[rows] != LOST) & (fields.target[leader] != LOST)
    rows = rows[known]
    first = _relocate(model, fields, rows, _Addresses(merged, 0))
    second = _relocate(model, fields, rows, _Addresses(merged, 1))
    lost = [fields.rows[~known]]
    for code in np.unique(model.kind[rows]).tolist():
        form = model.arch.by_code(code)
        mine = rows[model.kind[rows] == code]
        for section in np.unique(model.place_section[mine]).tolist():
            here = mine[model.place_section[mine] == section]
            one, other = (gather(content[section], model.place[here], form.width) for content in (first, second))
            lost.append(here[one != other])
        if form.pages:
            align = np.array([s.align for s in merged.sections], np.int64)
            inside = fields.target[mine] > 0
            paged = align[fields.where[mine]] % _PAGE == 0
            paged &= inside & (align[np.maximum(fields.target[mine], 0)] % _PAGE == 0)
            lost.append(mine[~paged])
    missing = np.unique(np.concatenate(lost))
    _restore(model, missing, first)
    solved = rows[~np.isin(rows, missing)]
    check_range(model, fields, solved, merged, member, report)
    _check_forbidden(model, fields, solved, member, report)
    return first, missing


def _restore(model: Model, rows: Ints, contents: dict[int, Bytes]) -> None:
    """What has lost its relocation is reported as that; its bytes are compared as they stand in the file."""
    for row in rows.tolist():
        section, at = int(model.place_section[row]), int(model.place[row])
        if section in contents:
            end = at + model.arch.by_code(int(model.kind[row])).width
            contents[section][at:end] = model.content(model.sections[section])[at:end]


def check_range(model: Model, fields: Fields, rows: Ints, merged: Model, member: str, report: Report) -> None:
    """Rows whose values are known must fit: the resolved ones, and those left to the kernel for one section.

    For a branch inside one section the kernel has no .plt entry to offer (count_plts() of arm and arm64), and riscv's
    branch handlers look at no range at all.
    """
    addresses = _Addresses(merged, 0)
    for code in np.unique(model.kind[rows]).tolist():
        fits = model.arch.by_code(code).fits
        if fits is None:
            continue
        mine = rows[model.kind[rows] == code]
        target = addresses.of(fields.target[mine], fields.target_at[mine])
        place = addresses.of(fields.where[mine], fields.at[mine])
        for row in mine[~fits(target, place)].tolist():
            section = model.sections[int(model.place_section[row])].name
            text = "the value does not fit its field"
            report.add("range", text, member=member, section=section, offset=int(model.place[row]))


def _check_forbidden(model: Model, fields: Fields, rows: Ints, member: str, report: Report) -> None:
    if model.arch.forbidden is None:
        return
    paged = np.isin(model.kind[rows], model.arch.codes(lambda f: f.pages))
    for row in rows[paged & (fields.at[rows] % _PAGE >= model.arch.forbidden)].tolist():
        section = model.sections[int(model.place_section[row])].name
        text = "resolved at a place in its page where the kernel may have to change the instruction (an erratum)"
        report.add("erratum", text, member=member, section=section, offset=int(model.place[row]))


class _Addresses:
    """An address for each section of the megamodule and each symbol of the kernel. turn 0 or 1: two different draws.

    The two draws differ in the lowest bit that the alignment leaves free, and in every page. All lies within 2^27 so
    that no branch is out of reach for its distance alone.
    """

    def __init__(self, merged: Model, turn: int) -> None:
        rng = random.Random(f"addresses {turn}")
        base, room = (1 << 30, 1 << 14) if merged.arch.bits == 32 else (1 << 38, 1 << 14)
        self.section = np.zeros(len(merged.sections) + 1, np.int64)
        for section in merged.sections[1:]:
            step = max(section.align, 1)
            start = base + _PAGE * (2 * rng.randrange(room) + turn)
            start -= start % step
            self.section[section.index] = start + (step * (2 * rng.randrange(64) + turn) if step < _PAGE else 0)
        self.kernel = base + 64 * (2 * rng.randrange(room) + turn)

    def of(self, home: Ints, offset: Ints) -> Ints:
        """The addresses of places: in sections, of the kernel's symbols, absolute."""
        found = offset + np.where(home > 0, self.section[np.maximum(home, 0)], 0)
        found = np.where(home <= KERNEL, self.kernel + 4096 * (KERNEL - home) + offset, found)
        return np.where(home == ABSOLUTE, offset, found)


def _relocate(model: Model, fields: Fields, rows: Ints, addresses: _Addresses) -> dict[int, Bytes]:
    """apply_relocate_add() for the given rows, over copies of the member's sections."""
    contents: dict[int, Bytes] = {}
    for section in np.unique(model.place_section[rows]).tolist():
        contents[section] = model.content(model.sections[section]).copy()
    for code in np.unique(model.kind[rows]).tolist():
        form = model.arch.by_code(code)
        mine = rows[model.kind[rows] == code]
        # A paired field shares the value of the row that leads, and its place.
        leader = np.where(model.pair[mine] >= 0, model.pair[mine], mine) if form.pair else mine
        target = addresses.of(fields.target[leader], fields.target_at[leader])
        place = addresses.of(fields.where[leader], fields.at[leader])
        for section in np.unique(model.place_section[mine]).tolist():
            here = model.place_section[mine] == section
            at = model.place[mine[here]]
            words = gather(contents[section], at, form.width)
            scatter(contents[section], at, form.width, form.apply(words, target[here], place[here]))
    return contents
