"""An independent judge of the prelinker: a model of the kernel's module loader for x86_64, arm64, riscv64 and arm.

It shares no code with megamod.prelink. Members are loaded one by one in the model, the megamodule is loaded
in the model, and every byte, relocation and table entry of the members is compared. The map is the only thing it takes
from the prelinker, and it takes nothing in it on trust: bytes, references and calls must fit what the map claims.
"""

from tests.oracle.difference import Difference
from tests.oracle.elffile import LoadError
from tests.oracle.judge import judge
from tests.oracle.model import Model, load_model

__all__ = ["Difference", "LoadError", "Model", "judge", "load_model"]
