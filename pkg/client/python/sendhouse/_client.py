"""The client."""

from __future__ import annotations

import base64
import random
import ssl
import threading
import time
import urllib.parse
from typing import Any, Callable, Iterable, Optional, Sequence, TypeVar, Union

from ._http import Answer, Connections, Limit, parse_url
from ._model import (
    Batch,
    BatchFailure,
    BatchResult,
    Message,
    MessagePage,
    Moment,
    Outcome,
    Result,
    Send,
    SendhouseError,
    Status,
    Tries,
    Window,
    answered,
    dump,
    encode,
    excerpt,
    parse,
    result,
    unanswered,
)

_BULK_ITEMS_MAX = 10_000  # that the server takes
_BULK_BYTES_MAX = 16 << 20  # that the server takes
_WINDOW_TRUSTED = 5.0  # how many seconds what the server said of its window is relied on
_RESEND_WITHIN_UNKNOWN = 60.0  # if the server does not say how long it remembers
_ITEM_RETRY_AFTER = 1.0  # an element of a bulk's answer has no Retry-After; docs/reference/api.md names a second
# Codes of the element that ends a bulk's answer early.
_BODY_CODE = frozenset({"too_large", "invalid_json", "body_unreadable", "overloaded"})

_T = TypeVar("_T")


class Client:
    """Sends messages and reads them. Made once, and used by many threads.

    Times are in seconds. The timeout of a call bounds it with all its tries and pauses.
    """

    def __init__(
        self,
        url: Union[str, Callable[[], str]],
        token: Union[str, Callable[[], str]] = "",
        *,
        ssl_context: Optional[ssl.SSLContext] = None,
        tries_max: int = 6,
        try_timeout: float = 15.0,
        bulk_try_timeout: float = 60.0,
        backoff_min: float = 0.1,
        backoff_max: float = 10.0,
        retry_after_max: float = 60.0,
        resend_within: float = 0.0,
        bulk_items_max: int = 1_000,
        bulk_bytes_max: int = 4 << 20,
    ) -> None:
        """Checks the arguments and reports everything that is wrong with them. Opens nothing.

        url: http://localhost:5001, or https://… with a path in front of the routes if there is one. A function is
            asked before each request, as for token.
        token: the bearer token.
        tries_max: how often a request is tried, the first time included.
        backoff_min: the longest pause before the second try. It doubles with each try; the pause taken is random,
            between half of it and the whole.
        backoff_max: the longest pause, unless the server asks for a longer one.
        retry_after_max: the longest pause that the server may ask for with Retry-After. If it asks for more, trying
            ends.
        resend_within: shortens how long after a try that may have been stored a send is tried again. 0: as long as the
            server remembers it.
        bulk_items_max, bulk_bytes_max: of one request of send_bulk.
        """
        self._url, self._token = url, token
        self._tries_max = tries_max
        self._try_timeout, self._bulk_try_timeout = try_timeout, bulk_try_timeout
        self._backoff_min, self._backoff_max, self._retry_after_max = backoff_min, backoff_max, retry_after_max
        self._resend_within = resend_within
        self._bulk_items_max, self._bulk_bytes_max = bulk_items_max, bulk_bytes_max
        self._check()
        self._connections = Connections(ssl_context)
        self._window_lock = threading.Lock()
        self._window: Optional[tuple[Window, Moment]] = None  # guarded by _window_lock

    def _check(self) -> None:
        wrong = []
        for name in ("tries_max", "try_timeout", "bulk_try_timeout", "backoff_min", "retry_after_max"):
            value = getattr(self, "_" + name)
            if not value > 0:
                wrong.append(f"{name} {value}: must be positive")
        if not self._backoff_max >= self._backoff_min:
            wrong.append(f"backoff_max {self._backoff_max}: must not be below backoff_min {self._backoff_min}")
        if not self._resend_within >= 0:
            wrong.append(f"resend_within {self._resend_within}: must not be negative")
        if not 0 < self._bulk_items_max <= _BULK_ITEMS_MAX:
            wrong.append(f"bulk_items_max {self._bulk_items_max}: must be 1 to {_BULK_ITEMS_MAX}")
        if not 0 < self._bulk_bytes_max <= _BULK_BYTES_MAX:
            wrong.append(f"bulk_bytes_max {self._bulk_bytes_max}: must be 1 to {_BULK_BYTES_MAX}")
        try:
            if not callable(self._url):
                parse_url(self._url)
            if not callable(self._token):
                _check_token(self._token)
        except ValueError as error:
            wrong.append(str(error))
        if wrong:
            raise ValueError("Client: " + "; ".join(wrong))

    def close(self) -> None:
        """Closes idle connections. The client remains usable."""
        self._connections.close()

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # Sending

    def send(self, send: Send, *, timeout: Optional[float] = None) -> Result:
        """Sends one message. Returns when it is stored and has its place in the channel."""
        client_msg_no, body = encode(send)

        def read(answer: Any, headers: Any) -> Result:
            return result(answer, client_msg_no, headers.get("Idempotent-Replayed") == "true")

        return self._store(_limit(timeout), client_msg_no, "/message/send", body, read)

    def send_batch(self, batch: Batch, *, timeout: Optional[float] = None) -> BatchResult:
        """Sends one message to each of many persons."""
        client_msg_no, body = encode(batch)

        def read(answer: Any, _: Any) -> BatchResult:
            try:
                failed = [BatchFailure(uid, reason) for uid, reason in zip(answer["fail_uids"], answer["reason"])]
            except (TypeError, KeyError) as error:
                raise unanswered("the answer is not that of a batch", True) from error
            return BatchResult(client_msg_no, failed)

        return self._store(_limit(timeout), client_msg_no, "/message/sendbatch", body, read)

    def send_bulk(self, sends: Iterable[Send], *, timeout: Optional[float] = None) -> list[Outcome]:
        """Sends many messages in few requests, and returns an outcome for each, in the order of the sends.

        It does not raise because sends fail. Sends to one channel keep their order, but one that is sent again comes
        after those that are not.
        """
        bulk = _Bulk(self, _limit(timeout), [_Item(send) for send in sends])
        bulk.run()
        return [item.outcome for item in bulk.items if item.outcome is not None]

    def window(self, *, timeout: Optional[float] = None) -> Window:
        """Asks how far back a send is recognized."""
        limit = _limit(timeout)
        return self._retry(limit, lambda: self._ask_window(limit))

    # Reading

    def status(
        self,
        client_msg_no: str,
        from_uid: str,
        channel_id: str,
        channel_type: int,
        *,
        sync_once: bool = False,
        timeout: Optional[float] = None,
    ) -> Status:
        """Asks what became of a send, by the fields that it had."""
        query = {
            "client_msg_no": client_msg_no,
            "from_uid": from_uid,
            "channel_id": channel_id,
            "channel_type": str(int(channel_type)),
        }
        if sync_once:
            query["sync_once"] = "1"
        answer = self._get("/message/status", query, timeout)
        if (
            not isinstance(answer, dict)
            or answer.get("state") not in ("stored", "accepted", "unknown")
            or answer.get("client_msg_no") != client_msg_no
        ):
            raise SendhouseError(f"the answer is not the state of this send: {answer}")
        return Status(
            state=answer["state"],
            complete=answer.get("complete", False),
            message_id=answer.get("message_id", 0),
            message_seq=answer.get("message_seq", 0),
            hint=answer.get("hint", ""),
        )

    def messages(
        self,
        login_uid: str,
        channel_id: str,
        channel_type: int,
        *,
        start_message_seq: int = 0,
        end_message_seq: int = 0,
        limit: int = 100,
        pull_mode: int = 0,
        timeout: Optional[float] = None,
    ) -> MessagePage:
        """Reads a page of the messages of a channel.

        pull_mode: 0, the newest with end < message_seq <= start; 1, the oldest with start <= message_seq < end. A bound
            of 0 is none.
        """
        body = {
            "login_uid": login_uid,
            "channel_id": channel_id,
            "channel_type": int(channel_type),
            "start_message_seq": start_message_seq,
            "end_message_seq": end_message_seq,
            "limit": limit,
            "pull_mode": pull_mode,
        }
        until = _limit(timeout)
        answer = self._retry(until, lambda: self._json(until, "/channel/messagesync", dump(body), stores=False))
        try:
            return MessagePage(more=answer["more"] == 1, messages=[_message(m) for m in answer["messages"]])
        except (TypeError, KeyError, ValueError) as error:
            raise SendhouseError(f"the answer is no page of messages: {error!r}") from error

    def allowlist(self, channel_id: str, channel_type: int, *, timeout: Optional[float] = None) -> list[str]:
        """The uids on a channel's allowlist, sorted."""
        query = {"channel_id": channel_id, "channel_type": str(int(channel_type))}
        return [member["uid"] for member in self._get("/channel/whitelist", query, timeout)]

    def system_uids(self, *, timeout: Optional[float] = None) -> list[str]:
        """The system accounts, sorted."""
        return list(self._get("/user/systemuids", {}, timeout))

    # Changing. Each of these can be repeated safely. Flags that are not named are set to 0.

    def define_channel(
        self,
        channel_id: str,
        channel_type: int,
        *,
        subscribers: Sequence[str] = (),
        reset: bool = False,
        timeout: Optional[float] = None,
        **flags: bool,
    ) -> None:
        """Defines a channel, or changes it. flags: large, ban, disband, send_ban, allow_stranger."""
        body: dict[str, Any] = dict(_flags(flags))
        if subscribers or reset:  # a person has none
            body.update(subscribers=list(subscribers), reset=int(reset))
        self._change("/channel", channel_id, channel_type, body, timeout)

    def set_channel_flags(
        self, channel_id: str, channel_type: int, *, timeout: Optional[float] = None, **flags: bool
    ) -> None:
        """Sets the flags of a channel: large, ban, disband, send_ban, allow_stranger."""
        self._change("/channel/info", channel_id, channel_type, _flags(flags), timeout)

    def delete_channel(self, channel_id: str, channel_type: int, *, timeout: Optional[float] = None) -> None:
        """Disbands a channel."""
        self._change("/channel/delete", channel_id, channel_type, {}, timeout)

    def add_subscribers(
        self,
        channel_id: str,
        channel_type: int,
        subscribers: Sequence[str],
        *,
        reset: bool = False,
        timeout: Optional[float] = None,
    ) -> None:
        body = {"subscribers": list(subscribers), "reset": int(reset)}
        self._change("/channel/subscriber_add", channel_id, channel_type, body, timeout)

    def remove_subscribers(
        self, channel_id: str, channel_type: int, subscribers: Sequence[str], *, timeout: Optional[float] = None
    ) -> None:
        body = {"subscribers": list(subscribers)}
        self._change("/channel/subscriber_remove", channel_id, channel_type, body, timeout)

    def remove_all_subscribers(self, channel_id: str, channel_type: int, *, timeout: Optional[float] = None) -> None:
        self._change("/channel/subscriber_remove_all", channel_id, channel_type, {}, timeout)

    def add_to_denylist(
        self, channel_id: str, channel_type: int, uids: Sequence[str], *, timeout: Optional[float] = None
    ) -> None:
        self._change("/channel/blacklist_add", channel_id, channel_type, {"uids": list(uids)}, timeout)

    def set_denylist(
        self, channel_id: str, channel_type: int, uids: Sequence[str], *, timeout: Optional[float] = None
    ) -> None:
        self._change("/channel/blacklist_set", channel_id, channel_type, {"uids": list(uids)}, timeout)

    def remove_from_denylist(
        self, channel_id: str, channel_type: int, uids: Sequence[str], *, timeout: Optional[float] = None
    ) -> None:
        self._change("/channel/blacklist_remove", channel_id, channel_type, {"uids": list(uids)}, timeout)

    def clear_denylist(self, channel_id: str, channel_type: int, *, timeout: Optional[float] = None) -> None:
        self._change("/channel/blacklist_remove_all", channel_id, channel_type, {}, timeout)

    def add_to_allowlist(
        self, channel_id: str, channel_type: int, uids: Sequence[str], *, timeout: Optional[float] = None
    ) -> None:
        self._change("/channel/whitelist_add", channel_id, channel_type, {"uids": list(uids)}, timeout)

    def set_allowlist(
        self, channel_id: str, channel_type: int, uids: Sequence[str], *, timeout: Optional[float] = None
    ) -> None:
        self._change("/channel/whitelist_set", channel_id, channel_type, {"uids": list(uids)}, timeout)

    def remove_from_allowlist(
        self, channel_id: str, channel_type: int, uids: Sequence[str], *, timeout: Optional[float] = None
    ) -> None:
        self._change("/channel/whitelist_remove", channel_id, channel_type, {"uids": list(uids)}, timeout)

    def clear_allowlist(self, channel_id: str, channel_type: int, *, timeout: Optional[float] = None) -> None:
        self._change("/channel/whitelist_remove_all", channel_id, channel_type, {}, timeout)

    def add_system_uids(self, uids: Sequence[str], *, timeout: Optional[float] = None) -> None:
        self._post("/user/systemuids_add", {"uids": list(uids)}, timeout)

    def remove_system_uids(self, uids: Sequence[str], *, timeout: Optional[float] = None) -> None:
        self._post("/user/systemuids_remove", {"uids": list(uids)}, timeout)

    def _change(
        self, path: str, channel_id: str, channel_type: int, body: dict[str, Any], timeout: Optional[float]
    ) -> None:
        self._post(path, {"channel_id": channel_id, "channel_type": int(channel_type), **body}, timeout)

    def _post(self, path: str, body: dict[str, Any], timeout: Optional[float]) -> None:
        limit = _limit(timeout)
        self._retry(limit, lambda: self._json(limit, path, dump(body)))

    def _get(self, path: str, query: dict[str, str], timeout: Optional[float]) -> Any:
        if query:
            path += "?" + urllib.parse.urlencode(query)
        limit = _limit(timeout)
        return self._retry(limit, lambda: self._json(limit, path, None, stores=False))

    # Trying

    def _retry(self, limit: Limit, request: Callable[[], _T]) -> _T:
        """Makes a request that can be repeated at any time."""
        tries = 0
        while True:
            tries += 1
            try:
                return request()
            except SendhouseError as error:
                error.tries = tries
                if tries >= self._tries_max or not self.pause(limit, tries, error):
                    raise

    def _store(
        self, limit: Limit, client_msg_no: str, path: str, body: bytes, read: Callable[[Any, Any], _T]
    ) -> _T:
        """Makes a request that stores messages under a client_msg_no: each try is the same to the byte."""
        tries = Tries(client_msg_no)
        while True:
            start = Moment()
            timeout = self._try_timeout
            try:
                if tries.since is not None:
                    left = self.resendable(limit, tries.since)
                    if left <= 0 and tries.last is not None:
                        # The server may have forgotten it, and would store it again.
                        raise tries.failure(tries.last)
                    timeout = min(timeout, left)
                return self._json(limit, path, body, timeout=timeout, read=read)
            except SendhouseError as error:
                if error.client_msg_no:
                    raise
                tries.add(start, error)
                if tries.count >= self._tries_max or not self.pause(limit, tries.count, error):
                    raise tries.failure(error) from error

    def pause(self, limit: Limit, tries: int, error: SendhouseError) -> bool:
        """Waits before another try. Returns False if there should be none: it cannot help, or the time does not suffice."""
        if not error.retryable or error.retry_after > self._retry_after_max:
            return False
        wait = min(self._backoff_min * 2.0 ** min(tries - 1, 64), self._backoff_max)
        wait -= random.random() * wait / 2
        if error.retry_after > wait:
            # The server asks all callers that it refuses at one time for the same pause: this spreads their next tries.
            wait = error.retry_after + random.random() * self._backoff_min
        if limit.left() <= wait:
            return False  # the caller can use the time better
        time.sleep(wait)
        return True

    def resendable(self, limit: Limit, since: Moment) -> float:
        """How much longer a send may be tried again whose first try that may have been stored began at since."""
        with self._window_lock:  # all that need it wait for one request
            if self._window is None or self._window[1].age() > _WINDOW_TRUSTED:
                self._window = (self._ask_window(limit), Moment())
            remembers = self._window[0].remembers
        within = self._resend_within
        if remembers is None:
            within = within or _RESEND_WITHIN_UNKNOWN
        else:
            within = min(within, remembers) if within else remembers
        return within - since.age()

    def _ask_window(self, limit: Limit) -> Window:
        """Asks once. A server that does not have the route says nothing."""
        try:
            answer = self._json(limit, "/message/window", None, stores=False)
        except SendhouseError as error:
            if error.status != 404:
                raise
            return Window(None, False)
        if not isinstance(answer, dict):
            raise unanswered("the answer is no window", False)
        ms = answer.get("remembers_ms", 0)
        return Window(ms / 1000 if ms > 0 else None, answer.get("ordered_bulks") is True)

    def _json(
        self,
        limit: Limit,
        path: str,
        body: Optional[bytes],
        *,
        timeout: Optional[float] = None,
        stores: bool = True,
        read: Optional[Callable[[Any, Any], Any]] = None,
    ) -> Any:
        """Makes a request and reads the JSON of a 200."""

        def decode(reply: Answer) -> Any:
            text = reply.text()
            answer = parse(text)
            if reply.status != 200:
                raise answered(reply.status, answer, text, reply.headers)
            if answer is None:
                raise unanswered(f"the answer is no JSON: {excerpt(text)}", True)
            return read(answer, reply.headers) if read else answer

        return self.request(limit, path, body, decode, timeout=timeout, stores=stores)

    def request(
        self,
        limit: Limit,
        path: str,
        body: Optional[bytes],
        read: Callable[[Answer], _T],
        *,
        content_type: str = "application/json",
        timeout: Optional[float] = None,
        stores: bool = True,
    ) -> _T:
        """Makes one request. Raises a SendhouseError if there is no answer, or read does."""
        try:
            headers = {} if body is None else {"Content-Type": content_type}
            try:
                address = parse_url(self._url() if callable(self._url) else self._url)
                token = _check_token(self._token() if callable(self._token) else self._token)
            except Exception as error:  # of functions of the caller
                raise unanswered(f"url or token: {error}", False) from error
            if token:
                headers["Authorization"] = "Bearer " + token
            left = limit.left()
            if left <= 0:
                raise SendhouseError(f"the call took longer than its timeout, {limit.seconds} s")
            until = Limit(min(timeout or self._try_timeout, left))
            with self._connections.open(address, until) as exchange:
                return read(exchange.request("GET" if body is None else "POST", path, body, headers))
        except SendhouseError as error:
            if not stores:
                error.maybe_stored = False
            raise


def _limit(timeout: Optional[float]) -> Limit:
    if timeout is not None and not timeout > 0:
        raise ValueError(f"timeout {timeout}: must be positive")
    return Limit(float("inf") if timeout is None else timeout)


def _check_token(token: str) -> str:
    if any(not "!" <= c <= "~" for c in token):
        raise ValueError("token: must be visible ASCII characters")
    return token


def _flags(flags: dict[str, bool]) -> dict[str, int]:
    unknown = sorted(set(flags) - {"large", "ban", "disband", "send_ban", "allow_stranger"})
    if unknown:
        raise TypeError("no flags of a channel: " + ", ".join(unknown))
    return {name: int(value) for name, value in flags.items()}


def _message(m: dict[str, Any]) -> Message:
    return Message(
        message_id=m["message_id"],
        message_seq=m["message_seq"],
        client_msg_no=m["client_msg_no"],
        from_uid=m["from_uid"],
        channel_id=m["channel_id"],
        channel_type=m["channel_type"],
        red_dot=m["header"]["red_dot"] == 1,
        sync_once=m["header"]["sync_once"] == 1,
        expire=m["expire"],
        timestamp=m["timestamp"],
        payload=base64.b64decode(m["payload"]),
    )


class _Item:
    """One send of a bulk. It is open while it has no outcome."""

    def __init__(self, send: Send) -> None:
        self.outcome: Optional[Outcome] = None
        self.line = b""
        self.tries = Tries("")
        try:
            client_msg_no, body = encode(send)
            self.line = body + b"\n"
            self.tries = Tries(client_msg_no)
        except (TypeError, ValueError) as error:
            no = getattr(send, "client_msg_no", "")
            failed = SendhouseError(f"send: {error}; it was not sent", refused=True, tries=0, client_msg_no=no)
            failed.__cause__ = error
            self.outcome = Outcome(error=failed)

    def fail(self, error: SendhouseError) -> None:
        self.outcome = Outcome(error=self.tries.failure(error))


class _Bulk:
    """Sends items in rounds: each goes once through what is open."""

    def __init__(self, client: Client, limit: Limit, items: list[_Item]) -> None:
        self.client = client
        self.limit = limit
        self.items = items
        self.bytes_max: float = client._bulk_bytes_max

    def run(self) -> None:
        """Ends when each item has an outcome. A request that fails as a whole ends its round, since the next one would
        fail too."""
        tries_max = self.client._tries_max
        in_vain = 0  # rounds in a row without an answer
        round_no = 0
        while True:
            round_no += 1
            todo = self._open()
            failure: Optional[SendhouseError] = None
            progress = False
            while todo and failure is None:
                chunk = self._chunk(todo)
                done = len(chunk)
                try:
                    done = self._request(chunk)
                    progress = progress or done > 0
                except SendhouseError as error:
                    failure = error
                todo = todo[done:]
            left = self._open()
            if not left:
                return
            if failure is None:
                failure = max((i.tries.last for i in left if i.tries.last), key=lambda e: e.retry_after)
            in_vain = 0 if progress else in_vain + 1
            if in_vain >= tries_max or not self.client.pause(self.limit, min(round_no, tries_max), failure):
                for item in left:  # items that were never tried fail as the last request did
                    item.fail(item.tries.last or failure)
                return

    def _open(self) -> list[_Item]:
        return [item for item in self.items if item.outcome is None]

    def _chunk(self, todo: list[_Item]) -> list[_Item]:
        size = 0
        for n, item in enumerate(todo):
            size += len(item.line)
            if n == self.client._bulk_items_max or n > 0 and size > self.bytes_max:
                return todo[:n]
        return todo

    def _request(self, chunk: list[_Item]) -> int:
        """Makes one request, and returns how many items of the chunk have had their try. Raises if the request failed as
        a whole."""
        timeout = self.client._bulk_try_timeout
        for item in chunk:
            if item.tries.since is None or item.tries.last is None:
                continue
            left = self.client.resendable(self.limit, item.tries.since)
            if left <= 0:  # the server may have forgotten it, and would store it again
                item.fail(item.tries.last)
            else:
                timeout = min(timeout, left)
        items = [item for item in chunk if item.outcome is None]
        if not items:
            return len(chunk)
        start = Moment()
        answers: list[Union[Result, SendhouseError]] = []
        failure: Optional[SendhouseError] = None
        try:
            self.client.request(
                self.limit,
                "/message/sendbulk",
                b"".join(item.line for item in items),
                lambda reply: _read_bulk(reply, items, answers),
                content_type="application/x-ndjson",
                timeout=timeout,
            )
        except SendhouseError as error:
            failure = error
        for item, answer in zip(items, answers):
            if isinstance(answer, Result):
                item.outcome = Outcome(result=answer)
            else:
                self._tried(item, start, answer)
        rest = items[len(answers) :]
        if failure is None or not rest:
            return len(chunk)
        if failure.status == 413 and len(rest) > 1:  # not one of them need be too large
            self.bytes_max = sum(len(item.line) for item in rest) / 2
            return chunk.index(rest[0])
        for item in rest:
            self._tried(item, start, failure)
        if not answers and not failure.refused:
            raise failure
        return len(chunk)

    def _tried(self, item: _Item, start: Moment, error: SendhouseError) -> None:
        """Notes that a try of an item failed, and leaves the item open if another can help."""
        item.tries.add(start, error)
        if item.tries.count >= self.client._tries_max or not error.retryable:
            item.fail(error)


def _read_bulk(reply: Answer, items: list[_Item], answers: list[Union[Result, SendhouseError]]) -> None:
    """Appends what became of each item, in their order: its result, or its error. Raises if there are not all."""
    if reply.status != 200:
        text = reply.text()
        raise answered(reply.status, parse(text), text, reply.headers)
    elements: list[Any] = []
    failure: Optional[SendhouseError] = None
    rest = b""
    try:
        for part in reply.parts():
            *lines, rest = (rest + part).split(b"\n")
            for line in lines:
                _take(elements, len(items), line)
        _take(elements, len(items), rest)
    except SendhouseError as error:
        failure = error
    if failure is None and len(elements) < len(items):
        failure = unanswered("the answer to the bulk ends before this item's", True)
        # One element more than items were read is about the body as a whole, and later items were not sent.
        if elements and _is_problem(elements[-1]) and elements[-1]["code"] in _BODY_CODE:
            failure = _refusal(elements.pop(), reply)
    for item, element in zip(items, elements):
        if _is_problem(element):
            answers.append(_refusal(element, reply))
        else:
            replayed = isinstance(element, dict) and element.get("idempotent_replayed") is True
            answers.append(result(element, item.tries.client_msg_no, replayed))
    if failure is not None:
        raise failure


def _take(elements: list[Any], count_max: int, line: bytes) -> None:
    """Decodes one line of a bulk's answer. A line beyond the items' is about the body, and answers none of them."""
    if not line.strip() or len(elements) == count_max:
        return
    element = parse(line)
    if element is None:
        raise unanswered(f"a line of the answer is no JSON: {excerpt(line)}", True)
    elements.append(element)


def _is_problem(element: Any) -> bool:
    return isinstance(element, dict) and isinstance(element.get("status"), int) and isinstance(element.get("code"), str)


def _refusal(element: dict[str, Any], reply: Answer) -> SendhouseError:
    """The error that an element of a bulk's answer reports."""
    error = answered(element["status"], element, b"", reply.headers)
    if error.retryable:
        error.retry_after = _ITEM_RETRY_AFTER
    return error
