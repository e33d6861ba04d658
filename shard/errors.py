"""The error that ends the start of a shard or of the launcher.

A shard that is already serving never raises it: a failure is then a traceback and exit status 1,
since it is not something that the operator could fix with a flag or a file.
"""

from __future__ import annotations

NAMES = {
    2: "ArgumentValidation: ",
    3: "DownloadError: ",
    4: "ModelRefused: ",
    5: "PortInUse: ",
    6: "NotEnoughMemory: ",
    7: "RunFolder: ",
}
"""The error's name, by exit status; the texts of 1 and 8 contain their own."""


class StartupError(Exception):
    """The server cannot start. `text` is one line: the cause and what to do.

    `code` is the exit status: 1 a failure while serving, 2 invalid flags, 3 model not found, 4
    model not supported or damaged, 5 port in use, 6 out of memory, 7 folder or socket not usable,
    8 a child died.
    """

    def __init__(self, code: int, text: str) -> None:
        super().__init__(text)
        self.code = code
        self.text = text

    @property
    def line(self) -> str:
        """What the operator reads: the error's name and its text."""
        return f"Error: {NAMES.get(self.code, '')}{self.text}"


def first_line(error: Exception) -> str:
    """The first line of a library's error message, for the text of a StartupError.

    With the second if the first only announces it.
    """
    first, *rest = str(error).strip().splitlines() or [type(error).__name__]
    return f"{first} {rest[0].strip()}" if rest and first.endswith(":") else first
