"""Real files of other makers, broken in every way: they decode, or one named fault comes out.

``make test`` tries 500; ``ALLPACS_MUTATIONS=20000`` tries as many as it says.
"""

from __future__ import annotations

import os
import random
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from allpacs.decode.open import read_frames_of
from allpacs.decode.part10 import read_header
from allpacs.decode.slide import SlideLevel, read_slide_instance
from allpacs.domain.errors import InputFault
from allpacs.domain.image import Frame, UnreadableFrame
from allpacs.domain.slide import Level, choose

MUTATIONS = int(os.environ.get("ALLPACS_MUTATIONS", "500"))
MOST_PIXELS = 1 << 20
#: Numbers that lengths, offsets and sizes break at.
TELLING = [b"\0\0", b"\xff\xff", b"\0\0\0\0", b"\xff\xff\xff\xff", b"\xff\xff\xff\x7f", b"\x01\0", b"\xfe\xff\x00\xe0"]


def mutated(content: bytes, rng: random.Random) -> bytes:
    """Return the content with up to eight changes, most of them where headers are."""
    changed = bytearray(content)
    for _ in range(rng.randint(1, 8)):
        at = rng.randrange(min(len(changed), rng.choice([400, 2000, 8000, len(changed)])))
        match rng.randrange(7):
            case 0:
                changed[at] ^= 1 << rng.randrange(8)
            case 1:
                piece = rng.choice(TELLING)
                changed[at : at + len(piece)] = piece
            case 2:
                changed[at : at + rng.randint(1, 40)] = rng.randbytes(rng.randint(1, 40))
            case 3:
                del changed[at : at + rng.randint(1, 200)]
            case 4:
                changed[at:at] = changed[at : at + rng.randint(1, 200)]
            case 5:
                del changed[max(at, 200) :]
            case _:
                other = rng.randrange(len(changed))
                changed[at : at + 16] = changed[other : other + 16]
        if len(changed) < 2:
            return content[: rng.randint(0, 200)]
    return bytes(changed)


def frames(path: Path) -> None:
    for frame in read_frames_of(path, max_pixels=MOST_PIXELS):
        assert isinstance(frame, Frame | UnreadableFrame)
        if isinstance(frame, Frame):
            assert frame.rgb.dtype == np.uint8
            assert frame.spacing_um is None or 0 < frame.spacing_um < float("inf")


def slide(path: Path) -> None:
    facts = read_slide_instance(path)
    choose([facts], 0.1)
    with SlideLevel(Level((facts,)), [path], max_pixels=MOST_PIXELS) as level:
        assert level.region(5, 5, 300, 200).shape == (200, 300, 3)


@pytest.mark.filterwarnings("ignore")
def test_mutated_real_files_decode_or_raise_an_input_fault(data_dir: Path, tmp_path: Path) -> None:
    originals = [path.read_bytes() for path in sorted((data_dir / "dicom").glob("*.dcm"))]
    originals += [path.read_bytes() for path in sorted((data_dir / "cnmc").rglob("*.jpg"))[:2]]
    originals += [path.read_bytes() for path in sorted((data_dir / "allidb2").rglob("*.png"))[:2]]
    assert len(originals) >= 10
    path = tmp_path / "received"
    outcomes: Counter[str] = Counter()
    readings: list[Callable[[Path], object]] = [frames, read_header, slide]
    for number in range(MUTATIONS):
        rng = random.Random(number)
        path.write_bytes(mutated(rng.choice(originals), rng))
        for reading in readings:
            try:
                reading(path)
            except InputFault as fault:
                outcomes["fault"] += 1
                outcomes["lines"] += str(fault).count("\n")
            except Exception as error:
                raise AssertionError(f"mutation {number}: {reading.__name__}: {error!r}") from error
            else:
                outcomes["read"] += 1
    assert outcomes["lines"] == 0, outcomes
    assert outcomes["fault"] > MUTATIONS / 4, outcomes
    assert outcomes["read"] > MUTATIONS / 4, outcomes
