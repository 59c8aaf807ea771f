"""MNIST by download: once, verified, from a mirror; what is said when it fails."""

import gzip
import re
import threading
from collections.abc import Callable, Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import torch

from cheaplip.data import load
from cheaplip.data.named import mnist as official
from cheaplip.errors import DataError
from data_files import (
    FILES,
    TRAIN_IMAGES,
    TRAIN_LABELS,
    refuses,
)


class Server(SimpleHTTPRequestHandler):
    """Serves a folder, keeps count, and breaks off in the middle of files that are listed in ``cut``."""

    requests: list[str]
    cut: list[str]

    def do_GET(self) -> None:
        self.requests.append(self.path)
        if self.path in self.cut:
            content = Path(self.translate_path(self.path)).read_bytes()
            self.send_response(200)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content[: len(content) // 2])
            return
        super().do_GET()

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002
        """Silent."""


@pytest.fixture
def served(
    mnist: Path, known: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[type[Server]]:
    """``mnist`` behind a server, an empty cache in ``tmp_path/cache``, and no folder of one's own."""
    handler = type("Handler", (Server,), {"requests": [], "cut": []})
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(handler, directory=str(tmp_path))) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        monkeypatch.setenv("CHEAPLIP_DATA_URL", f"http://127.0.0.1:{server.server_port}/")
        monkeypatch.setenv("CHEAPLIP_DATA", "")
        for variable in ("NO_PROXY", "no_proxy"):
            monkeypatch.setenv(variable, "127.0.0.1")
        monkeypatch.setattr("pooch.os_cache", lambda project: tmp_path / "cache" / project)
        yield handler
        server.shutdown()
        thread.join()


def cached(tmp_path: Path) -> list[str]:
    return sorted(path.name for path in (tmp_path / "cache" / "cheaplip" / "mnist").iterdir())


def test_each_file_is_downloaded_once(served: type[Server], tmp_path: Path) -> None:
    first = load("mnist")
    assert sorted(served.requests) == sorted(f"/mnist/{file}.gz" for file in FILES)
    assert cached(tmp_path) == sorted(FILES)
    again = load("mnist")
    assert len(served.requests) == 4
    assert torch.equal(first.train.x, again.train.x)


def test_a_mirror_may_compress_as_it_likes(served: type[Server], mnist: Path) -> None:
    path = mnist / f"{TRAIN_IMAGES}.gz"
    path.write_bytes(gzip.compress(gzip.decompress(path.read_bytes()), compresslevel=1))
    (mnist / f"{TRAIN_LABELS}.gz").write_bytes(gzip.decompress((mnist / f"{TRAIN_LABELS}.gz").read_bytes()))
    assert len(load("mnist").train.x) == 110


def test_a_dataset_the_folder_lacks_is_downloaded(
    served: type[Server], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "other").mkdir()
    monkeypatch.setenv("CHEAPLIP_DATA", str(tmp_path / "other"))
    load("mnist")
    assert len(served.requests) == 4


REMEDY = "or set CHEAPLIP_DATA to a folder that holds mnist/train-labels-idx1-ubyte.gz"


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        pytest.param(
            lambda b: gzip.compress(gzip.decompress(b)[:-1] + b"\1"),
            "expected a file whose content has SHA256 ",
            id="checksum",
        ),
        pytest.param(
            lambda b: b[:-20],
            "truncated: the compressed file ends too early; copy or download it again, " + REMEDY,
            id="truncated",
        ),
        pytest.param(lambda b: b[:-8] + b"\0\0\0\0" + b[-4:], "corrupted: CRC check failed", id="corrupted"),
    ],
)
def test_a_bad_download_is_refused(
    damage: Callable[[bytes], bytes], message: str, served: type[Server], mnist: Path, tmp_path: Path
) -> None:
    path = mnist / f"{TRAIN_LABELS}.gz"
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(DataError, match=rf"http://\S+/mnist/{TRAIN_LABELS}.gz: {re.escape(message)}") as caught:
        load("mnist")
    assert str(caught.value).endswith(REMEDY)
    assert TRAIN_LABELS not in cached(tmp_path)


def test_a_download_that_breaks_off(served: type[Server], tmp_path: Path) -> None:
    served.cut.append(f"/mnist/{TRAIN_LABELS}.gz")
    with pytest.raises(DataError, match=rf"cannot download http://\S+/mnist/{TRAIN_LABELS}.gz: .*try again, {REMEDY}"):
        load("mnist")
    assert cached(tmp_path) == [TRAIN_IMAGES]
    served.cut.clear()
    assert len(load("mnist").train.x) == 110


def test_a_file_the_server_lacks(served: type[Server], mnist: Path, tmp_path: Path) -> None:
    (mnist / f"{TRAIN_LABELS}.gz").unlink()
    with pytest.raises(
        DataError, match=rf"cannot download \S+/{TRAIN_LABELS}.gz: 404 Client Error.*try again, {REMEDY}"
    ):
        load("mnist")
    assert cached(tmp_path) == [TRAIN_IMAGES]


def test_no_server(served: type[Server], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CHEAPLIP_DATA_URL", "http://127.0.0.1:1/")
    with refuses("cannot download http://127.0.0.1:1/mnist/train-images-idx3-ubyte.gz: "):
        load("mnist")


def test_a_spoilt_cache_is_downloaded_again(served: type[Server], tmp_path: Path) -> None:
    load("mnist")
    path = tmp_path / "cache" / "cheaplip" / "mnist" / TRAIN_IMAGES
    path.write_bytes(path.read_bytes()[:-1])
    load("mnist")
    assert served.requests[4:] == [f"/mnist/{TRAIN_IMAGES}.gz"]


def test_a_cache_that_cannot_be_written(served: type[Server], tmp_path: Path) -> None:
    (tmp_path / "cache").write_text("a file where the folder should be")
    with pytest.raises(DataError, match=r"cannot download \S+: .*cache.*; try again, or set CHEAPLIP_DATA"):
        load("mnist")


def test_the_official_addresses_are_used_without_a_mirror(
    served: type[Server], monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []

    def refuse(url: str, *_: object) -> None:
        asked.append(url)
        raise OSError("refused")

    monkeypatch.delenv("CHEAPLIP_DATA_URL")
    monkeypatch.setattr(official, "_fetch", refuse)
    for name in ("mnist", "fashion-mnist"):
        with refuses("refused"):
            load(name)
    assert asked == [
        "https://ossci-datasets.s3.amazonaws.com/mnist/train-images-idx3-ubyte.gz",
        "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/train-images-idx3-ubyte.gz",
    ]
