// Programs as the types should let them be written, and some that they should not. `make check` compiles this file; nothing runs it.
import { ChannelType, Client, SendhouseError, type Outcome, type Result, type Send } from "../sendhouse.js";

export async function right(): Promise<void> {
  const client = new Client({ url: async () => "http://localhost:5001", token: "t", tryTimeoutMs: 1 });
  const send: Send = { from_uid: "u", channel_id: "g", channel_type: ChannelType.GROUP, payload: "text" };
  const result: Result = await client.send(send, { signal: AbortSignal.timeout(1), timeoutMs: 2 });
  const id: string = result.message_idstr;
  const outcomes: Outcome[] = await client.sendBulk([{ ...send, payload: new Uint8Array(1) }]);
  for (const outcome of outcomes) {
    if (outcome.error) console.log(outcome.error.code);
    else console.log(outcome.result.message_seq);
  }
  const { failed } = await client.sendBatch({ from_uid: "u", subscribers: ["a"], payload: "x" });
  const status = await client.status({ ...send, client_msg_no: "no" });
  const page = await client.messages({ login_uid: "u", channel_id: "g", channel_type: 2 });
  const payload: Uint8Array | undefined = page.messages[0]?.payload;
  await client.defineChannel({ channel_id: "g", channel_type: 2, ban: 1, subscribers: ["u"] });
  console.log(id, failed[0]?.uid, status.state, payload, (await client.window()).remembersMs, new SendhouseError("x").maybeStored);
}

export async function wrong(client: Client): Promise<void> {
  // @ts-expect-error the payload is missing
  await client.send({ from_uid: "u", channel_id: "g", channel_type: 2 });
  // @ts-expect-error an object is no payload
  await client.send({ from_uid: "u", channel_id: "g", channel_type: 2, payload: {} });
  // @ts-expect-error there is no such type
  await client.send({ from_uid: "u", channel_id: "g", channel_type: 13, payload: "x" });
  // @ts-expect-error an ID that JSON.parse would round is not offered
  console.log((await client.send({ from_uid: "u", payload: "x" })).message_id);
  // @ts-expect-error a status needs the send's client_msg_no
  await client.status({ from_uid: "u", channel_id: "g", channel_type: 2 });
  // @ts-expect-error an outcome has a result only if it has no error
  console.log((await client.sendBulk([]))[0]!.result.message_seq);
}
