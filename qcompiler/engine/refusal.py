"""What the library says when it refuses a model -> cause, ONNX node, and what to change.

The rows of :data:`KNOWN` are messages seen in real builds of TensorRT for RTX 1.7.1, with the rule
they break; a message that no row knows is shown as it is, and the lever is to find the node.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from qcompiler.backends.tensorrt import Verdict
from qcompiler.errors import BackendError, InputError, QCompilerError

_SHOWN = 4  # parser errors in full; a model often breaks one rule at every layer
_NODE = (
    r"^(?P<op>\w+) '(?P<name>[^']+)': ",  # as the child process writes a parser error
    r"Cannot compile operation '(?P<name>[^']+)'",
    r"Could not find any implementation for node (?P<name>\S+?)\.?(?:\s|$)",
    r"violate shape constraints: (?P<name>[^:]+): ",
)
# Where in the library's source it happened says nothing to its users.
_NOISE = re.compile(
    r"\s*In \S+ at /_src/\S+?:\d+\)?"
    r"|\(?\[\w+\.(?:cpp|h):\d+: [\w~]+\] "
    r"|Error Code \d+: (?:Myelin|API Usage Error|Internal Error) ?"
    r"|ITensor::getDimensions: |IBuilder::buildSerializedNetwork: "
)


@dataclass(frozen=True)
class Known:
    """A message that is understood.

    Attributes:
        pattern: Regular expression found in the message.
        cause: What it means.
        lever: What to do about it.
    """

    pattern: str
    cause: str
    lever: str


# Said of kernels that were then passed over; the error that follows only says that none is left.
_OUT_OF_MEMORY = (
    r"(?i)out ?of ?memory|bad_alloc|MemoryError|cudaErrorMemoryAllocation"
    r"|memory is insufficient|insufficient memory|could not be allocated"
)
KNOWN = (
    Known(
        r"(FP32|fp32).*(GEMM|Convolution|Conv).* is not supported",
        "Turing (SM75) has no FP32 matrix product or 3-D convolution here",
        "cast the model to FP16 (a 16-bit base) or build for sm80 or newer",
    ),
    Known(
        r"kERROR_ON_TIMING_CACHE_MISS",
        "the locked timing cache lacks a kernel of this model",
        "build once without --locked, which adds it",
    ),
    Known(
        r"no optimization profile has been defined",
        "a network with free axes needs an optimization profile",
        "pass --min-shapes, --opt-shapes and --max-shapes",
    ),
    Known(
        r"HW-specific datatypes: (?P<types>[\w, ]+)",
        "the model holds a data type that this compute capability lacks",
        "BF16 and INT4 need sm80, FP8 needs sm89, FP4 needs sm120; of several capabilities the "
        "weakest decides",
    ),
    Known(
        r"has type Int32 but must have type FP8",
        "DequantizeLinear of an INT32 bias is not read",
        "keep the bias in the type of the DequantizeLinear's result, as `compile` writes it",
    ),
    Known(
        r"shiftIsAllZeros|[Nn]on-zero zero point",
        "only symmetric quantization is read: the zero point must be 0",
        "quantize activations as int8 with zero point 0, as `compile` writes them",
    ),
    Known(
        r"unsupported input type of UINT8",
        "uint8 is not read as a quantized type",
        "quantize as int8 with zero point 0",
    ),
    Known(
        r"must have same input types|dtype == W\.type|opndA->type\(\) == opndB->type",
        "the operands have different types, and nothing is cast implicitly (strongly typed)",
        "insert a Cast, or store the constants in the type of the tensors they meet",
    ),
    Known(
        r"Plugin not found",
        "this operator is neither in the parser's list nor a registered plugin",
        "replace it by standard operators when exporting",
    ),
    Known(
        r"blocking dimension|only the quantization axis may be blocked|whole blocks",
        "block scales must follow the last or second to last axis of the weight in whole blocks",
        "quantize the weight along K in blocks that divide it",
    ),
    Known(
        r"convertOnnxWeights",
        "a constant cannot be read: its type, or its external data",
        "keep the .data file in the model's folder; types below 8 bit need a matching opset",
    ),
    Known(
        r"violate shape constraints",
        "the shapes of the optimization profile contradict each other inside the network",
        "axes may depend on each other (total = past + seq): pass --min-shapes, --opt-shapes and "
        "--max-shapes that respect it",
    ),
    Known(
        _OUT_OF_MEMORY,
        "the library ran out of memory",
        "free memory, or pass --workspace, --weight-streaming or smaller --max-shapes",
    ),
    Known(
        r"Could not find any implementation|no tactics to implement|no plan and no message",
        "no kernel fits, often because a limit on memory leaves none",
        "raise --workspace; free memory on the GPU; pass smaller --max-shapes",
    ),
)
_LIMITED = Known("", "", "raise --workspace, or leave it out")


def refusal(
    verdict: Verdict, model: str, target: str, *, workspace: bool = False
) -> QCompilerError:
    """The one error for a build without a plan.

    Args:
        verdict: How it ended; not accepted.
        model: The model's path.
        target: As the user named it.
        workspace: Whether the user bounded the workspace.

    Returns:
        An :class:`InputError` if the parser refused the model, else a :class:`BackendError`.
    """
    first = verdict.errors[0]
    if verdict.stage in _ENDED:
        return BackendError(
            f"{verdict.library}: {first}",
            where=model,
            hint=_ENDED[verdict.stage],
        )
    short = next((text for text in verdict.errors if re.search(_OUT_OF_MEMORY, text)), first)
    known = next((row for row in KNOWN if re.search(row.pattern, short, re.DOTALL)), None)
    if workspace and known is not None and "--workspace" in known.lever:
        known = Known(known.pattern, known.cause, _LIMITED.lever)
    verb = "cannot read" if verdict.stage == "parse" else "cannot build"
    cause = f": {known.cause}" if known else ""
    lines = [f"{verdict.library} {verb} this model for {target}{cause}"]
    lines += [readable(text) for text in verdict.errors[:_SHOWN]]
    if len(verdict.errors) > _SHOWN:
        lines.append(f"… and {len(verdict.errors) - _SHOWN} more")
    kind = InputError if verdict.stage == "parse" else BackendError
    node = node_of(first)
    return kind(
        "\n".join(lines),
        where=f"{model}, {node}" if node else model,
        hint=known.lever if known else "`qcompiler lint` checks the Q/DQ rules node by node",
    )


_ENDED = {
    "timeout": "raise --timeout, or lower --optimization-level",
    "memory": "raise --memory; a build takes two to three times the bytes of the weights",
    "crash": "the library died: cut the model down to the nodes that do it and report it to NVIDIA",
}


def node_of(message: str) -> str:
    """The ONNX node that a message blames, as ``Op 'name'`` or its name; empty if none."""
    for pattern in _NODE:
        if match := re.search(pattern, message, re.MULTILINE):
            found = match.groupdict()
            return (
                f"{found['op']} '{found['name']}'" if "op" in found else f"node '{found['name']}'"
            )
    return ""


def readable(message: str) -> str:
    """A message on one line, without places in the library's own source."""
    return " ".join(_NOISE.sub(" ", message).split())
