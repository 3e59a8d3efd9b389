"""How long does a look at a bucket take, and how many requests? Writes tiny checkpoints, then looks.

    python scripts/bucket_scale.py s3://some-bucket/scale 100 1000 10000

The environment names the server and the credentials (AWS_ENDPOINT_URL, AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY); the
bucket must exist. Four variants; each checkpoint is a config.json and a model.safetensors of one number.
"""

import sys
import time
from collections import Counter
from typing import Any

import fsspec
import numpy as np
from safetensors.numpy import save

from softprompt.bucket import Bucket
from softprompt.checkpoints import describe_each, list_folders
from softprompt.layout import Layout
from tasks.discovery import worth_a_look

VARIANTS = "ABCD"


def main(url: str, sizes: list[int]) -> None:
    print("| checkpoints | list_folders | requests | poll with nothing new | requests | of them described |")
    print("| --- | --- | --- | --- | --- | --- |")
    for size in sizes:
        place = f"{url.rstrip('/')}/{size}"
        write(place, size)
        bucket = Bucket(place)
        bucket.entries()  # connect
        requests = count_requests(bucket)
        start = time.perf_counter()
        folders = list_folders(bucket, Layout("{variant}/step-{step}")).folders
        listed_s, num_listed = time.perf_counter() - start, requests.total()
        assert len(folders) == size
        everything = {(folder.variant, folder.step) for folder in folders}
        looked_into = worth_a_look(folders, everything, time.time())
        described = list(describe_each(bucket, looked_into, settle_s=1e-3))
        poll_s = time.perf_counter() - start
        print(
            f"| {size} | {1000 * listed_s:.0f} ms | {num_listed} | {1000 * poll_s:.0f} ms | {requests.total()} "
            f"| {len(described)} |"
        )


def write(url: str, size: int) -> None:
    fs, root = fsspec.core.url_to_fs(url)
    weights = save({"weight": np.ones(1, np.float32)})
    files: dict[str, bytes] = {}
    for i in range(size):
        folder = f"{root}/{VARIANTS[i % len(VARIANTS)]}/step-{100 * (i // len(VARIANTS))}"
        files |= {f"{folder}/config.json": b"{}", f"{folder}/model.safetensors": weights}
    fs.pipe(files)


def count_requests(bucket: Bucket) -> Counter[str]:
    """Requests to the store from now on, by kind."""
    counts: Counter[str] = Counter()

    def count(model: Any, **_: Any) -> None:
        counts[model.name] += 1

    bucket._fs._s3.meta.events.register("before-call.s3", count)
    return counts


if __name__ == "__main__":
    main(sys.argv[1], [int(size) for size in sys.argv[2:]])
