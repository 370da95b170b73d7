"""The table of the contract is whole: nothing stale in it, nothing forgotten, and published as it is."""

from pathlib import Path

import tests.contract
from tests.contract import matrix
from tests.contract.page import PAGE, page


def test_the_page_is_as_the_table_is() -> None:
    assert PAGE.read_text() == page(), "python -m tests.contract.page writes it"


def test_what_is_not_applicable_is_a_case_and_a_way() -> None:
    names = {name for name, _ in matrix.cases()}
    ways = {(way.backend, release) for way in matrix.WAYS for release in (way.release, "*")}
    for case, backend, release in matrix.NOT_APPLICABLE:
        assert case in names
        assert (backend, release) in ways


def test_every_module_that_asks_cases_is_in_the_table() -> None:
    (folder,) = map(Path, tests.contract.__path__)
    asking = {
        f"tests.contract.{path.stem}"
        for path in folder.glob("test_*.py")
        if "(case: Any" in path.read_text() and path.name != Path(__file__).name
    }
    assert asking == set(matrix.MODULES)
