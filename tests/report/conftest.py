import pytest

from report_folders import write_comparison


@pytest.fixture
def study(tmp_path):
    """The folder of a whole comparison."""
    return write_comparison(tmp_path)
