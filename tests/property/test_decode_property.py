"""Any bytes decode or raise one named error, in one line, without patient data."""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Callable
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from allpacs.decode.open import read_frames_of
from allpacs.decode.part10 import read_header
from allpacs.domain.errors import InputFault
from allpacs.domain.image import Frame

sys.path.append(str(Path(__file__).resolve().parent.parent / "unit" / "decode"))

import decode_samples as samples


def pictures() -> dict[str, bytes]:
    found = {}
    for kind in ("BMP", "PNG", "JPEG", "TIFF"):
        file = BytesIO()
        Image.fromarray(samples.smooth_rgb()).save(file, kind)
        found[kind] = file.getvalue()
    return found


SEEDS = samples.seeds() | pictures()
CHANGES = st.lists(
    st.tuples(
        st.floats(0, 1, exclude_max=True),
        st.sampled_from(["set", "insert", "remove", "cut"]),
        st.one_of(st.sampled_from([b"\0", b"\xff", b"\xff\xff\xff\xff", b"\xff\xff\xff\x7f"]), st.binary(max_size=12)),
    ),
    max_size=6,
)


def changed(content: bytes, changes: list[tuple[float, str, bytes]]) -> bytes:
    for where, how, piece in changes:
        at = int(where * len(content))
        if how == "set":
            content = content[:at] + piece + content[at + len(piece) :]
        elif how == "insert":
            content = content[:at] + piece + content[at:]
        elif how == "remove":
            content = content[:at] + content[at + len(piece) :]
        else:
            content = content[: max(at, len(content) // 2)]
    return content


def decode_or_fault(content: bytes) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "received"
        path.write_bytes(content)
        for reading in (lambda: list(read_frames_of(path, max_pixels=1 << 20)), lambda: [read_header(path)]):
            result, fault = outcome(reading)
            if fault is not None:
                assert "\n" not in fault
                assert "eheim" not in fault.lower()
            for frame in result:
                if isinstance(frame, Frame):
                    assert frame.rgb.dtype == np.uint8
                    assert frame.rgb.shape[2:] == (3,)
                    assert frame.spacing_um is None or 0 < frame.spacing_um < float("inf")


def outcome(reading: Callable[[], list[object]]) -> tuple[list[object], str | None]:
    try:
        return reading(), None
    except InputFault as fault:
        return [], str(fault)


@settings(max_examples=300)
@given(kind=st.sampled_from(sorted(SEEDS)), changes=CHANGES)
@pytest.mark.filterwarnings("ignore")
def test_changed_files_decode_or_raise_an_input_fault(kind: str, changes: list[tuple[float, str, bytes]]) -> None:
    decode_or_fault(changed(SEEDS[kind], changes))


@settings(max_examples=100)
@given(
    start=st.sampled_from(
        [b"", bytes(128) + b"DICM", b"\x08\x00\x05\x00", b"\x08\x00", b"BM", b"II*\0", b"\xff\xd8\xff"]
    ),
    rest=st.binary(max_size=300),
)
@pytest.mark.filterwarnings("ignore")
def test_any_bytes_decode_or_raise_an_input_fault(start: bytes, rest: bytes) -> None:
    decode_or_fault(start + rest)
