"""Where the archive's files are: a folder, or any store that fsspec knows (S3 and its like).

A file is under its own name only when it is whole. Nothing here knows what the files hold, but for
their SHA-256: what has another one is not handed out.
"""

from __future__ import annotations

import hashlib
import os
import re
import tempfile
from contextlib import suppress
from io import BytesIO
from pathlib import Path

import fsspec
from fsspec.implementations.local import LocalFileSystem

from eventstore.stored import LogUnavailable

_CHUNK = 1 << 20
#: Where every archive has files: a store without it is another one, or is not mounted.
MANIFESTS = "manifests"
#: Bytes of the files that are kept of stores far away.
_MOST_KEPT = 4 * 2**30
# Local files whose content was compared with its hash, as they were then.
_compared: set[tuple[str, int, int, str]] = set()


class ArchiveUnavailable(LogUnavailable):
    """A file of the archive is needed and is missing, damaged or out of reach."""

    def __init__(self, message: str) -> None:
        super().__init__(without_userinfo(message))


class ArchiveDamaged(ArchiveUnavailable):
    """The archive is there, and a file of it is not, or not as it was: trying again is no use."""


def without_userinfo(text: str) -> str:
    """A text without the credentials of the URLs in it."""
    return re.sub(r"://[^/@\s]*@", "://", text)


class ObjectStore:
    """Files under names with slashes, below one URL.

    Args:
        url: the path of a folder, or a URL such as ``s3://bucket/prefix``. What a protocol needs
            (keys, an endpoint) it takes from its own environment, or from fsspec's ``FSSPEC_*``.

    Raises:
        ArchiveUnavailable: the URL cannot be used: its protocol is not known or not installed.
    """

    def __init__(self, url: str) -> None:
        self.url = url
        try:
            self._files, root = fsspec.core.url_to_fs(url)
        except (ImportError, ValueError) as error:
            raise ArchiveUnavailable(f"the archive at {url} cannot be opened: {error}") from error
        self._root: str = root.rstrip("/")
        self._local = isinstance(self._files, LocalFileSystem)

    def put(self, name: str, content: bytes | Path) -> None:
        """Store a file, in the place of a former one of that name.

        Args:
            name: where, below the URL.
            content: the bytes, or a local file that holds them.

        Raises:
            ArchiveUnavailable: it could not be stored.
        """
        try:
            if self._local:
                _put_locally(Path(self._path(name)), content)
            elif isinstance(content, bytes):
                self._files.pipe_file(self._path(name), content)
            else:
                self._files.put_file(str(content), self._path(name))
        except Exception as error:
            raise ArchiveUnavailable(f"{self._path(name)} cannot be written: {error}") from error

    def size(self, name: str) -> int:
        """How many bytes a file has.

        Raises:
            ArchiveUnavailable: it is not there, or cannot be looked at.
        """
        path = self._path(name)
        try:
            if self._local:
                return Path(path).stat().st_size
            self._files.invalidate_cache()  # what was listed before says nothing about now
            return int(self._files.info(path)["size"])
        except Exception as error:
            raise self._unread(path, error) from error

    def sha256(self, name: str) -> str:
        """The SHA-256 of a file's bytes, in hex.

        Raises:
            ArchiveUnavailable: it is not there, or cannot be read.
        """
        found = hashlib.sha256()
        try:
            with self._files.open(self._path(name), "rb") as opened:
                while chunk := opened.read(_CHUNK):
                    found.update(chunk)
        except Exception as error:
            raise self._unread(self._path(name), error) from error
        return found.hexdigest()

    def find(self, name: str) -> bytes | None:
        """What a small file holds; None: it is not there.

        Raises:
            ArchiveUnavailable: the store is out of reach.
        """
        path = self._path(name)
        try:
            if not self._local:
                self._files.invalidate_cache()
            return bytes(self._files.cat_file(path)) if self._files.exists(path) else None
        except Exception as error:
            raise ArchiveUnavailable(f"{path} of the archive cannot be read: {error}") from error

    def source(self, name: str, size: int, sha256: str) -> str | BytesIO:
        """What a reader of Parquet opens: the path of a local file, else the file's bytes.

        A file is compared with its hash once in a process, as long as it is not touched. What comes
        from far away is kept in ``CHAINLYTICS_HOME``, if there is room.

        Args:
            name: which file.
            size: how many bytes it has to have.
            sha256: the SHA-256 that it has to have, in hex.

        Raises:
            ArchiveDamaged: it is missing, or is another one.
            ArchiveUnavailable: it is out of reach.
        """
        path = self._path(name)
        if self._local:
            found = self.size(name)
            try:
                if found == size and _is_same(Path(path), sha256):
                    return path
            except OSError as error:
                raise self._unread(path, error) from error
        else:
            kept = _cache() / f"{sha256}.parquet"
            with suppress(OSError):
                if _is_same(kept, sha256):
                    return str(kept)
            try:
                data = self._files.cat_file(path)
            except Exception as error:
                raise self._unread(path, error) from error
            found = len(data)
            if hashlib.sha256(data).hexdigest() == sha256:
                return _kept(kept, data) or BytesIO(data)
        wrong = "other content" if found == size else f"{found:,} bytes, not {size:,}"
        raise ArchiveDamaged(f"{path} of the archive is damaged: it has {wrong}")

    def _unread(self, path: str, error: Exception) -> ArchiveUnavailable:
        """What to raise for a file that could not be read."""
        kind = ArchiveUnavailable
        if isinstance(error, FileNotFoundError):
            try:
                if self._files.exists(self._path(MANIFESTS)):
                    kind = ArchiveDamaged
            except Exception:
                kind = ArchiveUnavailable
        return kind(f"{path} of the archive cannot be read: {error}")

    def _path(self, name: str) -> str:
        return f"{self._root}/{name}"


def absolute(url: str) -> str:
    """A URL as it stands; the path of a folder from the root on, wherever it is read from."""
    return url if "://" in url else str(Path(url).expanduser().resolve())


def _is_same(path: Path, sha256: str) -> bool:
    """Whether a local file's content has a hash.

    Raises:
        OSError: it cannot be read.
    """
    status = path.stat()
    key = (str(path), status.st_size, status.st_mtime_ns, sha256)
    if key not in _compared:
        with path.open("rb") as opened:
            if hashlib.file_digest(opened, "sha256").hexdigest() != sha256:
                return False
        _compared.add(key)
    return True


def _cache() -> Path:
    """The folder of what is kept of stores far away."""
    if home := os.environ.get("CHAINLYTICS_HOME"):
        return Path(home) / "cache" / "archive"
    caches = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(caches).expanduser() / "chainlytics" / "archive"


def _kept(path: Path, data: bytes) -> str | None:
    """Keep a file of a store far away, in the place of the oldest ones; None: there is no room."""
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        # Several may fetch the same file at once.
        with tempfile.NamedTemporaryFile(dir=path.parent, delete=False) as part:
            part.write(data)
        Path(part.name).replace(path)
        every = sorted(
            ((one.stat(), one) for one in path.parent.iterdir()), key=lambda of: -of[0].st_mtime_ns
        )
        room = _MOST_KEPT
        for status, one in every:
            room -= status.st_size
            if room < 0 and one != path:
                one.unlink(missing_ok=True)
    except OSError:
        return None
    return str(path)


def _put_locally(path: Path, content: bytes | Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(path.name + ".part")
    with part.open("wb") as written:
        if isinstance(content, bytes):
            written.write(content)
        else:
            with content.open("rb") as read:
                while chunk := read.read(_CHUNK):
                    written.write(chunk)
        written.flush()
        os.fsync(written.fileno())
    part.replace(path)
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
