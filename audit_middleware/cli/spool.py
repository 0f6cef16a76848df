"""``audit-ready spool``: what waits on this host, and for how long."""

from __future__ import annotations

import os
import stat
import sys
import time
from pathlib import Path
from typing import Any

import click

from audit_middleware import config
from audit_middleware.cli.output import json_option, print_json, print_table
from audit_middleware.errors import ConfigurationError
from audit_middleware.journal.segment import segment_name, segment_ordinals
from audit_middleware.journal.spool import Spool
from audit_middleware.verify.journal import LAST

STALE_AFTER_S = 600

spool_argument = click.argument(
    "spool_dir", metavar="[SPOOL]", required=False, type=click.Path(path_type=Path, file_okay=False)
)


@click.group("spool")
def command() -> None:
    """Look into a spool (default: AUDIT_SPOOL_DIR)."""


@command.command()
@spool_argument
@json_option
def status(spool_dir: Path | None, as_json: bool) -> None:
    """Show each stream: who wrote it, whether the writer lives, what waits.

    Exit 2 when the journal of a dead process waits for more than ten minutes since its last line: nobody adopts it.
    """
    spool = Spool(_existing(spool_dir))
    rows = [_stream_row(spool, stream) for stream in spool.streams()]
    if as_json:
        print_json({"spool": str(spool.path), "bytes": spool.used_bytes(), "streams": rows})
    else:
        _print_rows(rows, spool)
    sys.exit(2 if any(row["stale"] for row in rows) else 0)


def _print_rows(rows: list[dict[str, Any]], spool: Spool) -> None:
    head = ("STREAM", "SERVICE", "PID", "WRITER", "LAST SEQ", "ACKED", "WAITING BYTES")
    keys = ("stream", "service", "pid", "writer", "last_seq", "acked_below", "waiting_bytes")
    print_table(head, [[row[key] for key in keys] for row in rows])
    click.echo(f"{len(rows)} streams, {spool.used_bytes()} bytes in {spool.path}")
    for row in rows:
        if row["stale"]:
            click.echo(f"{row['stream']}: its process died, nobody delivers it; run `audit-ready ship {spool.path}`")


def _stream_row(spool: Spool, stream: str) -> dict[str, Any]:
    meta, end = spool.meta(stream), spool.end(stream)
    view = spool.view(stream)
    silent_s = time.time() - _last_write(spool.path / "streams" / stream)
    is_dead = view.writer_is_dead
    return {
        "stream": stream,
        "service": meta.get("service", "unknown"),
        "pid": meta.get("pid", "unknown"),
        "writer": "dead" if is_dead else "alive",
        "last_seq": end.seq if end else None,
        "closed": end.closed if end else False,
        "acked_below": view.acked.seq,
        "waiting_bytes": view.waiting_bytes,
        "stale": is_dead and view.waiting_bytes > 0 and silent_s > STALE_AFTER_S,
    }


@command.command()
@spool_argument
def export(spool_dir: Path | None) -> None:
    """Print every line that still lies in the spool, as it was sealed, stream by stream."""
    path = _existing(spool_dir)
    Spool(path).close()
    skipped = sum(_export(folder) for folder in sorted((path / "streams").iterdir()))
    sys.stdout.buffer.flush()
    if skipped:
        raise ConfigurationError(f"{skipped} files of {path} could not be read; `audit-ready verify {path}` names them")


def _export(folder: Path) -> int:
    """Print the lines of one stream; return how many segments could not be read."""
    skipped = 0
    if folder.is_symlink() or not folder.is_dir():
        return 0 if folder.name.startswith(".") else 1
    for ordinal in segment_ordinals(os.listdir(folder)):
        flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
        try:
            descriptor = os.open(folder / segment_name(ordinal), flags)
        except OSError:
            skipped += 1
            continue
        with open(descriptor, "rb") as segment:
            if stat.S_ISREG(os.fstat(descriptor).st_mode):
                sys.stdout.buffer.writelines(line for line in segment if line.endswith(b"\n"))
            else:
                skipped += 1
    return skipped


def _existing(spool_dir: Path | None) -> Path:
    """Return the spool to look into; raise `ConfigurationError` for a folder that holds nothing of one."""
    path = spool_dir or config.load().spool_dir
    streams = path / "streams"
    if not streams.is_dir() or not (any(streams.iterdir()) or (path / LAST).is_file()):
        raise ConfigurationError(f"nothing there: {path} is no spool, or no process has written to it yet")
    return path


def _last_write(folder: Path) -> float:
    """Return when a stream was written last, in seconds since the epoch; now when nobody can tell."""
    try:
        names = [segment_name(ordinal) for ordinal in segment_ordinals(os.listdir(folder))]
        return max([(folder / name).lstat().st_mtime for name in names], default=folder.lstat().st_mtime)
    except OSError:
        return time.time()
