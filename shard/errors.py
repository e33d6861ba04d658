"""The one error with which a shard refuses to start.

Nothing is raised as a `Fault` once the shard serves: from then on a failure is a traceback and the
exit status 1, since nobody is left who could mend a flag or a file.
"""

from __future__ import annotations


class StartupError(Exception):
    """A start that cannot succeed: one line with its cause and what to do, and an exit status.

    Codes: 2 flags that do not fit together, 3 model not found, 4 model not usable, 5 port in use,
    6 out of memory, 7 folder or socket not usable, 8 shard died.
    """

    def __init__(self, code: int, text: str) -> None:
        super().__init__(text)
        self.code = code
        self.text = text


def first_line(error: Exception) -> str:
    """What another library says, as far as it fits a Fault."""
    return (str(error).strip() or type(error).__name__).split("\n")[0]
