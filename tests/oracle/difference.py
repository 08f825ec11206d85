"""What the oracle reports."""

from collections import Counter
from dataclasses import dataclass, field
from typing import TypedDict


@dataclass(frozen=True, slots=True, kw_only=True)
class Difference:
    """One place where the megamodule is not what its members, loaded one by one, would have been.

    member: canonical name, or "" for the file as a whole; section: input section of the member (or output section where
    member is empty); offset: bytes into that section; kind: one word, stable, for tests; text: the sentence to read.
    """

    member: str
    section: str
    offset: int
    kind: str
    text: str

    def __str__(self) -> str:
        place = f"{self.member or 'megamodule'}: {self.section}+{self.offset:#x}" if self.section else self.member
        return f"{place or 'megamodule'}: [{self.kind}] {self.text}"


class Where(TypedDict):
    """The place arguments that several reports share."""

    member: str
    section: str


@dataclass(slots=True)
class Report:
    """Gathers differences; of each kind per member and section only the first few are spelled out."""

    limit: int = 8
    found: list[Difference] = field(default_factory=list)
    _seen: Counter[tuple[str, str, str]] = field(default_factory=Counter)

    def add(self, kind: str, text: str, *, member: str = "", section: str = "", offset: int = 0) -> None:
        key = (member, section, kind)
        self._seen[key] += 1
        if self._seen[key] <= self.limit:
            self.found.append(Difference(member=member, section=section, offset=offset, kind=kind, text=text))

    def result(self) -> list[Difference]:
        """Everything found, with a closing line for each group that was cut short."""
        more = [
            Difference(member=m, section=s, offset=0, kind=k, text=f"and {n - self.limit} more of this kind here")
            for (m, s, k), n in self._seen.items()
            if n > self.limit
        ]
        return self.found + more
