"""Results over a WebSocket, one text message each. Only this module knows wsproto."""

from __future__ import annotations

import json
import socket
from collections.abc import Callable, Mapping

from wsproto import ConnectionType, WSConnection
from wsproto.connection import ConnectionState
from wsproto.events import (
    AcceptConnection,
    CloseConnection,
    Ping,
    Request,
    TextMessage,
)
from wsproto.utilities import LocalProtocolError, RemoteProtocolError

from edge.web.http_server import read_now
from edge.web.live_page import Listener

PING_S = 10.0  # without a result, after which a ping finds out whether the client is still there
SEND_S = 5.0  # for a client to accept data
POLL_S = 0.5


def serve(
    connection: socket.socket,
    request: str,
    headers: Mapping[str, str],
    listener: Listener,
    closed: Callable[[], bool],
) -> None:
    """Serve one client, from its handshake to its end. For the connection's own thread.

    A client that does not take results in time gets `{"missed": n}` before the next one.

    request, headers: of the handshake, which http.server has read.
    closed: whether the page is closed.
    """
    ws = WSConnection(ConnectionType.SERVER)
    connection.settimeout(SEND_S)
    head = f"{request}\r\n" + "".join(f"{k}: {v}\r\n" for k, v in headers.items()) + "\r\n"
    try:
        ws.receive_data(head.encode("latin-1"))
        for event in ws.events():
            if isinstance(event, Request):
                connection.sendall(ws.send(AcceptConnection()))
    except (RemoteProtocolError, LocalProtocolError):
        body = b'{"error": "A WebSocket handshake is needed."}'
        connection.sendall(
            b"HTTP/1.1 400 Bad Request\r\nContent-Type: application/json\r\nConnection: close\r\n"
            + f"Content-Length: {len(body)}\r\n\r\n".encode()
            + body
        )
        return
    _send_results(ws, connection, listener, closed)


def _send_results(ws: WSConnection, connection: socket.socket, listener: Listener, closed: Callable[[], bool]) -> None:
    silent_s = 0.0
    while ws.state is ConnectionState.OPEN:
        if closed():
            connection.sendall(ws.send(CloseConnection(code=1001, reason="the agent stops")))
            return
        result, missed = listener.take(POLL_S)
        silent_s = 0.0 if result else silent_s + POLL_S
        if silent_s >= PING_S:
            silent_s = 0.0
            connection.sendall(ws.send(Ping()))
        if missed:
            connection.sendall(ws.send(TextMessage(json.dumps({"missed": missed}))))
        if result:
            connection.sendall(ws.send(TextMessage(json.dumps(result.to_json(), ensure_ascii=False))))
        if not _receive(ws, connection):
            return


def _receive(ws: WSConnection, connection: socket.socket) -> bool:
    """Answer pings and a close; ignore all other messages. Returns False once the connection is closed."""
    data = read_now(connection)
    if data is None:
        return True
    try:
        ws.receive_data(data or None)
        for event in ws.events():
            if isinstance(event, Ping):
                connection.sendall(ws.send(event.response()))
            if isinstance(event, CloseConnection):
                connection.sendall(ws.send(event.response()))
                return False
    except (RemoteProtocolError, LocalProtocolError):
        return False
    return bool(data)
