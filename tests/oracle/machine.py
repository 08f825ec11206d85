"""A small x86_64 interpreter, enough to run the glue's init: addresses stay symbolic, calls are answered by the caller.

It knows few instructions on purpose and refuses the rest by name: glue that grows beyond them must be looked at anew.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import capstone
from capstone import x86

from tests.oracle.model import Model

_WIDE = {
    narrow: wide
    for wide, names in {
        "rax": "eax ax al",
        "rbx": "ebx bx bl",
        "rcx": "ecx cx cl",
        "rdx": "edx dx dl",
        "rsi": "esi si sil",
        "rdi": "edi di dil",
        "rbp": "ebp bp bpl",
        "rsp": "esp sp spl",
        **{f"r{n}": f"r{n}d r{n}w r{n}b" for n in range(8, 16)},
    }.items()
    for narrow in [wide, *names.split()]
}
_SAVED = ("rbx", "rbp", "rsp", "r12", "r13", "r14", "r15")
_LOST = ("rax", "rcx", "rdx", "rsi", "rdi", "r8", "r9", "r10", "r11")
_STACK = -1
_STEPS = 4_000_000


class StuckError(Exception):
    """The glue did something that the machine does not know or that no function may do."""


@dataclass(frozen=True, slots=True)
class Pointer:
    """An address: section index (0: a kernel symbol, by name; -1: the stack) and offset."""

    section: int
    offset: int
    name: str = ""


Value = int | Pointer | None  # None: undefined, must not be used
Answer = Callable[[Pointer], int]


@dataclass(slots=True)
class Machine:
    """Code of one section of a loaded model. write() sets memory before a run; read() looks at it afterwards."""

    model: Model
    section: int
    code: dict[int, Any] = field(default_factory=dict)
    memory: dict[tuple[int, int], Value] = field(default_factory=dict)
    registers: dict[str, Value] = field(default_factory=dict)
    compared: tuple[str, Value, Value, int] | None = None

    def decode(self, offset: int, size: int) -> None:
        """Makes a stretch of the section's code known."""
        engine = capstone.Cs(capstone.CS_ARCH_X86, capstone.CS_MODE_64)
        engine.detail = True
        content = bytes(self.model.content(self.model.sections[self.section])[offset : offset + size])
        self.code |= {instruction.address: instruction for instruction in engine.disasm(content, offset)}

    def clear(self) -> None:
        """Memory as the loader leaves it."""
        self.memory.clear()

    def write(self, section: int, offset: int, size: int, value: int) -> None:
        """A field as parse_args() would set it."""
        self.memory[(section, offset)] = value & ((1 << 8 * size) - 1)

    def read(self, section: int, offset: int, size: int) -> Value:
        """A field as the loader or an earlier write left it."""
        if (section, offset) in self.memory:
            return self.memory[(section, offset)]
        if section <= 0:
            return None
        home = self.model.sections[section]
        row = self.model.row_at(home, offset)
        if row is not None:
            return self._target(row, 0)
        raw = bytes(self.model.content(home)[offset : offset + size])
        if len(raw) != size:
            raise StuckError(f"reads {home.name}{offset:+#x}, outside the section")
        return int.from_bytes(raw, "little")

    def run(self, entry: int, answer: Answer) -> Value:
        """Calls the function at entry; answer gives eax for each call it makes. Returns rax."""
        self.registers = {name: Pointer(0, 0, name) for name in set(_WIDE.values())}
        self.registers["rsp"] = Pointer(_STACK, 0)
        before = {name: self.registers[name] for name in _SAVED}
        at = entry
        for _ in range(_STEPS):
            instruction = self.code.get(at)
            if instruction is None:
                raise StuckError(f"runs to +{at:#x}, where the glue has no code")
            after = self._step(instruction, answer)
            if after is None:
                changed = [name for name in _SAVED if self.registers[name] != before[name]]
                if changed:
                    raise StuckError(f"returns with other {', '.join(changed)}")
                return self.registers["rax"]
            at = after
        raise StuckError("does not end")

    def _target(self, row: int, bias: int) -> Pointer:
        symbol = int(self.model.symbol[row])
        home, addend = int(self.model.symbol_section[symbol]), int(self.model.addend[row])
        if home == 0:
            return Pointer(0, addend + bias, self.model.name_of_symbol(symbol))
        return Pointer(home, int(self.model.symbol_value[symbol]) + addend + bias)

    def _near(self, instruction: Any) -> Pointer:
        """Where a call or jump goes: by its relocation, or inside the section; a short jump has no relocation."""
        field_at = instruction.address + instruction.size - 4
        row = self.model.row_at(self.model.sections[self.section], field_at) if instruction.size > 4 else None
        if row is not None:
            return self._target(row, 4)
        return Pointer(self.section, int(instruction.operands[0].imm))

    def _step(self, instruction: Any, answer: Answer) -> int | None:
        """Executes one instruction; the next one's address, None after the return."""
        word, after = instruction.mnemonic, int(instruction.address + instruction.size)
        if word in ("endbr64", "nop"):
            return after
        if word in ("ret", "jmp") or word.startswith("j"):
            return self._branch(instruction, word, after)
        if word == "call":
            if instruction.operands[0].type != x86.X86_OP_IMM:
                raise StuckError("an indirect call: retpolines and CFI would have to be looked at")
            result = answer(self._near(instruction))
            for name in _LOST:
                self.registers[name] = None
            self.registers["rax"] = result & 0xFFFFFFFFFFFFFFFF
            return after
        operands = list(instruction.operands)
        if word in ("push", "pop"):
            stack = self.registers["rsp"]
            if not isinstance(stack, Pointer):
                raise StuckError(f"+{instruction.address:#x}: rsp is not an address")
            if word == "push":
                self.registers["rsp"] = Pointer(_STACK, stack.offset - 8)
                self.memory[(_STACK, stack.offset - 8)] = self._get(instruction, operands[0])
            else:
                self._put(instruction, operands[0], self.memory.get((_STACK, stack.offset)))
                self.registers["rsp"] = Pointer(_STACK, stack.offset + 8)
        elif word == "lea":
            self._put(instruction, operands[0], self._address(instruction, operands[1]))
        elif word == "mov":
            self._put(instruction, operands[0], self._get(instruction, operands[1]))
        elif word in ("cmp", "test"):
            left, right = (self._get(instruction, o) for o in operands)
            self.compared = (word, left, right, operands[0].size)
        elif word.startswith("cmov"):
            if self._holds(word[4:]):
                self._put(instruction, operands[0], self._get(instruction, operands[1]))
        elif word in ("add", "sub", "xor", "inc", "dec"):
            self._arithmetic(instruction, word, operands)
        else:
            raise StuckError(f"+{instruction.address:#x}: {word} {instruction.op_str} is not modelled")
        return after

    def _branch(self, instruction: Any, word: str, after: int) -> int | None:
        if word == "ret":
            return None
        to = self._near(instruction)
        if word != "jmp":
            taken = self._holds(word[1:])
            return to.offset if taken else after
        if to.name == "__x86_return_thunk":
            return None
        if to.section != self.section:
            raise StuckError(f"jumps out of the glue at +{instruction.address:#x}")
        return to.offset

    def _arithmetic(self, instruction: Any, word: str, operands: list[Any]) -> None:
        self.compared = None
        left = self._get(instruction, operands[0])
        if word == "xor" and instruction.op_str == ", ".join([instruction.op_str.split(", ")[0]] * 2):
            self._put(instruction, operands[0], 0)
            return
        right = 1 if word in ("inc", "dec") else self._get(instruction, operands[1])
        if isinstance(left, Pointer) and isinstance(right, int) and word in ("add", "sub"):
            by = _signed(right, operands[0].size)
            self._put(instruction, operands[0], _moved(left, by if word == "add" else -by))
            return
        if not isinstance(left, int) or not isinstance(right, int):
            raise StuckError(f"+{instruction.address:#x}: {word} of something undefined")
        result = {"add": left + right, "inc": left + right, "xor": left ^ right}.get(word, left - right)
        result &= (1 << 8 * operands[0].size) - 1
        self._put(instruction, operands[0], result)
        self.compared = ("result", result, 0, operands[0].size)

    def _holds(self, condition: str) -> bool:
        if self.compared is None:
            raise StuckError("a condition on flags that the machine does not follow")
        word, left, right, size = self.compared
        if word == "result" and condition not in ("e", "ne", "s", "ns"):
            raise StuckError(f"condition {condition} on flags that the machine does not follow")
        if word == "cmp" and size == 8 and condition in ("e", "ne") and None not in (left, right):
            # An address is never equal to a number, nor to another symbol's.
            return (left == right) == (condition == "e")
        if not isinstance(left, int) or not isinstance(right, int):
            raise StuckError("compares something undefined")
        mask = (1 << 8 * size) - 1
        left, right = left & mask, right & mask
        if word == "test":
            left, right = left & right, 0
        low, high = _signed(left, size), _signed(right, size)
        answers = {
            "e": left == right,
            "ne": left != right,
            "b": left < right,
            "ae": left >= right,
            "be": left <= right,
            "a": left > right,
            "l": low < high,
            "ge": low >= high,
            "le": low <= high,
            "g": low > high,
            "s": _signed((left - right) & mask, size) < 0,
            "ns": _signed((left - right) & mask, size) >= 0,
        }
        if condition not in answers:
            raise StuckError(f"condition {condition} is not modelled")
        return answers[condition]

    def _address(self, instruction: Any, operand: Any) -> Pointer:
        memory = operand.mem
        if memory.base == x86.X86_REG_RIP:
            at = instruction.address + instruction.disp_offset
            row = self.model.row_at(self.model.sections[self.section], at)
            if row is not None:
                return self._target(row, instruction.size - instruction.disp_offset)
            return Pointer(self.section, instruction.address + instruction.size + memory.disp)
        base = self.registers[_wide(instruction, memory.base)]
        offset = memory.disp
        if memory.index:
            index = self.registers[_wide(instruction, memory.index)]
            if not isinstance(index, int):
                raise StuckError(f"+{instruction.address:#x}: an undefined index")
            offset += _signed(index, 8) * memory.scale
        if not isinstance(base, Pointer):
            raise StuckError(f"+{instruction.address:#x}: not an address")
        return _moved(base, offset)

    def _get(self, instruction: Any, operand: Any) -> Value:
        if operand.type == x86.X86_OP_IMM:
            return int(operand.imm) & ((1 << 8 * int(operand.size)) - 1)
        if operand.type == x86.X86_OP_REG:
            value: Value = self.registers[_wide(instruction, operand.reg)]
            if isinstance(value, int):
                value &= (1 << 8 * int(operand.size)) - 1
            return value
        where = self._address(instruction, operand)
        return self.read(where.section, where.offset, int(operand.size))

    def _put(self, instruction: Any, operand: Any, value: Value) -> None:
        if operand.type == x86.X86_OP_REG:
            if operand.size < 4:
                raise StuckError(f"+{instruction.address:#x}: a partial register")
            self.registers[_wide(instruction, operand.reg)] = value
            return
        where = self._address(instruction, operand)
        if where.section == 0 or where.section == self.section:
            raise StuckError(f"+{instruction.address:#x}: writes where it must not")
        self.memory[(where.section, where.offset)] = value


def _wide(instruction: Any, register: int) -> str:
    name: str = instruction.reg_name(register) or "no register"
    if name not in _WIDE:
        raise StuckError(f"+{instruction.address:#x}: {name} is not modelled")
    return _WIDE[name]


def _moved(pointer: Pointer, by: int) -> Pointer:
    return Pointer(pointer.section, pointer.offset + by, pointer.name)


def _signed(value: int, size: int) -> int:
    half = 1 << (8 * size - 1)
    value &= 2 * half - 1
    return value - 2 * half if value >= half else value
