"""A real S3 server (SeaweedFS) on free ports of this machine, and buckets of it to write into."""

import json
import shutil
import socket
import subprocess
import sys
import time
import uuid
from pathlib import Path
from typing import Any

import s3fs

PORTS = ("master.port", "volume.port", "filer.port", "s3.port")
BUCKET = "checkpoints"
KEY, SECRET = "softprompt", "a-secret-that-no-message-shows"
WRITER_KEY, WRITER_SECRET = "writer", "another-secret-that-no-message-shows"
"""May write and not list."""


class S3Server:
    """Runs from `start` to `stop`; what is stored stays in its folder in between."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        ports = free_ports(2 * len(PORTS))
        names = [*PORTS, *(f"{name}.grpc" for name in PORTS)]
        self._ports = dict(zip(names, ports, strict=True))
        self.url = f"http://127.0.0.1:{self._ports['s3.port']}"
        identities = [
            {"name": key, "credentials": [{"accessKey": key, "secretKey": secret}], "actions": actions}
            for key, secret, actions in [(KEY, SECRET, ["Admin"]), (WRITER_KEY, WRITER_SECRET, ["Write"])]
        ]
        (folder / "s3.json").write_text(json.dumps({"identities": identities}))

    @property
    def environment(self) -> dict[str, str]:
        """By which a process finds this server."""
        return {"AWS_ENDPOINT_URL": self.url, "AWS_ACCESS_KEY_ID": KEY, "AWS_SECRET_ACCESS_KEY": SECRET}

    def start(self) -> None:
        (self.folder / "data").mkdir(exist_ok=True)
        weed = shutil.which("weed") or str(Path(sys.executable).with_name("weed"))
        options = [f"-{name}={port}" for name, port in self._ports.items()]
        options += ["-ip=127.0.0.1", "-ip.bind=127.0.0.1", f"-dir={self.folder / 'data'}", "-s3"]
        options += ["-s3.port.iceberg=0", "-s3.port.lance=0"]  # else of fixed ports: one server on a machine
        options += [f"-s3.config={self.folder / 's3.json'}", "-master.volumeSizeLimitMB=64", "-volume.max=1000"]
        options += ["-master.electionTimeout=1s", "-master.heartbeatInterval=200ms"]  # back in 4 s instead of 24
        with (self.folder / "log").open("a") as log:
            self._process = subprocess.Popen([weed, "server", *options], stdout=log, stderr=log, cwd=self.folder)
        self._wait()

    def stop(self) -> None:
        self._process.kill()
        self._process.wait()

    def new_place(self) -> "S3Bucket":
        """An empty prefix of the bucket that all tests share; a bucket of its own would cost each a second."""
        return S3Bucket(self._fs(), f"{BUCKET}/{uuid.uuid4().hex[:8]}")

    def _fs(self) -> Any:
        return s3fs.S3FileSystem(
            key=KEY,
            secret=SECRET,
            endpoint_url=self.url,
            config_kwargs={"retries": {"max_attempts": 0}},
            use_listings_cache=False,
            skip_instance_cache=True,
        )

    def _wait(self, timeout_s: float = 60) -> None:
        """Until an object can be written and read, which is later than the port's first answer."""
        end = time.monotonic() + timeout_s
        while True:
            try:
                fs = self._fs()
                if not fs.exists(BUCKET):
                    fs.call_s3("create_bucket", Bucket=BUCKET)
                fs.pipe_file(f"{BUCKET}/is-it-up", b"yes")
                assert fs.cat_file(f"{BUCKET}/is-it-up") == b"yes"
                return
            except Exception:
                if time.monotonic() > end or self._process.poll() is not None:
                    raise
                time.sleep(0.2)


class S3Bucket:
    """Written to as a trainer would."""

    def __init__(self, fs: Any, name: str) -> None:
        self.fs, self.name, self.url = fs, name, f"s3://{name}"

    def upload(self, folder: Path, path: str) -> str:
        """Put all files of a local folder under `path`; returns its URL."""
        for file in folder.iterdir():
            self.write(f"{path}/{file.name}", file.read_bytes())
        return f"{self.url}/{path}"

    def write(self, path: str, content: bytes = b"") -> None:
        self.fs.pipe_file(f"{self.name}/{path}", content)

    def remove(self, path: str) -> None:
        self.fs.rm_file(f"{self.name}/{path}")


def free_ports(num: int) -> list[int]:
    sockets = [socket.socket() for _ in range(num)]
    try:
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in sockets]
    finally:
        for each in sockets:
            each.close()
