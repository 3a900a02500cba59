"""The embedded PostgreSQL survives what happens to servers on people's machines."""

from __future__ import annotations

import os
import pwd
import shutil
import signal
import socket
import stat
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import psutil
import psycopg
import pytest

from eventstore import embedded_postmaster
from eventstore.embedded import EmbeddedPostgres, EmbeddedPostgresError
from tests.conftest import TEST_SETTINGS, remove_server

ROOT = Path(__file__).resolve().parent.parent
STARTER = """
import sys
from pathlib import Path
from eventstore.embedded import EmbeddedPostgres
server = EmbeddedPostgres(Path(sys.argv[1]), settings={"fsync": "off"})
print(server.start(), flush=True)
sys.stdin.read()
server.stop(only_if_idle=True)
"""


@pytest.fixture
def home() -> Iterator[Path]:
    # Not tmp_path: root's server runs as `nobody`, who cannot enter it.
    folder = Path(tempfile.mkdtemp(prefix="chainlytics-embedded-"))
    folder.chmod(0o755)
    yield folder / "home"
    if (folder / "home").exists():
        remove_server(folder / "home")
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
def server(home: Path) -> EmbeddedPostgres:
    return EmbeddedPostgres(home, settings=TEST_SETTINGS)


def ask(url: str, query: str) -> object:
    with psycopg.connect(url) as connection:
        row = connection.execute(query.encode()).fetchone()
    assert row is not None
    return row[0]


def remember(url: str, fact: str) -> None:
    with psycopg.connect(url) as connection:
        connection.execute("CREATE TABLE IF NOT EXISTS facts (fact text)")
        connection.execute("INSERT INTO facts VALUES (%s)", [fact])


def pid_of(server: EmbeddedPostgres) -> int:
    pid = server.status().pid
    assert pid is not None
    return pid


def works(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def starter(
    home: Path, *, python: str = sys.executable, user: int | None = None
) -> subprocess.Popen[str]:
    """A process that starts the server, says its URL, and leaves when its input ends."""
    return subprocess.Popen(
        [python, "-c", STARTER, home],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
        user=user,
        group=user,
        extra_groups=None if user is None else [],
    )


def python_of(user: int) -> str | None:
    """A Python of our version that an ordinary user may run: root's own may lie below /root."""
    for python in (sys.executable, f"/usr/bin/python{sys.version_info[0]}.{sys.version_info[1]}"):
        with suppress(OSError):
            probe = subprocess.run(
                [python, "-c", "import psycopg, eventstore.embedded"],
                cwd=ROOT,
                env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
                user=user,
                group=user,
                extra_groups=[],
                capture_output=True,
            )
            if probe.returncode == 0:
                return python
    return None


def url_of(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    return process.stdout.readline().strip()


def test_starts_once_is_reused_and_stops(server: EmbeddedPostgres, home: Path) -> None:
    assert not server.status().running
    url = server.start()
    assert server.start() == url == EmbeddedPostgres(home).start()
    status = server.status()
    assert status.running
    assert status.version is not None
    assert status.version.startswith("18.")
    assert f":{status.port}/chainlytics" in url
    assert server.stop()
    assert not server.status().running
    assert not server.stop()


def test_data_and_password_outlive_a_restart(server: EmbeddedPostgres, home: Path) -> None:
    remember(server.start(), "kept")
    server.stop()
    assert ask(EmbeddedPostgres(home).start(), "SELECT fact FROM facts") == "kept"


def test_settings_are_those_of_a_log(home: Path) -> None:
    url = EmbeddedPostgres(home, settings={"work_mem": "8MB"}).start()
    expected = {
        "fsync": "on",
        "synchronous_commit": "on",
        "jit": "off",
        "wal_level": "replica",
        "max_connections": "200",
        "timezone": "UTC",
        "data_checksums": "on",
        "server_encoding": "UTF8",
        "unix_socket_directories": "",
        "listen_addresses": "127.0.0.1",
        "password_encryption": "scram-sha-256",
        "work_mem": "8MB",
    }
    assert {name: ask(url, f"SHOW {name}") for name in expected} == expected
    assert ask(url, "SELECT upper('é') || ('Z' < 'a')::text") == "Étrue"


def test_the_password_is_needed_and_is_the_callers_alone(
    server: EmbeddedPostgres, home: Path
) -> None:
    url = server.start()
    file = (home / "postgres.password").stat()
    assert stat.S_IMODE(file.st_mode) == 0o600
    assert file.st_uid == os.geteuid()
    password = (home / "postgres.password").read_text()
    assert len(password) >= 32
    with pytest.raises(psycopg.OperationalError, match="password"):
        psycopg.connect(url.replace(password, "wrong"))


def test_listens_on_loopback_only(server: EmbeddedPostgres) -> None:
    server.start()
    port = server.status().port
    listening = [
        connection.laddr
        for connection in psutil.net_connections("tcp")
        if connection.status == psutil.CONN_LISTEN and port in connection.laddr
    ]
    assert listening == [("127.0.0.1", port)]


def test_processes_that_start_at_once_get_one_server(home: Path) -> None:
    processes = [starter(home) for _ in range(3)]
    try:
        urls = {url_of(process) for process in processes}
        assert len(urls) == 1
        assert ask(urls.pop(), "SELECT 1") == 1
    finally:
        for process in processes:
            process.communicate()
    assert [process.returncode for process in processes] == [0, 0, 0]
    assert not EmbeddedPostgres(home).status().running, "the last one out stops it"


def test_a_killed_server_starts_again_with_its_data(server: EmbeddedPostgres, home: Path) -> None:
    remember(server.start(), "kept")
    os.kill(pid_of(server), signal.SIGKILL)  # of our own child, uncollected: a zombie stays
    again = EmbeddedPostgres(home, settings=TEST_SETTINGS)
    assert not again.status().running
    assert ask(again.start(), "SELECT fact FROM facts") == "kept"


def test_busy_orphans_of_a_killed_server_are_ended(
    server: EmbeddedPostgres, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("eventstore.embedded._ORPHAN_PATIENCE", 0.5)
    url = server.start()
    remember(url, "kept")
    with psycopg.connect(url) as connection:
        pid = connection.info.backend_pid
        connection.pgconn.send_query(b"DO $$ BEGIN LOOP PERFORM 1; END LOOP; END $$")
        time.sleep(0.3)
        os.kill(pid_of(server), signal.SIGKILL)
        time.sleep(0.3)
        assert works(pid), "a busy backend outlives its server"
        assert ask(server.start(), "SELECT fact FROM facts") == "kept"
        assert not works(pid)
        connection.close()


def test_a_stale_pid_that_is_now_somebody_elses(server: EmbeddedPostgres, home: Path) -> None:
    server.start()
    file = server.status().data / "postmaster.pid"
    pid = pid_of(server)
    os.kill(pid, signal.SIGKILL)
    with subprocess.Popen(["sleep", "60"], start_new_session=True) as innocent:
        file.write_text(file.read_text().replace(str(pid), str(innocent.pid), 1))
        assert ask(EmbeddedPostgres(home).start(), "SELECT 1") == 1
        assert innocent.poll() is None
        innocent.kill()


def test_an_empty_pid_file_is_passed(server: EmbeddedPostgres) -> None:
    server.start()
    server.stop()
    (server.status().data / "postmaster.pid").touch()
    assert ask(server.start(), "SELECT 1") == 1


def test_an_interrupted_initdb_is_begun_anew(home: Path) -> None:
    process = starter(home)
    while not list(home.glob("postgres.new-*/data/base")):
        time.sleep(0.005)
    process.kill()
    process.communicate()
    assert not (home / "postgres").exists()
    server = EmbeddedPostgres(home, settings=TEST_SETTINGS)
    assert ask(server.start(), "SELECT 1") == 1
    assert sorted(path.name for path in home.iterdir()) == [
        "postgres",
        "postgres.lock",
        "postgres.password",
        "postgres.users",
    ]


def test_a_first_start_killed_before_its_database_was_made(server: EmbeddedPostgres) -> None:
    url = server.start()
    maintenance = url.removesuffix("chainlytics") + "postgres"
    with psycopg.connect(maintenance, autocommit=True) as connection:
        connection.execute("DROP DATABASE chainlytics")
    server.stop()
    assert ask(server.start(), "SELECT current_database()") == "chainlytics"


def test_only_if_idle_leaves_a_server_in_use(server: EmbeddedPostgres, home: Path) -> None:
    url = server.start()
    with psycopg.connect(url):
        assert not server.stop(only_if_idle=True), "somebody is connected"
    server.start()
    other = EmbeddedPostgres(home)
    with other:
        assert not server.stop(only_if_idle=True), "another holder has started it"
    assert not other.status().running, "the last one out stops it"


def test_a_port_taken_in_between_is_not_insisted_on(
    server: EmbeddedPostgres, monkeypatch: pytest.MonkeyPatch
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        ports = [taken.getsockname()[1]]
        with socket.create_server(("127.0.0.1", 0)) as free:
            ports.append(free.getsockname()[1])
        remaining = iter(ports)
        monkeypatch.setattr("eventstore.embedded._free_port", lambda: next(remaining))
        server.start()
    assert server.status().port == ports[1]


def test_a_server_that_cannot_start_says_why(home: Path) -> None:
    with pytest.raises(EmbeddedPostgresError, match=r"did not start(.|\n)*no_such_setting"):
        EmbeddedPostgres(home, settings={"no_such_setting": "1"}).start()


def test_a_lost_password_is_said(server: EmbeddedPostgres, home: Path) -> None:
    server.start()
    server.stop()
    file = home / "postgres.password"
    kept = file.read_text()
    file.unlink()
    with pytest.raises(EmbeddedPostgresError, match=r"postgres\.password is missing"):
        server.start()
    file.write_text(kept)
    server.start()


def test_ctrl_c_in_the_terminal_does_not_reach_the_server(home: Path) -> None:
    process = starter(home)
    url = url_of(process)
    os.killpg(process.pid, signal.SIGINT)
    process.communicate()
    assert ask(url, "SELECT 1") == 1


def test_the_pid_of_another_folder_is_not_ours(server: EmbeddedPostgres, home: Path) -> None:
    server.start()
    running = embedded_postmaster.Postmaster.read(server.status().data)
    assert running is not None
    assert running.is_alive(server.status().data)
    assert not running.is_alive(home / "elsewhere")


needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can become somebody else")


@needs_root
def test_root_hands_over_to_nobody(server: EmbeddedPostgres) -> None:
    server.start()
    assert psutil.Process(pid_of(server)).username() == "nobody"
    assert server.status().data.owner() == "nobody"


@needs_root
def test_a_home_out_of_nobodys_reach_keeps_its_data_elsewhere(home: Path) -> None:
    home.mkdir()
    home.parent.chmod(0o700)
    server = EmbeddedPostgres(home, settings=TEST_SETTINGS)
    previous = os.umask(0o077)
    try:
        url = server.start()
    finally:
        os.umask(previous)
    remember(url, "kept")
    data = server.status().data
    assert data.parent.parent == Path("/var/lib/chainlytics")
    assert (home / "postgres.location").read_text().strip() == str(data)
    server.stop()
    assert ask(EmbeddedPostgres(home).start(), "SELECT fact FROM facts") == "kept"


@needs_root
def test_binaries_out_of_nobodys_reach_are_copied(
    server: EmbeddedPostgres, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        "eventstore.embedded_binaries.Account.can_reach",
        lambda _, path: "site-packages" not in path.parts,
    )
    assert ask(server.start(), "SELECT 1") == 1
    assert str(home) in psutil.Process(pid_of(server)).exe()
    with psycopg.connect(server.start()) as connection:
        connection.execute("CREATE EXTENSION vector")


@needs_root
def test_an_ordinary_user_runs_it_as_himself_and_root_may_join(home: Path) -> None:
    user = pwd.getpwnam("daemon").pw_uid
    python = python_of(user)
    if python is None:
        pytest.skip("NOT TESTED: no Python here that an ordinary user can run this checkout with")
    home.mkdir()
    os.chown(home, user, user)
    process = starter(home, python=python, user=user)
    url = url_of(process)
    root = EmbeddedPostgres(home)
    assert psutil.Process(pid_of(root)).uids().real == user
    assert (home / "postgres.password").stat().st_uid == user
    remember(url, "kept")
    process.communicate()
    assert not root.status().running
    assert ask(root.start(), "SELECT fact FROM facts") == "kept"
    assert psutil.Process(pid_of(root)).uids().real == user
