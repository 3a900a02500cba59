"""The archive's store: one suite for a folder, a store in memory and an S3 server."""

from __future__ import annotations

import asyncio
import hashlib
from abc import ABC, abstractmethod
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path
from random import Random
from uuid import uuid4

import fsspec
import polars as pl
import psycopg
import pytest
from moto.server import ThreadedMotoServer

from eventstore.archive.dropping import restore, verify
from eventstore.archive.object_store import (
    ArchiveDamaged,
    ArchiveUnavailable,
    ObjectStore,
    absolute,
)
from projections.as_of import rows_as_of
from projections.inventory import STOCK_LEVELS
from projections.reading import LogReader
from tests.appending import emptied
from tests.archiving import archived, dropped, held
from tests.test_folds import facts
from tests.test_rebuild import write

CONTENT = b"PAR1 and more" * 1000


class StoreCases(ABC):
    """What every store has to do."""

    @pytest.fixture(autouse=True)
    def home(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
        """Where what comes from far away is kept."""
        monkeypatch.setenv("CHAINLYTICS_HOME", str(tmp_path / "home"))
        return tmp_path / "home"

    @pytest.fixture
    @abstractmethod
    def url(self) -> object:
        """The URL of an empty place."""

    @pytest.fixture
    def store(self, url: str) -> ObjectStore:
        return ObjectStore(url)

    def test_a_file_is_there_as_it_was_put(self, store: ObjectStore, tmp_path: Path) -> None:
        file = tmp_path / "local"
        file.write_bytes(CONTENT)
        store.put("log/a.parquet", file)
        store.put("manifests/0.json", b"{}")
        assert store.size("log/a.parquet") == len(CONTENT)
        assert store.sha256("log/a.parquet") == hashlib.sha256(CONTENT).hexdigest()
        assert store.find("manifests/0.json") == b"{}"
        assert store.find("manifests/1.json") is None

    def test_a_file_takes_the_place_of_a_former_one(self, store: ObjectStore) -> None:
        store.put("log/a.parquet", b"what a writer that was cut off left behind")
        assert store.size("log/a.parquet") > 3
        store.put("log/a.parquet", b"new")
        assert store.size("log/a.parquet") == 3
        assert store.find("log/a.parquet") == b"new"

    def test_what_is_missing_or_of_another_size_is_named(self, store: ObjectStore) -> None:
        for ask in (store.size, store.sha256):
            with pytest.raises(ArchiveUnavailable, match=r"log/none\.parquet"):
                ask("log/none.parquet")
        with pytest.raises(ArchiveUnavailable, match=r"log/none\.parquet"):
            store.source("log/none.parquet", 3, "0" * 64)
        store.put("log/a.parquet", b"short")
        with pytest.raises(ArchiveUnavailable, match="5 bytes, not 6"):
            store.source("log/a.parquet", 6, "0" * 64)

    def test_a_log_is_archived_dropped_read_verified_and_put_back(
        self, url: str, database: str
    ) -> None:
        emptied(database)
        with psycopg.connect(database, autocommit=True) as connection:
            connection.execute("TRUNCATE segments, cold_streams, archive_store, seal_heads")
        asyncio.run(write(database, facts(Random(4), 600), {}))

        async def rows() -> pl.DataFrame:
            async with LogReader(database) as reader:
                return (await rows_as_of(reader, STOCK_LEVELS, 600)).sort(STOCK_LEVELS.keys)

        before = asyncio.run(rows())
        done = archived(database, url, positions=200)
        assert [(one.first, one.last) for one in done] == [(1, 200), (201, 400), (401, 600)]
        assert asyncio.run(rows()).equals(before)
        assert len(dropped(database)) == 3
        assert held(database) < 600
        assert asyncio.run(rows()).equals(before)
        with psycopg.connect(database) as connection:
            assert [wrong for _, wrong in verify(connection)] == [None] * 3
        assert len(restore(database)) == 3
        assert held(database) == 600

    def test_other_content_is_not_handed_out(self, store: ObjectStore) -> None:
        digest = hashlib.sha256(CONTENT).hexdigest()
        store.put("log/a.parquet", CONTENT[:-1] + b"!")
        with pytest.raises(ArchiveDamaged, match="other content"):
            store.source("log/a.parquet", len(CONTENT), digest)
        store.put("log/a.parquet", CONTENT)
        source = store.source("log/a.parquet", len(CONTENT), digest)
        assert isinstance(source, str)
        assert Path(source).read_bytes() == CONTENT

    def test_what_is_lost_is_told_from_a_store_that_is_away(self, store: ObjectStore) -> None:
        with pytest.raises(ArchiveUnavailable) as away:
            store.source("log/none.parquet", 3, "0" * 64)
        assert not isinstance(away.value, ArchiveDamaged)
        store.put("manifests/0.json", b"{}")
        with pytest.raises(ArchiveDamaged):
            store.source("log/none.parquet", 3, "0" * 64)


class TestFolder(StoreCases):
    @pytest.fixture
    def url(self, tmp_path: Path) -> str:
        return str(tmp_path / "archive")

    def test_nothing_is_under_its_name_before_it_is_whole(
        self, url: str, store: ObjectStore, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def full(_: int) -> None:
            raise OSError(28, "No space left on device")

        store.put("log/a.parquet", b"former")
        monkeypatch.setattr("os.fsync", full)
        with pytest.raises(ArchiveUnavailable, match="No space left"):
            store.put("log/a.parquet", CONTENT)
        assert (Path(url) / "log" / "a.parquet").read_bytes() == b"former"

    def test_a_folder_is_noted_from_the_root_on(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.chdir(tmp_path)
        assert absolute("archive") == str(tmp_path.resolve() / "archive")
        assert absolute("s3://bucket/prefix") == "s3://bucket/prefix"


class TestMemory(StoreCases):
    @pytest.fixture
    def url(self) -> str:
        return f"memory://{uuid4().hex}/archive"

    def test_a_file_is_fetched_once_and_the_oldest_ones_go(
        self, store: ObjectStore, home: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("eventstore.archive.object_store._MOST_KEPT", 2 * len(CONTENT))
        contents = [bytes([number]) * len(CONTENT) for number in range(4)]
        digests = [hashlib.sha256(content).hexdigest() for content in contents]
        for content, digest in zip(contents, digests, strict=True):
            store.put("log/a.parquet", content)
            assert Path(str(store.source("log/a.parquet", len(CONTENT), digest))).exists()
        kept = home / "cache" / "archive"
        assert {one.stem for one in kept.iterdir()} == set(digests[2:])
        store.put("log/a.parquet", b"gone")
        store.source("log/a.parquet", len(CONTENT), digests[3])
        (kept / f"{digests[3]}.parquet").write_bytes(b"damaged")
        with pytest.raises(ArchiveDamaged):
            store.source("log/a.parquet", len(CONTENT), digests[3])

    def test_without_room_a_file_is_read_from_memory(self, store: ObjectStore, home: Path) -> None:
        home.write_bytes(b"not a folder")
        store.put("log/a.parquet", CONTENT)
        found = store.source("log/a.parquet", len(CONTENT), hashlib.sha256(CONTENT).hexdigest())
        assert isinstance(found, BytesIO)
        assert found.read() == CONTENT


@pytest.fixture(scope="module")
def endpoint() -> Iterator[str]:
    """An S3 server."""
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    yield f"http://{host}:{port}"
    server.stop()


class TestS3(StoreCases):
    @pytest.fixture
    def url(self, endpoint: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
        monkeypatch.setenv("AWS_ENDPOINT_URL", endpoint)
        monkeypatch.setenv("AWS_ACCESS_KEY_ID", "test")
        monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "test")
        monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
        bucket = f"archive-{uuid4().hex}"
        fsspec.filesystem("s3", skip_instance_cache=True).mkdir(bucket)
        yield f"s3://{bucket}/chainlytics"
        fsspec.filesystem("s3").clear_instance_cache()

    def test_a_server_that_is_gone_is_named(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
        monkeypatch.setenv("AWS_ACCESS_KEY_ID", "test")
        monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "test")
        monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
        store = ObjectStore("s3://nowhere/archive")
        with pytest.raises(ArchiveUnavailable, match="nowhere/archive/log"):
            store.size("log/a.parquet")
        fsspec.filesystem("s3").clear_instance_cache()


def test_a_protocol_that_nobody_knows_is_refused() -> None:
    with pytest.raises(ArchiveUnavailable, match="carrier-pigeon"):
        ObjectStore("carrier-pigeon://coop/archive")


def test_credentials_are_not_told() -> None:
    told = str(ArchiveUnavailable("sftp://ana:secret@archive.example/log cannot be read"))
    assert told == "sftp://archive.example/log cannot be read"
