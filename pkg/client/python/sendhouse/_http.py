"""Connections to the server, kept and used again."""

from __future__ import annotations

import http.client
import io
import selectors
import socket
import ssl
import threading
import urllib.parse
from typing import Any, Iterator, NamedTuple, Optional

from ._model import Moment, unanswered

_IDLE_CONNECTIONS_MAX = 64
_ANSWER_BYTES_MAX = 64 << 20  # a page of messages has 8 MiB; other answers are smaller
_READ_BYTES = 16 << 10


class Address(NamedTuple):
    """Where the API is."""

    https: bool
    host: str
    port: Optional[int]
    path: str  # in front of the routes


def parse_url(text: str) -> Address:
    url = urllib.parse.urlsplit(text)
    if url.scheme not in ("http", "https"):
        raise ValueError(f"url {text!r}: must begin with http:// or https://")
    if not url.hostname:
        raise ValueError(f"url {text!r}: has no host")
    if url.query or url.fragment or url.username or url.password:
        raise ValueError("url: must not have a query, a fragment or a password")
    return Address(url.scheme == "https", url.hostname, url.port, url.path.rstrip("/"))


class Limit:
    """The time that something may take."""

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self._start = Moment()

    def left(self) -> float:
        return self.seconds - self._start.elapsed()

    def socket_timeout(self) -> float:
        left = self.left()
        if left <= 0:
            raise TimeoutError(f"no answer within {self.seconds:.3f} s")
        return left


class _TimedSocket:
    """A socket for http.client whose reads and writes end at one limit, however slowly bytes arrive."""

    def __init__(self, sock: socket.socket) -> None:
        self.raw = sock
        self.limit = Limit(0)

    def sendall(self, data: bytes) -> None:
        self.raw.settimeout(self.limit.socket_timeout())
        self.raw.sendall(data)

    def makefile(self, mode: str) -> io.BufferedReader:
        assert mode == "rb"
        return io.BufferedReader(_TimedReader(self))

    def quiet(self) -> bool:
        """Whether nothing is there to be read. An idle connection on which there is has been closed by the other side."""
        with selectors.DefaultSelector() as selector:
            selector.register(self.raw, selectors.EVENT_READ)
            return not selector.select(0)

    def close(self) -> None:
        self.raw.close()


class _TimedReader(io.RawIOBase):
    """What can be read of a socket. As with a socket's own file, the socket is closed when both are."""

    def __init__(self, sock: _TimedSocket) -> None:
        self._sock = sock
        self._file = sock.raw.makefile("rb", buffering=0)

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> Optional[int]:
        self._sock.raw.settimeout(self._sock.limit.socket_timeout())
        return self._file.readinto(buffer)

    def close(self) -> None:
        self._file.close()
        super().close()


class Answer:
    """An answer whose body is being read."""

    def __init__(self, response: http.client.HTTPResponse) -> None:
        self._response = response
        self.status = response.status
        self.headers = response.headers

    def parts(self) -> Iterator[bytes]:
        """The body as it arrives. Raises a SendhouseError if it is cut."""
        size = 0
        while True:
            part, failure = b"", None
            try:
                part = self._response.read(_READ_BYTES)
            except http.client.IncompleteRead as error:
                part, failure = error.partial, error
            except (OSError, http.client.HTTPException, ValueError) as error:
                failure = error
            size += len(part)
            if part:
                yield part
            if failure is not None:
                raise unanswered(f"read the answer: {failure}", True) from failure
            if size > _ANSWER_BYTES_MAX:
                raise unanswered(f"read the answer: it is larger than {_ANSWER_BYTES_MAX} bytes", True)
            if not part:
                break
        if self._response.length:
            raise unanswered(f"read the answer: {self._response.length} bytes are missing", True)

    def text(self) -> bytes:
        return b"".join(self.parts())

    def reusable(self) -> bool:
        """Whether the connection can serve another request."""
        return self._response.isclosed() and not self._response.will_close and not self._response.length


class Connections:
    """Connections to servers, used by many threads."""

    def __init__(self, ssl_context: Optional[ssl.SSLContext]) -> None:
        self._ssl_context = ssl_context
        self._lock = threading.Lock()
        self._idle: list[tuple[Address, http.client.HTTPConnection, _TimedSocket]] = []

    def close(self) -> None:
        with self._lock:
            idle, self._idle = self._idle, []
        for _, connection, _ in idle:
            connection.close()

    def open(self, address: Address, limit: Limit) -> Exchange:
        """A connection on which nothing has been written yet. Raises a SendhouseError if there is none."""
        while True:
            with self._lock:
                kept = next((i for i in reversed(self._idle) if i[0] == address), None)
                if kept is None:
                    break
                self._idle.remove(kept)
            if kept[2].quiet():
                return Exchange(self, *kept, limit)
            kept[1].close()
        try:
            connection = self._connect(address, limit.socket_timeout())
        except (OSError, http.client.HTTPException, ValueError) as error:
            raise unanswered(f"connect to {address.host}: {error}", False) from error
        sock = _TimedSocket(connection.sock)
        connection.sock = sock  # type: ignore[assignment]
        connection.auto_open = 0  # it would connect without a limit
        return Exchange(self, address, connection, sock, limit)

    def _connect(self, address: Address, timeout: float) -> http.client.HTTPConnection:
        connection: http.client.HTTPConnection
        if address.https:
            context = self._ssl_context or ssl.create_default_context()
            connection = http.client.HTTPSConnection(address.host, address.port, timeout=timeout, context=context)
        else:
            connection = http.client.HTTPConnection(address.host, address.port, timeout=timeout)
        try:
            connection.connect()
        except BaseException:
            connection.close()
            raise
        return connection

    def keep(self, address: Address, connection: http.client.HTTPConnection, sock: _TimedSocket) -> None:
        with self._lock:
            if len(self._idle) < _IDLE_CONNECTIONS_MAX:
                self._idle.append((address, connection, sock))
                return
        connection.close()


class Exchange:
    """One request and its answer on a connection, which is kept afterwards if it can be."""

    def __init__(
        self,
        connections: Connections,
        address: Address,
        connection: http.client.HTTPConnection,
        sock: _TimedSocket,
        limit: Limit,
    ) -> None:
        self._connections = connections
        self._address = address
        self._connection = connection
        self._sock = sock
        self._answer: Optional[Answer] = None
        sock.limit = limit

    def __enter__(self) -> Exchange:
        return self

    def __exit__(self, *_: object) -> None:
        if self._answer is not None and self._answer.reusable():
            self._connections.keep(self._address, self._connection, self._sock)
        else:
            self._connection.close()

    def request(self, method: str, path: str, body: Optional[bytes], headers: dict[str, str]) -> Answer:
        """Raises a SendhouseError if there is no answer."""
        try:
            self._sock.limit.socket_timeout()
        except TimeoutError as error:  # the machine was suspended: an earlier try may be forgotten by now
            raise unanswered(str(error), False) from error
        try:
            self._connection.request(method, self._address.path + path, body=body, headers=headers)
            self._answer = Answer(self._connection.getresponse())
        except (OSError, http.client.HTTPException, ValueError) as error:
            raise unanswered(f"no answer: {error or type(error).__name__}", True) from error
        return self._answer
