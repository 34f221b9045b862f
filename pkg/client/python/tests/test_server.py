import dataclasses
import uuid

from sendhouse import Batch, ChannelType, Send

from .setup import Case, variable


def until(ask, check):
    """Asks again until check holds: a row arrives a second or two after its 200."""
    while True:
        answer = ask()
        if check(answer):
            return answer


class Server(Case):
    def setUp(self):
        self.client = self.real()
        self.channel = f"py-{uuid.uuid4()}"

    def test_a_message_is_sent_recognized_found_and_read(self):
        client = self.client
        send = Send("user123", "héllo 群 🙂", self.channel, ChannelType.GROUP, "no-é-1", red_dot=True)
        first = client.send(send)
        self.assertEqual((first.message_seq, first.client_msg_no, first.replayed), (1, "no-é-1", False))
        self.assertGreater(first.message_id, 2**53)
        self.assertEqual(client.send(send), dataclasses.replace(first, replayed=True))
        other = dataclasses.replace(send, payload="other")
        self.fails(
            lambda: client.send(other), status=409, code="client_msg_no_conflict", refused=True, maybe_stored=False
        )

        def ask(no="no-é-1"):
            return client.status(no, "user123", self.channel, ChannelType.GROUP)

        status = until(ask, lambda s: s.state == "stored")
        self.assertEqual((status.message_id, status.message_seq), (first.message_id, 1))
        never = ask("never")
        self.assertEqual((never.state, never.complete), ("unknown", True))

        page = client.messages("user123", self.channel, ChannelType.GROUP)
        self.assertFalse(page.more)
        (message,) = page.messages
        self.assertEqual((message.message_id, message.red_dot), (first.message_id, True))
        self.assertEqual(message.payload.decode(), "héllo 群 🙂")

    def test_what_the_server_refuses_has_a_code_a_field_and_a_request_id(self):
        send = Send("u", "", "a#b", 2)
        error = self.fails(lambda: self.client.send(send), code="invalid_request", reason=9)
        self.assertEqual(sorted(error.field.split(",")), ["channel_id", "payload"])
        self.assertTrue(error.request_id)
        wrong = self.real(token="wrong")
        self.fails(lambda: wrong.send(Send("u", "x", "g", 2)), status=401, code="unauthorized", tries=1)

    def test_batches_and_bulks(self):
        batch = self.client.send_batch(Batch(self.channel, b"\0\xff", ["bob", "a@b", "carol"]))
        self.assertEqual([f.uid for f in batch.failed], ["a@b"])
        self.assertIn("@", batch.failed[0].reason)

        sends = [Send("u", f"n {i} é", f"{self.channel}-{i % 3}", 2, f"no-{i}") for i in range(2_500)]
        sends[7] = dataclasses.replace(sends[7], channel_type=256)
        outcomes = self.client.send_bulk(sends)
        self.assertEqual(len(outcomes), len(sends))
        seqs = [0, 0, 0]
        for i, outcome in enumerate(outcomes):
            if i == 7:
                self.assertEqual(outcome.error.field, "channel_type")
                continue
            seqs[i % 3] += 1
            self.assertEqual((outcome.result.client_msg_no, outcome.result.message_seq), (f"no-{i}", seqs[i % 3]))
        self.assertEqual([o.result.replayed for o in self.client.send_bulk(sends[:3])], [True, True, True])

    def test_the_window(self):
        window = until(self.client.window, lambda w: w.remembers is not None)
        self.assertGreater(window.remembers, 0)
        self.assertTrue(window.ordered_bulks)

    def test_permissions(self):
        client, channel = self.client, (self.channel, ChannelType.GROUP)

        def send(uid):
            return client.send(Send(uid, "x", *channel))

        def refused(uid, code):
            self.fails(lambda: send(uid), status=403, code=code, refused=True)

        client.define_channel(*channel, subscribers=["ann", "bob"])
        send("ann")
        refused("eve", "not_subscribed")
        client.add_subscribers(*channel, ["eve"])
        send("eve")
        client.remove_subscribers(*channel, ["eve"])
        refused("eve", "not_subscribed")
        client.add_to_denylist(*channel, ["ann"])
        refused("ann", "denylisted")
        client.set_denylist(*channel, ["bob", "ann"])
        client.remove_from_denylist(*channel, ["bob"])
        send("bob")
        client.clear_denylist(*channel)
        send("ann")
        client.add_to_allowlist(*channel, ["ann", "cid"])
        self.assertEqual(client.allowlist(*channel), ["ann", "cid"])
        refused("bob", "not_allowlisted")
        client.set_allowlist(*channel, ["ann", "bob"])
        client.remove_from_allowlist(*channel, ["ann"])
        self.assertEqual(client.allowlist(*channel), ["bob"])
        client.clear_allowlist(*channel)
        client.set_channel_flags(*channel, ban=True)
        refused("ann", "channel_banned")
        client.set_channel_flags(*channel)
        client.remove_all_subscribers(*channel)
        refused("ann", "not_subscribed")
        system = f"py-{uuid.uuid4()}"
        client.add_system_uids([system])
        self.assertIn(system, client.system_uids())
        send(system)
        client.remove_system_uids([system])
        client.delete_channel(*channel)
        refused("ann", "channel_disbanded")
        with self.assertRaisesRegex(TypeError, "banned"):
            client.set_channel_flags(*channel, banned=True)

    def test_a_route_that_is_not_there_is_an_error_with_its_code(self):
        lost = self.real(url=variable("SENDHOUSE_URL") + "/nowhere")
        self.assertIsNone(lost.window().remembers)
        self.fails(lambda: lost.messages("u", "g", 2), status=404, code="not_found")
