import assert from "node:assert/strict";
import { readFile } from "node:fs/promises";
import { test } from "node:test";

import { Client, base64, bytesOf, classify } from "../sendhouse.js";

test("the rules are the Go client's", async () => {
  const rules = JSON.parse(await readFile(new URL("../../testdata/rules.json", import.meta.url), "utf8"));
  assert.ok(rules.length > 0);
  for (const { status, code, retryable, refused, maybe_stored: maybeStored } of rules) {
    assert.deepEqual(classify(status, code), { retryable, refused, maybeStored }, `${status} ${code}`);
  }
});

test("payloads", () => {
  for (const text of ["hi", "héllo 群 🙂", "\0\n", "x".repeat(100_000) + "é"]) {
    assert.equal(base64(text), Buffer.from(text, "utf8").toString("base64"));
    assert.equal(new TextDecoder().decode(bytesOf(base64(text))), text);
  }
  const bytes = Uint8Array.from({ length: 256 }, (_, i) => i);
  assert.equal(base64(bytes), Buffer.from(bytes).toString("base64"));
  assert.equal(base64(bytes.buffer), base64(bytes));
  assert.equal(base64(bytes.subarray(3, 9)), Buffer.from(bytes.subarray(3, 9)).toString("base64"));
  assert.deepEqual(bytesOf(base64(bytes)), bytes);
  assert.throws(() => base64("a\ud800b"), /surrogate/);
  assert.throws(() => base64({ type: 1 }), /payload must be/);
});

test("wrong options are reported together", () => {
  assert.throws(() => new Client({ url: "ftp://x", triesMax: 0, backoffMinMs: 5, backoffMaxMs: 1, bulkItemsMax: 10_001 }), (error) => {
    for (const part of ["url", "http://", "triesMax 0", "backoffMaxMs 1", "bulkItemsMax 10001"]) assert.ok(error.message.includes(part), error.message);
    return true;
  });
  for (const url of ["", undefined, "localhost:5001", "http://u:p@h", "http://h/?q"]) assert.throws(() => new Client({ url }), /url/, String(url));
  assert.throws(() => new Client({ url: "http://h", token: "a\nb" }), /token/);
});
