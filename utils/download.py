"""Fetching files over HTTP: a cut download continues, what arrived is verified, a file is there whole or not at all.

While a file is fetched its bytes are in ``<path>.part``, and ``<path>.part.json`` says which version of which file
they belong to. Both stay after a failure or Ctrl-C, for the next run to continue, and vanish at the end.
"""
from __future__ import annotations

import contextlib
import fcntl
import hashlib
import http.client
import json
import logging
import os
import re
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from typing import IO, Any
from urllib.parse import urlsplit

from tqdm import tqdm

from utils.errors import UserError
from utils.files import sync_to_disk

TIMEOUT = 30.0  # seconds without a byte before a connection counts as broken
PAUSES = (1.0, 3.0, 9.0)  # seconds before each new attempt; then the download fails
CHUNK = 2 ** 18  # bytes read at once, and the least that counts as progress between two failures
USER_AGENT = "yolact-paddle"


class DownloadError(UserError):
    """A file that cannot be fetched; the message says from where, and where to put it by hand."""


class _Cut(Exception):
    """An attempt that ended early; another one may continue."""


class _Unreachable(_Cut):
    """An attempt that never reached the server."""


class _Redirects(urllib.request.HTTPRedirectHandler):
    """Follows redirects and keeps what only they tell: Hugging Face announces the file's sha256 and size there."""

    def __init__(self, url: str) -> None:
        self.host = urlsplit(url).netloc
        self.sha256: str | None = None
        self.size: int | None = None

    def redirect_request(self, req: urllib.request.Request, fp: IO[bytes], code: int, msg: str,
                         headers: http.client.HTTPMessage, newurl: str) -> urllib.request.Request | None:
        if req.type == "https" and urlsplit(newurl).scheme != "https":
            raise urllib.error.URLError(f"it redirects to {newurl}, which is not encrypted")
        sha256 = re.fullmatch(r'"?([0-9a-f]{64})"?', headers.get("X-Linked-Etag", "").strip())
        size = headers.get("X-Linked-Size", "").strip()
        self.sha256 = sha256[1] if sha256 else self.sha256
        self.size = int(size) if size.isdigit() else self.size
        self.host = urlsplit(newurl).netloc
        return super().redirect_request(req, fp, code, msg, headers, newurl)


def _error(reason: str, url: str, path: str) -> DownloadError:
    return DownloadError(f"{reason}: download {url} by hand and put it at {path}")


def _is_at(file: IO[bytes], path: str) -> bool:
    """Whether an open file is still the one at ``path``: another process may have moved or deleted it."""
    try:
        return os.path.samestat(os.fstat(file.fileno()), os.stat(path))
    except FileNotFoundError:
        return False


@contextlib.contextmanager
def _locked_part(path: str) -> Iterator[IO[bytes] | None]:
    """Open ``<path>.part`` for this process alone; gives None where the whole file is at ``path``.

    The lock ends with the process, however that ends. Whoever waited for it may hold a file that meanwhile became
    ``path``, or was deleted, and then looks again.
    """
    part = f"{path}.part"
    while not os.path.exists(path):
        with open(part, "a+b") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                logging.warning("another process is downloading %s; waiting for it", path)
                fcntl.flock(file, fcntl.LOCK_EX)
            if not _is_at(file, part):
                continue
            if not os.path.exists(path):
                try:
                    yield file
                finally:
                    if _is_at(file, part) and os.path.getsize(part) == 0:
                        os.remove(part)  # nothing arrived that a next run could continue
                return
            os.remove(part)  # just made by the open() above, after another process had finished
    yield None


def _version_of_part(path: str) -> dict[str, Any]:
    """What ``<path>.part`` holds a piece of, as `_fetch_once` wrote it down, or {} when that is unknown."""
    try:
        with open(f"{path}.part.json", encoding="utf-8") as file:
            return dict(json.load(file))
    except (OSError, ValueError, TypeError):
        return {}


def _open(url: str, start: int) -> tuple[Any, _Redirects]:
    """Ask for the bytes from ``start`` on; returns (answer, `_Redirects`), the answer perhaps an HTTP error."""
    headers = {"User-Agent": USER_AGENT, **({"Range": f"bytes={start}-"} if start else {})}
    redirects = _Redirects(url)
    try:
        opener = urllib.request.build_opener(redirects)
        return opener.open(urllib.request.Request(url, headers=headers), timeout=TIMEOUT), redirects
    except urllib.error.HTTPError as answer:
        return answer, redirects
    except urllib.error.URLError as error:
        raise _Unreachable(f"cannot reach {redirects.host} ({error.reason})") from error
    except (OSError, http.client.HTTPException) as error:
        raise _Cut(f"no answer from {redirects.host} ({error})") from error


def _span(answer: Any, redirects: _Redirects, url: str, path: str) -> tuple[int, int | None]:
    """(first byte, size of the whole file) of an answer; -1 and None where it does not say.

    Raises:
        _Cut: for an answer that may be better next time.
        DownloadError: for one that is not the file.
    """
    said = f"{redirects.host} answers {answer.status} {answer.reason}"
    if answer.status >= 500 or answer.status in (408, 429):
        raise _Cut(said)
    if answer.status not in (200, 206):
        raise _error(said, url, path)
    if answer.headers.get_content_type() == "text/html":
        raise _error(f"{redirects.host} sends a web page, not a file", url, path)
    first, size = 0, answer.length
    if answer.status == 206:
        found = re.fullmatch(r"bytes (\d+)-\d+/(\d+)", answer.headers.get("Content-Range", ""))
        first, size = (int(found[1]), int(found[2])) if found else (-1, None)
    elif size is None and not answer.chunked and redirects.size is None:  # a cut file would look complete
        raise _error(f"{redirects.host} does not tell the size of the file", url, path)
    if None not in (size, redirects.size) and size != redirects.size:
        raise _error(f"{redirects.host} sends {size} bytes where {redirects.size} were announced", url, path)
    return first, redirects.size if size is None else size


def _chunks(answer: Any, count: int | None, host: str) -> Iterator[bytes]:
    """The body in pieces; ``count`` bytes, or up to its end where that is None. Raises _Cut when it ends early."""
    try:
        # read1 gives what has arrived: read would lose up to a whole chunk when the connection breaks.
        while count != 0:
            chunk = answer.read1(CHUNK if count is None else min(CHUNK, count))
            if not chunk:
                break
            count = None if count is None else count - len(chunk)
            yield chunk
    except (OSError, http.client.HTTPException) as error:
        raise _Cut(f"the connection to {host} broke ({error})") from error
    if count:
        raise _Cut(f"{host} ended the connection {count} bytes too early")


def _progress(label: str, size: int | None, bar: bool | None, **options: Any) -> tqdm:
    return tqdm(desc=label, total=size, unit="B", unit_scale=True, dynamic_ncols=True,
                disable=None if bar is None else not bar, **options)


def _fetch_once(url: str, path: str, part: IO[bytes], bar: bool | None) -> str | None:
    """Fetch over one connection what ``part`` lacks; returns the sha256 that the server announced, or None.

    Raises:
        _Cut: when something is still lacking; ``part`` then holds what the next attempt continues, perhaps nothing.
    """
    old = _version_of_part(path)
    # A part that is complete asks for its last byte again: the answer tells whether it is still the same file.
    start = max(0, min(part.seek(0, os.SEEK_END), (old.get("size") or 0) - 1)) if old.get("tag") else 0
    answer, redirects = _open(url, start)
    with answer:
        if answer.status == 416:
            part.truncate(0)
            raise _Cut(f"{redirects.host} has a shorter file now")
        first, size = _span(answer, redirects, url, path)
        etag = answer.headers.get("ETag", "")  # a weak one does not tell byte from byte
        tag = redirects.sha256 or (etag if etag.startswith('"') else answer.headers.get("Last-Modified"))
        version = {"url": url, "tag": tag, "size": size}
        if answer.status == 206 and (first != start or version != old):
            part.truncate(0)
            raise _Cut(f"{redirects.host} has another file now")
        part.truncate(first)
        with open(f"{path}.part.json", "w", encoding="utf-8") as file:
            json.dump(version, file)
        with _progress(os.path.basename(path), size, bar, initial=first) as progress:
            for chunk in _chunks(answer, None if size is None else size - first, redirects.host):
                part.write(chunk)
                progress.update(len(chunk))
        part.flush()
    return redirects.sha256


def _fetch(url: str, path: str, part: IO[bytes], bar: bool | None) -> str | None:
    """`_fetch_once` until nothing is lacking, with growing pauses; failures with progress in between do not add up."""
    failures, furthest, answered = 0, part.seek(0, os.SEEK_END), False
    while True:
        try:
            return _fetch_once(url, path, part, bar)
        except _Cut as cut:
            answered = answered or not isinstance(cut, _Unreachable)
            reached = part.seek(0, os.SEEK_END)
            if reached >= furthest + CHUNK:
                failures, furthest = 0, reached
            if not answered or failures == len(PAUSES):  # who has no network need not wait
                raise _error(str(cut), url, path) from cut
            logging.warning("%s; trying again in %g s", cut, PAUSES[failures])
            time.sleep(PAUSES[failures])
            failures += 1


def file_hash(path: str, kind: str, bar: bool | None) -> str:
    """Hash of a file in hexadecimal; ``kind`` is hashlib's name of it, ``bar`` as for `download` (after a second)."""
    digest = hashlib.new(kind)
    with open(path, "rb") as file, _progress(f"checking {os.path.basename(path)}", os.path.getsize(path), bar,
                                             delay=1, leave=False) as progress:
        for chunk in iter(lambda: file.read(CHUNK), b""):
            digest.update(chunk)
            progress.update(len(chunk))
    return digest.hexdigest()


def _check_hash(url: str, path: str, kind: str, wanted: str, bar: bool | None) -> None:
    """Delete ``<path>.part`` and raise DownloadError unless its hash starts with ``wanted``."""
    found = file_hash(f"{path}.part", kind, bar)
    if not found.startswith(wanted.lower()):
        os.remove(f"{path}.part")
        os.remove(f"{path}.part.json")
        raise _error(f"what arrived has the {kind} {found}, not {wanted}, and was deleted", url, path)


def download(url: str, path: str | os.PathLike[str], sha256: str | None = None, md5: str | None = None,
             bar: bool | None = True) -> str:
    """Fetch a file over HTTP unless it is there already.

    Continues what an earlier, interrupted call left, retries, and verifies the size and every hash that is known.
    Processes that fetch the same file at the same time wait for one another and share the result.

    Args:
        url: address. Redirects are followed and proxies taken from the environment.
        path: where the file goes; its folder is made if it is missing.
        sha256, md5: hash of the file in hexadecimal, or its first digits.
        bar: draw progress bars; None draws it only on a terminal.
    Returns:
        ``path``. A file that was there before is not verified.
    Raises:
        DownloadError: when the file cannot be fetched or written, or is not the one expected.
    """
    path = os.fspath(path)
    folder = os.path.dirname(os.path.abspath(path))
    try:
        os.makedirs(folder, exist_ok=True)
        with _locked_part(path) as part:
            if part is not None:
                announced = _fetch(url, path, part, bar)
                for kind, wanted in (("sha256", sha256), ("sha256", announced), ("md5", md5)):
                    if wanted:
                        _check_hash(url, path, kind, wanted, bar)
                sync_to_disk(f"{path}.part")
                os.replace(f"{path}.part", path)
                os.remove(f"{path}.part.json")
                sync_to_disk(folder)
    except OSError as error:  # of the disk; those of the network have become a _Cut
        raise DownloadError(f"cannot write {path} ({error.strerror or error}): free space or choose a folder that you "
                            f"may write to, or download {url} by hand and put it at {path}") from error
    return path
