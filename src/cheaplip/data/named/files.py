"""Where the files of a named data set are: in the user's folder, or downloaded once and verified; and their content."""

import errno
import gzip
import os
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from cheaplip.errors import DataError

__all__ = ["RELOAD", "content_of", "download", "own", "root", "unpack"]

RELOAD = "copy or download it again"
_GZIP = b"\x1f\x8b"


def root(holds: str) -> Path | None:
    """Return the folder that ``$CHEAPLIP_DATA`` names, or None if it is unset.

    Args:
        holds: what should be in it, for the message.

    Raises:
        DataError: there is no such folder.
    """
    named = os.environ.get("CHEAPLIP_DATA")
    if not named:
        return None
    if not Path(named).is_dir():
        raise DataError(f"CHEAPLIP_DATA={named}: no such folder; set it to the folder that holds {holds}, or unset it")
    return Path(named)


def own(paths: Sequence[str]) -> Path | None:
    """Return the first of several paths below ``$CHEAPLIP_DATA`` that exists, or None.

    Raises:
        DataError: there is no such folder.
    """
    folder = root(paths[0])
    return None if folder is None else next((folder / path for path in paths if (folder / path).exists()), None)


def content_of(path: Path) -> bytes:
    """Read a file whole, and decompress it if it is compressed with gzip.

    Raises:
        DataError: it cannot be read or decompressed.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror}; check the file and its permissions") from error
    return unpack(content, path)


def unpack(content: bytes, where: Path | str) -> bytes:
    """Decompress content if it is compressed with gzip.

    Raises:
        DataError: it breaks off or is damaged.
    """
    if not content.startswith(_GZIP):
        return content
    try:
        return gzip.decompress(content)
    except EOFError as error:
        raise DataError(f"{where}: truncated: the compressed file ends too early; {RELOAD}") from error
    except (OSError, zlib.error) as error:
        raise DataError(f"{where}: corrupted: {error}; {RELOAD}") from error


def download(
    name: str,
    file: str,
    url: str,
    checksum: str,
    *,
    keep: str | None = None,
    fetch: Callable[[str, str, Any], None] | None = None,
) -> Path:
    """Download a file once; a copy in the cache is used again if it still has the checksum.

    It comes from ``$CHEAPLIP_DATA_URL/NAME/FILE`` if that is set.

    The file gets its name only when it is whole and verified: what breaks off leaves nothing behind.

    Args:
        name: of the data set, the folder in the cache.
        file: the name of what is downloaded.
        url: where its authors keep it.
        checksum: of the file that is kept, ``md5:…`` or ``sha256:…``.
        keep: the name to keep it under. None: ``file``.
        fetch: called with the URL and the path of a temporary file. None: the content is kept as it comes.

    Raises:
        DataError: it cannot be downloaded or written, or is another file.
    """
    import pooch  # here, since its progress bars warn in a notebook that lacks widgets, where nothing is downloaded

    mirror = os.environ.get("CHEAPLIP_DATA_URL")
    url = f"{mirror.rstrip('/')}/{name}/{file}" if mirror else url
    remedy = f"or set CHEAPLIP_DATA to a folder that holds {name}/{file}"
    try:
        # pooch writes to a temporary file and renames it once the checksum matches.
        path = pooch.retrieve(
            url,
            checksum,
            fname=keep or file,
            path=pooch.os_cache("cheaplip") / name,
            downloader=fetch or pooch.HTTPDownloader(chunk_size=1 << 16),
        )
    except DataError as error:
        raise DataError(f"{error}, {remedy}") from error
    except OSError as error:  # connection, HTTP status, and the cache folder alike
        if error.errno == errno.ENOSPC:
            raise DataError(
                f"{url}: the disk is full: {pooch.os_cache('cheaplip')} cannot hold it; make room and try again, "
                f"{remedy}"
            ) from error
        raise DataError(f"cannot download {url}: {error}; try again, {remedy}") from error
    except ValueError as error:
        kind, expected = checksum.split(":")
        raise DataError(
            f"{url}: expected a file whose content has {kind.upper()} {expected}, got another; try again, {remedy}"
        ) from error
    return Path(path)
