"""Buckets as folders, for the S3 door: what an object is beside its bytes, uploads in parts, pages of keys.

    <buckets>/<bucket>/<key>                        an object: a plain file
    <buckets>/<bucket>/.fourfold/about/<hash>       what was said of it when it was put: type, metadata, ETag
    <buckets>/<bucket>/.fourfold/uploads/<id>/      parts that are not an object yet
    <buckets>/<bucket>/.fourfold/new/<random>       bytes that are still coming in

What was said of an object holds as long as its file has the size and time of then: a file that was put there by hand,
or written over, is described from itself. All methods block: call them from a thread.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import os
import re
import secrets
import shutil
import zlib
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO

import msgspec

from fourfold.errors import S3Error
from fourfold.storage.objects import HIDDEN, TEMPORARY, About, Location, NoSuchObject, Objects, sync_folder, walk

CHUNK = 1024 * 1024
"""Bytes that are copied at a time."""
SMALLEST_PART = 5 * 1024 * 1024
"""Every part of an upload but the last has at least so many bytes, as in AWS."""

_BUCKET = re.compile(r"(?!\d+\.\d+\.\d+\.\d+$)[a-z0-9](?!.*\.\.)[a-z0-9.-]{1,61}[a-z0-9]")


class Entry(msgspec.Struct):
    """An object in a list."""

    key: str
    size: int
    modified_at: float
    etag: str


class Keys(msgspec.Struct):
    """A page of a list."""

    entries: list[Entry]
    prefixes: list[str]
    last: str
    """The last key or common prefix of the page: the next begins after it. Empty where there is no more."""


class Upload(msgspec.Struct):
    """An upload in parts that has begun."""

    id: str
    key: str
    about: About
    began_at: float


class Part(msgspec.Struct):
    """A part of an upload that has arrived."""

    number: int
    etag: str
    size: int
    modified_at: float


class Incoming:
    """Bytes on their way to become an object or a part; hashed as they come."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.path = folder / secrets.token_hex(16)
        self.size = 0
        self._file: BinaryIO = self.path.open("xb")
        self._md5 = hashlib.md5(usedforsecurity=False)
        self._sha256 = hashlib.sha256()
        self._crc32 = 0

    def write(self, data: bytes) -> None:
        self._file.write(data)
        self.size += len(data)
        self._md5.update(data)
        self._sha256.update(data)
        self._crc32 = zlib.crc32(data, self._crc32)

    @property
    def md5(self) -> str:
        return self._md5.hexdigest()

    @property
    def sha256(self) -> str:
        return self._sha256.hexdigest()

    def checksum(self, algorithm: str) -> str | None:
        """A checksum in base64, as S3's headers have it. None for an algorithm that is not computed."""
        match algorithm:
            case "md5":
                digest = self._md5.digest()
            case "sha256":
                digest = self._sha256.digest()
            case "crc32":
                digest = self._crc32.to_bytes(4, "big")
            case _:
                return None
        return base64.b64encode(digest).decode()

    def move(self, path: Path) -> os.stat_result:
        """Make it the file at `path`, durably. Raises S3Error where something is in the way."""
        self._file.flush()
        os.fsync(self._file.fileno())
        self._file.close()
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self.path.replace(path)
        except (FileExistsError, NotADirectoryError, IsADirectoryError, OSError) as error:
            self.discard()
            raise S3Error(
                "InvalidArgument",
                "Objects are plain files here: a key cannot be both an object and the folder of others, and each part "
                f"of it must be a file name ({error.strerror}).",
            ) from None
        sync_folder(path.parent)
        return path.stat()

    def discard(self) -> None:
        self._file.close()
        self.path.unlink(missing_ok=True)


class Buckets:
    """The buckets of one data folder.

    Args:
        folder: its folders are the buckets; made where it is missing.

    Attributes:
        objects: the same objects as the server itself reaches them.
    """

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._folder = folder
        self.objects = Objects(folder)

    # Buckets

    def names(self) -> list[tuple[str, float]]:
        """Every bucket with the time when it was last changed, by name."""
        found = [entry for entry in os.scandir(self._folder) if entry.is_dir() and not entry.name.startswith(".")]
        return sorted((entry.name, entry.stat().st_mtime) for entry in found)

    def create(self, bucket: str) -> bool:
        """Make a bucket. False where there is one of that name. Raises S3Error where the name is none for a bucket."""
        if not _BUCKET.fullmatch(bucket):
            raise S3Error("InvalidBucketName", f"The specified bucket is not valid: {bucket}")
        try:
            (self._folder / bucket).mkdir()
        except FileExistsError:
            return False
        return True

    def check(self, bucket: str) -> Path:
        """Its folder. Raises S3Error where there is none."""
        folder = self._folder / bucket
        if not bucket or bucket.startswith(".") or "/" in bucket or "\0" in bucket or not folder.is_dir():
            raise S3Error("NoSuchBucket", "The specified bucket does not exist", 404, bucket)
        return folder

    def remove(self, bucket: str) -> None:
        """Remove an empty bucket. Raises S3Error: it is missing, or holds something."""
        folder = self.check(bucket)
        if next(walk(folder, "", "", ""), None) is not None:
            raise S3Error("BucketNotEmpty", "The bucket you tried to delete is not empty", 409, bucket)
        shutil.rmtree(folder)

    # Objects

    def head(self, bucket: str, key: str) -> tuple[Path, About]:
        """An object's file and what is known of it. Raises S3Error: no such bucket or key."""
        self.check(bucket)
        path = self._path(bucket, key)
        try:
            self.objects.head(Location(bucket, key))
        except (NoSuchObject, OSError):
            raise S3Error("NoSuchKey", "The specified key does not exist.", 404, key) from None
        return path, self.objects.about(Location(bucket, key), path.stat())

    def incoming(self, bucket: str, key: str | None = None) -> Incoming:
        """Where the bytes of a new object, or of a part (no key), go. Raises S3Error: no such bucket, or a bad key."""
        folder = self.check(bucket)
        if key is not None:
            self._path(bucket, key)
        return Incoming(folder / TEMPORARY)

    def put(self, bucket: str, key: str, incoming: Incoming, about: About) -> About:
        """Make the bytes that came in, for this key, an object; it is on disk when this returns."""
        stat = incoming.move(self._path(bucket, key))
        about.etag = about.etag or incoming.md5
        about.size, about.modified_ns = stat.st_size, stat.st_mtime_ns
        self.objects.describe(Location(bucket, key), about)
        return about

    def copy(self, source: Location, bucket: str, key: str, about: About | None) -> About:
        """Copy an object; `about` replaces what is known of it."""
        path, known = self.head(source.bucket, source.key)
        incoming = self.incoming(bucket, key)
        _fill(incoming, path, 0, path.stat().st_size)
        kept = msgspec.structs.replace(about or known, etag="")
        return self.put(bucket, key, incoming, kept)

    def delete(self, bucket: str, key: str) -> None:
        """Remove an object and the folders that this leaves empty; nothing happens where there is none."""
        folder = self.check(bucket)
        path = self._path(bucket, key)
        with suppress(FileNotFoundError, NotADirectoryError, IsADirectoryError):
            path.unlink()
        self.objects.forget(Location(bucket, key))
        parent = path.parent
        with suppress(OSError):  # it holds something
            while parent != folder:
                parent.rmdir()
                parent = parent.parent

    def page(self, bucket: str, prefix: str, delimiter: str, after: str, limit: int) -> Keys:
        """A page of an ordered list.

        Args:
            prefix: keys start with it.
            delimiter: keys that have it after the prefix are told once, as a common prefix. Empty: none.
            after: keys (and common prefixes) come after it.
            limit: most keys and common prefixes together.
        """
        page = Keys([], [], "")
        if limit <= 0:
            return page
        last = ""
        for key, stat in walk(self.check(bucket), "", prefix, after, shallow=delimiter == "/"):
            at = key.find(delimiter, len(prefix)) if delimiter else -1
            shown = key if at < 0 else key[: at + len(delimiter)]
            if at >= 0 and shown in (last, after):
                continue
            if len(page.entries) + len(page.prefixes) >= limit:
                page.last = last
                break
            if at >= 0:
                page.prefixes.append(shown)
            elif stat is not None:
                etag = self.objects.about(Location(bucket, key), stat).etag
                page.entries.append(Entry(key, stat.st_size, stat.st_mtime, etag))
            last = shown
        return page

    # Uploads in parts

    def begin(self, bucket: str, key: str, about: About, now: float) -> Upload:
        """Begin an upload."""
        folder = self.check(bucket)
        self._path(bucket, key)
        upload = Upload(secrets.token_hex(16), key, about, now)
        place = folder / HIDDEN / "uploads" / upload.id
        place.mkdir(parents=True)
        (place / "upload.json").write_bytes(msgspec.json.encode(upload))
        return upload

    def uploads(self, bucket: str) -> list[Upload]:
        """Uploads that have begun and not ended, by key."""
        notes = (self.check(bucket) / HIDDEN / "uploads").glob("*/upload.json")
        return sorted((msgspec.json.decode(note.read_bytes(), type=Upload) for note in notes), key=lambda one: one.key)

    def add_part(self, bucket: str, upload: str, number: int, incoming: Incoming) -> str:
        """Keep a part; one of the same number is replaced. Returns its ETag."""
        try:
            place = self._upload(bucket, upload)
        except S3Error:  # given up while the part was on its way
            incoming.discard()
            raise
        older = list(place.glob(f"{number:05}-*"))
        path = place / f"{number:05}-{incoming.md5}"
        incoming.move(path)
        for one in older:
            if one != path:
                one.unlink(missing_ok=True)
        return incoming.md5

    def copy_part(self, bucket: str, upload: str, number: int, source: Location, span: tuple[int, int] | None) -> str:
        """Make a part of (bytes `span`, both ends included, of) an object. Returns its ETag."""
        path, _ = self.head(source.bucket, source.key)
        size = path.stat().st_size
        first, last = span or (0, size - 1)
        if last >= size:
            raise S3Error("InvalidArgument", f"Range specified is not valid for source object of size: {size}")
        incoming = self.incoming(bucket)
        _fill(incoming, path, first, last - first + 1)
        return self.add_part(bucket, upload, number, incoming)

    def parts(self, bucket: str, upload: str) -> list[Part]:
        """The parts that have arrived, by number."""
        found = []
        for path in sorted(self._upload(bucket, upload).glob("[0-9]*-*")):
            stat = path.stat()
            found.append(Part(int(path.name[:5]), path.name[6:], stat.st_size, stat.st_mtime))
        return found

    def complete(self, bucket: str, key: str, upload: str, wanted: Sequence[tuple[int, str]]) -> About:
        """Put the wanted parts (number and ETag) together. Raises S3Error: one is missing, or out of order."""
        place = self._upload(bucket, upload)
        begun = msgspec.json.decode((place / "upload.json").read_bytes(), type=Upload)
        if begun.key != key:
            raise S3Error("NoSuchUpload", "The specified upload does not exist: it is one of another key.", 404, key)
        if [number for number, _ in wanted] != sorted({number for number, _ in wanted}):
            raise S3Error("InvalidPartOrder", "The list of parts was not in ascending order.")
        sizes = {part.number: part for part in self.parts(bucket, upload)}
        for position, (number, etag) in enumerate(wanted, 1):
            if number not in sizes or sizes[number].etag != etag:
                raise S3Error("InvalidPart", f"Part {number} could not be found, or its ETag is another.")
            if position < len(wanted) and sizes[number].size < SMALLEST_PART:
                raise S3Error("EntityTooSmall", f"Part {number} is smaller than 5 MiB and is not the last.")
        if not wanted:
            raise S3Error("MalformedXML", "You must specify at least one part")
        incoming = self.incoming(bucket, key)
        for number, etag in wanted:
            _fill(incoming, place / f"{number:05}-{etag}", 0, sizes[number].size)
        digests = b"".join(bytes.fromhex(etag) for _, etag in wanted)
        whole = f"{hashlib.md5(digests, usedforsecurity=False).hexdigest()}-{len(wanted)}"
        done = self.put(bucket, key, incoming, msgspec.structs.replace(begun.about, etag=whole))
        shutil.rmtree(place, ignore_errors=True)
        return done

    def abort(self, bucket: str, upload: str) -> None:
        """Give an upload up."""
        shutil.rmtree(self._upload(bucket, upload), ignore_errors=True)

    # What they share

    def _path(self, bucket: str, key: str) -> Path:
        """Where an object's file is. Raises S3Error where the key is no name for a file."""
        if len(key.encode("utf-8", "surrogateescape")) > 1024:
            raise S3Error("KeyTooLongError", "Your key is too long")
        segments = key.split("/")
        if not key or "\0" in key or any(part in ("", ".", "..") for part in segments) or segments[0] == HIDDEN:
            raise S3Error(
                "InvalidArgument",
                "Objects are plain files here: a key cannot be empty, start or end with /, or have an empty, . or .. "
                f"part, and .fourfold is the server's own: {key}",
            )
        return self._folder / bucket / key

    def _upload(self, bucket: str, upload: str) -> Path:
        place = self.check(bucket) / HIDDEN / "uploads" / upload
        try:
            known = len(binascii.unhexlify(upload)) == 16 and place.is_dir()
        except (binascii.Error, ValueError):
            known = False
        if not known:
            raise S3Error(
                "NoSuchUpload",
                "The specified upload does not exist. The upload ID may be invalid, or the upload may have been "
                "aborted or completed.",
                404,
            )
        return place


def _fill(incoming: Incoming, path: Path, start: int, length: int) -> None:
    """Copy bytes of a file."""
    try:
        with path.open("rb") as file:
            file.seek(start)
            while length > 0 and (data := file.read(min(CHUNK, length))):
                incoming.write(data)
                length -= len(data)
    except BaseException:
        incoming.discard()
        raise
