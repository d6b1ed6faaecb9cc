"""Objects by `s3://bucket/key` URL, as the server itself reaches them.

On one machine buckets are folders and objects plain files, `<buckets>/<bucket>/<key>`; the folder `.fourfold` of a
bucket is the server's own (`buckets`). All methods block: call them from a worker or a thread. A writer's object
appears whole, by rename, when it is committed, and not before.
"""

from __future__ import annotations

import ctypes
import hashlib
import os
import re
import secrets
import shutil
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from io import BufferedReader
from pathlib import Path
from types import TracebackType
from typing import BinaryIO
from urllib.parse import unquote, urlsplit

import msgspec

from fourfold.errors import ValidationException

HIDDEN = ".fourfold"
TEMPORARY = f"{HIDDEN}/new"
"""Folder in a bucket for what is not an object yet; on the same file system, so that a rename makes it one."""

_LABEL = "user.mime_type"
"""The extended attribute in which freedesktop.org keeps a file's media type."""

_HOST = re.compile(
    r"(?:(?P<bucket>[a-z0-9][a-z0-9.-]+)\.)?s3(?:[.-](?:fips|dualstack))*(?:[.-][a-z0-9-]+)?\.amazonaws\.com(?:\.cn)?"
)

UNKNOWN_TYPE = "binary/octet-stream"

Commit = Callable[[Callable[[], None]], object]


class About(msgspec.Struct, kw_only=True, omit_defaults=True):
    """What was said of an object when it was put."""

    etag: str = ""
    content_type: str = UNKNOWN_TYPE
    headers: dict[str, str] = {}
    """Content-Encoding, Content-Disposition, Cache-Control and their like, by lower-case name."""
    metadata: dict[str, str] = {}
    """The client's own `x-amz-meta-…`, without that prefix."""
    size: int = 0
    modified_ns: int = 0


class NoSuchObject(ValidationException):
    """Nothing is stored under that URL."""


@dataclass(frozen=True)
class Location:
    """Where an object is. `key` may be a prefix."""

    bucket: str
    key: str

    def __str__(self) -> str:
        return f"s3://{self.bucket}/{self.key}"


@dataclass(frozen=True)
class ObjectInfo:
    """An object: where, how many bytes, when it was last written (seconds since the epoch)."""

    location: Location
    size: int
    modified_at: float


def parse_location(url: str) -> Location:
    """Take `s3://bucket/key` or `https://bucket.s3.region.amazonaws.com/key` apart, whose query is not read.

    Raises:
        ValidationException: it is neither.
    """
    scheme, _, rest = url.partition("://")
    if scheme == "s3":
        bucket, _, key = rest.partition("/")  # as it stands: a key may hold ? and #
        if bucket:
            return Location(bucket, key)
    elif scheme == "https":
        parts = urlsplit(url, allow_fragments=False)
        path = unquote(parts.path.removeprefix("/"))
        if match := _HOST.fullmatch(parts.netloc):
            bucket, _, key = (match["bucket"], "", path) if match["bucket"] else path.partition("/")
            return Location(bucket, key)
    raise ValidationException(f"{url!r} is not the address of an object: write s3://bucket/key.")


def unread_etag(stat: os.stat_result) -> str:
    """The ETag of a file whose content was not read: it has the form of an upload's in parts."""
    return f"{stat.st_mtime_ns:032x}-0"


def label(path: str, content_type: str) -> bool:
    """Write on a file that will be an object what it is: that costs a tenth of what a note does, and is as durable.

    Returns:
        False where the file system, or Python on this system, cannot.

    Raises:
        FileNotFoundError: there is no such file.
    """
    try:
        os.setxattr(path, _LABEL, content_type.encode("utf-8", "replace"))
    except FileNotFoundError:
        raise
    except (AttributeError, OSError):
        return False
    return True


def _labelled(path: Path) -> str | None:
    try:
        return os.getxattr(path, _LABEL).decode("utf-8", "replace")
    except (AttributeError, OSError):
        return None


class Objects:
    """The buckets of one data folder.

    Args:
        buckets: the folder whose folders are the buckets.
    """

    def __init__(self, buckets: Path) -> None:
        self._buckets = buckets

    def path(self, location: Location) -> Path:
        """The file that is (or would be) this object.

        Raises:
            ValidationException: the name leads out of its bucket, or into what is hidden.
        """
        parts = location.key.split("/")
        if "\0" in location.key or any(part in (".", "..") for part in (*parts, location.bucket)):
            raise ValidationException(f"{location} is no name for an object.")
        if not location.bucket or "/" in location.bucket or parts[0] == HIDDEN:
            raise ValidationException(f"{location} is no name for an object.")
        return Path(f"{self._buckets}/{location.bucket}/{location.key}")

    def head(self, location: Location) -> ObjectInfo:
        """Size and time. Raises NoSuchObject."""
        path = self.path(location)
        if not location.key or location.key.endswith("/") or not path.is_file():
            raise NoSuchObject(f"There is no object {location}.")
        stat = path.stat()
        return ObjectInfo(location, stat.st_size, stat.st_mtime)

    def about(self, location: Location, stat: os.stat_result | None = None) -> About:
        """What was said of an object, where it is still the one that it was said of.

        Args:
            location: of the object.
            stat: of its file, where that is known.

        Raises:
            FileNotFoundError: there is no such object.
        """
        path = self.path(location)
        stat = stat or path.stat()
        with suppress(OSError, msgspec.MsgspecError):
            about = msgspec.json.decode(self._note(location).read_bytes(), type=About)
            if (about.size, about.modified_ns) == (stat.st_size, stat.st_mtime_ns):
                return about
        return About(
            etag=unread_etag(stat),
            content_type=_labelled(path) or UNKNOWN_TYPE,
            size=stat.st_size,
            modified_ns=stat.st_mtime_ns,
        )

    def describe(self, location: Location, about: About) -> None:
        """Note what an object is. Not synced: after a crash it may be an object of which nothing is known."""
        note = self._note(location)
        note.parent.mkdir(parents=True, exist_ok=True)
        temporary = note.with_suffix(f".{secrets.token_hex(8)}")
        temporary.write_bytes(msgspec.json.encode(about))
        temporary.replace(note)

    def forget(self, location: Location) -> None:
        """Remove such a note."""
        self._note(location).unlink(missing_ok=True)

    def open(self, location: Location) -> BufferedReader:
        """The object as a file to read and seek in. Raises NoSuchObject."""
        self.head(location)
        return self.path(location).open("rb")

    def get(self, location: Location, limit: int | None = None) -> bytes:
        """All of an object. Raises NoSuchObject, or ValidationException where it has more than `limit` bytes."""
        size = self.head(location).size
        if limit is not None and size > limit:
            raise ValidationException(f"{location} has {size:,} bytes; the limit is {limit:,}.")
        return self.path(location).read_bytes()

    def list(self, prefix: Location) -> Iterator[ObjectInfo]:
        """Objects whose key starts so, by key in byte order, as S3 lists them."""
        self.path(prefix)
        for key, stat in walk(self._buckets / prefix.bucket, "", prefix.key, ""):
            if stat is not None:
                yield ObjectInfo(Location(prefix.bucket, key), stat.st_size, stat.st_mtime)

    def put(self, location: Location, body: bytes) -> None:
        """Write an object. It is on disk when this returns."""
        with self.writer(location) as file:
            file.write(body)

    def writer(self, location: Location, commit: Commit | None = None) -> ObjectWriter:
        """A file to write; it becomes the object when its `with` block ends without an exception.

        Args:
            location: where.
            commit: gets what makes the file an object, to call it where and when it likes. None: called at once.

        Raises:
            ValidationException: there is no such bucket.
        """
        path = self.path(location)
        return ObjectWriter(self.folder(location.bucket) / TEMPORARY, path, commit)

    def folder(self, bucket: str) -> Path:
        """The folder that is a bucket. Raises ValidationException where there is none."""
        folder = self._buckets / bucket
        if "/" in bucket or bucket in ("", ".", "..") or not folder.is_dir():
            raise ValidationException(f"There is no bucket {bucket}: create it first.")
        return folder

    def make_bucket(self, bucket: str) -> None:
        """Make a bucket where there is none. Raises ValidationException for what is no name of one."""
        self.path(Location(bucket, ""))
        (self._buckets / bucket).mkdir(parents=True, exist_ok=True)

    def delete(self, location: Location) -> None:
        """Remove an object; nothing happens where there is none."""
        self.path(location).unlink(missing_ok=True)
        self.forget(location)

    def _note(self, location: Location) -> Path:
        digest = hashlib.sha256(location.key.encode("utf-8", "surrogateescape")).hexdigest()
        return self._buckets / location.bucket / HIDDEN / "about" / digest[:2] / digest[2:]

    def sweep(self) -> None:
        """At start: remove what writers left that never committed."""
        for folder in self._buckets.glob(f"*/{TEMPORARY}"):
            shutil.rmtree(folder, ignore_errors=True)


class ObjectWriter:
    """A context manager around the temporary file of an object."""

    def __init__(self, temporary: Path, path: Path, commit: Commit | None) -> None:
        self._folder = temporary
        self._temporary = temporary / secrets.token_hex(16)
        self._path = path
        self._commit_by = commit
        self._file: BinaryIO

    def __enter__(self) -> BinaryIO:
        self._folder.mkdir(parents=True, exist_ok=True)
        self._file = self._temporary.open("wb")
        return self._file

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if kind is not None:
            self._file.close()
            self._temporary.unlink(missing_ok=True)
        elif self._commit_by is not None:
            self._commit_by(self._commit)
        else:
            self._commit()

    def _commit(self) -> None:
        """It is on disk, and the object, when this returns."""
        self._file.flush()
        os.fsync(self._file.fileno())
        self._file.close()
        self._path.parent.mkdir(parents=True, exist_ok=True)
        self._temporary.replace(self._path)
        sync_folder(self._path.parent)


def sync_folder(folder: Path) -> None:
    """A rename is durable when its folder has been synced."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


class FileSystems:
    """Syncs what was written, many files at once: one sync of a file system instead of one for each file.

    `sync` may run in one thread while another writes.
    """

    def __init__(self) -> None:
        self._of: dict[str, int] = {}
        self._descriptors: dict[int, int] = {}
        self._written: set[int] = set()

    def of(self, folder: str) -> int:
        """The file system that a folder is on. Ask before something is written: later failures are noted from now on.

        Raises:
            FileNotFoundError: there is no such folder.
        """
        found = self._of.get(folder)
        if found is None:
            found = self._of[folder] = os.stat(folder).st_dev
            if found not in self._descriptors:
                self._descriptors[found] = os.open(folder, os.O_RDONLY)
        return found

    def wrote(self, system: int) -> None:
        """Something was written and is in its place."""
        self._written.add(system)

    def sync(self) -> None:
        """What was written before is on disk when this returns. Raises OSError."""
        written, self._written = self._written, set()
        try:
            for system in written:
                _sync_file_system(self._descriptors[system])
        except OSError:
            self._written |= written
            raise


_libc = ctypes.CDLL(None, use_errno=True)


def _sync_file_system(descriptor: int) -> None:
    try:
        syncfs = _libc.syncfs
    except AttributeError:  # not Linux
        os.sync()
        return
    if syncfs(descriptor):
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))


def walk(
    folder: Path, stem: str, prefix: str, after: str, *, shallow: bool = False
) -> Iterator[tuple[str, os.stat_result | None]]:
    """Keys with the prefix and after `after`, in byte order: `a-b` comes before `a/b`, hence the slash when sorting.

    Args:
        folder: where to look.
        stem: its key, with a slash at its end.
        shallow: tell a folder below the prefix by its first key alone, without a stat.
    """
    try:
        found = [(entry, entry.is_dir()) for entry in os.scandir(folder)]
    except (FileNotFoundError, NotADirectoryError):
        return
    found.sort(key=lambda one: os.fsencode(one[0].name) + (b"/" if one[1] else b""))
    for entry, is_folder in found:
        key = stem + entry.name
        if not stem and entry.name == HIDDEN:
            continue
        if not is_folder:
            if key.startswith(prefix) and os.fsencode(key) > os.fsencode(after) and entry.is_file():
                with suppress(FileNotFoundError):  # deleted while we list
                    yield key, entry.stat()
            continue
        below = f"{key}/"
        if not (below.startswith(prefix) or prefix.startswith(below)):
            continue
        if os.fsencode(after) > os.fsencode(below) and not after.startswith(below):
            continue  # all that is in there comes before
        inside = walk(Path(entry.path), below, prefix, after, shallow=shallow)
        if shallow and len(below) > len(prefix) and below.startswith(prefix):
            first = next(inside, None)
            if first is not None:
                yield first[0], None
        else:
            yield from inside
