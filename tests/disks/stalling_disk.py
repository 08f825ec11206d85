"""A disk that stops answering: an NBD server for QEMU that never replies to the first large read, nor to what follows.

NBD protocol: doc/proto.md of the project nbd, "fixed newstyle" negotiation, simple replies.
"""

from __future__ import annotations

import socket
import struct
import threading
from pathlib import Path

SIZE = 64 << 20
# The kernel's search for partitions reads single pages; the loader asks for more at once.
_LARGE = 32768

_GO, _READ, _DISCONNECT = 7, 0, 2
_REPLY = 0x3E889045565A9
_ACK, _INFO, _UNSUPPORTED = 1, 3, 0x80000001


def serve(path: Path) -> None:
    """Listens on the socket *path* for one client, in a thread of its own that ends with the test run."""
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(path))
    listener.listen(1)
    threading.Thread(target=_serve, args=(listener,), daemon=True).start()


def _serve(listener: socket.socket) -> None:
    connection, _address = listener.accept()
    stream = connection.makefile("rwb")
    stream.write(b"NBDMAGIC" + b"IHAVEOPT" + struct.pack(">H", 1))
    stream.flush()
    stream.read(4)
    option = 0
    while option != _GO:
        _magic, option, size = struct.unpack(">8sII", stream.read(16))
        stream.read(size)
        if option == _GO:
            stream.write(_option_reply(option, _INFO, struct.pack(">HQH", 0, SIZE, 1)))
        stream.write(_option_reply(option, _ACK if option == _GO else _UNSUPPORTED))
        stream.flush()
    stalled = False
    while request := stream.read(28):
        _magic, _flags, kind, handle, _offset, size = struct.unpack(">IHHQQI", request)
        stalled |= kind == _READ and size >= _LARGE
        if kind == _DISCONNECT:
            break
        if not stalled:
            stream.write(struct.pack(">IIQ", 0x67446698, 0, handle) + bytes(size if kind == _READ else 0))
            stream.flush()


def _option_reply(option: int, kind: int, data: bytes = b"") -> bytes:
    return struct.pack(">QIII", _REPLY, option, kind, len(data)) + data
