// A client of Sendhouse's HTTP API for Node and browsers. README.md introduces it, sendhouse.d.ts documents it.
//
// A send that gets no answer may have been stored or not, so it is sent again under the same client_msg_no, by which the server
// recognizes it. A try that may have been stored is repeated only while the server says that it remembers it (/message/window).
// The rules are those of the Go client; pkg/client/testdata/rules.json holds the cases that both are tested against.

/** @type {import("./sendhouse.d.ts").ChannelType} */
export const ChannelType = Object.freeze({
  PERSON: 1, GROUP: 2, CUSTOMER_SERVICE: 3, COMMUNITY: 4, COMMUNITY_TOPIC: 5, INFO: 6, DATA: 7, TEMPORARY: 8, LIVE: 9, VISITORS: 10, AGENT: 11, AGENT_GROUP: 12,
});

const DEFAULTS = {
  triesMax: 6,
  tryTimeoutMs: 15_000,
  bulkTryTimeoutMs: 60_000,
  backoffMinMs: 100,
  backoffMaxMs: 10_000,
  retryAfterMaxMs: 60_000,
  resendWithinMs: 0,
  bulkItemsMax: 1_000,
  bulkBytesMax: 4 << 20,
};

const BULK_ITEMS_MAX = 10_000; // that the server takes
const BULK_BYTES_MAX = 16 << 20; // that the server takes
const TIMER_MS_MAX = 2 ** 31 - 1; // that setTimeout takes
const WINDOW_TRUSTED_MS = 5_000; // how long what the server said of its window is relied on
const RESEND_WITHIN_UNKNOWN_MS = 60_000; // if the server does not say how long it remembers
const ITEM_RETRY_AFTER_MS = 1_000; // an element of a bulk's answer has no Retry-After; docs/reference/api.md names a second
const ANSWER_BYTES_MAX = 64 << 20; // a page of messages has 8 MiB; other answers are smaller
const EXCERPT_LENGTH_MAX = 200; // of an answer that is not the server's, in an error

// Codes of the element that ends a bulk's answer early.
const BODY_CODE = new Set(["too_large", "invalid_json", "body_unreadable", "overloaded"]);
const RETRYABLE_STATUS = new Set([408, 425, 429, 500, 502, 503, 504]);
const NOT_STORED_CODE = new Set([
  "overloaded", "draining", "wal_unavailable", "wal_full", "wal_stalled", "wal_refused", "partition_refused", "permissions_unavailable", "out_of_order",
]);
// Causes of a fetch that failed before a request was written. Browsers do not tell.
const NOT_WRITTEN_CODE = new Set(["ECONNREFUSED", "ENOTFOUND", "EAI_AGAIN", "EHOSTUNREACH", "ENETUNREACH", "UND_ERR_CONNECT_TIMEOUT"]);

export class SendhouseError extends Error {
  constructor(message, fields = {}) {
    super(message, fields.cause === undefined ? undefined : { cause: fields.cause });
    this.name = "SendhouseError";
    this.status = fields.status ?? 0;
    this.code = fields.code ?? "";
    this.msg = fields.msg ?? message;
    this.field = fields.field ?? "";
    this.reason = fields.reason ?? 0;
    this.requestId = fields.requestId ?? "";
    this.retryAfterMs = fields.retryAfterMs ?? 0;
    this.retryable = fields.retryable ?? false;
    this.refused = fields.refused ?? false;
    this.maybeStored = fields.maybeStored ?? false;
    this.clientMsgNo = fields.clientMsgNo ?? "";
    this.tries = fields.tries ?? 1;
  }
}

/** classify returns what a status and a code of the server mean for another try. */
export function classify(status, code) {
  let refused = false;
  switch (status) {
    case 413:
      refused = true; // also if a proxy says it
      break;
    case 400:
    case 409:
    case 422:
      refused = code !== "" && code !== "body_unreadable";
      break;
    case 403:
      refused = code !== "" && code !== "insufficient_scope";
  }
  return {
    retryable: RETRYABLE_STATUS.has(status) || code === "body_unreadable",
    refused,
    maybeStored: !NOT_STORED_CODE.has(code) && (status >= 500 || status === 408 || (status >= 200 && status < 300)),
  };
}

/** answered is the error of an answer other than 200: the server's problem, or the text of something in between. */
function answered(status, problem, text, headers) {
  const code = typeof problem?.code === "string" ? problem.code : "";
  const msg = code === "" ? excerpt(text) : String(problem.msg ?? "");
  return new SendhouseError(`${status} ${code === "" ? "without a code" : code}: ${msg}`, {
    status, code, msg,
    field: code === "" ? "" : String(problem.field ?? ""),
    reason: code === "" ? 0 : Number(problem.reason ?? 0),
    requestId: headers?.get("x-request-id") ?? "",
    retryAfterMs: retryAfter(headers?.get("retry-after")),
    ...classify(status, code),
  });
}

/** unanswered is the error of a try without a usable answer. */
function unanswered(msg, maybeStored, cause) {
  return new SendhouseError(msg, { maybeStored, retryable: true, cause });
}

/** retryAfter reads Retry-After in milliseconds: seconds, or a date. */
function retryAfter(text) {
  if (!text) return 0;
  if (/^\d+$/.test(text)) return Number(text) * 1000;
  const at = Date.parse(text);
  return Number.isNaN(at) ? 0 : Math.max(0, at - Date.now());
}

function excerpt(text) {
  const trimmed = (text ?? "").trim();
  return trimmed === "" ? "the answer has no body" : JSON.stringify(trimmed.slice(0, EXCERPT_LENGTH_MAX));
}

function parse(text) {
  try {
    return JSON.parse(text);
  } catch {
    return undefined;
  }
}

/** now is a moment by two clocks: the monotonic one can stop while the machine is suspended, and the other can be set. */
const now = () => ({ wall: Date.now(), mono: performance.now() });

/** elapsed is how long ago a moment was. */
function elapsed(since) {
  const at = now();
  return Math.max(at.wall - since.wall, at.mono - since.mono);
}

/** age is how long ago a moment was, or longer: a clock that was set back tells nothing. */
function age(since) {
  return Date.now() < since.wall ? Infinity : elapsed(since);
}

/** uuid7 is a UUID of version 7: 48 bits of milliseconds, and random ones. */
function uuid7() {
  const b = webcrypto.getRandomValues(new Uint8Array(16));
  let ms = Date.now();
  for (let i = 5; i >= 0; i--) {
    b[i] = ms % 256;
    ms = Math.floor(ms / 256);
  }
  b[6] = 0x70 | (b[6] & 0x0f);
  b[8] = 0x80 | (b[8] & 0x3f);
  const hex = Array.from(b, (x) => x.toString(16).padStart(2, "0")).join("");
  return hex.replace(/^(.{8})(.{4})(.{4})(.{4})(.{12})$/, "$1-$2-$3-$4-$5");
}

/** base64 encodes bytes, or the UTF-8 of a string: btoa alone takes neither. */
export function base64(payload) {
  let bytes = payload;
  if (typeof payload === "string") {
    if (/\p{Surrogate}/u.test(payload)) throw new TypeError("payload has half a surrogate pair, which UTF-8 cannot hold");
    bytes = new TextEncoder().encode(payload);
  } else if (payload instanceof ArrayBuffer) {
    bytes = new Uint8Array(payload);
  } else if (!(payload instanceof Uint8Array)) {
    throw new TypeError("payload must be a string, a Uint8Array or an ArrayBuffer");
  }
  let binary = "";
  for (let i = 0; i < bytes.length; i += 8192) {
    binary += String.fromCharCode(...bytes.subarray(i, i + 8192)); // more arguments can overflow the stack
  }
  return btoa(binary);
}

/** bytesOf decodes base64. */
export function bytesOf(text) {
  return Uint8Array.from(atob(text), (c) => c.charCodeAt(0));
}

/** header has the flags of a send, as the API takes them. */
function header(send) {
  const flag = (name) => ((send.header?.[name] ?? send[name]) ? 1 : 0);
  return { no_persist: flag("no_persist"), red_dot: flag("red_dot"), sync_once: flag("sync_once") };
}

/** encode returns a send's client_msg_no and JSON. */
function encode(send) {
  const clientMsgNo = send.client_msg_no || uuid7();
  const { no_persist, red_dot, sync_once, ...rest } = send;
  return { clientMsgNo, text: JSON.stringify({ ...rest, header: header(send), client_msg_no: clientMsgNo, payload: base64(send.payload) }) };
}

/** result checks that a 200 answers the send that was made. */
function result(answer, clientMsgNo, replayed) {
  if (typeof answer?.message_idstr !== "string" || !/^[1-9]\d*$/.test(answer.message_idstr) || answer.client_msg_no !== clientMsgNo) {
    throw unanswered(`the answer is not that of this send: message_idstr ${answer?.message_idstr}, client_msg_no ${answer?.client_msg_no}`, true);
  }
  return { message_idstr: answer.message_idstr, message_seq: answer.message_seq, client_msg_no: clientMsgNo, replayed };
}

/** Tries counts the tries of one send. */
class Tries {
  constructor(clientMsgNo) {
    this.clientMsgNo = clientMsgNo;
    this.count = 0;
    this.since = undefined; // the start of the first try that may have been stored
    this.last = undefined; // the error of the last one
  }

  add(start, error) {
    this.count++;
    this.last = error;
    if (error.maybeStored) this.since ??= start;
  }

  /** failure is the error for the caller. */
  failure(error = this.last) {
    const stored = this.since ? "may be stored" : "not stored";
    return new SendhouseError(`send ${this.clientMsgNo}: ${stored} after ${this.count} ${this.count === 1 ? "try" : "tries"}: ${error.message}`, {
      ...error, clientMsgNo: this.clientMsgNo, tries: this.count, maybeStored: this.since !== undefined, cause: error.cause ?? error,
    });
  }
}

/** Call is one call of the client: it ends with the caller's signal, or at its deadline. */
class Call {
  #controller = new AbortController();
  #start = now();
  #timeoutMs;
  #given;
  #timer;
  #abort = () => this.#controller.abort(new SendhouseError("the call was aborted", { cause: this.#given.reason, tries: 0 }));

  constructor({ signal, timeoutMs } = {}) {
    if (timeoutMs !== undefined && !(timeoutMs > 0)) throw new TypeError(`timeoutMs ${timeoutMs}: must be positive`);
    this.#given = signal;
    this.#timeoutMs = timeoutMs ?? Infinity;
    signal?.addEventListener("abort", this.#abort);
    if (signal?.aborted) this.#abort();
    if (this.#timeoutMs <= TIMER_MS_MAX) this.#timer = setTimeout(() => this.#late(), this.#timeoutMs);
  }

  get signal() {
    return this.#controller.signal;
  }

  #late() {
    this.#controller.abort(new SendhouseError(`the call took longer than its timeoutMs, ${this.#timeoutMs}`, { tries: 0 }));
  }

  /** left is how long the call may still take. */
  left() {
    return this.#timeoutMs - elapsed(this.#start);
  }

  /** check throws if the call is over. */
  check() {
    if (this.left() <= 0) this.#late(); // timers stand still while the machine is suspended
    this.signal.throwIfAborted();
  }

  /** until waits for a promise, or for the end of the call. */
  until(promise) {
    return new Promise((resolve, reject) => {
      const over = () => reject(this.signal.reason);
      if (this.signal.aborted) over();
      this.signal.addEventListener("abort", over);
      promise.then(resolve, reject).finally(() => this.signal.removeEventListener("abort", over));
    });
  }

  /** pause waits, and returns false if the call ends before that. */
  async pause(ms) {
    if (this.left() <= ms) return false; // the caller can use the time better
    let timer;
    try {
      await this.until(new Promise((resolve) => { timer = setTimeout(resolve, ms); }));
      return true;
    } catch {
      return false;
    } finally {
      clearTimeout(timer);
    }
  }

  end() {
    clearTimeout(this.#timer);
    this.#given?.removeEventListener("abort", this.#abort);
  }
}

let webcrypto = globalThis.crypto;

/** ready finds the source of random numbers, which is no global in Node 18. */
async function ready() {
  webcrypto ??= (await import(/* webpackIgnore: true */ /* @vite-ignore */ "node:crypto")).webcrypto;
}

/** checkOptions reports everything that is wrong with the options. */
function checkOptions(o) {
  const wrong = [];
  for (const name of Object.keys(DEFAULTS)) {
    if (!(o[name] > 0) && !(name === "resendWithinMs" && o[name] === 0)) wrong.push(`${name} ${o[name]}: must be positive`);
  }
  if (o.backoffMaxMs < o.backoffMinMs) wrong.push(`backoffMaxMs ${o.backoffMaxMs}: must not be below backoffMinMs ${o.backoffMinMs}`);
  if (o.bulkItemsMax > BULK_ITEMS_MAX) wrong.push(`bulkItemsMax ${o.bulkItemsMax}: must be 1 to ${BULK_ITEMS_MAX}`);
  if (o.bulkBytesMax > BULK_BYTES_MAX) wrong.push(`bulkBytesMax ${o.bulkBytesMax}: must be 1 to ${BULK_BYTES_MAX}`);
  if (typeof o.fetch !== "function") wrong.push("fetch: must be a function");
  try {
    if (typeof o.url !== "function") checkURL(o.url);
    if (typeof o.token !== "function") checkToken(o.token);
  } catch (error) {
    wrong.push(error.message);
  }
  if (wrong.length > 0) throw new TypeError(`Client: ${wrong.join("; ")}`);
}

/** checkURL returns where the API is, ready to have a route appended. */
function checkURL(text) {
  let url;
  try {
    url = new URL(text);
  } catch {
    throw new TypeError(`url ${JSON.stringify(text)}: must be absolute, for example http://localhost:5001`);
  }
  if (url.protocol !== "http:" && url.protocol !== "https:") throw new TypeError(`url ${JSON.stringify(text)}: must begin with http:// or https://`);
  if (url.search || url.hash || url.username || url.password) throw new TypeError("url: must not have a query, a fragment or a password");
  return url.href.replace(/\/+$/, "");
}

function checkToken(token) {
  if (token !== undefined && !/^[!-~]*$/.test(token)) throw new TypeError("token: must be visible ASCII characters");
  return token;
}

const valueOf = (given) => (typeof given === "function" ? given() : given);

export class Client {
  #options;
  #window; // what the server said of it last, and when
  #asking; // the request for it that is under way

  constructor(options) {
    this.#options = { fetch: globalThis.fetch, ...DEFAULTS };
    for (const [name, value] of Object.entries(options)) {
      if (value !== undefined) this.#options[name] = value;
    }
    checkOptions(this.#options);
  }

  send(send, options) {
    return this.#within(options, async (call) => {
      const { clientMsgNo, text } = encode(send);
      return this.#store(call, clientMsgNo, "/message/send", text, (answer, headers) => result(answer, clientMsgNo, headers.get("idempotent-replayed") === "true"));
    });
  }

  sendBatch(batch, options) {
    return this.#within(options, async (call) => {
      const { clientMsgNo, text } = encode(batch);
      return this.#store(call, clientMsgNo, "/message/sendbatch", text, (answer) => {
        if (!Array.isArray(answer?.fail_uids) || answer.fail_uids.length !== answer.reason?.length) throw unanswered("the answer is not that of a batch", true);
        return { client_msg_no: clientMsgNo, failed: answer.fail_uids.map((uid, i) => ({ uid, reason: answer.reason[i] })) };
      });
    });
  }

  sendBulk(sends, options) {
    return this.#within(options, async (call) => {
      const items = sends.map((send) => new Item(send));
      await new Bulk(this.#options.bulkBytesMax, items).run(call, this.#options, {
        ask: (chunk, timeoutMs) => this.#askBulk(call, chunk, timeoutMs),
        resendable: (since) => this.#resendable(call, since),
        pause: (tries, error) => this.#pause(call, tries, error),
      });
      return items.map((item) => item.outcome);
    });
  }

  window(options) {
    return this.#within(options, (call) => this.#retry(call, () => this.#askWindow(call)));
  }

  status(send, options) {
    return this.#within(options, async (call) => {
      const query = new URLSearchParams();
      for (const name of ["client_msg_no", "from_uid", "channel_id", "channel_type"]) query.set(name, send[name] ?? "");
      if (send.sync_once) query.set("sync_once", "1");
      const answer = await this.#retry(call, () => this.#json(call, { path: `/message/status?${query}` }));
      if (!["stored", "accepted", "unknown"].includes(answer?.state) || answer.client_msg_no !== send.client_msg_no) {
        throw new SendhouseError(`the answer is not the state of this send: state ${answer?.state}, client_msg_no ${answer?.client_msg_no}`);
      }
      return { state: answer.state, complete: answer.complete ?? false, message_idstr: answer.message_idstr, message_seq: answer.message_seq, hint: answer.hint };
    });
  }

  messages(query, options) {
    return this.#within(options, async (call) => {
      const page = await this.#retry(call, () => this.#json(call, { path: "/channel/messagesync", body: JSON.stringify(query) }));
      if (!Array.isArray(page?.messages)) throw new SendhouseError("the answer is no page of messages");
      for (const message of page.messages) {
        delete message.message_id; // JSON.parse has rounded it
        message.payload = bytesOf(message.payload);
      }
      return { ...page, more: page.more === 1 };
    });
  }

  allowlist(channel, options) {
    const query = new URLSearchParams({ channel_id: channel.channel_id, channel_type: String(channel.channel_type) });
    return this.#within(options, (call) => this.#retry(call, async () => (await this.#json(call, { path: `/channel/whitelist?${query}` })).map((member) => member.uid)));
  }

  systemUIDs(options) {
    return this.#within(options, (call) => this.#retry(call, () => this.#json(call, { path: "/user/systemuids" })));
  }

  // The routes that change something take an object and return nothing. Each can be repeated safely.
  static {
    const changes = {
      defineChannel: "/channel", setChannelFlags: "/channel/info", deleteChannel: "/channel/delete",
      addSubscribers: "/channel/subscriber_add", removeSubscribers: "/channel/subscriber_remove", removeAllSubscribers: "/channel/subscriber_remove_all",
      addToDenylist: "/channel/blacklist_add", setDenylist: "/channel/blacklist_set", removeFromDenylist: "/channel/blacklist_remove", clearDenylist: "/channel/blacklist_remove_all",
      addToAllowlist: "/channel/whitelist_add", setAllowlist: "/channel/whitelist_set", removeFromAllowlist: "/channel/whitelist_remove", clearAllowlist: "/channel/whitelist_remove_all",
      addSystemUIDs: "/user/systemuids_add", removeSystemUIDs: "/user/systemuids_remove",
    };
    for (const [name, path] of Object.entries(changes)) {
      this.prototype[name] = function (change, options) {
        return this.#within(options, async (call) => {
          await this.#retry(call, () => this.#json(call, { path, body: JSON.stringify(change), stores: true }));
        });
      };
    }
  }

  async #within(options, work) {
    const call = new Call(options);
    try {
      await ready();
      call.check();
      return await work(call);
    } finally {
      call.end();
    }
  }

  /** retry makes a request that can be repeated at any time. */
  async #retry(call, request) {
    for (let tries = 1; ; tries++) {
      try {
        return await request();
      } catch (error) {
        error.tries = tries;
        if (tries >= this.#options.triesMax || !(await this.#pause(call, tries, error))) throw error;
      }
    }
  }

  /** store makes a request that stores messages under a client_msg_no: each try is the same to the byte. */
  async #store(call, clientMsgNo, path, body, read) {
    const tries = new Tries(clientMsgNo);
    for (;;) {
      const start = now();
      try {
        let timeoutMs = this.#options.tryTimeoutMs;
        if (tries.since) {
          const left = await this.#resendable(call, tries.since);
          if (left <= 0) break; // the server may have forgotten it, and would store it again
          timeoutMs = Math.min(timeoutMs, left);
        }
        return await this.#json(call, { path, body, timeoutMs, stores: true }, read);
      } catch (error) {
        tries.add(start, error);
      }
      if (tries.count >= this.#options.triesMax || !(await this.#pause(call, tries.count, tries.last))) break;
    }
    throw tries.failure();
  }

  /** pause waits before another try. It returns false if there should be none: it cannot help, or the time does not suffice. */
  async #pause(call, tries, error) {
    const { backoffMinMs, backoffMaxMs, retryAfterMaxMs } = this.#options;
    if (!error.retryable || error.retryAfterMs > retryAfterMaxMs) return false;
    let wait = Math.min(backoffMinMs * 2 ** (tries - 1), backoffMaxMs);
    wait -= Math.random() * wait / 2;
    // The server asks all callers that it refuses at one time for the same pause: this spreads their next tries.
    if (error.retryAfterMs > wait) wait = error.retryAfterMs + Math.random() * backoffMinMs;
    return call.pause(wait);
  }

  /** resendable is how much longer a send may be tried again whose first try that may have been stored began at since. */
  async #resendable(call, since) {
    if (!this.#window || age(this.#window.at) > WINDOW_TRUSTED_MS) {
      // All sends that need it wait for one request, which none of them can abort.
      this.#asking ??= (async () => {
        const own = new Call();
        try {
          this.#window = { ...(await this.#askWindow(own)), at: now() };
        } finally {
          own.end();
          this.#asking = undefined;
        }
      })();
      await call.until(this.#asking);
    }
    const own = this.#options.resendWithinMs;
    const remembers = this.#window.remembersMs;
    let within = own || RESEND_WITHIN_UNKNOWN_MS;
    if (remembers !== undefined) within = own ? Math.min(own, remembers) : remembers;
    return within - age(since);
  }

  /** askWindow asks once. A server that does not have the route says nothing. */
  async #askWindow(call) {
    try {
      const answer = await this.#json(call, { path: "/message/window" });
      return { remembersMs: answer?.remembers_ms > 0 ? answer.remembers_ms : undefined, orderedBulks: answer?.ordered_bulks === true };
    } catch (error) {
      if (error.status !== 404) throw error;
      return { remembersMs: undefined, orderedBulks: false };
    }
  }

  /** json makes a request and reads the JSON of a 200. */
  #json(call, out, read = (answer) => answer) {
    return this.#request(call, out, async (response) => {
      const text = await textOf(response);
      const answer = parse(text);
      if (response.status !== 200) throw answered(response.status, answer, text, response.headers);
      if (answer === undefined) throw unanswered(`the answer is no JSON: ${excerpt(text)}`, true);
      return read(answer, response.headers);
    });
  }

  /** askBulk makes one request for several items. It returns the elements of the answer, as many as there are, and why there are not all. */
  #askBulk(call, items, timeoutMs) {
    const body = items.map((item) => `${item.text}\n`).join("");
    return this.#request(call, { path: "/message/sendbulk", type: "application/x-ndjson", body, timeoutMs, stores: true }, async (response) => {
      if (response.status !== 200) {
        const text = await textOf(response);
        throw answered(response.status, parse(text), text, response.headers);
      }
      return readBulk(response, items);
    });
  }

  /** request makes one request. It throws a SendhouseError if there is no answer, or read does. */
  async #request(call, { path, type = "application/json", body, timeoutMs = this.#options.tryTimeoutMs, stores = false }, read) {
    const abort = new AbortController();
    const over = () => abort.abort();
    let timer;
    try {
      const headers = body === undefined ? {} : { "content-type": type };
      let url;
      try {
        url = checkURL(await call.until(Promise.resolve(valueOf(this.#options.url)))) + path;
        const token = checkToken(await call.until(Promise.resolve(valueOf(this.#options.token))));
        if (token) headers.authorization = `Bearer ${token}`;
      } catch (cause) {
        call.check();
        throw unanswered(`url or token: ${cause?.message}`, false, cause);
      }
      call.check();
      timer = setTimeout(over, Math.min(timeoutMs, TIMER_MS_MAX));
      call.signal.addEventListener("abort", over);
      const { fetch } = this.#options;
      // A POST that is redirected can become a GET, which would be no send; and the token is for this server.
      const response = await fetch(url, {
        method: body === undefined ? "GET" : "POST", headers, body, signal: abort.signal, redirect: "manual", cache: "no-store", credentials: "omit",
      });
      if (response.type === "opaqueredirect") throw answered(0, undefined, "the server redirects to another address");
      return await read(response);
    } catch (cause) {
      throw this.#failure(call, cause, stores, abort.signal.aborted && !call.signal.aborted ? timeoutMs : undefined);
    } finally {
      clearTimeout(timer);
      call.signal.removeEventListener("abort", over);
    }
  }

  /** failure makes an error of whatever ended a request. */
  #failure(call, cause, stores, lateMs) {
    let error = cause;
    if (lateMs !== undefined) {
      error = unanswered(`no answer within ${lateMs} ms`, true);
    } else if (call.signal.aborted && cause !== call.signal.reason) {
      const { message, cause: reason } = call.signal.reason;
      error = new SendhouseError(message, { cause: reason, maybeStored: true });
    } else if (!(cause instanceof SendhouseError)) {
      const code = cause?.cause?.code;
      error = unanswered(`no answer: ${cause?.message}${code ? ` (${code})` : ""}`, !NOT_WRITTEN_CODE.has(code), cause);
    }
    if (!stores) error.maybeStored = false;
    return error;
  }
}

/** Item is one send of a bulk. It is open while it has no outcome. */
class Item {
  constructor(send) {
    this.outcome = undefined;
    try {
      const { clientMsgNo, text } = encode(send);
      this.text = text;
      this.bytes = new TextEncoder().encode(text).length + 1;
      this.tries = new Tries(clientMsgNo);
    } catch (cause) {
      this.outcome = { error: new SendhouseError(`send: ${cause.message}; it was not sent`, { cause, refused: true, tries: 0, clientMsgNo: send?.client_msg_no }) };
    }
  }

  fail(error) {
    this.outcome = { error: this.tries.failure(error) };
  }
}

/** Bulk sends items in rounds: each goes once through what is open. */
class Bulk {
  constructor(bytesMax, items) {
    this.bytesMax = bytesMax;
    this.items = items;
  }

  /** run ends when each item has an outcome. A request that fails as a whole ends its round, since the next one would fail too. */
  async run(call, options, { ask, resendable, pause }) {
    let inVain = 0; // rounds in a row without an answer
    for (let round = 1; ; round++) {
      let todo = this.items.filter((item) => !item.outcome);
      let failure;
      let progress = false;
      while (todo.length > 0 && !failure) {
        const chunk = this.chunk(todo, options.bulkItemsMax);
        let done = chunk.length;
        try {
          done = await this.request(chunk, options, ask, resendable);
          progress ||= done > 0;
        } catch (error) {
          failure = error;
        }
        todo = todo.slice(done);
      }
      const open = this.items.filter((item) => !item.outcome);
      if (open.length === 0) return;
      failure ??= open.map((item) => item.tries.last).filter(Boolean).reduce((a, b) => (b.retryAfterMs > a.retryAfterMs ? b : a));
      inVain = progress ? 0 : inVain + 1;
      if (inVain >= options.triesMax || !(await pause(Math.min(round, options.triesMax), failure))) {
        for (const item of open) item.fail(item.tries.last ?? failure); // items that were never tried fail as the last request did
        return;
      }
    }
  }

  chunk(todo, itemsMax) {
    let bytes = 0;
    const n = todo.findIndex((item, i) => {
      bytes += item.bytes;
      return i === itemsMax || (i > 0 && bytes > this.bytesMax);
    });
    return n < 0 ? todo : todo.slice(0, n);
  }

  /** request makes one request, and returns how many items of the chunk have had their try. It throws if the request failed as a whole. */
  async request(chunk, options, ask, resendable) {
    let timeoutMs = options.bulkTryTimeoutMs;
    for (const item of chunk) {
      if (!item.tries.since) continue;
      const left = await resendable(item.tries.since);
      if (left <= 0) item.fail(); // the server may have forgotten it, and would store it again
      else timeoutMs = Math.min(timeoutMs, left);
    }
    const items = chunk.filter((item) => !item.outcome);
    if (items.length === 0) return chunk.length;
    const start = now();
    let answers = [];
    let error;
    try {
      ({ answers, error } = await ask(items, timeoutMs));
    } catch (whole) {
      error = whole;
    }
    answers.forEach((answer, i) => {
      if (answer instanceof SendhouseError) this.tried(items[i], start, answer, options);
      else items[i].outcome = { result: answer };
    });
    const rest = items.slice(answers.length);
    if (error?.status === 413 && rest.length > 1) { // not one of them need be too large
      this.bytesMax = rest.reduce((sum, item) => sum + item.bytes, 0) / 2;
      return chunk.indexOf(rest[0]);
    }
    for (const item of rest) this.tried(item, start, error, options);
    if (answers.length === 0 && !error.refused) throw error;
    return chunk.length;
  }

  /** tried notes that a try of an item failed, and leaves the item open if another can help. */
  tried(item, start, error, options) {
    item.tries.add(start, error);
    if (item.tries.count >= options.triesMax || !error.retryable) item.fail();
  }
}

/** parts are the text of an answer as it arrives. */
async function* parts(response) {
  if (!response.body) return;
  const reader = response.body.getReader();
  const decoder = new TextDecoder();
  let bytes = 0;
  try {
    for (;;) {
      const { done, value } = await reader.read();
      if (done) return;
      bytes += value.length;
      if (bytes > ANSWER_BYTES_MAX) throw new Error(`it is larger than ${ANSWER_BYTES_MAX} bytes`);
      yield decoder.decode(value, { stream: true });
    }
  } finally {
    reader.cancel().catch(() => {}); // of no effect at the end; before that, nothing more is wanted of this answer
  }
}

async function textOf(response) {
  let text = "";
  try {
    for await (const part of parts(response)) text += part;
  } catch (cause) {
    throw unanswered(`read the answer: ${cause?.message}`, true, cause);
  }
  return text;
}

/** readBulk reads what became of each item, in their order: its result, or its error. */
async function readBulk(response, items) {
  const elements = [];
  let error;
  let rest = "";
  const take = (line) => {
    if (line.trim() !== "" && elements.length < items.length) elements.push(JSON.parse(line));
  };
  try {
    for await (const part of parts(response)) {
      const lines = (rest + part).split("\n");
      rest = lines.pop();
      lines.forEach(take);
    }
    take(rest);
  } catch (cause) {
    error = unanswered(`read the answers: ${cause?.message}`, true, cause);
  }
  if (!error && elements.length < items.length) {
    error = unanswered("the answer to the bulk ends before this item's", true);
    // One element more than items were read is about the body as a whole, and later items were not sent.
    if (BODY_CODE.has(elements.at(-1)?.code)) error = refusal(elements.pop(), response.headers);
  }
  const answers = [];
  for (const [i, element] of elements.entries()) {
    if (element?.status !== 200 && typeof element?.code === "string") {
      answers.push(refusal(element, response.headers));
      continue;
    }
    try {
      answers.push(result(element, items[i].tries.clientMsgNo, element?.idempotent_replayed === true));
    } catch (outOfStep) {
      return { answers, error: outOfStep };
    }
  }
  return { answers, error };
}

/** refusal is the error that an element of a bulk's answer reports. */
function refusal(element, headers) {
  const error = answered(Number(element.status), element, "", headers);
  if (error.retryable) error.retryAfterMs = ITEM_RETRY_AFTER_MS;
  return error;
}
