"""``config.pbtxt``: what Triton must know about one model.

Triton gives every tensor the full shape ``[-1] + dims`` if ``max_batch_size`` is above 0, and
``dims`` if it is 0; ``dims`` must have at least one entry. A shape that leaves none, a scalar or a
batch of scalars, is served as one element and reshaped on its way to the model. (Triton user guide,
*Model Configuration*; element types: its table *Datatypes*.)
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from google.protobuf.text_encoding import CEscape

from qcompiler.engine.ports import Port
from qcompiler.errors import UnsupportedError, UsageError

_TYPES = {
    "bool": "TYPE_BOOL",
    "uint8": "TYPE_UINT8",
    "uint16": "TYPE_UINT16",
    "uint32": "TYPE_UINT32",
    "uint64": "TYPE_UINT64",
    "int8": "TYPE_INT8",
    "int16": "TYPE_INT16",
    "int32": "TYPE_INT32",
    "int64": "TYPE_INT64",
    "float16": "TYPE_FP16",
    "float32": "TYPE_FP32",
    "float64": "TYPE_FP64",
    "bfloat16": "TYPE_BF16",
    "string": "TYPE_STRING",
}


@dataclass(frozen=True)
class Backend:
    """What runs a model inside Triton.

    Attributes:
        title: In messages.
        line: What names it in the configuration.
        kind: Where instances run, if their number is given.
        lacks: Element types of Triton that it has not.
    """

    title: str
    line: str
    kind: str
    lacks: frozenset[str]


ONNXRUNTIME = Backend(
    "Triton's ONNX Runtime backend",
    'backend: "onnxruntime"',
    "KIND_AUTO",
    frozenset({"bfloat16"}),
)
TENSORRT = Backend(
    "Triton's TensorRT backend",
    'platform: "tensorrt_plan"',
    "KIND_GPU",
    frozenset({"uint16", "uint32", "uint64", "int16", "float64", "string"}),
)


@dataclass(frozen=True)
class Serving:
    """What the user may say about serving.

    Attributes:
        max_batch: Most requests in one batch; 0: no batching; None: as many as the default if
            the model batches for certain.
        preferred: Batch sizes that the batcher waits for.
        delay_us: Microseconds that a request may wait for others; None for Triton's own (0).
        instances: Copies of the model that run at a time; None for Triton's own number.
    """

    max_batch: int | None = None
    preferred: tuple[int, ...] = ()
    delay_us: int | None = None
    instances: int | None = None


@dataclass(frozen=True)
class Interface:
    """Inputs and outputs of what is served.

    Attributes:
        inputs: Inputs.
        outputs: Outputs.
        batches: Smallest and largest batch of the engine's profile; None if it has none.
    """

    inputs: tuple[Port, ...]
    outputs: tuple[Port, ...]
    batches: tuple[int, int] | None = None


DEFAULT_BATCH = 8


def batch(interface: Interface, wanted: int | None) -> tuple[int, str]:
    """The batch that Triton may form.

    Every input and output must begin with a free axis. Only if all of these have one name is it
    certain that they are one and the same axis; otherwise the user has to say so.

    Args:
        interface: Inputs and outputs.
        wanted: What the user asked for.

    Returns:
        ``max_batch_size``, and why it is 0 if the user did not ask for that; else empty.

    Raises:
        UnsupportedError: The user asked for a batch that the model or its engine cannot do.
    """
    if wanted == 0:
        return 0, ""
    problem = _unbatched(interface)
    most = interface.batches[1] if interface.batches else DEFAULT_BATCH
    if wanted is None:
        problem = problem or _unsure(interface)
        return (0, problem) if problem else (most, "")
    if not problem and interface.batches and wanted > most:
        problem = f"the engine's profile ends at {most}"
    if problem:
        raise UnsupportedError(
            f"batches of {wanted} cannot be served: {problem}",
            hint="leave --max-batch out, or build or export the model for such a batch",
        )
    return wanted, ""


def _unbatched(interface: Interface) -> str:
    """Why Triton cannot batch this model, whatever its axes mean; empty if it can."""
    for port in (*interface.inputs, *interface.outputs):
        if not port.shape:
            return f"{port.name!r} has no axes"
        if isinstance(port.shape[0], int):
            return f"the first axis of {port.name!r} is fixed at {port.shape[0]}"
    if interface.batches and interface.batches[0] > 1:
        return (
            f"the engine's profile begins at {interface.batches[0]}, and Triton sends single ones"
        )
    return ""


def _unsure(interface: Interface) -> str:
    """Why the first axes may not be one batch; empty if they are for certain."""
    first: Port | None = None
    for port in (*interface.inputs, *interface.outputs):
        assert port.shape
        if port.shape[0] is None:
            return f"the first axis of {port.name!r} has no name, so it may not be the batch"
        if first is not None and first.shape and port.shape[0] != first.shape[0]:
            return (
                f"the first axis of {first.name!r} is called {first.shape[0]!r}, that of "
                f"{port.name!r} {port.shape[0]!r}, so they may not be one batch"
            )
        first = first or port
    return ""


def config(
    name: str,
    backend: Backend,
    interface: Interface,
    max_batch: int,
    serving: Serving,
    comments: Sequence[str] = (),
) -> str:
    """The text of ``config.pbtxt``.

    Args:
        name: Of the model, that of its folder.
        backend: What runs it.
        interface: Inputs and outputs.
        max_batch: From :func:`batch`.
        serving: What the user said.
        comments: Lines for the reader.

    Raises:
        UsageError: An option is out of range, or has no effect without batches.
        UnsupportedError: Triton has no such element type, or no such shape.
    """
    check(serving, max_batch)
    lines = [f"# {CEscape(line, as_utf8=True)}" for line in comments]
    lines += [f"name: {_quoted(name)}", backend.line, f"max_batch_size: {max_batch}"]
    for field, ports in (("input", interface.inputs), ("output", interface.outputs)):
        if ports:
            entries = (_entry(field, port, backend, batched=max_batch > 0) for port in ports)
            lines += [f"{field} [", ",\n".join(entries), "]"]
    lines += [*_batcher(serving, max_batch), *_instances(serving, backend)]
    return "\n".join(lines) + "\n"


def check(serving: Serving, max_batch: int) -> None:
    """Refuse numbers that Triton would refuse.

    Raises:
        UsageError: One is out of range, or has no effect without batches.
    """
    if max_batch < 0:
        raise UsageError("--max-batch must not be negative", hint="0 turns batching off")
    if serving.instances is not None and serving.instances < 1:
        raise UsageError("--instances must be at least 1")
    if serving.delay_us is not None and serving.delay_us < 0:
        raise UsageError("--queue-delay-us must not be negative")
    if max_batch < 2 and (serving.preferred or serving.delay_us is not None):
        raise UsageError(
            "--preferred-batch and --queue-delay-us have no effect: nothing is batched",
            hint="pass --max-batch above 1, or leave them out",
        )
    for size in serving.preferred:
        if not 1 <= size <= max_batch:
            raise UsageError(f"--preferred-batch {size} is not from 1 to {max_batch}")


def _entry(field: str, port: Port, backend: Backend, *, batched: bool) -> str:
    where = f"{field} {port.name!r}"
    data_type = _type(port, backend, where)
    dims = _dims(port, where)[1 if batched else 0 :]
    lines = [f"name: {_quoted(port.name)}", f"data_type: {data_type}"]
    lines += [f"dims: [ {', '.join(map(str, dims))} ]"] if dims else ["dims: [ 1 ]"]
    if not dims:
        lines.append("reshape: { shape: [ ] }")
    return "\n".join(["  {", *(f"    {line}" for line in lines), "  }"])


def _type(port: Port, backend: Backend, where: str) -> str:
    if port.dtype not in _TYPES or port.dtype in backend.lacks:
        what = port.dtype or "no tensor"
        who = backend.title if port.dtype in backend.lacks else "Triton"
        raise UnsupportedError(
            f"{where} is {what}, which {who} has no type for",
            where="rule H04",
            hint="let the model begin and end in float16 or float32, with the conversion inside it",
        )
    return _TYPES[port.dtype]


def _dims(port: Port, where: str) -> list[int]:
    if port.shape is None:
        raise UnsupportedError(
            f"{where} has an unknown number of axes, and Triton must know it",
            hint="export the model with the shapes of its inputs and outputs",
        )
    if 0 in port.shape:
        raise UnsupportedError(
            f"{where} has an axis of length 0, which Triton does not allow",
            hint="export the model without this tensor",
        )
    return [size if isinstance(size, int) else -1 for size in port.shape]


def _batcher(serving: Serving, max_batch: int) -> list[str]:
    if max_batch < 2:
        return []
    inside = []
    if serving.preferred:
        sizes = ", ".join(map(str, sorted(set(serving.preferred))))
        inside.append(f"  preferred_batch_size: [ {sizes} ]")
    if serving.delay_us is not None:
        inside.append(f"  max_queue_delay_microseconds: {serving.delay_us}")
    return ["dynamic_batching {", *inside, "}"] if inside else ["dynamic_batching { }"]


def _instances(serving: Serving, backend: Backend) -> list[str]:
    if serving.instances is None:
        return []
    inside = [f"    count: {serving.instances}", f"    kind: {backend.kind}"]
    return ["instance_group [", "  {", *inside, "  }", "]"]


def _quoted(text: str) -> str:
    """A string of protobuf's text format."""
    return f'"{CEscape(text, as_utf8=True)}"'
