"""What the user wants: a TOML file of a few lines, and rules by name.

::

    name = "int8"
    quantize = true         # false: only the base type changes
    format = "int8"         # or fp8_e4m3
    base = "float32"        # or float16: the type of everything that is not quantized
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
from fnmatch import fnmatchcase
from importlib import resources
from pathlib import Path
from typing import Literal

import msgspec

from qcompiler.errors import InputError, UsageError


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
        base: Element type of the float tensors of the result.
        heads: Whether language-model heads and routers are quantized too.
        range: How activation ranges are chosen.
        search_weights: Whether weight scales are searched or taken from the largest value.
        rule: Exceptions, the first that matches wins.
    """

    name: str
    quantize: bool = True
    format: Literal["int8", "fp8_e4m3"] = "int8"
    base: Literal["float32", "float16"] = "float32"
    heads: bool = False
    range: str = "auto"
    search_weights: bool = True
    rule: tuple[Rule, ...] = ()

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
