"""An implementation that is not ours verifies a ledger: Go's golang.org/x/mod/sumdb, as packaged by Debian."""

from __future__ import annotations

import os
import shutil
import subprocess
from itertools import pairwise
from pathlib import Path

import pytest

from audit_middleware.collector.ledger import Ledger
from audit_middleware.collector.storage.files import FileStore
from audit_middleware.tlog.note import Signer

pytestmark = pytest.mark.interop

SIZES = (1, 256, 257, 70_000)
SOURCE = Path(__file__).parent / "tlogcheck" / "main.go"
GOPATH = Path("/usr/share/gocode")
MISSING = "needs Debian's packages: apt-get install --no-install-recommends golang-go golang-golang-x-mod-dev"


@pytest.fixture(scope="module")
def tlogcheck(tmp_path_factory):
    if shutil.which("go") is None or not (GOPATH / "src/golang.org/x/mod/sumdb/tlog").is_dir():
        pytest.fail(MISSING)
    folder = tmp_path_factory.mktemp("tlogcheck")
    environment = os.environ | {
        "GO111MODULE": "off",
        "GOPATH": str(GOPATH),
        "GOCACHE": str(folder / "cache"),
        "GOFLAGS": "",
        "CGO_ENABLED": "0",
    }
    command = ["go", "build", "-o", str(folder / "tlogcheck"), str(SOURCE)]
    built = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert built.returncode == 0, built.stderr
    return folder / "tlogcheck"


@pytest.fixture(scope="module")
def signer():
    return Signer.generate("interop.example/default/2026h2")


@pytest.fixture(scope="module")
def logs(tmp_path_factory, signer):
    """A ledger of every size, each grown in a few commits."""
    folder = tmp_path_factory.mktemp("logs")
    return {size: grow(folder / str(size), size, signer) for size in SIZES}


def grow(folder, size, signer):
    borders = sorted({0, min(size, 100), size // 2, size})
    for first, end in pairwise(borders):
        with Ledger.open(folder / "log", FileStore(folder / "log"), signer, guard=folder / "guard") as ledger:
            ledger.append([b'{"entry":%d}' % number for number in range(first, end)])
    return folder / "log"


def run(tlogcheck, log, vkey):
    return subprocess.run([tlogcheck, log, vkey], capture_output=True, text=True, check=False)


@pytest.mark.parametrize("size", SIZES)
def test_go_verifies_every_entry_tile_and_proof(tlogcheck, logs, signer, size):
    found = run(tlogcheck, logs[size], signer.verifier.vkey)
    assert (found.returncode, found.stderr) == (0, "")
    archived = len(os.listdir(logs[size] / "checkpoints"))
    tiles = {1: 1, 256: 2, 257: 3, 70_000: 273 + 1 + 1 + 1 + 1}[size]
    assert found.stdout == f"entries={size} tiles={tiles} inclusion=3 consistency={archived}\n"
    assert archived == (1 if size == 1 else 3)


def flip(path, at=-1):
    data = bytearray(path.read_bytes())
    data[at] ^= 1
    path.chmod(0o644)
    path.write_bytes(bytes(data))


@pytest.mark.parametrize(
    ("path", "named"),
    [
        ("tile/entries/000", "checkpoint: root"),
        ("tile/entries/273.p/112", "tile/entries/273.p/112"),
        ("tile/0/100", "tile/0/100"),
        ("tile/0/273.p/112", "tile/0/273.p/112"),
        ("tile/1/000", "tile/1/000"),
        ("tile/1/001.p/17", "tile/1/001.p/17"),
        ("tile/2/000.p/1", "tile/2/000.p/1"),
        ("checkpoints/100", "checkpoints/100"),
        ("checkpoint", "checkpoint"),
    ],
)
def test_go_rejects_an_altered_copy_and_names_the_file(tlogcheck, logs, signer, tmp_path, path, named):
    shutil.copytree(logs[70_000], tmp_path / "log")
    flip(tmp_path / "log" / path, 0 if path == "tile/entries/273.p/112" else -2)
    found = run(tlogcheck, tmp_path / "log", signer.verifier.vkey)
    assert found.returncode == 1
    assert found.stderr.startswith(named)


def test_go_rejects_another_key(tlogcheck, logs, signer):
    other = Signer.generate(signer.name)
    assert run(tlogcheck, logs[1], other.verifier.vkey).returncode == 1
