"""Targets of a build: which library, which release of it, which compute capabilities.

::

    tensorrt-rtx                     any installed release, SM 8.9
    tensorrt-rtx-1.7:sm89,sm120      release 1.7.x; one engine that both cards can run
    tensorrt-11.4:sm90               release 11.4.x; builds for the GPU it runs on

A plan of TensorRT for RTX for several capabilities holds *one* engine, limited to what the weakest
of them can do: no FP8 for ``sm86,sm89``. So the default is one capability, not a list.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from qcompiler import targets
from qcompiler.backends.tensorrt import CAPABILITIES, LIBRARIES, RTX, Library, installed
from qcompiler.errors import BackendError, UsageError

DEFAULT_CAPABILITY = "SM89"
# GPUs that TensorRT 10.x or 11.x supports (its support matrix); 87 is Orin, 110 Thor.
_FULL = (
    "SM75",
    "SM80",
    "SM86",
    "SM87",
    "SM89",
    "SM90",
    "SM100",
    "SM103",
    "SM110",
    "SM120",
    "SM121",
)
_FORM = re.compile(r"(tensorrt-rtx|tensorrt)(?:-(\d+(?:\.\d+)*))?(?::(.*))?")
_EXAMPLES = "for example tensorrt-rtx:sm89, tensorrt-rtx-1.7:sm89,sm120 or tensorrt-11.4:sm90"


@dataclass(frozen=True)
class EngineTarget:
    """Where an engine shall run.

    Attributes:
        library: What builds it.
        version: Leading numbers of the release, such as ``1.7``; empty for any.
        capabilities: Compute capabilities, such as ``SM89``; empty for TensorRT means the GPU of
            the machine that builds.
    """

    library: Library
    version: str
    capabilities: tuple[str, ...]

    def __str__(self) -> str:
        name = self.library.name + (f"-{self.version}" if self.version else "")
        return ":".join([name, ",".join(self.capabilities).lower()]).removesuffix(":")

    def require(self) -> str:
        """Check that the library is here, in the release that the target names.

        Returns:
            Version of the installed library.

        Raises:
            BackendError: It is not; the hint says what to install.
        """
        install = self._install()
        try:
            found = installed(self.library)
        except BackendError as error:
            raise BackendError(
                f"building for {self} needs {self.library.title}, which is not installed",
                hint=install,
            ) from error
        wanted = self.version.split(".") if self.version else []
        if found.split(".")[: len(wanted)] != wanted:
            raise BackendError(
                f"building for {self} needs {self.library.title} {self.version}; "
                f"{found} is installed",
                hint=f"{install}, or leave the version out of the target",
            )
        return found

    def _install(self) -> str:
        if not self.version:
            return self.library.install
        newest, older = self.library.distributions[:2]
        # Of 10.x only the last releases are made for CUDA 13.
        package = older if self.library != RTX and self.version.split(".")[0] == "10" else newest
        wanted = f"'{package}=={self.version}.*'"
        if self.library == RTX:
            return f"pip install {wanted}"
        return self.library.install.replace(newest, wanted)


def parse(text: str) -> EngineTarget:
    """Read a target, or take that of a target file (``FILE.json``).

    Raises:
        UsageError: It names no known library or capability; the hint lists them.
        InputError: The target file cannot be read.
    """
    if targets.is_file(text):
        text = targets.find(text).name
    match = _FORM.fullmatch(text.strip())
    if match is None:
        raise UsageError(f"{text!r} is not a target that engines are built for", hint=_EXAMPLES)
    name, version, listed = match.groups()
    library = LIBRARIES[name]
    known = CAPABILITIES if library == RTX else _FULL
    default = (DEFAULT_CAPABILITY,) if library == RTX else ()
    capabilities = default if listed is None else _capabilities(listed, known)
    if library != RTX and len(capabilities) > 1:
        raise UsageError(
            f"TensorRT builds for one GPU, the one it runs on; {text!r} names several",
            hint="name one, or build with tensorrt-rtx",
        )
    return EngineTarget(library, version or "", capabilities)


def _capabilities(listed: str, known: tuple[str, ...]) -> tuple[str, ...]:
    found = tuple(dict.fromkeys(word.strip().upper() for word in listed.split(",")))
    for word in found:
        if word not in known:
            raise UsageError(
                f"unknown compute capability {word.lower()!r}",
                hint=f"one or more of {', '.join(known).lower()}",
            )
    return found
