"""What the user wants: a TOML file of a few lines, and rules by name.

::

    name = "int8"
    quantize = true         # false: only the base type changes
    format = "int8"         # or fp8_e4m3
    scales = "tensor"       # of activations; token or block: computed at run time (FP8 only)
    base = "float32"        # or float16, bfloat16: the type of everything that is not quantized
    io = "keep"             # or float16, float32: the type of float inputs and outputs
    range = "auto"          # minmax, percentile, entropy, mse or auto
    heads = false           # true: also language-model heads and routers
    search_weights = true   # shrink each weight scale to the factor of least error

    [[rule]]
    match = "*/lm_head/*"   # glob over node names
    skip = true
"""

from __future__ import annotations

import tomllib
from collections.abc import Sequence
from dataclasses import replace
from fnmatch import fnmatchcase
from importlib import resources
from pathlib import Path
from typing import Literal

import msgspec

from qcompiler.errors import InputError, UnsupportedError, UsageError
from qcompiler.granularity import Scales
from qcompiler.plan import Base, Io
from qcompiler.targets.base import Target

_LEAST_BFLOAT16 = 80
_BFLOAT16_OPSET = 22


class Rule(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What to do with the nodes whose name matches a glob."""

    match: str
    skip: bool = True


class Recipe(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How to quantize.

    Attributes:
        name: Name of the recipe.
        quantize: Whether linear operators are quantized at all.
        format: Storage format of weights and activations; where activations are better asymmetric,
            the target makes them ``uint8``.
        scales: Of activations: ``tensor``, one that calibration finds; ``token``, one for each row,
            computed at run time, beside one for each output channel of the weight; ``block``, one
            for each 128 elements of a row, beside one for each 128 x 128 of the weight. The latter
            two are for FP8 matrix products; nothing is calibrated.
        base: Element type of the float tensors of the result.
        io: Element type of the float inputs and outputs of the result.
        heads: Whether language-model heads and routers are quantized too.
        budget: The largest divergence, in nats a token, that quantizing may cost a language model:
            0.01 is one percent of perplexity. What costs most for its work stays in float; ``inf``
            lets everything pass.
        noise: The same of other models: the largest noise power over signal power of an output;
            0.05 is 13 dB.
        range: How activation ranges are chosen.
        search_weights: Whether weight scales are searched or taken from the largest value.
        rule: Exceptions, the first that matches wins.
    """

    name: str
    quantize: bool = True
    format: Literal["int8", "fp8_e4m3"] = "int8"
    scales: Scales = "tensor"
    base: Base = "float32"
    io: Io = "keep"
    heads: bool = False
    budget: float = 0.01
    noise: float = 0.05
    range: str = "auto"
    search_weights: bool = True
    rule: tuple[Rule, ...] = ()

    def __post_init__(self) -> None:
        if self.scales != "tensor" and self.format != "fp8_e4m3":
            raise ValueError(f'scales = "{self.scales}" needs format = "fp8_e4m3"')
        if not (self.budget > 0 and self.noise > 0):
            raise ValueError("budget and noise must be positive numbers, or inf")

    @property
    def rows(self) -> str:
        """Base type whose capability rows hold: bfloat16 becomes the same engines as float16."""
        return "float16" if self.base == "bfloat16" else self.base

    def skips(self, node_name: str) -> str:
        """The glob that excludes a node, or an empty string."""
        found = next((r for r in self.rule if fnmatchcase(node_name, r.match)), None)
        return found.match if found is not None and found.skip else ""

    def excluding(self, globs: Sequence[str]) -> Recipe:
        """This recipe with more nodes left in float."""
        extra = tuple(Rule(match=g) for g in globs)
        return msgspec.structs.replace(self, rule=(*extra, *self.rule))


def names() -> tuple[str, ...]:
    """Names of the recipes that come with the package."""
    folder = resources.files("qcompiler.recipes")
    return tuple(
        sorted(f.name.removesuffix(".toml") for f in folder.iterdir() if f.name.endswith(".toml"))
    )


def text(name: str) -> str:
    """A recipe as it was written, comments included: by name, or from a ``.toml`` file.

    Raises:
        UsageError: No such recipe.
        InputError: The file cannot be read.
    """
    if name.endswith(".toml"):
        try:
            return Path(name).read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise InputError(
                f"cannot read the recipe: {error}", where=name, hint="check the path"
            ) from error
    if name in names():
        return (resources.files("qcompiler.recipes") / f"{name}.toml").read_text(encoding="utf-8")
    raise UsageError(
        f"there is no recipe {name!r}",
        hint=f"recipes are: {', '.join(names())}, or the path of a .toml file",
    )


def find(name: str) -> Recipe:
    """A recipe by name, or from a ``.toml`` file.

    Raises:
        UsageError: No such recipe.
        InputError: The file is not a valid recipe.
    """
    try:
        return msgspec.convert(tomllib.loads(text(name)), Recipe)
    except (tomllib.TOMLDecodeError, msgspec.ValidationError) as error:
        raise InputError(
            f"not a valid recipe: {error}",
            where=name,
            hint=f"its keys are: {', '.join(Recipe.__struct_fields__)}",
        ) from error


def interface(recipe: Recipe, io: Io | None) -> Recipe:
    """A recipe with another type of inputs and outputs; None for its own.

    Raises:
        UsageError: float16 inputs and outputs of a graph that does not compute in float16.
    """
    chosen = recipe if io is None else msgspec.structs.replace(recipe, io=io)
    if chosen.io == "float16" and chosen.base != "float16":
        raise UsageError(
            f"float16 inputs and outputs gain nothing: the recipe {recipe.name} computes in "
            f"{chosen.base}",
            hint="take a recipe with base float16, as fp16 or int8+fp16, or --io-dtype keep",
        )
    return chosen


def require_base(target: Target, base: Base) -> Target:
    """The target as it must write a graph of this base type.

    Convolutions, pools and recurrent operators take bfloat16 from opset 22 on.

    Raises:
        UnsupportedError: bfloat16 on a card that does not have it (rule G06).
    """
    if base != "bfloat16":
        return target
    old = [c for c in target.capabilities if c < _LEAST_BFLOAT16]
    if old:
        raise UnsupportedError(
            f"bfloat16 needs compute capability 8.0 at least, and {target.name} is for "
            f"{old[0] / 10:.1f} [rule G06]",
            hint="take float16 (--recipe fp16), which every card from 7.5 on has",
        )
    return replace(target, opset=max(target.opset, min(_BFLOAT16_OPSET, target.max_opset)))
