"""What the tests share. pkg/testkit/e2e runs them (TestEndToEndLanguages), and sets the variables."""

from __future__ import annotations

import json
import os
import unittest
import urllib.request
import uuid
from typing import Any, Callable

from sendhouse import Client, Send, SendhouseError

ID = 9007199254740993  # that the faulty server answers


def variable(name: str) -> str:
    value = os.environ.get(name)
    if not value:
        raise RuntimeError(f"{name} is not set: run go test -run TestEndToEndLanguages ./pkg/testkit/e2e")
    return value


def hello(no: str = "") -> Send:
    return Send(client_msg_no=no, from_uid="u", channel_id="g", channel_type=2, payload="hi")


def numbers(n: int) -> list[Send]:
    return [hello(f"no-{i + 1}") for i in range(n)]


class Case(unittest.TestCase):
    def faulty(self, steps: str, **options: Any) -> tuple[Client, Callable[..., list[dict[str, Any]]]]:
        """A client of a server that fails in the steps that are named (pkg/testkit/e2e/faulty_test.go), and a function
        that lists what it was sent."""
        url = f"{variable('SENDHOUSE_FAULTY_URL')}/{uuid.uuid4()}/{steps}"

        def seen(path: str = "") -> list[dict[str, Any]]:
            with urllib.request.urlopen(url + "/seen") as answer:
                return [r for r in json.load(answer) or [] if path in ("", r["path"])]

        options = {"url": url, "backoff_min": 0.001, "backoff_max": 0.004, "tries_max": 20, **options}
        client = Client(**options)
        self.addCleanup(client.close)
        return client, seen

    def real(self, **options: Any) -> Client:
        """A client of a whole Sendhouse."""
        options = {"url": variable("SENDHOUSE_URL"), "token": variable("SENDHOUSE_TOKEN"), **options}
        client = Client(**options)
        self.addCleanup(client.close)
        return client

    def fails(self, call: Callable[[], Any], **want: Any) -> SendhouseError:
        """The call's error, which has these attributes."""
        with self.assertRaises(SendhouseError) as raised:
            call()
        have = {name: getattr(raised.exception, name) for name in want}
        self.assertEqual(have, want, str(raised.exception))
        return raised.exception
