"""Deflated data sets (PS3.5 A.5) back to plain ones, within bounds."""

from __future__ import annotations

import tempfile
import zlib
from typing import BinaryIO, cast

from allpacs.domain.errors import InputFault

#: A deflated data set may grow to this many bytes; deflate packs zeros a thousandfold.
MAX_INFLATED_BYTES = 2 * 1024**3
_IN_MEMORY_BYTES = 64 * 1024**2
_PIECE_BYTES = 1 << 20


def inflated(packed: BinaryIO, *, max_bytes: int | None = None) -> BinaryIO:
    """Return the deflated bytes from here on as a plain stream at its start, on disk where it is large.

    Parameters
    ----------
    max_bytes:
        More is refused; `MAX_INFLATED_BYTES` where not given.

    Raises
    ------
    InputFault
        It would grow beyond `max_bytes`.
    zlib.error
        Not deflated.
    """
    most = MAX_INFLATED_BYTES if max_bytes is None else max_bytes
    plain = tempfile.SpooledTemporaryFile(max_size=_IN_MEMORY_BYTES)  # noqa: SIM115 - the caller closes it
    inflater = zlib.decompressobj(-zlib.MAX_WBITS)
    while not inflater.eof and (piece := inflater.unconsumed_tail or packed.read(1 << 16)):
        plain.write(inflater.decompress(piece, _PIECE_BYTES))
        if plain.tell() > most:
            plain.close()
            raise InputFault(f"the deflated data set is larger than {most} bytes")
    plain.write(inflater.flush())  # less than one match: all input has been consumed
    plain.seek(0)
    return cast(BinaryIO, plain)
