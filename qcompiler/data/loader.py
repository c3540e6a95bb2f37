"""A Python file of the user's that yields feeds: ``loader.py`` or ``loader.py:function``.

The file is run as a program of the user's, from a path that the user gave; its folder is importable
meanwhile, as if it had been started with ``python loader.py``.
"""

from __future__ import annotations

import difflib
import inspect
import sys
import traceback
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

from qcompiler.data.chunk import Chunk
from qcompiler.data.iterable import EXAMPLE, ItemsReader, iter_result
from qcompiler.errors import InputError

DEFAULT_NAMES = ("load_data", "data_loader", "calibration_data")
"""Functions tried in this order if none is named; then the only generator function of the file."""


@dataclass(frozen=True)
class LoaderReader:
    """Feeds from a function of a Python file, called anew for each pass.

    Attributes:
        source: What the user gave.
        path: The file.
        function: A function without required arguments that returns an iterable of dicts, or a dict
            of arrays.
        chunk_count: Unknown.
    """

    source: str
    path: Path
    function: Callable[[], object]
    chunk_count: None = None

    def chunks(self) -> Generator[Chunk, None, None]:
        """Call the function and ask for one item after the other.

        Yields:
            One chunk an item.

        Raises:
            InputError: The function raises, or an item is not a dict of arrays.
        """
        yield from ItemsReader(self.source, self._items).chunks()

    def _items(self) -> Iterator[object]:
        with _user_code(self.path):
            items = iter_result(self.function(), self.source)
        while True:
            with _user_code(self.path):
                try:
                    item = next(items)
                except StopIteration:
                    return
            yield item


def split_loader(source: str) -> tuple[Path, str] | None:
    """Take ``loader.py[:function]`` apart.

    The colon of a Windows drive is not taken for the separator, because what stands before it does
    not end in ``.py``.

    Args:
        source: What the user gave.

    Returns:
        File and function name (empty if none is given); None if this is no Python file.
    """
    if source.lower().endswith(".py"):
        return Path(source), ""
    path, colon, function = source.rpartition(":")
    return (Path(path), function) if colon and path.lower().endswith(".py") else None


def loader_reader(source: str, path: Path, function: str) -> LoaderReader:
    """Run the file and find the function.

    Args:
        source: What the user gave.
        path: The file.
        function: Its function; empty tries ``DEFAULT_NAMES``, then the only generator function.

    Returns:
        The reader.

    Raises:
        InputError: The file does not exist or raises, or the function is missing, ambiguous or
            wants arguments.
    """
    if not path.is_file():
        raise InputError(
            "the loader file does not exist",
            where=str(path),
            hint="check the path; it is loader.py:function",
        )
    found = _find(_run(path), path, function)
    label = getattr(found, "__name__", function)
    try:
        inspect.signature(found).bind()
    except TypeError as error:
        raise InputError(
            f"function {label!r} must be callable without arguments: {error}",
            where=str(path),
            hint="give its arguments default values",
        ) from error
    return LoaderReader(source, path, found)


def _run(path: Path) -> ModuleType:
    # Compiled here and not imported, so that no bytecode cache is left in the user's folder.
    module = ModuleType(f"_qcompiler_loader_{path.stem}")
    module.__file__ = str(path)
    # Dataclasses and pickle look their module up by name while it runs.
    sys.modules[module.__name__] = module
    with _user_code(path):
        exec(compile(path.read_bytes(), str(path), "exec"), vars(module))
    return module


def _find(module: ModuleType, path: Path, wanted: str) -> Callable[[], object]:
    functions = {
        name: value
        for name, value in vars(module).items()
        if inspect.isfunction(value) and value.__module__ == module.__name__
    }
    listed = ", ".join(functions) or "none"
    if wanted:
        # An imported function is fine if it is asked for by name.
        if callable(named := getattr(module, wanted, None)):
            return named  # type: ignore[no-any-return]  # what a user's module holds has no type
        close = difflib.get_close_matches(wanted, functions, n=1)
        guess = f"did you mean {close[0]!r}? " if close else ""
        raise InputError(
            f"there is no function {wanted!r}",
            where=str(path),
            hint=f"{guess}the file has: {listed}",
        )
    for name in DEFAULT_NAMES:
        if name in functions:
            return functions[name]
    generators = [value for value in functions.values() if inspect.isgeneratorfunction(value)]
    if len(generators) == 1:
        return generators[0]
    raise InputError(
        f"expected a function {', '.join(DEFAULT_NAMES)}, or one generator function, found "
        f"{len(generators)} generator "
        f"functions among: {listed}",
        where=str(path),
        hint=f"name the function: {path.name}:function. {EXAMPLE}",
    )


@contextmanager
def _user_code(path: Path) -> Iterator[None]:
    """Let the code import its neighbours; report what it raises with its own file and line."""
    folder = str(path.resolve().parent)
    sys.path.insert(0, folder)
    try:
        yield
    except InputError:
        raise
    except (Exception, SystemExit) as error:
        frames = [
            frame
            for frame in traceback.extract_tb(error.__traceback__)
            if frame.filename == str(path)
        ]
        line = frames[-1].lineno if frames else getattr(error, "lineno", None)
        raise InputError(
            f"the loader raised {type(error).__name__}: {error}",
            where=f"{path}, line {line}" if line else str(path),
            hint="this is an error in your data loader, not in the model",
        ) from error
    finally:
        if folder in sys.path:
            sys.path.remove(folder)
