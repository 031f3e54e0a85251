"""What is wrong or odd about a data set: single findings, each with how often, where, and the fix."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from data.images import DatasetError

LEVELS = ("error", "warning", "note")  # training cannot run; something is lost or probably wrong; worth knowing
SHOWN_EXAMPLES = 5


@dataclass(frozen=True)
class Finding:
    """One thing that is wrong or odd.

    level: one of `LEVELS`. what: a clause with the numbers in it. fix: what to do about it, as an imperative.
    count: how many it concerns. examples: the first few of them.
    """

    level: str
    what: str
    fix: str
    count: int = 1
    examples: tuple[str, ...] = ()

    def line(self) -> str:
        """The finding as one line of text."""
        more = ", ..." if len(self.examples) < self.count else ""
        where = f" ({', '.join(self.examples)}{more})" if self.examples else ""
        return f"{self.what}{where}; {self.fix}"


class DatasetErrors(DatasetError):
    """Several mistakes at once, a line each."""

    def __init__(self, lines: Iterable[str]):
        super().__init__()
        self.lines = [" ".join(line.splitlines()) for line in lines]

    def __str__(self) -> str:
        if len(self.lines) == 1:
            return self.lines[0]
        return "\n  ".join([f"the data set has {len(self.lines)} mistakes:", *self.lines])


def finding_of(level: str, what: str, fix: str, places: Sequence[Any], total: int) -> list[Finding]:
    """[the finding that `places` of `total` things are odd], or [] without places.

    Args:
        what: the things and what they are, behind "2 of 30 ". places: what identifies each odd one.
    """
    if not len(places):
        return []
    examples = tuple(short(place, str) for place in places[:SHOWN_EXAMPLES])
    return [Finding(level, f"{len(places)} of {total} {what}", fix, len(places), examples)]


def raise_first(findings: Iterable[Finding], info_file: str) -> None:
    """Raises the first error among the findings as a DatasetError about `info_file`."""
    for finding in findings:
        if finding.level == "error":
            raise DatasetError(f"{info_file}: {finding.line()}")


def short(value: Any, to_text: Any = repr) -> str:
    """A value for a message: one line of at most 50 characters."""
    text = " ".join(to_text(value).split())
    return text if len(text) <= 50 else f"{text[:46]} ..."


def few(values: Iterable[Any]) -> str:
    """At most eight values for a message."""
    values = list(values)
    return ", ".join(short(value, str) for value in values[:8]) + (
        f", ... ({len(values)} in all)" if len(values) > 8 else "")
