import base64
import json
import threading
import time

from sendhouse import Send

from .setup import ID, Case, hello, numbers

SEND = "/message/send"
BULK = "/message/sendbulk"
WINDOW = "/message/window"


def shown(outcomes):
    return [o.result.client_msg_no if o.result else o.error.code for o in outcomes]


class Faults(Case):
    def test_a_send_is_tried_again_the_same_to_the_byte(self):
        steps = (
            "overloaded:503,reset,rate_limited:429,html:502,cut,other,body_unreadable:400,internal:500,"
            "outcome_unknown:503,replayed"
        )
        client, seen = self.faulty(steps)
        result = client.send(Send(from_uid="u", channel_id="g", channel_type=2, payload="héllo 群", red_dot=True))
        tries = seen(SEND)
        self.assertEqual([t["body"] for t in tries], [tries[0]["body"]] * len(steps.split(",")))
        body = json.loads(tries[0]["body"])
        self.assertEqual(body["header"], {"no_persist": 0, "red_dot": 1, "sync_once": 0})
        self.assertEqual(base64.b64decode(body["payload"]).decode(), "héllo 群")
        self.assertEqual(
            (result.message_id, result.message_seq, result.client_msg_no, result.replayed),
            (ID, 5, body["client_msg_no"], True),
        )

    def test_the_first_answer_is_no_replay_and_the_token_is_sent(self):
        client, seen = self.faulty("ok", token=lambda: "secret")
        self.assertFalse(client.send(hello("no-1")).replayed)
        headers = seen()[0]["headers"]
        self.assertEqual(headers["authorization"], "Bearer secret")
        self.assertEqual(headers["content-type"], "application/json")

    def test_what_the_server_refuses_is_not_tried_again(self):
        client, seen = self.faulty("invalid_request:400")
        error = self.fails(
            lambda: client.send(hello("no-1")),
            status=400,
            code="invalid_request",
            msg="said so",
            field="f",
            reason=7,
            request_id="request-1",
            client_msg_no="no-1",
            tries=1,
            refused=True,
            retryable=False,
            maybe_stored=False,
        )
        self.assertEqual(str(error), "send no-1: not stored after 1 try: 400 invalid_request: said so")
        self.assertEqual(len(seen(SEND)), 1)

    def test_a_redirect_is_not_followed(self):
        client, seen = self.faulty("redirect", token="secret")
        self.fails(lambda: client.send(hello("no-1")), status=307, retryable=False, maybe_stored=False)
        self.assertEqual(len(seen()), 1)

    def test_tries_are_bounded(self):
        client, seen = self.faulty("no_answer:503,draining:503", tries_max=3)
        self.fails(lambda: client.send(hello("no-1")), code="draining", tries=3, maybe_stored=True)
        self.assertEqual(len(seen(SEND)), 3)

    def test_retry_after_is_waited_for(self):
        client, seen = self.faulty("overloaded:503:1,rate_limited:429:1,ok")
        client.send(hello("no-1"))
        a, b, c = (r["at_ms"] for r in seen(SEND))
        self.assertGreaterEqual(min(b - a, c - b), 990, "a try came too early")

    def test_retry_after_has_a_cap(self):
        for seconds in ("61", "2147483647", "99999999999999999999"):
            client, seen = self.faulty(f"overloaded:503:{seconds},ok")
            self.fails(lambda: client.send(hello("no-1")), code="overloaded", tries=1)
            self.assertEqual(len(seen(SEND)), 1)

    def test_a_send_that_may_be_stored_is_repeated_only_within_the_window(self):
        client, seen = self.faulty("window:1,reset,ok")
        self.fails(lambda: client.send(hello("no-1")), maybe_stored=True, tries=1)
        self.assertEqual([r["path"] for r in seen()], [SEND, WINDOW])

        # One that is surely not stored needs no window.
        client, seen = self.faulty("window:1,overloaded:503,ok")
        client.send(hello("no-1"))
        self.assertEqual([r["path"] for r in seen()], [SEND, SEND])

        # A server that does not say is taken to know it for a minute; the client's own limit only shortens.
        for window in ("window:0", "window:404"):
            client, _ = self.faulty(f"{window},reset,ok")
            self.assertEqual(client.send(hello("no-1")).message_id, ID)
        client, _ = self.faulty("reset,ok", resend_within=1e-6)
        self.fails(lambda: client.send(hello("no-1")), maybe_stored=True, tries=1)

    def test_a_server_that_cannot_be_reached_stores_nothing(self):
        client, _ = self.faulty("ok", url="http://127.0.0.1:2", tries_max=2)
        self.fails(lambda: client.send(hello("no-1")), maybe_stored=False, tries=2, status=0, retryable=True)

    def test_a_try_ends_at_its_timeout_also_while_the_answer_drips(self):
        for step in ("silent", "drip"):
            client, seen = self.faulty(f"{step},ok", try_timeout=0.15)
            client.send(hello("no-1"))
            self.assertGreaterEqual(len(seen(SEND)), 2)

    def test_a_call_ends_at_its_timeout(self):
        client, _ = self.faulty("silent")
        self.fails(lambda: client.send(hello("no-1"), timeout=0.5), maybe_stored=True)

        # It does not wait for a pause that is longer than the time left.
        client, _ = self.faulty("overloaded:503:30")
        self.fails(lambda: client.send(hello("no-1"), timeout=20), code="overloaded", tries=1)

    def test_an_error_of_the_functions_for_url_and_token_is_tried_again(self):
        calls = []

        def token():
            calls.append(1)
            if len(calls) == 1:
                raise RuntimeError("no token yet")
            return "secret"

        client, _ = self.faulty("ok", token=token)
        client.send(hello("no-1"))
        self.assertEqual(len(calls), 2)

    def test_connections_are_kept_and_a_closed_one_is_no_lost_try(self):
        client, seen = self.faulty("ok,ok-close,ok")
        client.send(hello("no-1"))
        client.send(hello("no-2"))
        ((_, _, kept),) = client._connections._idle
        while kept.quiet():
            time.sleep(0.001)
        client.send(hello("no-3"))
        self.assertEqual([r["path"] for r in seen()], [SEND, SEND, SEND])

    def test_many_threads(self):
        client, seen = self.faulty(",".join(["reset"] * 8) + ",ok")
        failures = []

        def send(n):
            try:
                client.send(hello(f"no-{n}"))
            except Exception as error:
                failures.append(error)

        threads = [threading.Thread(target=send, args=(n,)) for n in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        self.assertEqual(failures, [])
        self.assertLess(len(seen(WINDOW)), 8, "one request for the window serves all sends that wait for it")


class Bulks(Case):
    def test_the_outcomes_are_those_of_the_items_by_position(self):
        client, seen = self.faulty("bulk:ok;invalid_request:400;replayed;ok")
        outcomes = client.send_bulk(numbers(4))
        self.assertEqual(shown(outcomes), ["no-1", "invalid_request", "no-3", "no-4"])
        self.assertTrue(outcomes[2].result.replayed)
        self.assertEqual((outcomes[1].error.client_msg_no, outcomes[1].error.field), ("no-2", "f"))
        self.assertEqual([r["headers"]["content-type"] for r in seen(BULK)], ["application/x-ndjson"])

    def test_items_that_fail_are_sent_again_without_the_others(self):
        for first in ("bulk:ok;no_answer:503;ok;overloaded:503", "bulk:ok;overloaded:503;ok;no_answer:503"):
            client, seen = self.faulty(first + ",bulk:replayed;ok")
            outcomes = client.send_bulk(numbers(4))
            self.assertEqual([o.result and o.result.replayed for o in outcomes], [False, True, False, False])
            again = [json.loads(line)["client_msg_no"] for line in seen(BULK)[1]["body"].splitlines()]
            self.assertEqual(again, ["no-2", "no-4"])

    def test_a_bulk_whose_answer_is_cut_or_missing_is_sent_again_from_there(self):
        for steps, again in (
            ("bulk:ok;ok;cut", 2),
            ("bulk:ok;ok", 2),
            ("bulk:ok;other;ok;ok", 3),
            ("reset", 4),
            ("html:502", 4),
            ("bulk:cut", 4),
        ):
            client, seen = self.faulty(steps + ",bulk:" + ";".join(["ok"] * again))
            self.assertEqual(shown(client.send_bulk(numbers(4))), ["no-1", "no-2", "no-3", "no-4"], steps)
            self.assertEqual(len(seen(BULK)[1]["body"].splitlines()), again, steps)

    def test_an_element_more_than_there_are_items_answers_none_of_them(self):
        client, seen = self.faulty("bulk:ok;ok;+body_unreadable:400")
        self.assertEqual(shown(client.send_bulk(numbers(2))), ["no-1", "no-2"])
        self.assertEqual(len(seen(BULK)), 1)

        # The server has read two of four items: the others are sent again, and are not what its last element says.
        client, seen = self.faulty("bulk:ok;ok;+too_large:413,bulk:ok,bulk:ok")
        self.assertEqual(shown(client.send_bulk(numbers(4))), ["no-1", "no-2", "no-3", "no-4"])

    def test_a_bulk_that_is_too_large_is_made_of_smaller_requests(self):
        client, seen = self.faulty("html:413,bulk:ok;ok,html:413,bulk:ok,too_large:413")
        self.assertEqual(shown(client.send_bulk(numbers(4))), ["no-1", "no-2", "no-3", "too_large"])
        self.assertEqual(len(seen(BULK)), 5)

    def test_limits_and_a_send_that_cannot_be_encoded(self):
        client, seen = self.faulty("bulk:ok;ok,bulk:ok", bulk_items_max=2)
        wrong = Send(from_uid="u", channel_id="g", channel_type=2, payload=7)
        outcomes = client.send_bulk([hello("no-1"), wrong, hello("no-3"), hello("no-4")])
        self.assertEqual(shown(outcomes), ["no-1", "", "no-3", "no-4"])
        self.assertIn("it was not sent", str(outcomes[1].error))
        self.assertTrue(outcomes[1].error.refused)
        self.assertEqual(len(seen(BULK)), 2)
        self.assertEqual(client.send_bulk([]), [])

    def test_a_bulk_gives_up_after_its_tries_and_says_what_may_be_stored(self):
        client, seen = self.faulty(
            "bulk:ok;no_answer:503;overloaded:503,bulk:overloaded:503;overloaded:503", tries_max=2
        )
        outcomes = client.send_bulk(numbers(3))
        self.assertEqual([o.error and (o.error.maybe_stored, o.error.tries) for o in outcomes], [None, (True, 2), (False, 2)])

        client, seen = self.faulty("html:502", tries_max=3, bulk_items_max=2)
        outcomes = client.send_bulk(numbers(4))
        self.assertEqual([(o.error.status, o.error.tries) for o in outcomes], [(502, 3), (502, 3), (502, 0), (502, 0)])
        self.assertEqual(len(seen(BULK)), 3)

        client, seen = self.faulty("window:1,reset,bulk:ok;ok")
        outcomes = client.send_bulk(numbers(2))
        self.assertEqual([o.error.maybe_stored for o in outcomes], [True, True])
        self.assertEqual(len(seen(BULK)), 1)
