"""The database fixtures keep what they promise to the other tests."""

from pathlib import Path
import signal
import socket
import time

import pytest
from sqlalchemy import inspect
from sqlalchemy import text

from .services.common import free_ports


@pytest.mark.parametrize('turn', [1, 2])
def test_database_is_empty_in_every_test(database, turn):
    """A table that one test created is gone in the next."""
    engine = database.create_engine()
    assert inspect(engine).get_table_names() == []
    with engine.begin() as connection:
        connection.execute(text('CREATE TABLE left_over (id INT)'))


@pytest.mark.parametrize('turn', [1, 2])
@pytest.mark.parametrize('database', ['postgresql', 'mariadb'], indirect=True)
def test_open_transaction_does_not_block_the_next_test(database, turn):
    """A test may end with a transaction that holds locks."""
    engine = database.create_engine()
    assert inspect(engine).get_table_names() == []
    connection = engine.connect()
    connection.execute(text('CREATE TABLE left_over (id INT)'))
    connection.commit()
    connection.execute(text('INSERT INTO left_over VALUES (1)'))
    KEPT.append(connection)


#: Keeps the connections of the test above open beyond their test.
KEPT = []


@pytest.mark.parametrize('outgoing', [
    '32768\t60999', '1024\t65535', '2000 65000', '9000 65535',
])
def test_servers_find_ports_whatever_the_kernel_keeps(monkeypatch, outgoing):
    """Whichever ports the machine has given to outgoing connections."""
    monkeypatch.setattr(Path, 'read_text', lambda *args: outgoing)
    ports = free_ports(12)
    assert len(set(ports)) == 12
    for port in ports:
        socket.create_server(('127.0.0.1', port)).close()


def test_a_cluster_outlives_a_machine_that_stands_still(database_servers):
    """No node is taken for dead that says nothing for some seconds."""
    server = database_servers('galera')
    nodes = [node.process for node in server._temporary.nodes]
    for process in nodes:
        process.send_signal(signal.SIGSTOP)
    time.sleep(4)
    for process in nodes:
        process.send_signal(signal.SIGCONT)
    engines = [node.create_engine() for node in server.database().nodes()]
    end = time.monotonic() + 2
    while time.monotonic() < end:
        for engine in engines:
            inspect(engine).get_table_names()
            engine.dispose()
