"""``passes/README.md`` says what the passes say."""

from __future__ import annotations

from tests.contract import passes_readme


def test_readme_is_up_to_date() -> None:
    assert passes_readme.README.read_text() == passes_readme.text(), (
        "run python -m tests.contract.passes_readme --write"
    )
