import base64
import json
import pathlib
import unittest

from sendhouse import Batch, Client, Send, classify
from sendhouse._model import encode


class Rules(unittest.TestCase):
    def test_the_rules_are_the_go_clients(self):
        path = pathlib.Path(__file__).parents[2] / "testdata" / "rules.json"
        rules = json.loads(path.read_text("utf-8"))
        self.assertTrue(rules)
        for rule in rules:
            want = (rule["retryable"], rule["refused"], rule["maybe_stored"])
            self.assertEqual(tuple(classify(rule["status"], rule["code"])), want, rule)

    def test_payloads(self):
        every = bytes(range(256))
        for payload, want in (("héllo 群 🙂", "héllo 群 🙂".encode()), (every, every), (bytearray(every), every), ("\0", b"\0")):
            _, body = encode(Send("u", payload))
            self.assertEqual(base64.b64decode(json.loads(body)["payload"], validate=True), want)
        with self.assertRaises(UnicodeEncodeError):
            encode(Send("u", "a\ud800b"))
        with self.assertRaisesRegex(TypeError, "payload must be"):
            encode(Send("u", {"type": 1}))

    def test_all_fields(self):
        no, body = encode(
            Send(
                from_uid="群",
                payload=b"x",
                channel_id="g",
                channel_type=2,
                client_msg_no="no-1",
                no_persist=True,
                red_dot=True,
                sync_once=True,
                stream_no="s",
                tag_key="t",
                expire=60,
                subscribers=("a", "b"),
            )
        )
        self.assertEqual(no, "no-1")
        want = {
            "header": {"no_persist": 1, "red_dot": 1, "sync_once": 1},
            "client_msg_no": "no-1",
            "from_uid": "群",
            "payload": "eA==",
            "channel_id": "g",
            "channel_type": 2,
            "stream_no": "s",
            "tag_key": "t",
            "expire": 60,
            "subscribers": ["a", "b"],
        }
        self.assertEqual(json.loads(body), want)
        no, body = encode(Batch("u", "x", ["a"]))
        self.assertRegex(no, "^[0-9a-f]{8}-[0-9a-f]{4}-7[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}$")
        self.assertEqual(sorted(json.loads(body)), ["client_msg_no", "from_uid", "header", "payload", "subscribers"])

    def test_wrong_arguments_are_reported_together(self):
        with self.assertRaises(ValueError) as raised:
            Client("ftp://x", tries_max=0, backoff_min=5, backoff_max=1, bulk_items_max=10_001)
        for part in ("http://", "tries_max 0", "backoff_max 1", "bulk_items_max 10001"):
            self.assertIn(part, str(raised.exception))
        for url in ("", "localhost:5001", "http://", "http://u:p@h", "http://h/?q"):
            with self.assertRaisesRegex(ValueError, "url"):
                Client(url)
        with self.assertRaisesRegex(ValueError, "token"):
            Client("http://h", "a\nb")
        with self.assertRaisesRegex(ValueError, "timeout"):
            Client("http://h").send(Send("u", "x"), timeout=0)
