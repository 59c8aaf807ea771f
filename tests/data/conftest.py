"""MNIST in small: a folder of the four files, and checksums that make them the official ones."""

import gzip
import hashlib
from pathlib import Path

import pytest

from cheaplip.data.named import mnist as official
from data_files import FILES, small_mnist


@pytest.fixture
def mnist(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder that $CHEAPLIP_DATA/mnist names."""
    monkeypatch.setenv("CHEAPLIP_DATA", str(tmp_path))
    return small_mnist(tmp_path / "mnist")


@pytest.fixture
def known(mnist: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """Makes the files in ``mnist`` the official ones."""
    checksums = {f: hashlib.sha256(gzip.decompress((mnist / f"{f}.gz").read_bytes())).hexdigest() for f in FILES}
    monkeypatch.setattr(official, "_CHECKSUMS", {"mnist": checksums, "fashion-mnist": {f: f"of {f}" for f in FILES}})
    return checksums
