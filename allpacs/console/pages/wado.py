"""WADO-RS: retrieval of what allpacs has made of a study, and of its images as long as they are in the spool.

A report's outlines need the image that they are drawn on; the archive of the images is the PACS. Whole instances are
sent as they are kept. Frames are sent as allpacs reads them, RGB with 8 bits and colour profiles applied, and the
metadata say so: a viewer needs no decoder, and shows what the model was shown.

Source: PS3.18 sections 8.6 (multipart), 8.7 (media types) and 10.4.
"""

from __future__ import annotations

import secrets
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, BinaryIO

import structlog
from starlette.exceptions import HTTPException
from starlette.responses import Response, StreamingResponse

from allpacs.console.dicomweb import media
from allpacs.console.dicomweb.headers import read_guarded
from allpacs.console.dicomweb.media import Representation
from allpacs.console.dicomweb.model import JSON, as_json, as_sent, json_response
from allpacs.console.dicomweb.objects import StoredObject, chosen_objects, uid_of
from allpacs.console.numbers import whole_number
from allpacs.console.pictures import jpeg
from allpacs.console.visit import Visit
from allpacs.decode.open import read_frame_of
from allpacs.decode.part10 import open_frames
from allpacs.domain.errors import UndecodablePixels

_log = structlog.get_logger("allpacs.console")

_DICOM = "application/dicom"
_OCTETS = "application/octet-stream"
_EXPLICIT = "1.2.840.10008.1.2.1"
_MOST_FRAMES = 64
#: All frames of one answer together, decoded, bytes.
_MOST_FRAME_BYTES = 512_000_000
_IN_MEMORY_BYTES, _PIECE_BYTES = 1 << 24, 1 << 20
#: Longest side of a picture of an instance, pixels.
_RENDERED_PX, _THUMBNAIL_PX = 3000, 256


def metadata(visit: Visit) -> Response:
    """Return everything but bulk data of the instances; of images, with the frames described as they are sent."""
    if media.choose(visit.request, (Representation(JSON), Representation("application/json"))) is None:
        raise HTTPException(406, f"metadata are sent as {JSON} only")
    answers, left_out = [], 0
    for one in _found(visit):
        try:
            answers.append(as_json(as_sent(read_guarded(one.path))))
        except Exception as fault:  # noqa: BLE001 - one bad header costs only itself
            _log.warning("metadata_left_out", sop_instance_uid=one.sop_instance_uid, reason=type(fault).__name__)
            left_out += 1
    warning = {"Warning": f'299 allpacs "{left_out} instances cannot be read and are left out"'} if left_out else None
    return json_response(answers, warning)


def frames(visit: Visit) -> Response:
    """Return frames of an instance, one part each, RGB with 8 bits in Explicit VR Little Endian."""
    (one,) = _found(visit)
    numbers = [whole_number(number) for number in visit.path("frames").split(",")]
    asked = [number for number in numbers if number is not None]
    if len(numbers) > _MOST_FRAMES or len(asked) != len(numbers):
        raise HTTPException(400, f"at most {_MOST_FRAMES} frames by their numbers")
    syntaxes = frozenset({_EXPLICIT})
    offers = [Representation(_OCTETS, multipart=True, transfer_syntaxes=syntaxes)]
    if len(asked) == 1:
        offers.append(Representation(_OCTETS, transfer_syntaxes=syntaxes))
    chosen = media.choose(visit.request, offers)
    if chosen is None:
        raise HTTPException(406, f"frames are sent as {_OCTETS} in Explicit VR Little Endian only")
    kind = f"{_OCTETS}; transfer-syntax={_EXPLICIT}"
    decoded, sizes = _decoded(visit, one, asked)
    if not chosen.multipart:
        return StreamingResponse(_pieces(decoded), 200, media_type=kind)
    return _multipart(_split(decoded, sizes), _OCTETS, kind)


def rendered(visit: Visit) -> Response:
    """Return an instance (its first frame), or one frame of it, as JPEG for a person to look at."""
    return _picture(visit, _RENDERED_PX)


def thumbnail(visit: Visit) -> Response:
    """Return an instance, or the first one of a series or study that has pixels, as a small JPEG."""
    return _picture(visit, _THUMBNAIL_PX)


def retrieve(visit: Visit) -> Response:
    """Return instances as they are kept, one part each (PS3.18 section 8.6.1.2.1)."""
    chosen = _found(visit)
    syntaxes = frozenset(_transfer_syntax(one) for one in chosen)
    offers = [Representation(_DICOM, multipart=True, transfer_syntaxes=syntaxes)]
    if len(chosen) == 1:
        offers.append(Representation(_DICOM, transfer_syntaxes=syntaxes))
    representation = media.choose(visit.request, offers)
    if representation is None:
        raise HTTPException(406, f"instances are sent as {_DICOM}, in the transfer syntax that they are kept in")
    if not representation.multipart:
        return StreamingResponse(_file_pieces(chosen[0].path), 200, media_type=_DICOM)
    return _multipart((_file_pieces(one.path) for one in chosen), _DICOM, _DICOM)


def _multipart(contents: Iterable[Iterable[bytes]], kind: str, part_kind: str) -> Response:
    boundary = secrets.token_hex(16)

    def parts() -> Iterator[bytes]:
        for content in contents:
            yield f"--{boundary}\r\nContent-Type: {part_kind}\r\n\r\n".encode()
            yield from content
            yield b"\r\n"
        yield f"--{boundary}--\r\n".encode()

    return StreamingResponse(parts(), 200, media_type=f'multipart/related; type="{kind}"; boundary={boundary}')


def _file_pieces(path: Path) -> Iterator[bytes]:
    with path.open("rb") as file:
        while piece := file.read(_PIECE_BYTES):
            yield piece


def _decoded(visit: Visit, one: StoredObject, numbers: Sequence[int]) -> tuple[BinaryIO, list[int]]:
    """Return the frames one after the other, and the size of each, bytes.

    All are decoded before the first is sent: an answer that has begun cannot say that the next frame is missing. They
    wait on disk, so that a client that reads slowly holds no memory.

    Raises
    ------
    HTTPException
        404: there is no such frame, or it cannot be read. 413: the frames are too large for one answer.
    """
    sizes: list[int] = []
    kept: BinaryIO = tempfile.SpooledTemporaryFile(max_size=_IN_MEMORY_BYTES)  # type: ignore[assignment]  # noqa: SIM115
    try:
        with open_frames(one.path, max_pixels=visit.console.settings.work.max_pixels) as stored:
            if any(not 1 <= number <= stored.layout.frames for number in numbers):
                raise UndecodablePixels(f"the image has {stored.layout.frames} frames")
            total = stored.layout.rows * stored.layout.columns * 3 * len(numbers)
            if total > _MOST_FRAME_BYTES:
                raise HTTPException(
                    413, f"the frames are {total} bytes, at most {_MOST_FRAME_BYTES} are sent at once: ask for fewer"
                )
            last: tuple[int, bytes] = (0, b"")
            for number in numbers:
                if number != last[0]:
                    last = number, stored.rgb(number).tobytes()
                kept.write(last[1])
                sizes.append(len(last[1]))
    except UndecodablePixels as fault:
        kept.close()
        raise HTTPException(404, str(fault)) from None
    except BaseException:
        kept.close()
        raise
    kept.seek(0)
    return kept, sizes


def _split(kept: BinaryIO, sizes: Sequence[int]) -> Iterator[Iterator[bytes]]:
    def part(size: int) -> Iterator[bytes]:
        while size > 0 and (piece := kept.read(min(size, _PIECE_BYTES))):
            size -= len(piece)
            yield piece

    with kept:
        for size in sizes:
            yield part(size)


def _pieces(kept: BinaryIO) -> Iterator[bytes]:
    with kept:
        while piece := kept.read(_PIECE_BYTES):
            yield piece


def _picture(visit: Visit, side_px: int) -> Response:
    if media.choose(visit.request, (Representation("image/jpeg"),)) is None:
        raise HTTPException(406, "pictures are sent as image/jpeg only")
    shown = next((one for one in _found(visit) if "Rows" in one.header), None)
    if shown is None:
        raise HTTPException(404)
    number = whole_number(visit.request.path_params.get("frames", "1"))
    if number is None:
        raise HTTPException(400, "one frame by its number")
    return Response(jpeg(_frame(visit, shown, number), side_px), 200, media_type="image/jpeg")


def _frame(visit: Visit, one: StoredObject, number: int) -> Any:
    try:
        return read_frame_of(one.path, number, max_pixels=visit.console.settings.work.max_pixels).rgb
    except UndecodablePixels as fault:
        raise HTTPException(404, str(fault)) from None


def _transfer_syntax(one: StoredObject) -> str:
    return str(one.header.file_meta.get("TransferSyntaxUID", "")) if hasattr(one.header, "file_meta") else ""


def _found(visit: Visit) -> list[StoredObject]:
    """Return the instances that the address names, to be sent: their study is opened.

    Raises
    ------
    HTTPException
        404: there are none.
    """
    chosen = chosen_objects(visit)
    if not chosen:
        raise HTTPException(404)
    visit.open_study(uid_of(visit, "study_uid"))
    return chosen
