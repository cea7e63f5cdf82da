"""Large objects there and back through SeaweedFS, on this machine: moorline, plain obstore, and boto3 where it is
installed.

``python benchmarks/storage.py [MiB]`` (256 by default; 2048 takes a few minutes). Each transfer is a process of its
own, whose largest resident memory is what the kernel says of it. obstore alone verifies nothing and tells of no
progress; boto3 verifies what S3 gave it a checksum of.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

BUCKET = "moorline-sandbox"
PART = 8 << 20


def moorline(way: str, path: str, endpoint: str, access: str, secret: str) -> None:
    """Our own way."""
    from moorline.services.storage.s3 import S3

    s3 = S3(secret, access_key_id=access, bucket=BUCKET, region="us-east-1", base_url=endpoint)
    if way == "up":
        s3.upload("moorline", path, part_size=PART).result()
    else:
        s3.download("moorline", path).result()


def own_wire(way: str, path: str, endpoint: str, access: str, secret: str) -> None:
    """What reading without obstore would be: the same GET by the wire of our own requests, nothing verified."""
    from moorline.calls.call import Call
    from moorline.services.storage.s3 import S3

    s3 = S3(secret, access_key_id=access, bucket=BUCKET, region="us-east-1", base_url=endpoint)
    if way == "up":
        s3.upload("own", path, part_size=PART).result()
    else:
        plan = s3._ask("GetObject", "own", {}, lambda _: None, reads=True)  # noqa: SLF001 (there is no other way to it)
        Call.of(s3, "get", plan).using(timeout=None).download(path).result()


def obstore(way: str, path: str, endpoint: str, access: str, secret: str) -> None:
    """obstore as it comes."""
    import obstore as library
    from obstore.store import S3Store

    options = {"allow_http": True, "timeout": "1 hour"}
    store = S3Store(
        BUCKET,
        endpoint=endpoint,
        region="us-east-1",
        access_key_id=access,
        secret_access_key=secret,
        client_options=options,
    )
    if way == "up":
        library.put(store, "obstore", Path(path), chunk_size=PART, max_concurrency=4)
    else:
        with Path(path).open("wb") as file:
            file.writelines(library.get(store, "obstore").stream(min_chunk_size=1 << 20))


def boto3(way: str, path: str, endpoint: str, access: str, secret: str) -> None:
    """AWS's own."""
    import boto3 as library
    from boto3.s3.transfer import TransferConfig

    client = library.client(
        "s3", region_name="us-east-1", endpoint_url=endpoint, aws_access_key_id=access, aws_secret_access_key=secret
    )
    config = TransferConfig(multipart_chunksize=PART, max_concurrency=4)
    if way == "up":
        client.upload_file(path, BUCKET, "boto3", Config=config)
    else:
        client.download_file(BUCKET, "boto3", path, Config=config)


WAYS = {"moorline": moorline, "own wire": own_wire, "obstore": obstore, "boto3": boto3}


def child(name: str, way: str, path: str, endpoint: str, access: str, secret: str) -> None:
    """One transfer; prints seconds, the processor's seconds, and MiB of memory."""
    started, used = time.perf_counter(), time.process_time()
    WAYS[name](way, path, endpoint, access, secret)
    elapsed, cpu = time.perf_counter() - started, time.process_time() - used
    # Not what getrusage says, which is never less than what the parent had.
    [memory] = re.findall(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text())
    print(elapsed, cpu, int(memory) / 1024)


def main() -> int:
    """Print a line for each."""
    from tests.object_servers import ACCESS, SECRET, SeaweedServer

    size = int(sys.argv[1]) if len(sys.argv) > 1 else 256
    rates: dict[str, tuple[float, float]] = {}
    with SeaweedServer() as server, tempfile.TemporaryDirectory() as folder:
        source, target = Path(folder, "source"), Path(folder, "target")
        with source.open("wb") as file:
            for _ in range(size):
                file.write(os.urandom(1 << 20))
        print(
            f"{size} MiB by way of SeaweedFS on loopback, {os.cpu_count()} cores; parts of {PART >> 20} MiB, 4 at once"
        )
        print(f"{'':10} {'up MiB/s':>10} {'cpu s':>7} {'RSS MiB':>8} {'down MiB/s':>12} {'cpu s':>7} {'RSS MiB':>8}")
        for name in WAYS:
            line, measured = f"{name:10}", []
            for way, path in (("up", source), ("down", target)):
                command = [sys.executable, __file__, name, way, str(path), server.endpoint, ACCESS, SECRET]
                done = subprocess.run(command, check=False, capture_output=True, text=True)
                if done.returncode:
                    print(f"{name:10} {done.stderr.strip().splitlines()[-1][:100]}")
                    break
                elapsed, cpu, memory = map(float, done.stdout.split())
                measured.append(size / elapsed)
                line += f" {size / elapsed:>{10 if way == 'up' else 12}.0f} {cpu:>7.1f} {memory:>8.0f}"
            else:
                rates[name] = measured[0], measured[1]
                print(line)
            assert name == "boto3" or target.stat().st_size == source.stat().st_size
            target.unlink(missing_ok=True)
    ours = rates["moorline"]
    for name, theirs in rates.items():
        if name != "moorline":
            print(f"moorline : {name} = {ours[0] / theirs[0]:.2f} up, {ours[1] / theirs[1]:.2f} down")
    return 0


if __name__ == "__main__":
    if len(sys.argv) > 2:
        child(*sys.argv[1:])
    else:
        raise SystemExit(main())
