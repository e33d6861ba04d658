"""Finds the end of a JSON value in text that arrives piece by piece.

Strict JSON (RFC 8259), of any depth and with numbers of any size. Values stay text: nothing is
converted, so what the model wrote is kept. Knows nothing of tools. Pure.
"""

from __future__ import annotations

import json
import re

_SPACE = re.compile(r"[ \t\n\r]*+")
_STRING_PART = re.compile(
    r'[^"\\\x00-\x1f]*+(?:\\(?:["\\/bfnrt]|u[0-9a-fA-F]{4})[^"\\\x00-\x1f]*+)*+'
)
_WORD = re.compile(r"[-+.0-9A-Za-z]*+")
_SCALAR = re.compile(
    r"-?(?:0|[1-9][0-9]*)(?:\.[0-9]+)?(?:[eE][+-]?[0-9]+)?|true|false|null", re.ASCII
)
_PARTIAL_ESCAPE = re.compile(r"\\(?:u[0-9a-fA-F]{0,3})?\Z")
_CLOSING = {"{": "}", "[": "]"}
_FIRST_KEY, _KEY, _COLON, _FIRST_VALUE, _VALUE, _NEXT, _END = range(7)
"""What the scanner expects; after an opening bracket the closing one is allowed too."""


class JsonScanner:
    """Scans one value, which begins at `position` after optional white space."""

    def __init__(self, position: int = 0) -> None:
        self.position = position
        """How far the text has been scanned; the end of the value once that is complete."""
        self.start = -1
        """Offset of the first character of the value; -1 before it."""
        self.items: list[tuple[int, int]] = []
        """Start and end of each element of an array, or of each key and value of an object."""
        self._closing: list[str] = []
        """The brackets that close what is open."""
        self._expected = _VALUE
        self._in_string = False
        self._item_start = 0

    def scan(self, text: str, last: bool) -> bool | None:
        """Whether `text` has a complete value; None if that needs more text.

        `text` is all text so far; it is complete if `last`.
        """
        while self._expected != _END:
            advanced = self._scan_string(text) if self._in_string else self._scan_token(text, last)
            if not advanced:
                return False if last else advanced
        return True

    def _scan_string(self, text: str) -> bool | None:
        end = self.position = _end(_STRING_PART, text, self.position)
        if end == len(text) or _PARTIAL_ESCAPE.match(text, end):
            return None
        if text[end] != '"':
            return False
        self.position, self._in_string = end + 1, False
        if self._expected in (_KEY, _FIRST_KEY):
            self._end_item(_COLON)
        else:
            self._end_value()
        return True

    def _scan_token(self, text: str, last: bool) -> bool | None:
        self.position = _end(_SPACE, text, self.position)
        if self.position == len(text):
            return None
        character, expected = text[self.position], self._expected
        if expected in (_COLON, _NEXT):
            return self._scan_separator(character)
        if expected in (_FIRST_KEY, _FIRST_VALUE) and character == self._closing[-1]:
            return self._close()
        return self._begin_value(text, character, last)

    def _scan_separator(self, character: str) -> bool:
        if self._expected == _NEXT and character == self._closing[-1]:
            return self._close()
        if character != (":" if self._expected == _COLON else ","):
            return False
        in_object = self._closing[-1] == "}" and self._expected == _NEXT
        self._expected = _KEY if in_object else _VALUE
        self.position += 1
        return True

    def _begin_value(self, text: str, character: str, last: bool) -> bool | None:
        if self.start < 0:
            self.start = self.position
        if len(self._closing) == 1:
            self._item_start = self.position
        if character == '"':
            self.position, self._in_string = self.position + 1, True
            return True
        if self._expected in (_KEY, _FIRST_KEY):
            return False
        if character in _CLOSING:
            self._closing.append(_CLOSING[character])
            self._expected = _FIRST_KEY if character == "{" else _FIRST_VALUE
            self.position += 1
            return True
        return self._scan_scalar(text, last)

    def _scan_scalar(self, text: str, last: bool) -> bool | None:
        end = _end(_WORD, text, self.position)
        if end == len(text) and not last:
            return None
        if not _SCALAR.fullmatch(text, self.position, end):
            return False
        self.position = end
        self._end_value()
        return True

    def _close(self) -> bool:
        self._closing.pop()
        self.position += 1
        self._end_value()
        return True

    def _end_value(self) -> None:
        self._end_item(_NEXT if self._closing else _END)

    def _end_item(self, expected: int) -> None:
        if len(self._closing) == 1:
            self.items.append((self._item_start, self.position))
        self._expected = expected


def is_json(text: str) -> bool:
    """Whether `text` is one JSON value, with or without white space around it."""
    scanner = JsonScanner()
    return bool(scanner.scan(text, last=True)) and _end(_SPACE, text, scanner.position) == len(text)


def json_items(value: str) -> list[str]:
    """The elements of a JSON array, or the keys and values of an object in turn, as text."""
    scanner = JsonScanner()
    scanner.scan(value, last=True)
    return [value[start:end] for start, end in scanner.items]


def json_string(text: str) -> str:
    """`text` as a JSON string."""
    return json.dumps(text, ensure_ascii=False)


def decode_string(value: str) -> str | None:
    """The text of the JSON string `value`; None if it holds half of a surrogate pair."""
    text: str = json.loads(value)
    return None if any("\ud800" <= character <= "\udfff" for character in text) else text


def _end(pattern: re.Pattern[str], text: str, position: int) -> int:
    """Where the match of `pattern`, which also matches nothing, at `position` ends."""
    match = pattern.match(text, position)
    return match.end() if match else position
