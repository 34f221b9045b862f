// What the tests share. pkg/testkit/e2e runs them (TestEndToEndLanguages), and sets the variables.
import { randomUUID } from "node:crypto";

import { Client } from "../sendhouse.js";

function variable(name) {
  const value = process.env[name];
  if (!value) throw new Error(`${name} is not set: run go test -run TestEndToEndLanguages ./pkg/testkit/e2e`);
  return value;
}

/** faulty is a client of a server that fails in the steps that are named (pkg/testkit/e2e/faulty_test.go), and a function that lists what it was sent. */
export function faulty(steps, options) {
  const url = `${variable("SENDHOUSE_FAULTY_URL")}/${randomUUID()}/${steps}`;
  const client = new Client({ url, backoffMinMs: 1, backoffMaxMs: 4, triesMax: 20, ...options });
  const seen = async (path) => (await (await fetch(`${url}/seen`)).json()).filter((r) => !path || r.path === path);
  return { client, seen };
}

/** real is a client of a whole Sendhouse. */
export function real(options) {
  return new Client({ url: variable("SENDHOUSE_URL"), token: variable("SENDHOUSE_TOKEN"), ...options });
}

export const hello = (no) => ({ client_msg_no: no, from_uid: "u", channel_id: "g", channel_type: 2, payload: "hi" });

export const ID = "9007199254740993"; // that the faulty server answers
