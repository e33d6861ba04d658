"""Decompress request bodies, within the limit on their size.

Decides which `Content-Encoding` is accepted; what a body means is decided elsewhere. aiohttp does
not decompress here: it fails without a response on bytes that are not compressed. Pure.
"""

from __future__ import annotations

import zlib
from collections.abc import Mapping
from typing import Literal

from router.http.http_errors import BadRequest, PayloadTooLarge, UnsupportedContentEncoding

Coding = Literal["identity", "gzip", "deflate"]

_GZIP, _ZLIB, _RAW_DEFLATE = 31, 15, -15
"""Values of zlib's `wbits`."""


_CODINGS: Mapping[str, Coding] = {
    "": "identity",
    "identity": "identity",
    "gzip": "gzip",
    "x-gzip": "gzip",
    "deflate": "deflate",
}
"""By the header's value (RFC 9110, section 8.4.1)."""


def require_supported(header: str) -> Coding:
    """The coding that a `Content-Encoding` header names. Raises UnsupportedContentEncoding."""
    try:
        return _CODINGS[header.strip().lower()]
    except KeyError:
        raise UnsupportedContentEncoding from None


def decompress(body: bytes, coding: Coding, max_bytes: int) -> bytes:
    """`body` without its `coding`.

    Raises BadRequest if `body` is not of that coding or is incomplete, or PayloadTooLarge above
    `max_bytes`.
    """
    if coding == "identity":
        return body
    wbits = _GZIP if coding == "gzip" else _deflate_format(body)
    return _inflate(body, wbits, coding, max_bytes)


def _deflate_format(body: bytes) -> int:
    """`deflate` means the zlib format, but many clients send it without its header."""
    has_header = len(body) > 1 and body[0] & 15 == 8 and int.from_bytes(body[:2], "big") % 31 == 0
    return _ZLIB if has_header else _RAW_DEFLATE


def _inflate(body: bytes, wbits: int, coding: str, max_bytes: int) -> bytes:
    """All members of `body`, of which gzip may have several."""
    result = b""
    while True:
        stream = zlib.decompressobj(wbits)
        try:
            result += stream.decompress(body, max_bytes - len(result) + 1)
        except zlib.error as error:
            raise BadRequest(f": the body is not valid {coding}") from error
        if len(result) > max_bytes:
            raise PayloadTooLarge
        if not stream.eof or (stream.unused_data and wbits != _GZIP):
            raise BadRequest(f": the body is not valid {coding}")
        body = stream.unused_data
        if not body:
            return result
