import assert from "node:assert/strict";
import { test } from "node:test";

import { SendhouseError } from "../sendhouse.js";
import { ID, faulty, hello } from "./setup.mjs";

const SEND = "/message/send";
const BULK = "/message/sendbulk";

test("a send is tried again, the same to the byte, whatever goes wrong in between", async () => {
  const steps = ["overloaded:503", "reset", "rate_limited:429", "html:502", "cut", "other", "body_unreadable:400", "internal:500", "outcome_unknown:503", "replayed"];
  const { client, seen } = faulty(steps.join());
  const result = await client.send({ from_uid: "u", channel_id: "g", channel_type: 2, payload: "héllo 群", red_dot: true });
  const tries = await seen(SEND);
  assert.equal(tries.length, steps.length);
  for (const one of tries) assert.equal(one.body, tries[0].body);
  const body = JSON.parse(tries[0].body);
  assert.match(body.client_msg_no, /^[0-9a-f]{8}-[0-9a-f]{4}-7[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}$/);
  assert.deepEqual(body.header, { no_persist: 0, red_dot: 1, sync_once: 0 });
  assert.equal(Buffer.from(body.payload, "base64").toString("utf8"), "héllo 群");
  assert.deepEqual(result, { message_idstr: ID, message_seq: 5, client_msg_no: body.client_msg_no, replayed: true });
});

test("the first answer is no replay, and the token is sent", async () => {
  const { client, seen } = faulty("ok", { token: async () => "secret" });
  assert.equal((await client.send(hello("no-1"))).replayed, false);
  const [one] = await seen();
  assert.equal(one.headers.authorization, "Bearer secret");
  assert.equal(one.headers["content-type"], "application/json");
});

test("what the server refuses is not tried again, and the error has all that it said", async () => {
  const { client, seen } = faulty("invalid_request:400");
  await assert.rejects(client.send(hello("no-1")), (error) => {
    assert.ok(error instanceof SendhouseError);
    const { status, code, msg, field, reason, requestId, clientMsgNo, tries, refused, retryable, maybeStored } = error;
    assert.deepEqual({ status, code, msg, field, reason, requestId, clientMsgNo, tries, refused, retryable, maybeStored }, {
      status: 400, code: "invalid_request", msg: "said so", field: "f", reason: 7, requestId: "request-1", clientMsgNo: "no-1", tries: 1, refused: true, retryable: false, maybeStored: false,
    });
    assert.equal(error.message, "send no-1: not stored after 1 try: 400 invalid_request: said so");
    return true;
  });
  assert.equal((await seen(SEND)).length, 1);
});

test("a redirect is not followed", async () => {
  const { client, seen } = faulty("redirect", { token: "secret" });
  await assert.rejects(client.send(hello("no-1")), { retryable: false, maybeStored: false, status: 307 });
  assert.equal((await seen()).length, 1);
});

test("tries are bounded, and an earlier one may be stored though the last one is not", async () => {
  const { client, seen } = faulty("no_answer:503,draining:503", { triesMax: 3 });
  await assert.rejects(client.send(hello("no-1")), { code: "draining", tries: 3, maybeStored: true });
  assert.equal((await seen(SEND)).length, 3);
});

test("Retry-After is waited for", async () => {
  const { client, seen } = faulty("overloaded:503:1,rate_limited:429:1,ok");
  await client.send(hello("no-1"));
  const [a, b, c] = await seen(SEND);
  assert.ok(b.at_ms - a.at_ms >= 990 && c.at_ms - b.at_ms >= 990, "a try came too early");
});

test("Retry-After has a cap: more than that ends trying", async () => {
  for (const seconds of ["61", "2147483647", "99999999999999999999"]) {
    const { client, seen } = faulty(`overloaded:503:${seconds},ok`);
    await assert.rejects(client.send(hello("no-1")), { code: "overloaded", tries: 1 });
    assert.equal((await seen(SEND)).length, 1);
  }
});

test("a send that may be stored is repeated only within the server's window", async () => {
  let { client, seen } = faulty("window:1,reset,ok");
  await assert.rejects(client.send(hello("no-1")), { maybeStored: true, tries: 1 });
  assert.deepEqual((await seen()).map((r) => r.path), [SEND, "/message/window"]);

  // One that is surely not stored needs no window.
  ({ client, seen } = faulty("window:1,overloaded:503,ok"));
  await client.send(hello("no-1"));
  assert.deepEqual((await seen()).map((r) => r.path), [SEND, SEND]);

  // A server that does not say is taken to know it for a minute; the client's own limit only shortens.
  for (const window of ["window:0", "window:404"]) {
    ({ client, seen } = faulty(`${window},reset,ok`));
    assert.equal((await client.send(hello("no-1"))).message_idstr, ID);
  }
  ({ client } = faulty("reset,ok", { resendWithinMs: 0.001 }));
  await assert.rejects(client.send(hello("no-1")), { maybeStored: true, tries: 1 });
});

test("a server that cannot be reached stores nothing", async () => {
  const { client } = faulty("ok", { url: "http://127.0.0.1:2", triesMax: 2 });
  await assert.rejects(client.send(hello("no-1")), { maybeStored: false, tries: 2, status: 0, retryable: true });
});

test("a try ends at its timeout, also while the answer drips", async () => {
  for (const step of ["silent", "drip"]) {
    const { client, seen } = faulty(`${step},ok`, { tryTimeoutMs: 150 });
    await client.send(hello("no-1"));
    assert.ok((await seen(SEND)).length >= 2);
  }
});

test("a call ends with its signal or its time", async () => {
  const stop = new AbortController();
  let { client, seen } = faulty("silent");
  const sending = client.send(hello("no-1"), { signal: stop.signal });
  while ((await seen(SEND)).length === 0);
  stop.abort(new Error("enough"));
  await assert.rejects(sending, (error) => error.maybeStored && error.clientMsgNo === "no-1" && error.cause.message === "enough");

  ({ client, seen } = faulty("silent"));
  await assert.rejects(client.send(hello("no-1"), { timeoutMs: 500 }), { maybeStored: true });

  // It does not wait for a pause that is longer than the time left.
  ({ client, seen } = faulty("overloaded:503:30"));
  await assert.rejects(client.send(hello("no-1"), { timeoutMs: 20_000 }), { code: "overloaded", tries: 1 });

  await assert.rejects(client.send(hello("no-1"), { signal: AbortSignal.abort() }), { maybeStored: false, tries: 0 });
  assert.equal((await seen(SEND)).length, 1);
});

test("a pause ends with the signal", async () => {
  const stop = new AbortController();
  const { client, seen } = faulty("overloaded:503:30");
  const sending = client.send(hello("no-1"), { signal: stop.signal });
  while ((await seen(SEND)).length === 0);
  stop.abort();
  await assert.rejects(sending, { code: "overloaded", tries: 1, maybeStored: false });
});

test("an error of the functions for url and token is tried again", async () => {
  let calls = 0;
  const { client } = faulty("ok", { token: () => (++calls === 1 ? Promise.reject(new Error("no token yet")) : "secret") });
  await client.send(hello("no-1"));
  assert.equal(calls, 2);
});

test("one request for the window serves all sends that wait for it", async () => {
  const { client, seen } = faulty(`${Array(8).fill("reset").join()},ok`);
  await Promise.all(Array.from({ length: 8 }, (_, i) => client.send(hello(`no-${i}`))));
  assert.ok((await seen("/message/window")).length < 8);
});

const numbers = (n) => Array.from({ length: n }, (_, i) => hello(`no-${i + 1}`));

test("the outcomes of a bulk are those of its items, by position", async () => {
  const { client, seen } = faulty("bulk:ok;invalid_request:400;replayed;ok");
  const outcomes = await client.sendBulk(numbers(4));
  assert.deepEqual(outcomes.map((o) => o.result?.client_msg_no ?? o.error.code), ["no-1", "invalid_request", "no-3", "no-4"]);
  assert.equal(outcomes[2].result.replayed, true);
  assert.equal(outcomes[1].error.clientMsgNo, "no-2");
  assert.equal(outcomes[1].error.field, "f");
  assert.deepEqual((await seen(BULK)).map((r) => r.headers["content-type"]), ["application/x-ndjson"]);
});

test("items that fail are sent again, without the others", async () => {
  for (const first of ["bulk:ok;no_answer:503;ok;overloaded:503", "bulk:ok;overloaded:503;ok;no_answer:503"]) {
    const { client, seen } = faulty(`${first},bulk:replayed;ok`);
    const outcomes = await client.sendBulk(numbers(4));
    assert.deepEqual(outcomes.map((o) => o.result?.replayed), [false, true, false, false]);
    const again = (await seen(BULK))[1].body.trim().split("\n").map((line) => JSON.parse(line).client_msg_no);
    assert.deepEqual(again, ["no-2", "no-4"]);
  }
});

test("a bulk whose answer is cut or missing is sent again from there", async () => {
  for (const [steps, again] of [["bulk:ok;ok;cut", 2], ["bulk:ok;ok", 2], ["bulk:ok;other;ok;ok", 3], ["reset", 4], ["html:502", 4], ["bulk:cut", 4]]) {
    const { client, seen } = faulty(`${steps},bulk:${Array(again).fill("ok").join(";")}`);
    const outcomes = await client.sendBulk(numbers(4));
    assert.deepEqual(outcomes.map((o) => o.result?.client_msg_no), ["no-1", "no-2", "no-3", "no-4"], steps);
    assert.equal((await seen(BULK))[1].body.trim().split("\n").length, again, steps);
  }
});

test("an element more than there are items answers none of them", async () => {
  let { client, seen } = faulty("bulk:ok;ok;+body_unreadable:400");
  assert.deepEqual((await client.sendBulk(numbers(2))).map((o) => o.result?.client_msg_no), ["no-1", "no-2"]);
  assert.equal((await seen(BULK)).length, 1);

  // The server has read two of four items: the others are sent again, and are not what its last element says.
  ({ client, seen } = faulty("bulk:ok;ok;+too_large:413,bulk:ok,bulk:ok"));
  assert.deepEqual((await client.sendBulk(numbers(4))).map((o) => o.result?.client_msg_no), ["no-1", "no-2", "no-3", "no-4"]);
});

test("a bulk that is too large is made of smaller requests, and a send that is too large by itself fails alone", async () => {
  const { client, seen } = faulty("html:413,bulk:ok;ok,html:413,bulk:ok,too_large:413");
  const outcomes = await client.sendBulk(numbers(4));
  assert.deepEqual(outcomes.map((o) => o.result?.client_msg_no ?? o.error.code), ["no-1", "no-2", "no-3", "too_large"]);
  assert.equal((await seen(BULK)).length, 5);
});

test("a bulk has limits, and a send that cannot be encoded fails alone", async () => {
  const { client, seen } = faulty("bulk:ok;ok,bulk:ok", { bulkItemsMax: 2 });
  const outcomes = await client.sendBulk([hello("no-1"), { ...hello("no-2"), payload: 7 }, hello("no-3"), hello("no-4")]);
  assert.deepEqual(outcomes.map((o) => o.result?.client_msg_no ?? o.error.clientMsgNo), ["no-1", "no-2", "no-3", "no-4"]);
  assert.match(outcomes[1].error.message, /it was not sent/);
  assert.equal(outcomes[1].error.refused, true);
  assert.equal((await seen(BULK)).length, 2);
  assert.deepEqual(await client.sendBulk([]), []);
});

test("a bulk gives up after its tries, and says what may be stored", async () => {
  let { client, seen } = faulty("bulk:ok;no_answer:503;overloaded:503,bulk:overloaded:503;overloaded:503", { triesMax: 2 });
  let outcomes = await client.sendBulk(numbers(3));
  assert.deepEqual(outcomes.map((o) => o.error?.maybeStored), [undefined, true, false]);
  assert.deepEqual(outcomes.map((o) => o.error?.tries), [undefined, 2, 2]);

  ({ client, seen } = faulty("html:502", { triesMax: 3, bulkItemsMax: 2 }));
  outcomes = await client.sendBulk(numbers(4));
  assert.deepEqual(outcomes.map((o) => [o.error.status, o.error.tries]), [[502, 3], [502, 3], [502, 0], [502, 0]]);
  assert.equal((await seen(BULK)).length, 3);

  ({ client, seen } = faulty("window:1,reset,bulk:ok;ok"));
  outcomes = await client.sendBulk(numbers(2));
  assert.deepEqual(outcomes.map((o) => o.error.maybeStored), [true, true]);
  assert.equal((await seen(BULK)).length, 1);
});
