"""Access keys of a data folder: who may come in.

Kept in `<data folder>/keys.json`, readable by its owner only. The server looks at the file again when it has changed,
so that `fourfold keys create` and `delete` work beside a running server.
"""

from __future__ import annotations

import fcntl
import os
import secrets
import string
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TypeAlias

import msgspec

_ID_LETTERS = string.ascii_uppercase + "234567"
_SECRET_LETTERS = string.ascii_letters + string.digits + "/+"
BEARER = b"Bearer "


class Key(msgspec.Struct, frozen=True):
    """One access key, in AWS's two forms and as a bearer token."""

    access_key_id: str
    secret_access_key: str
    api_key: str
    created_at: float


_KeyList: TypeAlias = list[Key]  # inside the class, `list` is its method


class Keys:
    """The keys of one data folder.

    Args:
        data_dir: the data folder; made, with mode 0700, where it is missing.
    """

    def __init__(self, data_dir: Path) -> None:
        self._folder = data_dir
        self._file = data_dir / "keys.json"
        self._seen: tuple[int, int, int] | None = None
        self._by_id: dict[str, Key] = {}
        self._by_token: dict[bytes, Key] = {}
        self._refreshing = threading.Lock()
        self.refresh()

    def first(self) -> Key:
        """The oldest key; made where there is none."""
        with self._locked():
            return next(iter(self._read()), None) or self._add()

    def create(self) -> Key:
        """Make a key. It is on disk when this returns."""
        with self._locked():
            return self._add()

    def list(self) -> _KeyList:
        """All keys, oldest first."""
        return self._read()

    def delete(self, access_key_id: str) -> bool:
        """Remove a key; a running server refuses it within a second. False where there is none of this id."""
        with self._locked():
            keys = self._read()
            kept = [key for key in keys if key.access_key_id != access_key_id]
            if len(kept) == len(keys):
                return False
            self._write(kept)
            return True

    def by_id(self, access_key_id: str) -> Key | None:
        """The key of that id. One that is not known may be new: then the file is looked at again."""
        key = self._by_id.get(access_key_id)
        return key if key is not None or not self.refresh() else self._by_id.get(access_key_id)

    def by_authorization(self, header: bytes) -> Key | None:
        """The key whose bearer token the header (`Bearer …`) carries; as `by_id`."""
        key = self._by_token.get(header)
        return key if key is not None or not self.refresh() else self._by_token.get(header)

    def refresh(self) -> bool:
        """Read the file again if it has changed. True where it had."""
        with self._refreshing:
            try:
                stat = self._file.stat()
                seen = (stat.st_mtime_ns, stat.st_size, stat.st_ino)
            except FileNotFoundError:
                seen = None
            if seen == self._seen:
                return False
            keys = self._read()
            self._by_id = {key.access_key_id: key for key in keys}
            self._by_token = {BEARER + key.api_key.encode(): key for key in keys}
            self._seen = seen
            return True

    def _add(self) -> Key:
        key = Key(
            access_key_id="AKIA" + _random(_ID_LETTERS, 16),
            secret_access_key=_random(_SECRET_LETTERS, 40),
            api_key="ff_" + secrets.token_urlsafe(32),
            created_at=time.time(),
        )
        self._write([*self._read(), key])
        return key

    def _read(self) -> _KeyList:
        try:
            return msgspec.json.decode(self._file.read_bytes(), type=_KeyList)
        except FileNotFoundError:
            return []

    def _write(self, keys: _KeyList) -> None:
        temporary = self._file.with_suffix(f".{os.getpid()}.tmp")
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        with os.fdopen(descriptor, "wb") as file:
            file.write(msgspec.json.format(msgspec.json.encode(keys)))
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(self._file)
        self.refresh()

    @contextmanager
    def _locked(self) -> Iterator[None]:
        """One process at a time changes the file."""
        self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        with (self._folder / "keys.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield


def _random(letters: str, length: int) -> str:
    return "".join(secrets.choice(letters) for _ in range(length))
