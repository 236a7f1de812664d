"""Downloads that can be trusted: resumed where they broke off, checked, and visible only when they are whole."""

import http.client
import logging
import shutil
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from email.message import Message
from pathlib import Path
from urllib.parse import urlsplit

from datamodules.files import digest, synchronise
from datamodules.images import DataError

log = logging.getLogger(__name__)
CHUNK = 1 << 16
ATTEMPTS = 5  # in a row that bring nothing new
STALL = 20.0  # seconds without a byte, after which a connection is given up
PAUSE = 1.0  # seconds before the second attempt, twice as many before each further one
Progress = Callable[[int, int | None], None]  # bytes there are, bytes there will be if the server tells


class Gone(DataError):
    """The server says that there is no such file: another attempt would not help, another source may."""


def fetch(url: str, path: Path, sha256: str | None = None, progress: Progress | None = None) -> None:
    """Downloads a file to ``path``. What has come is kept in ``.NAME.part`` beside it; the next call goes on there.

    Args:
        url: http or https; redirects are followed, to such addresses only.
        path: of the file, in a folder that exists.
        sha256: of the whole file; None where nobody knows it: then its length must be what the server says.
        progress: told after each piece.

    Raises:
        DataError: nothing new came in several attempts; the file is not the one that was expected; no room for it.
        Gone: the server does not have it.
    """
    if urlsplit(url).scheme not in ("http", "https"):
        raise DataError(f"{url}: only http and https addresses are downloaded")
    part = path.with_name(f".{path.name}.part")
    fruitless = 0
    while True:
        before = part.stat().st_size if part.exists() else 0
        try:
            complete = _continue(url, part, progress)
            if not complete:
                raise ConnectionError("it ended early")
            break
        except urllib.error.HTTPError as error:
            if error.code in (400, 401, 403, 404, 410):
                raise Gone(f"{url}: {error.code} {error.reason}") from error
            problem: Exception = error
        except (OSError, http.client.HTTPException) as error:
            problem = error
        came = (part.stat().st_size if part.exists() else 0) > before
        fruitless = 0 if came else fruitless + 1
        if fruitless == ATTEMPTS:
            raise DataError(
                f"{url}: {problem}; given up after {ATTEMPTS} attempts. What has come is kept: try again later"
            ) from problem
        time.sleep(0 if came else PAUSE * 2 ** (fruitless - 1))
    if sha256 and (found := digest(part)) != sha256:
        part.unlink()
        raise DataError(f"{url}: not the file that was expected: its SHA-256 is {found}, not {sha256}; it was removed")
    synchronise(part)
    part.replace(path)


def _continue(url: str, part: Path, progress: Progress | None) -> bool:
    """Appends what is missing to ``part``; whether it is whole then, as far as the server says how long it is."""
    have = part.stat().st_size if part.exists() else 0
    request = urllib.request.Request(url, headers={"Range": f"bytes={have}-"} if have else {})
    try:
        response = urllib.request.urlopen(request, timeout=STALL)
    except urllib.error.HTTPError as error:
        if error.code == 416:  # there is nothing beyond what has come: it is whole, or longer than the file
            if error.headers.get("Content-Range") == f"bytes */{have}":
                return True
            part.unlink()
            return False
        raise
    with response:
        if have and not _goes_on(response.status, response.headers, have):
            have = 0  # the server begins again, and so do we
        length = response.headers.get("Content-Length")
        whole = have + int(length) if length and length.isdigit() else None
        if whole and (free := shutil.disk_usage(part.parent).free) < whole - have:
            raise DataError(f"{url} needs {whole - have:,} bytes in {part.parent}, where {free:,} are free; make room")
        with part.open("ab" if have else "wb") as file:
            while chunk := response.read1(CHUNK):
                file.write(chunk)
                have += len(chunk)
                if progress:
                    progress(have, whole)
    return whole is None or have == whole


def _goes_on(status: int, headers: Message, have: int) -> bool:
    return status == 206 and (headers.get("Content-Range") or "").startswith(f"bytes {have}-")
