r"""Golden inputs and outputs, and how near another machine must come to them.

Golden outputs are those of ONNX Runtime with its graph optimizations off. The same release on
another CPU gives others: its kernels add up products in another order, so that a sum of K products
has another relative error, of order :math:`\sqrt K\, 2^{-24}` (K = 4096: :math:`2^{-18}`). That
alone would be harmless, but behind it a QuantizeLinear rounds: a value near the middle between two
codes falls to the other one, and is off by a whole step. Few such flips in an early layer move the
output of a network by far more than all float errors together (a ResNet-20 in INT8: 139 dB of SQNR
without a flip, 33 to 38 dB with a few), and how many there are is chance. So the tolerance is
measured, by two experiments that cause such errors here:

* ``rounding``: float inputs and the scales of all QuantizeLinear nodes, each multiplied by
  :math:`1 \pm 2^{-14}` at random, 16 times the error of a sum of 4096 products;
* ``optimized``: graph optimizations on, which fuses nodes and multiplies codes in integers.

.. math:: floor = \min(\text{rounding}, \text{optimized}) - 20 \log_{10} 2

An error may thus be twice the larger one that was seen, and no floor is above 100 dB, which float32
sums do not promise, or below 20 dB, where the error is a tenth of the signal and nothing was
reproduced. Outputs that are no numbers with a size (booleans, indices, text) are counted instead:
as many may differ as twice the number that did.

What this can show is that a machine computes the same function, not that no number was changed,
which the digests show. In that ResNet-20 every weight scale that is half or one and a half times
what it was falls below the floor, of those that are a tenth off a little more than half do; an
activation scale that Q and DQ share may be off further, for that is another quantization of the
same network, as good as the first.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import ModelProto, TensorProto, numpy_helper

from qcompiler import weights
from qcompiler.backends.onnxruntime import OrtSession
from qcompiler.compare import compare, outputs_of
from qcompiler.errors import InputError, UnsupportedError
from qcompiler.export.manifest import Tolerance
from qcompiler.report import EQUAL_DB

Array = NDArray[Any]
Values = Mapping[str, Array]

EPSILON = 2.0**-14
TWICE_DB = 20 * math.log10(2)
HIGHEST_DB, LOWEST_DB = 100.0, 20.0
_SETS = "golden/test_data_set_{}"


def save(folder: Path, number: int, inputs: Values, outputs: Values) -> None:
    """Write one sample as the ONNX project lays out its test data: ``input_0.pb``, ``output_0.pb``.

    Args:
        folder: Of the bundle.
        number: Of the sample.
        inputs: By name, in the model's order.
        outputs: Likewise; what is no tensor is left out.
    """
    place = folder / _SETS.format(number)
    place.mkdir(parents=True)
    for kind, values in (("input", inputs), ("output", tensors(outputs))):
        for index, (name, value) in enumerate(values.items()):
            proto = numpy_helper.from_array(np.asarray(value), name)
            data = proto.SerializeToString(deterministic=True)
            (place / f"{kind}_{index}.pb").write_bytes(data)


def read(folder: Path, number: int) -> tuple[dict[str, Array], dict[str, Array]]:
    """The inputs and outputs of one sample.

    Raises:
        InputError: A file is damaged.
    """
    place = folder / _SETS.format(number)
    return _read(place, "input"), _read(place, "output")


def _read(place: Path, kind: str) -> dict[str, Array]:
    found = {}
    for path in sorted(place.glob(f"{kind}_*.pb"), key=lambda p: int(p.stem.split("_")[1])):
        proto = TensorProto()
        try:
            proto.ParseFromString(path.read_bytes())
            found[proto.name] = numpy_helper.to_array(proto)
        except Exception as error:
            raise InputError(
                f"not a tensor: {error}", where=str(path), hint="export the bundle again"
            ) from error
    return found


def tensors(outputs: Values) -> dict[str, Array]:
    """Outputs without sequences and maps."""
    return {name: value for name, value in outputs.items() if isinstance(value, np.ndarray)}


def measure(
    golden: Sequence[Values], session: OrtSession, samples: Sequence[Values]
) -> dict[str, tuple[str, float]]:
    """How near a model comes to golden outputs.

    Args:
        golden: Outputs, one entry a sample.
        session: The model.
        samples: Inputs.

    Returns:
        Output -> (measure, value) as in :class:`Tolerance`, 999 dB for equal outputs and -999 if
        one is not finite where the other is, or of another shape.

    Raises:
        BackendError: It could not be run.
    """
    counted = {n for outputs in golden for n, v in outputs.items() if not _has_size(v)}
    sized = [{n: v for n, v in outputs.items() if n not in counted} for outputs in golden]
    found: dict[str, tuple[str, float]] = {}
    for name, distance in compare(sized, session, samples).items():
        found[name] = ("sqnr_db", min(max(distance.sqnr_db, -EQUAL_DB), EQUAL_DB))
    if counted:
        again = outputs_of(session, samples)
        for name in sorted(counted):
            found[name] = ("equal", _equal([g[name] for g in golden], [a[name] for a in again]))
    return found


def _has_size(value: Array) -> bool:
    """Whether the elements are numbers of which one can be near another: floats and 8-bit codes."""
    return value.dtype.kind in "fV" or (value.dtype.kind in "iu" and value.dtype.itemsize == 1)


def _equal(golden: Sequence[Array], found: Sequence[Array]) -> float:
    if any(g.shape != f.shape for g, f in zip(golden, found, strict=True)):
        return 0.0
    same = sum(int((g == f).sum()) for g, f in zip(golden, found, strict=True))
    return same / max(sum(g.size for g in golden), 1)


def tolerances(
    model: Path,
    golden: Sequence[Values],
    samples: Sequence[Values],
    *,
    source: Path | None = None,
    custom_ops: Sequence[Path] = (),
) -> tuple[Tolerance, ...]:
    """Derive the tolerance of every output from the two experiments.

    Args:
        model: ONNX file, in a folder that can be written to.
        golden: Its outputs.
        samples: Its inputs.
        source: The float model that it was made from, to be compared with.
        custom_ops: Libraries with custom operators.

    Returns:
        One for each output, in the model's order.

    Raises:
        BackendError: A run failed.
        UnsupportedError: ONNX Runtime cannot load the source.
    """
    random = np.random.default_rng(0)
    shaken = [{n: _shaken(v, random) for n, v in feeds.items()} for feeds in samples]
    seen: dict[str, dict[str, tuple[str, float]]] = {}
    with (
        _shaken_scales(model, random) as path,
        OrtSession(path, custom_ops=custom_ops) as session,
    ):
        seen["rounding"] = measure(golden, session, shaken)
    try:
        with OrtSession(model, level="all", custom_ops=custom_ops) as session:
            seen["optimized"] = measure(golden, session, samples)
    except UnsupportedError:  # the optimizer breaks some models; the other experiment remains
        pass
    accuracy: dict[str, tuple[str, float]] = {}
    if source is not None:
        with OrtSession(source, custom_ops=custom_ops) as session:
            _require_interface(golden[0], session, source)
            accuracy = measure(golden, session, samples)
    return tuple(_tolerance(name, seen, accuracy) for name in golden[0])


def _require_interface(golden: Values, session: OrtSession, source: Path) -> None:
    missing = sorted(set(golden) - set(session.outputs))
    if missing:
        raise InputError(
            f"the source has no output {missing[0]!r}, which the model has",
            where=str(source),
            hint="pass the model that this one was made from",
        )


def _tolerance(
    name: str,
    seen: Mapping[str, Mapping[str, tuple[str, float]]],
    accuracy: Mapping[str, tuple[str, float]],
) -> Tolerance:
    values = {experiment: round(found[name][1], 4) for experiment, found in sorted(seen.items())}
    least, which = min((value, experiment) for experiment, value in values.items())
    against = round(accuracy[name][1], 4) if name in accuracy else None
    if seen["rounding"][name][0] == "equal":
        return Tolerance(
            output=name,
            measure="equal",
            floor=round(max(0.0, 1 - 2 * (1 - least)), 4),
            seen=values,
            derived=f"twice the differing share of the experiment '{which}'",
            accuracy=against,
        )
    floor = min(max(least - TWICE_DB, LOWEST_DB), HIGHEST_DB)
    bound = {LOWEST_DB: ", raised to 20 dB", HIGHEST_DB: ", lowered to 100 dB"}.get(floor, "")
    return Tolerance(
        output=name,
        measure="sqnr_db",
        floor=round(floor, 2),
        seen=values,
        derived=f"twice the error of the experiment '{which}'{bound}",
        accuracy=against,
    )


def _shaken(value: Array, random: np.random.Generator) -> Array:
    if value.dtype.kind not in "fV" or value.dtype.itemsize < 2:
        return value
    signs = random.integers(0, 2, value.shape) * 2 - 1
    return np.asarray((value.astype(np.float64) * (1 + EPSILON * signs)).astype(value.dtype))


@contextmanager
def _shaken_scales(model: Path, random: np.random.Generator) -> Iterator[Path]:
    """A copy of a model, beside it, whose QuantizeLinear scales are a little off."""
    proto = onnx.load(model, load_external_data=False)
    if not _shake(proto, random):
        yield model
        return
    path = model.with_name(f".{model.name}.{os.getpid()}.shaken.onnx")
    try:
        path.write_bytes(proto.SerializeToString())
        yield path
    finally:
        path.unlink(missing_ok=True)


def _shake(proto: ModelProto, random: np.random.Generator) -> int:
    """Change the scales that are in the model file itself; returns how many there are."""
    scales = {n.input[1] for n in proto.graph.node if n.op_type == "QuantizeLinear"}
    count = 0
    for tensor in proto.graph.initializer:
        if tensor.name in scales and tensor.data_location != TensorProto.EXTERNAL:
            values = _shaken(weights.read(tensor, None), random)
            tensor.CopyFrom(numpy_helper.from_array(values, tensor.name))
            count += 1
    return count
