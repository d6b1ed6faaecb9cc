"""Model artifacts on this machine: fetched, unpacked safely, kept by content.

    fetch("s3://bucket/model.tar.gz")  →  <folder>/<sha256 of the bytes>/
    fetch("hf://org/repo@revision")    →  the same, from a Hugging Face hub (`hub`)

The same bytes are unpacked once, whoever asks, in whatever thread or process; an artifact appears whole, by rename.
"""

from __future__ import annotations

import hashlib
import lzma
import os
import shutil
import tarfile
import tempfile
import zlib
from collections.abc import Callable, Iterable
from contextlib import suppress
from io import BufferedReader
from pathlib import Path, PurePosixPath
from typing import BinaryIO

from fourfold.errors import ModelLoadError, ValidationException
from fourfold.storage import hub
from fourfold.storage.objects import Location, Objects, parse_location

MOST_BYTES = 50 * 1024**3
"""Bytes that an archive may unpack to."""
MOST_RATIO = 200
"""Unpacked bytes per archive byte: real models stay far below, a bomb does not."""
MOST_MEMBERS = 100_000

_MOST_IDENTITIES = 10_000
_PARTIAL = ".partial-"
_BLOCK = 1024 * 1024


class Artifacts:
    """The artifacts of one data folder.

    Args:
        folder: where they are kept.
        objects: storage that `s3://` URLs lead to.
    """

    def __init__(self, folder: Path, objects: Objects) -> None:
        self._folder = folder
        self._objects = objects
        self._identities: dict[tuple[str | int, ...], str] = {}
        """Of files that were read before, by name and what the file system tells of them: read once, hashed once."""

    def fetch(self, url: str, code: str = "") -> Path:
        """A local folder with the unpacked artifact; blocking.

        Args:
            url: `s3://bucket/key` of a single file or a tar archive, `s3://bucket/prefix/` of many files,
                `hf://ORG/REPO[@REVISION][/FILE]`; empty: no files.
            code: the same for a handler's code that is kept apart: it becomes the artifact's `code/`.

        Raises:
            ModelLoadError: there is nothing, or an archive is broken or unsafe; says which member and why.
        """
        folder = self._fetch(url) if url else self._publish_new("empty", lambda _: None)
        return self._with_code(folder, self._fetch(code)) if code else folder

    def _fetch(self, url: str) -> Path:
        if url.startswith(hub.SCHEME):
            return self._fetch_hub(url)
        try:
            location = parse_location(url)
            if location.key.endswith("/") or not location.key:
                return self._fetch_prefix(location)
            with self._objects.open(location) as source:
                return self._keep(source, PurePosixPath(location.key).name)
        except (ValidationException, OSError) as error:
            reason = error.message if isinstance(error, ValidationException) else str(error)
            raise ModelLoadError(f"Could not find model data at {url}: {reason}") from error

    def sweep(self) -> None:
        """At start: remove what a crash left half done."""
        for path in self._folder.glob(f"{_PARTIAL}*"):
            _remove(path)

    def collect(self, used: Iterable[Path]) -> None:
        """Remove the artifacts that are not among `used`."""
        kept = {path.name for path in used}
        for path in self._folder.glob("*"):
            if path.name not in kept and not path.name.startswith("."):
                _remove(path)

    def _keep(self, source: BufferedReader, name: str) -> Path:
        stat = os.fstat(source.fileno())
        seen = (name, stat.st_dev, stat.st_ino, stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns)
        archive = _is_archive(source, name)
        identity = self._identities.get(seen)
        if identity is None:
            digest = hashlib.file_digest(source, "sha256").hexdigest()
            identity = digest if archive else f"{digest}-{hashlib.sha256(name.encode()).hexdigest()[:8]}"
            if len(self._identities) >= _MOST_IDENTITIES:
                self._identities.clear()
            self._identities[seen] = identity

        def fill(partial: Path) -> None:
            if archive:
                _unpack(source, partial, name)
                return
            source.seek(0)
            with (partial / name).open("wb") as copy:
                shutil.copyfileobj(source, copy, _BLOCK)

        return self._publish_new(identity, fill)

    def _fetch_prefix(self, prefix: Location) -> Path:
        """Every object under a prefix, as a folder; told apart by names, sizes and times."""
        entries = list(self._objects.list(prefix))
        if not entries:
            raise ValidationException(f"there is no object under {prefix}.")
        listing = "\n".join(f"{entry.location} {entry.size} {entry.modified_at}" for entry in entries)

        def fill(partial: Path) -> None:
            for entry in entries:
                copy = partial / entry.location.key[len(prefix.key) :]
                copy.parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(self._objects.path(entry.location), copy)

        return self._publish_new(hashlib.sha256(listing.encode()).hexdigest(), fill)

    def _fetch_hub(self, url: str) -> Path:
        found = hub.download(url)
        if found.is_file():
            with found.open("rb") as source:
                return self._keep(source, found.name)

        def fill(partial: Path) -> None:
            shutil.copytree(found, partial, copy_function=_link, dirs_exist_ok=True)

        return self._publish_new(f"hub-{found.name}", fill)

    def _with_code(self, model: Path, code: Path) -> Path:
        """Both as one artifact; files are linked, not copied, since none of them ever changes."""

        def fill(partial: Path) -> None:
            shutil.copytree(model, partial, copy_function=_link, dirs_exist_ok=True, ignore=_only_code_at(model))
            shutil.copytree(code, partial / "code", copy_function=_link)

        return self._publish_new(hashlib.sha256(f"{model.name} {code.name}".encode()).hexdigest(), fill)

    def _publish_new(self, identity: str, fill: Callable[[Path], None]) -> Path:
        """The artifact of that identity, filled where it is not there yet."""
        target = self._folder / identity
        if target.is_dir():
            return target
        partial = self._partial()
        try:
            fill(partial)
            return _publish(partial, target)
        except BaseException:
            _remove(partial)
            raise

    def _partial(self) -> Path:
        self._folder.mkdir(parents=True, exist_ok=True)
        return Path(tempfile.mkdtemp(prefix=_PARTIAL, dir=self._folder))


def _link(source: str, target: str) -> None:
    """A second name for a file (of what a symbolic link leads to), or a copy where it is on another disk."""
    real = os.path.realpath(source)
    try:
        os.link(real, target)
    except OSError:
        shutil.copyfile(real, target)


def _only_code_at(model: Path) -> Callable[[str, list[str]], list[str]]:
    """For copytree: leaves out the model's own code, in whose place other code comes."""
    return lambda folder, names: ["code"] if folder == str(model) and "code" in names else []


def _publish(partial: Path, target: Path) -> Path:
    """Make a finished folder visible under its name, read-only. Another may have been faster: then that one stays."""
    for path in partial.rglob("*"):
        if path.is_file():
            path.chmod(path.stat().st_mode & ~0o222)
    partial.chmod(0o755)
    try:
        partial.rename(target)
    except OSError:
        if not target.is_dir():
            raise
        _remove(partial)
    return target


def _is_archive(source: BinaryIO, name: str) -> bool:
    """A tar archive, compressed or not; told by its bytes, because names lie. Other files may be compressed too.

    What is compressed and called an archive is one, so that a broken one is told.
    """
    source.seek(0)
    start = source.read(512)
    source.seek(0)
    if not start.startswith((b"\x1f\x8b", b"BZh", b"\xfd7zXZ\0")):
        return start[257:262] == b"ustar"
    if name.endswith(".tgz") or ".tar" in name:
        return True
    try:
        return tarfile.is_tarfile(source)
    except (EOFError, OSError, zlib.error, lzma.LZMAError):
        return True
    finally:
        source.seek(0)


def _unpack(source: BinaryIO, folder: Path, name: str) -> None:
    source.seek(0, os.SEEK_END)
    most = min(MOST_BYTES, max(source.tell() * MOST_RATIO, 64 * 1024 * 1024))
    source.seek(0)
    total = count = 0
    member: tarfile.TarInfo | None = None
    try:
        with tarfile.open(fileobj=source, mode="r|*") as archive:
            for member in archive:
                count += 1
                total += member.size
                if count > MOST_MEMBERS:
                    raise ModelLoadError(f"{name} has more than {MOST_MEMBERS:,} members; that is no model archive.")
                if total > most:
                    raise ModelLoadError(
                        f"{name} would unpack to over {most:,} bytes (at {member.name!r}); that is no model archive."
                    )
                archive.extract(member, folder, filter="data")
    except tarfile.FilterError as error:
        where = member.name if member is not None else "?"
        raise ModelLoadError(f"{name} is not safe to unpack: member {where!r}: {error}. Pack it again.") from error
    except (tarfile.TarError, EOFError, OSError) as error:
        raise ModelLoadError(
            f"{name} is not a whole tar archive: {error}. Pack it again: tar czf model.tar.gz *"
        ) from error


def _remove(path: Path) -> None:
    with suppress(OSError):
        shutil.rmtree(path)
