"""The operations that the glue's init is made of; each architecture writes their instructions in one Encoder.

glue_code.py says what the init does with these operations and names no architecture; an Encoder knows instructions and
nothing of members. Registers are the five that the program needs, mapped by each encoder; every array is of 32-bit
words but for the times, which store_elapsed() alone touches.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import Enum, auto


@dataclass(frozen=True, slots=True, kw_only=True)
class Fixup:
    """A relocation of the glue's code: *target* is a member's number (its init) or a name (see GlueRequest); *label*
    stands for it where a low part names the place in the code of its high part."""

    offset: int
    kind: int
    target: str | int
    addend: int = 0
    label: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class GlueCode:
    """The glue's init function. frames: (code offset, bytes between stack pointer and frame), in order; the last code
    offset is the end. return_site: offset of the jump that .return_sites must name, None for a plain return.
    unwind_entry: arm's entry for the whole function: the relocation type of its first word, and its second word. bit:
    what pointers to the function have beside its place (1 for Thumb). entry: the function's offset in *code*, behind
    what must stand before it. check: start and end of the look at the kernel's image, which begins with a NOP as long
    as a jump."""

    code: bytes
    fixups: tuple[Fixup, ...]
    frames: tuple[tuple[int, int], ...] = ()
    return_site: int | None = None
    unwind_entry: tuple[int, int] | None = None
    bit: int = 0
    entry: int = 0
    check: tuple[int, int] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class UnwindTable:
    """The sorted unwind table that the glue's init has to settle (unwind.py).

    core, init: (output section's name, members' entries) of each group in the table's order, outside and in init
    memory. own: the groups that functions of the glue belong to, each with one function. module_size: bytes of struct
    module.
    """

    core: Sequence[tuple[str, int]]
    init: Sequence[tuple[str, int]]
    own: Sequence[str]
    module_size: int


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageCheck:
    """What must be so before a member runs: each of *symbols* as far from the anchor as it says, and *build_id* in
    memory, *note* bytes from the anchor. All but the last are imported by name, so looking at them is safe; after them
    the image is the right one or has the same shape, so the last is too."""

    anchor: str
    symbols: Sequence[tuple[str, int]]
    note: int
    build_id: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class GlueRequest:
    """What the megamodule's init has to do: ``int init(void)``, call each member's init in order, always return 0.

    inits: per member, whether it has an init to call (fixup target: its number). needs: per member, the members that it
    imports from. skip_chunks: members per ``skip`` parameter, [] without parameters. Data is reached by the names
    "result" (int[n]), "nanoseconds" (long[n]), "skipK" (int[]) and "skipK_count" (unsigned int); for a resume
    "turn", "closed" and "flows" (int). prefix, start: the bytes before and at the start of the members' inits
    (entry.py). thunk: functions return through the architecture's return thunk. unwind: to settle first; its parts are
    reached by their sections' names, the groups' code by the output sections', struct module as "struct module".
    resumable: see glue_code.py. image: what to look at before anything else; if it is not so, the init returns
    -ENOEXEC, for nothing has been registered yet.

    A member whose init fails is recorded, members that need it are skipped; returning an error would free memory that
    the others have registered (kernel/module/main.c do_init_module()). Direct calls only: no retpoline, no CFI check.
    """

    inits: Sequence[bool]
    needs: Sequence[Sequence[int]]
    skip_chunks: Sequence[int]
    timed: bool
    start: bytes
    thunk: bool
    prefix: bytes = b""
    unwind: UnwindTable | None = None
    resumable: bool = False
    image: ImageCheck | None = None


class Register(Enum):
    """RESULTS and TURN keep their values over calls, the others do not."""

    RESULTS = auto()
    TURN = auto()
    COUNT = auto()
    LIST = auto()
    INDEX = auto()
    VALUE = auto()


class Condition(Enum):
    """When a branch is taken; NOT_BELOW compares without a sign."""

    EQUAL = auto()
    NOT_EQUAL = auto()
    NOT_BELOW = auto()


@dataclass(slots=True)
class Label:
    """A place in the code: *at* once it is bound, until then *sites* are the branches that wait for it."""

    at: int | None = None
    sites: list[tuple[int, Condition | None]] = field(default_factory=list)


@dataclass(slots=True)
class Encoder(ABC):
    """Writes one function's code. fixups: the fields that relocations fill."""

    code: bytearray = field(default_factory=bytearray)
    fixups: list[Fixup] = field(default_factory=list)
    # Where the kernel is another one; see GlueCode.
    refused: Label | None = None
    check: tuple[int, int] | None = None

    @abstractmethod
    def enter(self, request: GlueRequest) -> None:
        """Landing pad, saved registers, and what this architecture's kernel needs before the first call."""

    @abstractmethod
    def leave(self) -> GlueCode:
        """Return 0; the finished function."""

    @abstractmethod
    def call(self, target: str | int) -> None:
        """Call a kernel function or another of the glue's (its name) or a member's init (its number)."""

    @abstractmethod
    def pass_address(self, target: str) -> None:
        """The argument of the next call = &target"""

    @abstractmethod
    def pass_constant(self, value: int) -> None:
        """The argument of the next call = value, as constant() takes it"""

    @abstractmethod
    def address(self, register: Register, target: str) -> None:
        """register = &target"""

    @abstractmethod
    def constant(self, register: Register, value: int) -> None:
        """register = value, which is not negative"""

    @abstractmethod
    def load(self, register: Register, base: Register, number: int) -> None:
        """register = base[number]"""

    @abstractmethod
    def store(self, register: Register, base: Register, number: int) -> None:
        """base[number] = register"""

    @abstractmethod
    def load_indexed(self, register: Register, base: Register, index: Register) -> None:
        """register = base[index]"""

    @abstractmethod
    def store_indexed(self, register: Register, base: Register, index: Register) -> None:
        """base[index] = register"""

    @abstractmethod
    def add(self, register: Register, other: Register) -> None:
        """register += other"""

    @abstractmethod
    def decrement(self, register: Register) -> None:
        """register -= 1"""

    @abstractmethod
    def branch_if(self, register: Register, condition: Condition, other: Register | int, label: Label) -> None:
        """if (register *condition* other) goto label; a number is below 256"""

    @abstractmethod
    def take_error(self) -> None:
        """VALUE = the int that a call has returned, or 0 if that is positive"""

    @abstractmethod
    def start_clock(self) -> None:
        """&nanoseconds and the time that a call has returned are kept over calls"""

    @abstractmethod
    def store_elapsed(self, number: int) -> None:
        """nanoseconds[number] = the time that a call has returned - the time kept, which it replaces"""

    def check_image(self, image: ImageCheck) -> None:
        """if (the kernel is not *image*) return -ENOEXEC; asked for only where Architecture.checks_image"""
        raise NotImplementedError

    @abstractmethod
    def encode_branch(self, condition: Condition | None, distance: int) -> bytes:
        """A branch to *distance* from its own start, always if *condition* is None; its length does not depend on
        *distance*."""

    def branch(self, condition: Condition | None, label: Label) -> None:
        """goto label, by the outcome of the comparison before it unless *condition* is None"""
        at = len(self.code)
        self.code += self.encode_branch(condition, 0)
        if label.at is None:
            label.sites.append((at, condition))
        else:
            self._aim(at, condition, label.at)

    def jump(self, label: Label) -> None:
        """goto label"""
        self.branch(None, label)

    def bind(self, label: Label) -> None:
        """label:"""
        label.at = len(self.code)
        for at, condition in label.sites:
            self._aim(at, condition, label.at)

    def _aim(self, at: int, condition: Condition | None, target: int) -> None:
        written = self.encode_branch(condition, target - at)
        self.code[at : at + len(written)] = written
