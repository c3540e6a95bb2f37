"""The command line: one file a verb; a first argument that is no verb means ``compile``.

A verb module holds one function of its own name; its docstring is its help.  Verbs import their
work inside that function, so that ``--help`` needs neither onnx nor onnxruntime.

Exit codes: 0 fine, 1 findings (lint), 2 usage or input, 3 internal, 130 interrupted.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence

from cyclopts import App, CycloptsError
from rich.console import Console

from qcompiler import __version__

# Verb -> the first line of its docstring (a test compares), so that --help imports no verb.
VERBS = {
    "compile": "Quantize a model, verify the result against the original, and write it.",
    "calibrate": "Run samples through a model and write the statistics of its tensors.",
    "plan": "Decide every scale and show the decisions, tensor by tensor, with reasons.",
    "apply": "Carry out a plan: the same plan gives the same bytes.",
    "build": "Build a TensorRT engine, with the facts about it beside it.",
    "inspect": "Show what the compiler made of a model, from the facts beside its plan.",
    "lint": "Check any Q/DQ model against what a target refuses, changes or loses.",
    "migrate": "Translate a weakly typed TensorRT build, or its calibration cache, for today.",
    "export": "Export a model for deployment: a Triton model repository, or a bundle.",
    "check": "Check a bundle against this machine: its files, its golden outputs, its engine.",
    "probe": "Try every capability row of a target on this machine, and write a target file.",
    "passes": "List the passes: phase, effect and what each does.",
    "explain": "Explain a pass, a range method, a target, a recipe, a format or a lint rule.",
}
_HELP = """Quantize ONNX models for TensorRT, on the graph.

`qcompiler MODEL.onnx --data CALIB.npz` compiles; a first argument that is no verb means `compile`.
"""


def app() -> App:
    """The application with its verbs, imported when they are asked for."""
    found = App(
        name="qcompiler",
        help=_HELP,
        version=__version__,
        result_action="return_value",
        suppress_keyboard_interrupt=False,
    )
    for verb, line in VERBS.items():
        found.command(f"qcompiler.cli.{verb}:{verb}", name=verb, help=line)
    return found


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command.

    Args:
        argv: Arguments without the program's name; ``sys.argv`` without it.

    Returns:
        The exit code.
    """
    words = list(sys.argv[1:] if argv is None else argv)
    if words and words[0] not in (*VERBS, "--help", "-h", "--version"):
        words.insert(0, "compile")
    try:
        return int(app()(words, exit_on_error=False, print_error=False) or 0)
    except CycloptsError as error:
        return _fail(2, str(error), hint=f"qcompiler {words[0]} --help")
    except KeyboardInterrupt:
        return _fail(130, "interrupted; nothing was written")
    except BrokenPipeError:
        return 0
    except Exception as error:  # noqa: BLE001  (whatever it is, the user gets one line)
        return _failed(error)


def _failed(error: Exception) -> int:
    from qcompiler.errors import QCompilerError

    if isinstance(error, QCompilerError):
        return _fail(error.exit_code, error.message, where=error.where, hint=error.hint)
    if os.environ.get("QCOMPILER_TRACEBACK"):
        raise error
    return _fail(
        3,
        f"internal: {type(error).__name__}: {error}",
        hint="this is a bug of qcompiler; run again with QCOMPILER_TRACEBACK=1 and report it",
    )


def _fail(code: int, message: str, *, where: str = "", hint: str = "") -> int:
    """Print one error in the form that every error has."""
    console = Console(stderr=True, soft_wrap=True, highlight=False)
    lines = message.strip().splitlines() or ["failed"]
    console.print(f"[bold red]error[/]: {_plain(lines[0])}")
    for line in lines[1:]:
        console.print(f"  {_plain(line)}")
    if where:
        console.print(f"  [blue]-->[/] {_plain(where)}")
    if hint:
        console.print(f"  [green]help[/]: {_plain(hint)}")
    return code


def _plain(text: str) -> str:
    from rich.markup import escape

    return escape(text)
