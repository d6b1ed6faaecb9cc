"""A model on this disk as one file that can be uploaded: a folder becomes model.tar.gz, a file stays as it is."""

from __future__ import annotations

import gzip
import hashlib
import tarfile
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from fourfold.cli.client import CommandError


@dataclass(frozen=True)
class PackedArtifact:
    """A file to upload."""

    path: Path
    name: str
    """The last part of its key."""
    digest: str
    """SHA-256 of its bytes, hexadecimal. The same folder gives the same digest: no times, no owners, one order."""


@contextmanager
def packed(source: Path) -> Iterator[PackedArtifact]:
    """A file or folder as one file, for as long as the block lasts. Raises CommandError where there is nothing."""
    if source.is_file():
        yield PackedArtifact(source, source.name, _digest(source))
    elif source.is_dir():
        with tempfile.TemporaryDirectory(prefix="fourfold-") as scratch:
            archive = Path(scratch) / "model.tar.gz"
            _pack(source, archive)
            yield PackedArtifact(archive, archive.name, _digest(archive))
    else:
        raise CommandError(f"there is no file or folder {source}")


def _pack(folder: Path, archive: Path) -> None:
    files = sorted(path for path in folder.rglob("*") if path.is_file() and "__pycache__" not in path.parts)
    if not files:
        raise CommandError(f"the folder {folder} is empty: it should hold a model")
    with (
        archive.open("wb") as raw,
        gzip.GzipFile("", "wb", compresslevel=1, fileobj=raw, mtime=0) as zipped,
        tarfile.open(fileobj=zipped, mode="w", dereference=True) as tar,
    ):
        for path in files:
            tar.add(path, arcname=path.relative_to(folder).as_posix(), filter=_anonymous)


def _anonymous(member: tarfile.TarInfo) -> tarfile.TarInfo:
    member.mtime, member.uid, member.gid, member.uname, member.gname = 0, 0, 0, "", ""
    return member


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
