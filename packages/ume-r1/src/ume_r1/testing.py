"""For tests of remote folders and indexes: a local S3 server, moto's, in this process."""

from __future__ import annotations

import logging
import uuid
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

KEY, SECRET = "AKIATESTTESTTEST", "moto/does+not/check/secrets"


def environment(address: str) -> dict[str, str]:
    """What points everything that reads S3 at a server."""
    return {
        "AWS_ENDPOINT_URL": address,
        "AWS_ACCESS_KEY_ID": KEY,
        "AWS_SECRET_ACCESS_KEY": SECRET,
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_EC2_METADATA_DISABLED": "true",
    }


@contextmanager
def serving_s3() -> Generator[str]:
    """Serve until the end; gives the server's address."""
    from moto.server import ThreadedMotoServer

    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0)
    server.start()
    host, port = server.get_host_and_port()
    yield f"http://{host}:{port}"
    server.stop()


class Bucket:
    """A bucket, looked at past all code of the project.

    Attributes:
        uri: of it.
        client: boto3's.
    """

    def __init__(self, client: Any, name: str) -> None:
        self.client, self._name, self.uri = client, name, f"s3://{name}"
        client.create_bucket(Bucket=name)

    @classmethod
    def at(cls, address: str) -> Bucket:
        """A new one on a server, of a name that no other has."""
        from boto3.session import Session

        client = Session().client(
            "s3", endpoint_url=address, aws_access_key_id=KEY, aws_secret_access_key=SECRET
        )
        return cls(client, f"test-{uuid.uuid4().hex}")

    def put(self, key: str, data: bytes) -> None:
        """Store an object."""
        self.client.put_object(Bucket=self._name, Key=key, Body=data)

    def get(self, key: str) -> bytes:
        """An object's bytes."""
        return self.client.get_object(Bucket=self._name, Key=key)["Body"].read()

    def delete(self, key: str) -> None:
        """Delete an object."""
        self.client.delete_object(Bucket=self._name, Key=key)

    def keys(self, prefix: str = "") -> list[str]:
        """All keys that begin so."""
        pages = self.client.get_paginator("list_objects_v2").paginate(
            Bucket=self._name, Prefix=prefix
        )
        return [entry["Key"] for page in pages for entry in page.get("Contents", [])]

    def upload(self, folder: Path, prefix: str) -> None:
        """Copy all files below a folder."""
        for path in folder.rglob("*"):
            if path.is_file():
                self.put(f"{prefix}/{path.relative_to(folder).as_posix()}", path.read_bytes())

    def download(self, prefix: str, folder: Path) -> None:
        """Copy all objects below a prefix to a folder."""
        for key in self.keys(f"{prefix}/"):
            path = folder / key.removeprefix(f"{prefix}/")
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(self.get(key))


def fetched_names(monkeypatch: Any) -> list[str]:
    """A list that gets the name of each file as it is fetched.

    Args:
        monkeypatch: pytest's, which undoes it.
    """
    from ume_r1.index.remote import RemoteFolder

    fetched: list[str] = []
    read = RemoteFolder.contents

    def noting(self: RemoteFolder, names: Any) -> Any:
        for name, content in read(self, names):
            fetched.append(name)
            yield name, content

    monkeypatch.setattr(RemoteFolder, "contents", noting)
    return fetched
