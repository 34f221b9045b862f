// Sends to several channels at a time and prints a line for each send that was acknowledged, while TestEndToEndLanguagesThroughKills kills the server.
import { Client } from "../sendhouse.js";

const [name] = process.argv.slice(2);
const channels = Number(process.env.DRIVE_CHANNELS);
const sends = Number(process.env.DRIVE_SENDS);
const client = new Client({ url: process.env.SENDHOUSE_URL, triesMax: 1_000, backoffMaxMs: 300, tryTimeoutMs: 10_000 });

function make(channel, n) {
  const no = `${channel}-${n}`;
  return { from_uid: name, channel_id: channel, channel_type: 2, client_msg_no: no, payload: `héllo 群 ${no}` };
}

function print({ client_msg_no, message_idstr, message_seq }) {
  process.stdout.write(`${JSON.stringify({ client_msg_no, id: message_idstr, seq: message_seq })}\n`);
}

async function oneAfterAnother(channel) {
  for (let n = 1; n <= sends; n++) print(await client.send(make(channel, n)));
}

async function inBulks(channel) {
  for (let n = 1; n <= sends; n += 20) {
    const bulk = Array.from({ length: Math.min(20, sends - n + 1) }, (_, i) => make(channel, n + i));
    for (const { result, error } of await client.sendBulk(bulk)) {
      if (error) throw error;
      print(result);
    }
  }
}

await Promise.all(Array.from({ length: channels }, (_, c) => [oneAfterAnother(`${name}-one-${c}`), inBulks(`${name}-bulk-${c}`)]).flat());
