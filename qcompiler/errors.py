"""Every exception this package raises on purpose.

::

    QCompilerError
    ├── InputError         the model, the data or an option is wrong: yours to fix     exit 2
    │   └── UsageError     the command line or a call is wrong
    ├── UnsupportedError   valid, but this target, format or opset cannot express it   exit 2
    ├── VerifyError        a pass left a graph that breaks an invariant: our bug       exit 3
    └── BackendError       a runtime refused or failed                                 exit 3

Each carries ``where`` (node, tensor, file or sample) and ``hint`` (what to do), and prints as::

    error: sample 3, input 'x': expected float32[1, 3, 32, 32], found float64[3, 32, 32]
      --> calib.npz
      help: cast the array to float32
"""

from __future__ import annotations


class QCompilerError(Exception):
    """Base of the tree.

    Args:
        message: What is wrong, in one sentence, with expected and found.
        where: Node, tensor, file or sample the message is about; empty if there is none.
        hint: What the reader can do about it; empty if there is nothing.
    """

    exit_code = 3

    def __init__(self, message: str, *, where: str = "", hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.where = where
        self.hint = hint

    def __str__(self) -> str:
        lines = [self.message]
        if self.where:
            lines.append(f"  --> {self.where}")
        if self.hint:
            lines.append(f"  help: {self.hint}")
        return "\n".join(lines)


class InputError(QCompilerError):
    """The model, the data or a file is wrong; the user can fix it."""

    exit_code = 2


class UsageError(InputError):
    """A command line or a call is wrong."""


class UnsupportedError(QCompilerError):
    """The input is valid, but the target, the format or the opset cannot express it."""

    exit_code = 2


class VerifyError(QCompilerError):
    """A graph breaks a structural or Q/DQ invariant: a bug of the pass named in ``where``."""


class BackendError(QCompilerError):
    """A runtime (ONNX Runtime, TensorRT) refused a model or failed while running it."""
