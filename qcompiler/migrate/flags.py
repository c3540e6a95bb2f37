"""What an old build said, and what became of it: the words that all of ``migrate`` shares."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, TypeAlias

Status: TypeAlias = Literal["moved", "gone", "lost", "unknown"]
"""``moved``: an option or a command now.  ``gone``: nothing has to be said any more.  ``lost``:
nothing here does it.  ``unknown``: not understood, or its value is not written out."""


@dataclass(frozen=True)
class Flag:
    """One setting of an old build.

    Attributes:
        text: As it stands in the source.
        name: As trtexec calls it, without dashes, whatever the source was; empty if unknown.
        values: Its values as text; none of a switch.
        where: Line and condition, in Python source; empty on a command line.
        problem: Why it cannot be read; empty if it can.
    """

    text: str
    name: str
    values: tuple[str, ...] = ()
    where: str = ""
    problem: str = ""

    @property
    def value(self) -> str:
        """The first value, or an empty string."""
        return self.values[0] if self.values else ""


@dataclass(frozen=True)
class Row:
    """What became of one flag.

    Attributes:
        flag: As it stood in the source.
        status: See :data:`Status`.
        became: What takes its place, in a few words.
        why: The reason, or what to do.
    """

    flag: str
    status: Status
    became: str
    why: str


@dataclass(frozen=True)
class Migration:
    """The new commands, and a row for every old flag.

    Attributes:
        commands: Arguments of ``python -m qcompiler``, in the order to run them.
        rows: In the order of the source.
    """

    commands: tuple[tuple[str, ...], ...]
    rows: tuple[Row, ...]
