"""Published peaks of NVIDIA GPUs, for estimates without a GPU.

Rates are dense (no structured sparsity), at boost clock, in 10^12 operations a second, where a
multiply-accumulate is two operations. A peak is a bound that no kernel reaches; the table serves to
compare two engines on one card.

Where NVIDIA publishes two rates, by the width of the accumulator, FP16 has the *faster* (FP16
accumulation) and FP8 the *slower* (FP32 accumulation), so that an estimate never flatters low
precision against FP16. BF16 counts as FP16, INT4 as INT8, and a format without a rate as FP16.
"""

from __future__ import annotations

from dataclasses import dataclass

from qcompiler.errors import UsageError

_TURING = "NVIDIA T4 Tensor Core GPU data sheet"
_A100 = "NVIDIA A100 Tensor Core GPU data sheet (40 GB)"
_GA102 = "NVIDIA Ampere GA102 GPU Architecture whitepaper V2.0, appendix A"
_GA106 = (
    "GeForce RTX 3060 specifications (3584 cores, 1.78 GHz, 360 GB/s); operations a core and clock "
    "as of the NVIDIA Ampere GA102 GPU Architecture whitepaper V2.0"
)
_A10 = "NVIDIA A10 Tensor Core GPU data sheet"
_ORIN = (
    "NVIDIA Jetson AGX Orin Series Technical Brief v1.2 (64 GB: 5.3 FP32 TFLOPS, 170 sparse INT8 "
    "TOPS of the GPU, 204.8 GB/s); FP16 at half the INT8 rate"
)
_ADA = "NVIDIA Ada GPU Architecture whitepaper V2.01, appendix A"
_AD107 = (
    "GeForce RTX 4060 specifications (3072 cores, 2.46 GHz, 272 GB/s, 242 sparse AI TOPS); "
    "operations a core and clock as of the NVIDIA Ada GPU Architecture whitepaper V2.01"
)
_L4 = "NVIDIA L4 Tensor Core GPU data sheet (published with sparsity, halved here)"
_H100 = "NVIDIA H100 Tensor Core GPU data sheet (SXM; published with sparsity, halved here)"
_BLACKWELL = "NVIDIA RTX Blackwell GPU Architecture whitepaper V1.1, appendix A"


@dataclass(frozen=True)
class Gpu:
    """One card.

    Attributes:
        name: As NVIDIA sells it, without NVIDIA and GeForce.
        capability: Compute capability, such as ``SM89``.
        bandwidth: Of its memory, in 10^9 bytes a second.
        fp32: FP32 rate outside the tensor cores.
        fp16: FP16 tensor rate.
        int8: INT8 tensor rate.
        fp8: FP8 tensor rate; None if it has none.
        fp4: FP4 tensor rate; None if it has none.
        source: Where the figures come from.
    """

    name: str
    capability: str
    bandwidth: float
    fp32: float
    fp16: float
    int8: float
    fp8: float | None
    fp4: float | None
    source: str

    def rate(self, precision: str) -> float:
        """Operations a second of a precision as the engine report names it."""
        rates = {
            "fp32": self.fp32,
            "unknown": self.fp32,
            "int8": self.int8,
            "int4": self.int8,
            "fp8": self.fp8,
            "fp4": self.fp4,
        }
        return (rates.get(precision) or self.fp16) * 1e12


# The first card of a capability is its default.
GPUS: tuple[Gpu, ...] = (
    Gpu("T4", "SM75", 320, 8.1, 65, 130, None, None, _TURING),
    Gpu("A100", "SM80", 1555, 19.5, 312, 624, None, None, _A100),
    Gpu("RTX 3090", "SM86", 936, 35.6, 142, 284, None, None, _GA102),
    Gpu("RTX 3060", "SM86", 360, 12.7, 51, 102, None, None, _GA106),
    Gpu("A10", "SM86", 600, 31.2, 125, 250, None, None, _A10),
    Gpu("Jetson AGX Orin", "SM87", 204.8, 5.3, 42.5, 85, None, None, _ORIN),
    Gpu("RTX 4090", "SM89", 1008, 82.6, 330.3, 660.6, 330.3, None, _ADA),
    Gpu("RTX 4060", "SM89", 272, 15.1, 60.5, 121, 60.5, None, _AD107),
    Gpu("L4", "SM89", 300, 30.3, 121, 242.5, 242.5, None, _L4),
    Gpu("H100", "SM90", 3350, 67, 989, 1979, 1979, None, _H100),
    Gpu("RTX 5090", "SM120", 1792, 104.8, 419, 838, 419, 1676, _BLACKWELL),
    Gpu("RTX 5080", "SM120", 960, 56.3, 225.1, 450.2, 225.1, 900.4, _BLACKWELL),
)


def find(name: str) -> Gpu:
    """The card of this name; case, spaces and the words NVIDIA and GeForce do not matter.

    Raises:
        UsageError: It is not in the table; the hint lists those that are.
    """
    found = next((g for g in GPUS if _key(g.name) == _key(name)), None)
    if found is None:
        raise UsageError(
            f"no figures for a GPU called {name!r}",
            hint=f"known are: {', '.join(g.name for g in GPUS)}",
        )
    return found


def choose(name: str | None, capabilities: tuple[str, ...]) -> Gpu | None:
    """The card to estimate for.

    Args:
        name: What the user named; None for the table's first card of the weakest capability.
        capabilities: Those that the engine is built for; empty if that is not known.

    Returns:
        The card; None if none was named and the table has none of these capabilities.

    Raises:
        UsageError: The card is unknown, or the engine is not built for it.
    """
    if name is None:
        weakest = min(capabilities, key=_number, default="")
        return next((g for g in GPUS if g.capability == weakest), None)
    gpu = find(name)
    if capabilities and gpu.capability not in capabilities:
        fitting = [g.name for g in GPUS if g.capability in capabilities]
        raise UsageError(
            f"the {gpu.name} is {gpu.capability}; the engine is for {', '.join(capabilities)}",
            hint=f"name one of {', '.join(fitting)}, or change the target"
            if fitting
            else f"add {gpu.capability.lower()} to the target",
        )
    return gpu


def _key(name: str) -> str:
    words = name.lower().replace("nvidia", " ").replace("geforce", " ")
    return "".join(words.split())


def _number(capability: str) -> int:
    return int(capability.removeprefix("SM"))
