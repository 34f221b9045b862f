import assert from "node:assert/strict";
import { randomUUID } from "node:crypto";
import { test } from "node:test";

import { Client, ChannelType } from "../sendhouse.js";
import { real } from "./setup.mjs";

const client = real();

/** until asks again until check holds: a row arrives a second or two after its 200. */
async function until(ask, check) {
  for (;;) {
    const answer = await ask();
    if (check(answer)) return answer;
  }
}

test("a message is sent, recognized, found and read", async () => {
  const channel = { channel_id: `js-${randomUUID()}`, channel_type: ChannelType.GROUP };
  const send = { ...channel, from_uid: "user123", payload: "héllo 群 🙂", client_msg_no: "no-é-1", red_dot: true };
  const first = await client.send(send);
  assert.deepEqual({ ...first, message_idstr: "" }, { message_idstr: "", message_seq: 1, client_msg_no: "no-é-1", replayed: false });
  assert.ok(BigInt(first.message_idstr) > 2n ** 53n);
  assert.deepEqual(await client.send(send), { ...first, replayed: true });
  await assert.rejects(client.send({ ...send, payload: "other" }), { status: 409, code: "client_msg_no_conflict", refused: true, maybeStored: false });

  const status = await until(() => client.status(send), (s) => s.state === "stored");
  assert.deepEqual({ id: status.message_idstr, seq: status.message_seq }, { id: first.message_idstr, seq: 1 });
  const never = await client.status({ ...send, client_msg_no: "never" });
  assert.deepEqual([never.state, never.complete, never.message_idstr], ["unknown", true, undefined]);

  const page = await client.messages({ ...channel, login_uid: "user123" });
  assert.equal(page.more, false);
  assert.equal(page.messages.length, 1);
  assert.equal(page.messages[0].message_idstr, first.message_idstr);
  assert.equal(new TextDecoder().decode(page.messages[0].payload), "héllo 群 🙂");
  assert.equal("message_id" in page.messages[0], false);
});

test("what the server refuses has a code, a field and a request id", async () => {
  await assert.rejects(client.send({ from_uid: "u", channel_id: "a#b", channel_type: 2, payload: "" }), (error) => {
    assert.equal(error.code, "invalid_request");
    assert.deepEqual(error.field.split(",").sort(), ["channel_id", "payload"]);
    assert.equal(error.reason, 9);
    assert.notEqual(error.requestId, "");
    return true;
  });
  await assert.rejects(real({ token: "wrong" }).send({ from_uid: "u", channel_id: "g", channel_type: 2, payload: "x" }), { status: 401, code: "unauthorized", tries: 1 });
});

test("batches and bulks", async () => {
  const uid = `js-${randomUUID()}`;
  const batch = await client.sendBatch({ from_uid: uid, subscribers: ["bob", "a@b", "carol"], payload: new Uint8Array([0, 255]) });
  assert.deepEqual(batch.failed.map((f) => f.uid), ["a@b"]);
  assert.match(batch.failed[0].reason, /@/);

  const sends = Array.from({ length: 2_500 }, (_, i) => ({ from_uid: uid, channel_id: `${uid}-${i % 3}`, channel_type: 2, client_msg_no: `no-${i}`, payload: `n ${i} é` }));
  sends[7] = { ...sends[7], channel_type: 256 };
  const outcomes = await client.sendBulk(sends);
  const seqs = [0, 0, 0];
  outcomes.forEach((outcome, i) => {
    if (i === 7) {
      assert.equal(outcome.error.field, "channel_type");
      return;
    }
    assert.equal(outcome.result.client_msg_no, `no-${i}`);
    assert.equal(outcome.result.message_seq, ++seqs[i % 3]);
  });
  assert.deepEqual((await client.sendBulk(sends.slice(0, 3))).map((o) => o.result.replayed), [true, true, true]);
});

test("the window", async () => {
  const window = await until(() => client.window(), (w) => w.remembersMs !== undefined);
  assert.ok(window.remembersMs > 0);
  assert.equal(window.orderedBulks, true);
});

test("permissions", async () => {
  const channel = { channel_id: `js-${randomUUID()}`, channel_type: ChannelType.GROUP };
  const from = (uid) => client.send({ ...channel, from_uid: uid, payload: "x" });
  const refused = (code) => ({ status: 403, code, refused: true });
  await client.defineChannel({ ...channel, subscribers: ["ann", "bob"] });
  await from("ann");
  await assert.rejects(from("eve"), refused("not_subscribed"));
  await client.addSubscribers({ ...channel, subscribers: ["eve"] });
  await from("eve");
  await client.removeSubscribers({ ...channel, subscribers: ["eve"] });
  await assert.rejects(from("eve"), refused("not_subscribed"));
  await client.addToDenylist({ ...channel, uids: ["ann"] });
  await assert.rejects(from("ann"), refused("denylisted"));
  await client.setDenylist({ ...channel, uids: ["bob", "ann"] });
  await client.removeFromDenylist({ ...channel, uids: ["bob"] });
  await from("bob");
  await client.clearDenylist(channel);
  await from("ann");
  await client.addToAllowlist({ ...channel, uids: ["ann", "cid"] });
  assert.deepEqual(await client.allowlist(channel), ["ann", "cid"]);
  await assert.rejects(from("bob"), refused("not_allowlisted"));
  await client.setAllowlist({ ...channel, uids: ["ann", "bob"] });
  await client.removeFromAllowlist({ ...channel, uids: ["ann"] });
  assert.deepEqual(await client.allowlist(channel), ["bob"]);
  await client.clearAllowlist(channel);
  await client.setChannelFlags({ ...channel, ban: 1 });
  await assert.rejects(from("ann"), refused("channel_banned"));
  await client.setChannelFlags(channel);
  await client.removeAllSubscribers(channel);
  await assert.rejects(from("ann"), refused("not_subscribed"));
  const system = `js-${randomUUID()}`;
  await client.addSystemUIDs({ uids: [system] });
  assert.ok((await client.systemUIDs()).includes(system));
  await from(system);
  await client.removeSystemUIDs({ uids: [system] });
  await client.deleteChannel(channel);
  await assert.rejects(from("ann"), refused("channel_disbanded"));
});

test("a history that is not served is an error with its code", async () => {
  const lost = new Client({ url: `${process.env.SENDHOUSE_URL}/nowhere` });
  await assert.rejects(lost.window().then(() => lost.messages({ login_uid: "u", channel_id: "g", channel_type: 2 })), { status: 404, code: "not_found" });
});
