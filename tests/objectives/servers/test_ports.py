import socket

import pytest

from objectives.servers.ports import Port

ADDRESS, PORT = socket.SO_REUSEADDR, socket.SO_REUSEPORT


def bound(number, *options):
    server = socket.socket()
    for option in options:
        server.setsockopt(socket.SOL_SOCKET, option, 1)
    try:
        server.bind(("127.0.0.1", number))
    except OSError:
        server.close()
        raise
    return server


def test_a_held_port_cannot_be_taken_by_a_stranger():
    with Port() as port, pytest.raises(OSError, match="in use"):
        bound(port.number)


@pytest.mark.parametrize("options", [(ADDRESS,), (PORT,), (ADDRESS, PORT)])
def test_its_server_listens_on_the_held_port_whichever_reuse_it_sets(options):
    """vLLM's single server and uvicorn set SO_REUSEADDR only, our worker both."""
    with Port() as port, bound(port.number, *options) as server:
        server.listen()
        with socket.create_connection(("127.0.0.1", port.number), timeout=5) as client:
            connection, who = server.accept()
            connection.close()
            assert who == client.getsockname()


def test_who_listens_is_not_disturbed_by_a_second_server():
    with Port() as port, bound(port.number, ADDRESS) as server:
        server.listen()
        for options in ((), (ADDRESS,), (PORT,), (ADDRESS, PORT)):
            with pytest.raises(OSError, match="in use"):
                bound(port.number, *options)


def test_nobody_listens_on_a_port_that_is_only_held():
    with Port() as port, pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", port.number), timeout=5)


def test_ports_held_at_the_same_time_differ():
    with Port() as one, Port() as other:
        assert one.number != other.number


def test_who_asks_for_any_port_is_not_given_a_held_one():
    ports = [Port() for _ in range(20)]
    for port in ports:
        port.__enter__()
    held = {port.number for port in ports}
    try:
        for _ in range(500):
            with bound(0, ADDRESS, PORT) as other:
                assert other.getsockname()[1] not in held
    finally:
        for port in ports:
            port.__exit__(None, None, None)


def test_after_the_block_the_port_is_free_and_has_no_number():
    with Port() as port:
        number = port.number
        assert port.url == f"http://127.0.0.1:{number}"
    bound(number).close()
    with pytest.raises(RuntimeError, match="inside"):
        _ = port.number
