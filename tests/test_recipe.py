"""Recipes: by name, from a file, and what is wrong with one."""

from __future__ import annotations

from pathlib import Path

import pytest

from qcompiler import recipe as recipes
from qcompiler.errors import InputError, UsageError
from qcompiler.numerics.ranges import METHODS
from qcompiler.recipe import Recipe, Rule


@pytest.mark.parametrize("name", recipes.names())
def test_a_recipe_of_the_package_is_valid_and_called_as_its_file(name: str) -> None:
    found = recipes.find(name)
    assert found.name == name
    assert found.range in METHODS
    assert recipes.text(name).startswith("#")


def test_the_default_recipe() -> None:
    assert recipes.find("int8") == Recipe(name="int8", range="auto", search_weights=True, rule=())


def _write(folder: Path, text: str) -> str:
    path = folder / "mine.toml"
    path.write_text(text)
    return str(path)


def test_a_recipe_from_a_file(tmp_path: Path) -> None:
    name = _write(
        tmp_path,
        'name = "mine"\nrange = "mse"\nsearch_weights = false\n'
        '[[rule]]\nmatch = "*/head"\nskip = true\n',
    )
    assert recipes.find(name) == Recipe(
        "mine", range="mse", search_weights=False, rule=(Rule("*/head", True),)
    )


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("name = ", "Invalid value"),
        ("range = 'mse'", "missing required field `name`"),
        ("name = 'a'\ntypo = 1", "unknown field `typo`"),
        ("name = 'a'\nsearch_weights = 'yes'", "Expected `bool`, got `str`"),
        ("name = 'a'\n[[rule]]\nskip = true", "missing required field `match`"),
    ],
)
def test_a_wrong_file_says_what_is_wrong(tmp_path: Path, text: str, told: str) -> None:
    name = _write(tmp_path, text)
    with pytest.raises(InputError, match=f"not a valid recipe: .*{told}") as caught:
        recipes.find(name)
    assert caught.value.where == name
    keys = "name, quantize, format, scales, base, io, heads, budget, noise, range, "
    assert f"{keys}search_weights, rule" in caught.value.hint


def test_an_unknown_name_lists_the_known_ones() -> None:
    with pytest.raises(UsageError, match="no recipe 'int9'") as caught:
        recipes.find("int9")
    assert "int8" in caught.value.hint


@pytest.mark.parametrize("content", [None, b"\xff\xfe"])
def test_a_file_that_cannot_be_read(tmp_path: Path, content: bytes | None) -> None:
    path = tmp_path / "mine.toml"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(InputError, match="cannot read the recipe"):
        recipes.find(str(path))


def test_globs_are_case_sensitive_and_the_first_wins() -> None:
    recipe = Recipe("r", rule=(Rule("a*", skip=False), Rule("*b"), Rule("c")))
    names = ("ab", "Ab", "b", "c", "d")
    assert [recipe.skips(n) for n in names] == ["", "*b", "*b", "c", ""]


def test_the_command_line_excludes_before_the_recipe_includes() -> None:
    recipe = Recipe("r", rule=(Rule("a*", skip=False),)).excluding(["ab"])
    assert recipe.skips("ab") == "ab"
    assert recipe.skips("ac") == ""
