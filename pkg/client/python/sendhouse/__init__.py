"""A client of Sendhouse's HTTP API.

A send that gets no answer may have been stored or not, so it is sent again under the same client_msg_no, by which the
server recognizes it. A try that may have been stored is repeated only while the server says that it remembers it
(/message/window). The rules are those of the Go client; pkg/client/testdata/rules.json holds the cases that both are
tested against.
"""

from ._client import Client
from ._model import (
    Batch,
    BatchFailure,
    BatchResult,
    ChannelType,
    Message,
    MessagePage,
    Outcome,
    Result,
    Send,
    SendhouseError,
    Status,
    Window,
    classify,
)

__all__ = [
    "Batch",
    "BatchFailure",
    "BatchResult",
    "ChannelType",
    "Client",
    "Message",
    "MessagePage",
    "Outcome",
    "Result",
    "Send",
    "SendhouseError",
    "Status",
    "Window",
    "classify",
]
