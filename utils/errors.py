"""The error that commands print as one line. Needs no deep-learning framework."""
from __future__ import annotations


class UserError(ValueError):
    """A user's mistake; the message names it and the fix, and is all that a command prints.

    It is one line even where it quotes what is in a file.
    """

    def __str__(self) -> str:
        return " ".join(super().__str__().splitlines())
