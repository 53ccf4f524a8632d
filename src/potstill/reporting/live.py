"""A run while it goes on: what its directory says, and a page of it that only this machine can open.

The page is read-only. Whoever asks needs the token that the address carries, and has to have asked for this very host:
another site's script, which a browser would let ask for a name that leads here, is turned away.
"""

from __future__ import annotations

import hmac
import json
import secrets
from collections.abc import Mapping
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib.resources import files
from pathlib import Path
from typing import Any

from potstill.errors import ConfigError, StoreError
from potstill.store import LOG, RunDir, read_json

STAGES: Mapping[str, str] = {
    "sample": "1-sample",
    "distil": "2-distil",
    "validate": "3-validate",
    "transfer": "4-transfer",
    "report": "6-report",
}
LINES = 40  # of the log
TAIL = 64 * 2**10  # bytes of the log that are looked at
POLICY = "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; img-src data:; connect-src 'self'"


def state(directory: str | Path) -> dict[str, Any]:
    """Return what a run's directory says of it.

    Returns
    -------
    dict
        ``stages`` (name, state ``done``, ``started`` or ``not started``, seconds, when it finished), ``labels`` (how
        far a long round of labels is), ``counts``, ``rounds`` of distilling so far (labels, errors on the hold-out),
        ``log`` (its last lines), ``error`` (the last one, where nothing came after it) and ``process`` (None when it
        rests).

    Raises
    ------
    StoreError
        If it is no run.
    """
    directory = Path(directory)
    if not (directory / "config.toml").is_file():
        raise StoreError(f"{directory} is not a run: it has no config.toml. Give the --out of `potstill run`.")
    run = RunDir(directory)
    told = []
    for name, folder in STAGES.items():
        record = run.record(folder)
        if record is None and name == "transfer" and not (directory / folder).exists():
            continue  # most runs have none
        at = "done" if record else "started" if (directory / folder).exists() else "not started"
        told.append(
            {
                "name": name,
                "state": at,
                "seconds": record["wall_s"] if record else None,
                "cpu_seconds": record["cpu_s"] if record else None,
                "finished": record["finished"] if record else None,
            }
        )
    rounds = sorted(
        (_round(file) for file in (directory / "2-distil" / "rounds").glob("*/*/round.json")),
        key=lambda r: (r["round"], r["n_labels"]),
    )
    log = _tail(directory / LOG)
    return {
        "directory": str(directory.resolve()),
        "stages": told,
        "labels": run.noted(),
        "counts": {
            "rounds of sampling": len(list((directory / "1-sample" / "ensembles").glob("*/*.safetensors"))),
            "trajectories": len(list((directory / "1-sample" / "trajectories").glob("*.json"))),
            "rounds of distilling": len(rounds),
        },
        "rounds": rounds,
        "log": log,
        "error": log[-1] if log and "Error: " in log[-1] else None,
        "process": run.holder(),
        "report": (directory / "report.html").is_file(),
    }


def _round(file: Path) -> dict[str, Any]:
    made = read_json(file)
    errors = made.get("errors") or {}
    force = errors.get("force_rmse_ev_per_angstrom")
    return {
        "round": made["round"],
        "n_labels": made["n_labels"],
        "energy": errors.get("energy_rmse_mev_per_atom"),
        "force": None if force is None else 1e3 * force,
    }


def _tail(file: Path) -> list[str]:
    """Return the last lines of the log."""
    if not file.is_file():
        return []
    with file.open("rb") as log:
        log.seek(max(0, file.stat().st_size - TAIL))
        text = log.read().decode("utf-8", errors="replace")
    return text.splitlines()[-LINES:]


class Watch(ThreadingHTTPServer):
    """Serves a run's page until it is shut down.

    Parameters
    ----------
    directory : path
        A run.
    port : int
        0 takes one that is free.
    host : str
        The address to listen at; others than this machine's own are the caller's decision.

    Raises
    ------
    ConfigError
        If that cannot be listened at, or stands for all addresses: then nothing tells whom a browser asked for.
    StoreError
        If the directory is no run.
    """

    daemon_threads = True

    def __init__(self, directory: str | Path, port: int = 0, host: str = "127.0.0.1") -> None:
        self.directory = Path(directory)
        state(self.directory)  # what is no run is told at once
        self.token = secrets.token_urlsafe(24)
        if host in ("", "0.0.0.0"):  # noqa: S104
            raise ConfigError(
                "Expected one address to listen at, but found one that stands for all. Name it by --host."
            )
        try:
            super().__init__((host, port), _Answer)
        except OSError as error:
            raise ConfigError(f"Nothing can listen at {host}, port {port}: {error}. Give another --port.") from None

    @property
    def url(self) -> str:
        """Where the page is."""
        host, port = str(self.server_address[0]), self.server_address[1]
        return f"http://{host}:{port}/{self.token}/"

    @property
    def hosts(self) -> set[str]:
        """Names that a browser may have asked for."""
        host, port = str(self.server_address[0]), self.server_address[1]
        names = {"127.0.0.1", "localhost"} if host == "127.0.0.1" else {host}
        return {f"{name}:{port}" for name in names}


class _Answer(BaseHTTPRequestHandler):
    """One request."""

    server: Watch
    server_version = "potstill"
    sys_version = ""

    def do_GET(self) -> None:
        token, _, name = self.path.removeprefix("/").partition("/")
        if self.headers.get("Host", "") not in self.server.hosts:
            self._refuse("This address was not asked for by its own name.")
        elif not hmac.compare_digest(token.encode(), self.server.token.encode()):
            self._refuse("The address lacks its token: open the one that potstill watch printed.")
        elif not name:
            page = (files("potstill.reporting") / "live.html").read_bytes()
            self._send(HTTPStatus.OK, page, "text/html; charset=utf-8")
        elif name == "state.json":
            self._send(HTTPStatus.OK, json.dumps(self._state()).encode(), "application/json")
        elif name == "report.html" and (self.server.directory / name).is_file():
            self._send(HTTPStatus.OK, (self.server.directory / name).read_bytes(), "text/html; charset=utf-8")
        else:
            self._send(HTTPStatus.NOT_FOUND, b"There is no such page.", "text/plain; charset=utf-8")

    def _state(self) -> dict[str, Any]:
        try:
            return state(self.server.directory)
        except (OSError, ValueError, KeyError, StoreError) as error:  # caught in the middle of a change, or gone
            return {"failed": f"{type(error).__name__}: {error}"}

    def _refuse(self, why: str) -> None:
        self._send(HTTPStatus.FORBIDDEN, why.encode(), "text/plain; charset=utf-8")

    def _send(self, status: HTTPStatus, content: bytes, kind: str) -> None:
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(content)))
        self.send_header("Content-Security-Policy", POLICY)
        self.send_header("X-Content-Type-Options", "nosniff")
        self.send_header("Referrer-Policy", "no-referrer")
        self.send_header("Cache-Control", "no-store")
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *_: Any) -> None:
        """Say nothing: requests come every other second, and carry the token."""
