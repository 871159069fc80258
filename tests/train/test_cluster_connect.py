"""``--workers ADDRESS|N``: a client of Dask workers, or an error within seconds."""

import socket
import threading
import time
from collections.abc import Iterator

import pytest

from linprobe.errors import OptionError
from linprobe_train.cluster import connect

distributed = pytest.importorskip("distributed", reason="needs the extra cluster")


@pytest.fixture
def listener() -> Iterator[socket.socket]:
    """A port that takes connections and says nothing."""
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen()
        yield server


def address_of(server: socket.socket) -> str:
    return f"127.0.0.1:{server.getsockname()[1]}"


def refused(workers: str, monkeypatch: pytest.MonkeyPatch) -> str:
    """What is said of an address, within a second where an answer may take a fifth of one."""
    monkeypatch.setattr(connect, "CONNECT_SECONDS", 0.2)
    start = time.monotonic()
    with pytest.raises(OptionError) as caught, connect.connected(workers):
        pass
    assert time.monotonic() - start < 5
    return f"{caught.value.message}; {caught.value.hint}"


def test_no_scheduler_at_the_address_is_told_in_seconds(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))  # and does not listen
        address = address_of(server)
        said = refused(address, monkeypatch)
    assert f"--workers {address}: no Dask scheduler answered" in said
    assert "dask scheduler" in said


def test_a_silent_peer_is_no_scheduler(
    listener: socket.socket, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert "no Dask scheduler answered" in refused(address_of(listener), monkeypatch)


def test_a_web_server_is_no_scheduler(
    listener: socket.socket, monkeypatch: pytest.MonkeyPatch
) -> None:
    def answer() -> None:
        peer, _ = listener.accept()
        with peer:
            peer.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")

    thread = threading.Thread(target=answer)
    thread.start()
    assert "no Dask scheduler answered" in refused(address_of(listener), monkeypatch)
    thread.join()


@pytest.mark.parametrize("workers", ["", "host", "-2", "http://127.0.0.1:8786", "0"])
def test_what_is_neither_an_address_nor_a_number_is_refused(
    workers: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert f"--workers {workers}" in refused(workers, monkeypatch)


def test_workers_are_started_here_and_gone_at_the_end() -> None:
    with connect.connected("1") as client:
        (worker,) = client.nthreads()
        address = client.scheduler.address
        with connect.connected(address) as second:
            assert list(second.nthreads()) == [worker]
        with pytest.raises(OptionError, match="a Dask worker is there"), connect.connected(worker):
            pass
        assert list(client.nthreads()) == [worker], "closing a client closes no cluster"
    with socket.socket() as probe, pytest.raises(ConnectionRefusedError):
        probe.connect(("127.0.0.1", int(address.rsplit(":", 1)[1])))
