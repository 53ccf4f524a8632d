"""Where a label store keeps its entries: a folder of files, or a PostgreSQL database. Both hold texts by key."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, TypeVar
from urllib.parse import urlsplit

from potstill.data import write_atomic
from potstill.errors import BackendError, ConfigError, StoreError

if TYPE_CHECKING:
    import psycopg

Result = TypeVar("Result")
BROKEN = ".broken"  # ending of the name under which an entry that is not whole is kept
PATIENCE = (0.0, 1.0, 5.0, 15.0, 60.0)  # s before each attempt to reach a database; a label may have cost an hour
SCHEMES = ("postgresql", "postgres")


class Shelf(Protocol):
    """Texts by key. A text that was written is there whole, also after a crash a moment later."""

    def read(self, key: str) -> bytes | None:
        """Return a text, or None."""
        ...

    def write(self, key: str, text: bytes) -> None:
        """Write a text in place of one that may be there."""
        ...

    def delete(self, key: str) -> None:
        """Delete a text that may be there."""
        ...

    def put_aside(self, key: str) -> str | None:
        """Keep a text under another name and return that; None where it is gone already."""
        ...

    def __iter__(self) -> Iterator[str]:
        """Yield all keys in order."""
        ...

    def __len__(self) -> int:
        """Return how many texts there are."""
        ...

    def where(self, key: str) -> str:
        """Say where a text is, for a person."""
        ...


@dataclass(frozen=True)
class Folder:
    """One file a text, renamed into place after its content reached the disk.

    That is safe on NFS and Lustre, where databases in files are not.
    """

    path: Path

    def _file(self, key: str) -> Path:
        return self.path / key[:2] / f"{key}.json"

    def read(self, key: str) -> bytes | None:
        """Return a text, or None."""
        try:
            return self._file(key).read_bytes()
        except FileNotFoundError:
            return None

    def write(self, key: str, text: bytes) -> None:
        """Write a text in place of one that may be there.

        Raises
        ------
        StoreError
            If the disk is full, or not to be written to.
        """
        try:
            write_atomic(self._file(key), text)
        except OSError as error:
            raise StoreError(
                f"{error.strerror}: a label could not be kept in {self.path}. See to that and run the same command "
                "again: all that had been kept is there, whole."
            ) from error

    def delete(self, key: str) -> None:
        """Delete a text that may be there."""
        self._file(key).unlink(missing_ok=True)

    def put_aside(self, key: str) -> str | None:
        """Keep a text under another name and return that."""
        file = self._file(key)
        aside = file.with_name(file.name + BROKEN)
        try:
            file.replace(aside)
        except FileNotFoundError:  # another driver was faster
            return None
        return str(aside)

    def __iter__(self) -> Iterator[str]:
        return (file.stem for file in sorted(self.path.glob("??/*.json")))

    def __len__(self) -> int:
        return sum(1 for _ in self.path.glob("??/*.json"))

    def where(self, key: str) -> str:
        """Say where a text is."""
        return str(self._file(key))


class Postgres:
    """One row a text, in the table ``potstill_labels``, which is made where it is not there.

    Every process has a connection of its own. Where the database cannot be reached for a while, a call waits.

    Parameters
    ----------
    url : str
        ``postgresql://user@host:port/name``. Passwords come from ``~/.pgpass`` or ``PGPASSWORD``, never from here,
        because configurations are recorded.

    Raises
    ------
    ConfigError
        If the URL holds a password.
    BackendError
        If psycopg is not installed.
    """

    def __init__(self, url: str) -> None:
        self._connection: psycopg.Connection[Any] | None = None
        self._owner = 0  # the process that opened it
        if urlsplit(url).password is not None:
            raise ConfigError(
                "A label store's URL must not hold a password, because configurations are recorded. Put it into "
                "~/.pgpass, or into the environment variable PGPASSWORD."
            )
        if find_spec("psycopg") is None:
            raise BackendError(
                "A label store in PostgreSQL needs psycopg, which is not installed: pip install 'potstill[postgres]'."
            )
        self.url = url

    def __del__(self) -> None:
        self._close()

    def _close(self) -> None:
        if self._connection is not None and self._owner == os.getpid():
            self._connection.close()
        self._connection = None

    def __getstate__(self) -> dict[str, Any]:
        """Travel to other processes without the connection."""
        return {"url": self.url, "_connection": None, "_owner": 0}

    def read(self, key: str) -> bytes | None:
        """Return a text, or None."""
        row = self._one("SELECT entry FROM potstill_labels WHERE key = %s", key)
        return None if row is None else bytes(row[0])

    def write(self, key: str, text: bytes) -> None:
        """Write a text in place of one that may be there."""
        self._do(
            "INSERT INTO potstill_labels (key, entry) VALUES (%s, %s) "
            "ON CONFLICT (key) DO UPDATE SET entry = excluded.entry",
            key,
            text,
        )

    def delete(self, key: str) -> None:
        """Delete a text that may be there."""
        self._do("DELETE FROM potstill_labels WHERE key = %s", key)

    def put_aside(self, key: str) -> str | None:
        """Keep a text under another name and return that."""
        text = self.read(key)
        if text is None:
            return None
        self.write(key + BROKEN, text)
        self.delete(key)
        return self.where(key + BROKEN)

    def __iter__(self) -> Iterator[str]:
        found = self._reached(lambda c: c.execute(_KEYS, ()).fetchall())
        return (row[0] for row in found)

    def __len__(self) -> int:
        row = self._one(_COUNT)
        return 0 if row is None else int(row[0])

    def where(self, key: str) -> str:
        """Say where a text is."""
        return f"row {key} of potstill_labels in {self.url}"

    def _one(self, query: str, *values: Any) -> Any:
        return self._reached(lambda c: c.execute(query, values).fetchone())

    def _do(self, query: str, *values: Any) -> None:
        self._reached(lambda c: c.execute(query, values))

    def _reached(self, act: Callable[[psycopg.Connection[Any]], Result]) -> Result:
        """Act on the connection; where it is lost, make another and act again, since all that we do can be repeated."""
        import psycopg

        told = ""
        for pause in PATIENCE:
            time.sleep(pause)
            try:
                return act(self._connected())
            except psycopg.OperationalError as error:
                told = " ".join(str(error).split())
                self._close()
        raise StoreError(
            f"The label store {self.url} cannot be reached: {told}. What was committed is there: start again when the "
            "database is."
        )

    def _connected(self) -> psycopg.Connection[Any]:
        import psycopg

        if self._connection is None or self._owner != os.getpid() or self._connection.closed:
            self._connection, self._owner = psycopg.connect(self.url, autocommit=True, connect_timeout=10), os.getpid()
            with self._connection.transaction():
                self._connection.execute("SELECT pg_advisory_xact_lock(7070)")  # two that begin at once make one table
                self._connection.execute(_TABLE)
        return self._connection


_KEYS = "SELECT key FROM potstill_labels WHERE key NOT LIKE '%%.broken' ORDER BY key"
_COUNT = "SELECT count(*) FROM potstill_labels WHERE key NOT LIKE '%%.broken'"
_TABLE = "CREATE TABLE IF NOT EXISTS potstill_labels (key text PRIMARY KEY, entry bytea NOT NULL)"


def shelf(where: str | os.PathLike[str]) -> Shelf:
    """Return what a place means: a URL of PostgreSQL, or a folder."""
    if isinstance(where, str) and where.partition("://")[0] in SCHEMES:
        return Postgres(where)
    return Folder(Path(where))
