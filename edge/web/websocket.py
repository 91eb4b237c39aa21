"""Results over a WebSocket, one text message each. wsproto is known here only."""

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

PING_S = 10.0  # to somebody who is sent nothing, or who went away without a word
SEND_S = 5.0


def serve(
    connection: socket.socket,
    request: str,
    headers: Mapping[str, str],
    listener: Listener,
    over: Callable[[], bool],
) -> None:
    """From the handshake, which http.server has read, to its end. Where results were dropped since this one does not
    take them in time, `{"missed": n}` comes before the next."""
    ws = WSConnection(ConnectionType.SERVER)
    connection.settimeout(SEND_S)
    head = f"{request}\r\n" + "".join(f"{k}: {v}\r\n" for k, v in headers.items()) + "\r\n"
    try:
        ws.receive_data(head.encode("latin-1"))
        for event in ws.events():
            if isinstance(event, Request):
                connection.sendall(ws.send(AcceptConnection()))
    except (RemoteProtocolError, LocalProtocolError):
        body = b'{"error": "a WebSocket handshake is needed"}'
        connection.sendall(
            b"HTTP/1.1 400 Bad Request\r\nContent-Type: application/json\r\nConnection: close\r\n"
            + f"Content-Length: {len(body)}\r\n\r\n".encode()
            + body
        )
        return
    _talk(ws, connection, listener, over)


def _talk(ws: WSConnection, connection: socket.socket, listener: Listener, over: Callable[[], bool]) -> None:
    silent = 0.0
    while ws.state is ConnectionState.OPEN:
        if over():
            connection.sendall(ws.send(CloseConnection(code=1001, reason="the agent ends")))
            return
        result, missed = listener.take(0.5)
        silent = 0.0 if result else silent + 0.5
        if silent >= PING_S:
            silent = 0.0
            connection.sendall(ws.send(Ping()))
        if missed:
            connection.sendall(ws.send(TextMessage(json.dumps({"missed": missed}))))
        if result:
            connection.sendall(ws.send(TextMessage(json.dumps(result.to_json(), ensure_ascii=False))))
        if not _listen(ws, connection):
            return


def _listen(ws: WSConnection, connection: socket.socket) -> bool:
    """Answers pings and the farewell; whatever else is said is not for us. False when it is over."""
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
