"""What is sent, what comes back, and what a failure means for another try."""

from __future__ import annotations

import base64
import email.utils
import json
import secrets
import time
from dataclasses import dataclass
from email.message import Message as Headers
from enum import IntEnum
from typing import Any, NamedTuple, Optional, Sequence, Union

_EXCERPT_LENGTH_MAX = 200  # of an answer that is not the server's, in an error

_RETRYABLE_STATUS = frozenset({408, 425, 429, 500, 502, 503, 504})
_NOT_STORED_CODE = frozenset(
    {
        "overloaded",
        "draining",
        "wal_unavailable",
        "wal_full",
        "wal_stalled",
        "wal_refused",
        "partition_refused",
        "permissions_unavailable",
        "out_of_order",
    }
)


class ChannelType(IntEnum):
    """The kinds of channels."""

    PERSON = 1
    GROUP = 2
    CUSTOMER_SERVICE = 3
    COMMUNITY = 4
    COMMUNITY_TOPIC = 5
    INFO = 6
    DATA = 7
    TEMPORARY = 8
    LIVE = 9
    VISITORS = 10
    AGENT = 11
    AGENT_GROUP = 12


@dataclass(frozen=True)
class Send:
    """A message to be sent. The server checks it; its rules are in docs/reference/api.md."""

    from_uid: str
    """The sender, 1 to 256 bytes."""
    payload: Union[str, bytes]
    """Text, which is sent in UTF-8, or bytes: 1 byte to 512 KiB by default, before base64, which is added here."""
    channel_id: str = ""
    """The channel; for a person's channel the other uid. May be empty if there are subscribers."""
    channel_type: int = 0
    client_msg_no: str = ""
    """The sender's own key for the message, at most 256 bytes. If it is empty, one is made, once for all tries."""
    no_persist: bool = False
    """Gets an ID, is published once and stored nowhere."""
    red_dot: bool = False
    """Clients show it as unread."""
    sync_once: bool = False
    """A command: it goes to the channel's command channel."""
    stream_no: str = ""
    """Stored; at most 256 bytes."""
    tag_key: str = ""
    """Stored; at most 256 bytes."""
    expire: int = 0
    """Seconds after which the message's row is gone; 0 means never."""
    subscribers: Sequence[str] = ()
    """The receivers of a command, at most 10,000."""


@dataclass(frozen=True)
class Batch:
    """One message to each of many persons. The fields are those of Send."""

    from_uid: str
    payload: Union[str, bytes]
    subscribers: Sequence[str]
    """The receivers' uids, at most 10,000."""
    client_msg_no: str = ""
    no_persist: bool = False
    red_dot: bool = False
    sync_once: bool = False
    stream_no: str = ""
    tag_key: str = ""
    expire: int = 0


@dataclass(frozen=True)
class Result:
    """What a send has become."""

    message_id: int
    """Unique, and greater than those of the channel's earlier messages."""
    message_seq: int
    """1, 2, 3, … in the channel; 0 with no_persist."""
    client_msg_no: str
    """That of the send, or the one that was made for it."""
    replayed: bool
    """It had been sent before, and this is the first result again (Idempotent-Replayed)."""


class BatchFailure(NamedTuple):
    """A receiver to whom a message could not be sent."""

    uid: str
    reason: str


@dataclass(frozen=True)
class BatchResult:
    client_msg_no: str
    failed: list[BatchFailure]


@dataclass(frozen=True)
class Outcome:
    """What became of one send of a bulk: one of the two is set."""

    result: Optional[Result] = None
    error: Optional[SendhouseError] = None


@dataclass(frozen=True)
class Window:
    """What the server promises of sends that are sent again."""

    remembers: Optional[float]
    """A send whose first try began less than this many seconds ago is recognized. None: the server does not know."""
    ordered_bulks: bool
    """A bulk may have the header Sendhouse-Ordered."""


@dataclass(frozen=True)
class Status:
    """What became of a send whose answer was lost."""

    state: str
    """stored: in ClickHouse. accepted: in the logs, and will be in ClickHouse. unknown: nowhere that was searched."""
    complete: bool
    """Of unknown: everything was searched."""
    message_id: int
    message_seq: int
    hint: str
    """For people."""


@dataclass(frozen=True)
class Message:
    """A message as a reader of its channel sees it."""

    message_id: int
    message_seq: int
    client_msg_no: str
    from_uid: str
    channel_id: str
    channel_type: int
    red_dot: bool
    sync_once: bool
    expire: int
    timestamp: int
    """Seconds since 1970."""
    payload: bytes


@dataclass(frozen=True)
class MessagePage:
    more: bool
    """There are more messages within the bounds."""
    messages: list[Message]


class Meaning(NamedTuple):
    """What a failed try means for another one."""

    retryable: bool
    refused: bool
    maybe_stored: bool


def classify(status: int, code: str) -> Meaning:
    """What a status and a code of the server mean for another try."""
    refused = False
    if status == 413:
        refused = True  # also if a proxy says it
    elif status in (400, 409, 422):
        refused = code not in ("", "body_unreadable")
    elif status == 403:
        refused = code not in ("", "insufficient_scope")
    return Meaning(
        retryable=status in _RETRYABLE_STATUS or code == "body_unreadable",
        refused=refused,
        maybe_stored=code not in _NOT_STORED_CODE and (status >= 500 or status == 408 or 200 <= status < 300),
    )


class SendhouseError(Exception):
    """Why a call failed: what the server answered, or why there is no answer."""

    def __init__(
        self,
        message: str,
        *,
        status: int = 0,
        code: str = "",
        msg: str = "",
        field: str = "",
        reason: int = 0,
        request_id: str = "",
        retry_after: float = 0.0,
        retryable: bool = False,
        refused: bool = False,
        maybe_stored: bool = False,
        client_msg_no: str = "",
        tries: int = 1,
    ) -> None:
        super().__init__(message)
        self.status = status
        """The HTTP status; 0 if there was no answer."""
        self.code = code
        """The server's name for the case (docs/reference/api.md); "" if something between here and the server answered,
        or nothing did."""
        self.msg = msg or message
        """What is wrong, for people."""
        self.field = field
        """The names of the bad fields, separated by commas."""
        self.reason = reason
        """WuKongIM's reason code, or 0."""
        self.request_id = request_id
        """X-Request-Id of the answer, which the server's log has too; "" if there is none."""
        self.retry_after = retry_after
        """The seconds that the server asked to wait; 0 if it did not."""
        self.retryable = retryable
        """Trying again later can help."""
        self.refused = refused
        """The server will not have this send, now or later."""
        self.maybe_stored = maybe_stored
        """The send, or the change, may be stored in spite of the error: one of its tries may have been."""
        self.client_msg_no = client_msg_no
        """The send's client_msg_no. Sending again with it is safe while the server remembers it; Client.status answers
        after that."""
        self.tries = tries
        """How often it was tried."""


def unanswered(message: str, maybe_stored: bool) -> SendhouseError:
    """The error of a try without a usable answer."""
    return SendhouseError(message, retryable=True, maybe_stored=maybe_stored)


def answered(status: int, problem: Any, text: bytes, headers: Headers) -> SendhouseError:
    """The error of an answer other than 200: the server's problem, or the text of something in between."""
    code = problem.get("code") if isinstance(problem, dict) else None
    if not isinstance(code, str):
        code, problem = "", {"msg": excerpt(text)}
    msg = str(problem.get("msg", ""))
    reason = problem.get("reason")
    meaning = classify(status, code)
    return SendhouseError(
        f"{status} {code or 'without a code'}: {msg}",
        status=status,
        code=code,
        msg=msg,
        field=str(problem.get("field", "")),
        reason=reason if isinstance(reason, int) else 0,
        request_id=headers.get("X-Request-Id") or "",
        retry_after=_retry_after(headers.get("Retry-After") or ""),
        retryable=meaning.retryable,
        refused=meaning.refused,
        maybe_stored=meaning.maybe_stored,
    )


def _retry_after(text: str) -> float:
    """Retry-After in seconds: a number, or a date."""
    if text.isascii() and text.isdigit():
        return float(text[:18])  # more digits are no time that is waited for
    try:
        return max(0.0, email.utils.parsedate_to_datetime(text).timestamp() - time.time())
    except (TypeError, ValueError, IndexError, OverflowError):
        return 0.0


def excerpt(text: bytes) -> str:
    shown = text.decode("utf-8", "replace").strip()[:_EXCERPT_LENGTH_MAX]
    return json.dumps(shown, ensure_ascii=False) if shown else "the answer has no body"


class Moment:
    """A moment by two clocks: the monotonic one can stop while the machine is suspended, and the other can be set."""

    def __init__(self) -> None:
        self._wall = time.time()
        self._mono = time.monotonic()

    def elapsed(self) -> float:
        """How many seconds ago it was."""
        return max(time.time() - self._wall, time.monotonic() - self._mono)

    def age(self) -> float:
        """How many seconds ago it was, or more: a clock that was set back tells nothing."""
        return float("inf") if time.time() < self._wall else self.elapsed()


class Tries:
    """The tries of one send."""

    def __init__(self, client_msg_no: str) -> None:
        self.client_msg_no = client_msg_no
        self.count = 0
        self.since: Optional[Moment] = None  # the start of the first try that may have been stored
        self.last: Optional[SendhouseError] = None  # the error of the last one

    def add(self, start: Moment, error: SendhouseError) -> None:
        self.count += 1
        self.last = error
        if error.maybe_stored and self.since is None:
            self.since = start

    def failure(self, error: SendhouseError) -> SendhouseError:
        """The error for the caller."""
        stored = "may be stored" if self.since else "not stored"
        tries = "try" if self.count == 1 else "tries"
        failed = SendhouseError(
            f"send {self.client_msg_no}: {stored} after {self.count} {tries}: {error}",
            status=error.status,
            code=error.code,
            msg=error.msg,
            field=error.field,
            reason=error.reason,
            request_id=error.request_id,
            retry_after=error.retry_after,
            retryable=error.retryable,
            refused=error.refused,
            maybe_stored=self.since is not None,
            client_msg_no=self.client_msg_no,
            tries=self.count,
        )
        failed.__cause__ = error
        return failed


def _uuid7() -> str:
    """A UUID of version 7: 48 bits of milliseconds, and random ones."""
    b = bytearray(int(time.time() * 1000).to_bytes(6, "big") + secrets.token_bytes(10))
    b[6] = 0x70 | b[6] & 0x0F
    b[8] = 0x80 | b[8] & 0x3F
    digits = b.hex()
    return "-".join((digits[:8], digits[8:12], digits[12:16], digits[16:20], digits[20:]))


def encode(send: Union[Send, Batch]) -> tuple[str, bytes]:
    """A send's client_msg_no and JSON. Raises ValueError or TypeError if it has none."""
    if not isinstance(send.payload, (str, bytes, bytearray, memoryview)):
        raise TypeError("payload must be str or bytes")
    payload = send.payload.encode("utf-8") if isinstance(send.payload, str) else bytes(send.payload)
    client_msg_no = send.client_msg_no or _uuid7()
    body: dict[str, Any] = {
        "header": {"no_persist": int(send.no_persist), "red_dot": int(send.red_dot), "sync_once": int(send.sync_once)},
        "client_msg_no": client_msg_no,
        "from_uid": send.from_uid,
        "payload": base64.b64encode(payload).decode("ascii"),
    }
    if isinstance(send, Send):
        if send.channel_id:
            body["channel_id"] = send.channel_id
        if send.channel_type:
            body["channel_type"] = int(send.channel_type)
    if send.stream_no:
        body["stream_no"] = send.stream_no
    if send.tag_key:
        body["tag_key"] = send.tag_key
    if send.expire:
        body["expire"] = send.expire
    if send.subscribers:
        body["subscribers"] = list(send.subscribers)
    return client_msg_no, dump(body)


def dump(body: Any) -> bytes:
    return json.dumps(body, ensure_ascii=False, separators=(",", ":")).encode("utf-8")


def parse(text: bytes) -> Any:
    """The JSON value of a text; None if it is none."""
    try:
        return json.loads(text)
    except ValueError:
        return None


def result(answer: Any, client_msg_no: str, replayed: bool) -> Result:
    """Checks that a 200 answers the send that was made."""
    if not isinstance(answer, dict):
        raise unanswered("the answer is no JSON object", True)
    message_id, no = answer.get("message_id"), answer.get("client_msg_no")
    if not isinstance(message_id, int) or message_id <= 0 or no != client_msg_no:
        raise unanswered(f"the answer is not that of this send: message_id {message_id}, client_msg_no {no}", True)
    return Result(message_id, answer.get("message_seq", 0), client_msg_no, replayed)
