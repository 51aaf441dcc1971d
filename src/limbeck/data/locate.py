"""From what a row says about a picture (path, bytes, data URI) to a file or bytes that may be read.

Nothing is fetched, and no path leaves the data set's folder: a row of a data set from a stranger
must not be able to read a file of the user's into a training set.
"""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from limbeck.errors import DataError

MAX_DATA_URI_CHARACTERS = 48 * 2**20
"""36 MiB of picture."""

_URL = re.compile(r"^([a-z][a-z0-9+.-]*)://|^(file|data):", re.IGNORECASE)


def locate_image(
    reference: Any, roots: Sequence[Path], *, where: str, what: str = "image"
) -> Path | bytes:
    """A path inside one of `roots`, or bytes.

    Args:
        reference: a path (relative ones start from the first root), bytes, a data URI, or a mapping
            with `bytes` or `path` as Hugging Face data sets store pictures.
        roots: resolved folders that pictures may be in; none: pictures have to be embedded.
        where: the row, for the error message.
        what: it is, for the error message.

    Raises:
        DataError: a URL, a path out of all roots (also through `..` or a symbolic link), a bad data
            URI, or something that names no picture.
    """
    if isinstance(reference, dict):
        reference = reference.get("bytes") or reference.get("path")
    if isinstance(reference, (bytes, bytearray, memoryview)):
        return bytes(reference)
    if isinstance(reference, Path):
        reference = str(reference)
    if not isinstance(reference, str) or not reference.strip():
        shown = "nothing" if reference is None else f"{type(reference).__name__}"
        raise DataError(f"{what} is {shown}, not a path, data URI or bytes", where=where)
    if match := _URL.match(reference):
        if (match[1] or match[2]).lower() == "data":
            return _data_uri(reference, where)
        raise DataError(
            f"{what} {_short(reference)} is a URL, and nothing is fetched",
            where=where,
            mend="download it into the data set's folder and give its path",
        )
    return _inside(reference, roots, where, what)


def _inside(reference: str, roots: Sequence[Path], where: str, what: str) -> Path:
    if not roots:
        raise DataError(
            f"{what} {_short(reference)} is a path, but this source embeds its pictures",
            where=where,
        )
    try:
        path = (roots[0] / reference).resolve()
    except (OSError, ValueError, RuntimeError) as error:
        raise DataError(f"{what} path {_short(reference)} is not usable", where=where) from error
    if not any(path.is_relative_to(root) for root in roots):
        raise DataError(
            f"{what} {_short(reference)} is outside the data set's folder",
            where=where,
            mend="move it inside, or name its folder in data.image_root",
        )
    return path


def _data_uri(reference: str, where: str) -> bytes:
    if len(reference) > MAX_DATA_URI_CHARACTERS:
        raise DataError("data URI is too long", where=where, mend="store the picture as a file")
    header, comma, payload = reference.partition(",")
    if not comma or not header.lower().endswith(";base64"):
        raise DataError("data URI is not base64", where=where)
    try:
        return base64.b64decode("".join(payload.split()), validate=True)
    except (binascii.Error, ValueError) as error:
        raise DataError(f"data URI is not base64 ({error})", where=where) from error


def _short(reference: str) -> str:
    return repr(reference if len(reference) <= 100 else reference[:97] + "...")
