/** The kinds of channels. */
export declare const ChannelType: {
  readonly PERSON: 1;
  readonly GROUP: 2;
  readonly CUSTOMER_SERVICE: 3;
  readonly COMMUNITY: 4;
  readonly COMMUNITY_TOPIC: 5;
  readonly INFO: 6;
  readonly DATA: 7;
  readonly TEMPORARY: 8;
  readonly LIVE: 9;
  readonly VISITORS: 10;
  readonly AGENT: 11;
  readonly AGENT_GROUP: 12;
};
export type ChannelType = (typeof ChannelType)[keyof typeof ChannelType];

/** A payload: text, which is sent in UTF-8, or bytes. */
export type Payload = string | Uint8Array | ArrayBuffer;

interface Common {
  /** The sender's own key for the message, at most 256 bytes. If it is absent, one is made, once for all tries. */
  client_msg_no?: string;
  /** The sender, 1 to 256 bytes. */
  from_uid: string;
  /** What is sent: 1 byte to 512 KiB by default, before base64, which is added here. */
  payload: Payload;
  /** Gets an ID, is published once and stored nowhere. */
  no_persist?: boolean;
  /** Clients show it as unread. */
  red_dot?: boolean;
  /** A command: it goes to the channel's command channel. */
  sync_once?: boolean;
  /** Stored; at most 256 bytes. */
  stream_no?: string;
  /** Stored; at most 256 bytes. */
  tag_key?: string;
  /** Seconds after which the message's row is gone; 0 means never. */
  expire?: number;
}

/** A message to be sent. The server checks it; its rules are in docs/reference/api.md. */
export interface Send extends Common {
  /** The channel; for a person's channel the other uid. May be absent if there are subscribers. */
  channel_id?: string;
  channel_type?: ChannelType;
  /** The receivers of a command, at most 10,000. */
  subscribers?: string[];
}

/** One message to each of many persons. */
export interface Batch extends Common {
  /** The receivers' uids, at most 10,000. */
  subscribers: string[];
}

/** What a send has become. */
export interface Result {
  /** Unique, and greater than those of the channel's earlier messages. A string, since it exceeds 2^53; BigInt(message_idstr) compares. */
  message_idstr: string;
  /** 1, 2, 3, … in the channel; 0 with no_persist. */
  message_seq: number;
  /** That of the send, or the one that was made for it. */
  client_msg_no: string;
  /** It had been sent before, and this is the first result again (Idempotent-Replayed). */
  replayed: boolean;
}

export interface BatchResult {
  client_msg_no: string;
  /** The receivers to whom the message could not be sent. */
  failed: { uid: string; reason: string }[];
}

/** What became of one send of a bulk: a result, or an error as send throws it. */
export type Outcome = { result: Result; error?: undefined } | { result?: undefined; error: SendhouseError };

/** What the server promises of sends that are sent again. */
export interface Window {
  /** A send whose first try began less than this many milliseconds ago is recognized. undefined: the server does not know. */
  remembersMs: number | undefined;
  /** A bulk may have the header Sendhouse-Ordered. */
  orderedBulks: boolean;
}

/** What became of a send whose answer was lost. */
export interface Status {
  /** stored: in ClickHouse. accepted: in the logs, and will be in ClickHouse. unknown: nowhere that was searched. */
  state: "stored" | "accepted" | "unknown";
  /** Of unknown: everything was searched. */
  complete: boolean;
  message_idstr?: string;
  message_seq?: number;
  /** For people. */
  hint?: string;
}

export interface ChannelName {
  channel_id: string;
  channel_type: ChannelType;
}

/** The flags of a channel. Those that are absent are set to 0. */
export interface ChannelFlags extends ChannelName {
  large?: 0 | 1;
  ban?: 0 | 1;
  disband?: 0 | 1;
  send_ban?: 0 | 1;
  allow_stranger?: 0 | 1;
}

export interface MessageQuery extends ChannelName {
  /** The reader. With channel_id it names a person's channel. */
  login_uid: string;
  /** Inclusive; 0, the default, is no bound. */
  start_message_seq?: number;
  /** Exclusive; 0, the default, is no bound. */
  end_message_seq?: number;
  /** Messages on the page, 100 by default and 10,000 at most. */
  limit?: number;
  /** 0: the newest with end < message_seq ≤ start. 1: the oldest with start ≤ message_seq < end. */
  pull_mode?: 0 | 1;
}

export interface Message {
  header: { no_persist: 0; red_dot: 0 | 1; sync_once: 0 | 1 };
  setting: 0;
  /** Beyond 2^53, so a string. */
  message_idstr: string;
  message_seq: number;
  client_msg_no: string;
  from_uid: string;
  channel_id: string;
  channel_type: ChannelType;
  expire: number;
  /** Seconds since 1970. */
  timestamp: number;
  payload: Uint8Array;
}

export interface MessagePage {
  start_message_seq: number;
  end_message_seq: number;
  /** There are more messages within the bounds. */
  more: boolean;
  messages: Message[];
}

/** Where the server is, and how long to try. */
export interface ClientOptions {
  /** http://localhost:5001, or https://… with a path in front of the routes if there is one. A function is asked before each request. */
  url: string | (() => string | Promise<string>);
  /** The bearer token. A function is asked before each request. */
  token?: string | (() => string | Promise<string>);
  /** Makes the requests. The global fetch by default. */
  fetch?: typeof fetch;
  /** How often a request is tried, the first time included. 6. */
  triesMax?: number;
  /** Bounds one try. 15,000. */
  tryTimeoutMs?: number;
  /** Bounds one try of a bulk. 60,000. */
  bulkTryTimeoutMs?: number;
  /** The longest pause before the second try. It doubles with each try; the pause taken is random, between half of it and the whole. 100. */
  backoffMinMs?: number;
  /** The longest pause, unless the server asks for a longer one. 10,000. */
  backoffMaxMs?: number;
  /** The longest pause that the server may ask for with Retry-After. If it asks for more, trying ends. 60,000. */
  retryAfterMaxMs?: number;
  /** Shortens how long after a try that may have been stored a send is tried again. 0, the default: as long as the server remembers it. */
  resendWithinMs?: number;
  /** Sends in one request of sendBulk, at most 10,000. 1,000. */
  bulkItemsMax?: number;
  /** Bytes in one request of sendBulk, at most 16 MiB. 4 MiB. */
  bulkBytesMax?: number;
}

/** Bounds one call, with all its tries and pauses. */
export interface CallOptions {
  /** Ends the call. Its error still reports whether the send may be stored. */
  signal?: AbortSignal;
  /** The time that the call may take. */
  timeoutMs?: number;
}

/** Why a call failed: what the server answered, or why there is no answer. */
export declare class SendhouseError extends Error {
  /** The HTTP status; 0 if there was no answer. */
  readonly status: number;
  /** The server's name for the case (docs/reference/api.md); "" if something between here and the server answered, or nothing did. */
  readonly code: string;
  /** What is wrong, for people. */
  readonly msg: string;
  /** The names of the bad fields, separated by commas. */
  readonly field: string;
  /** WuKongIM's reason code, or 0. */
  readonly reason: number;
  /** X-Request-Id of the answer, which the server's log has too; "" if there is none. */
  readonly requestId: string;
  /** The pause that the server asked for; 0 if it did not. */
  readonly retryAfterMs: number;
  /** Trying again later can help. */
  readonly retryable: boolean;
  /** The server will not have this send, now or later. */
  readonly refused: boolean;
  /** The send, or the change, may be stored in spite of the error: one of its tries may have been. */
  readonly maybeStored: boolean;
  /** The send's client_msg_no. Sending again with it is safe while the server remembers it; status() answers after that. */
  readonly clientMsgNo: string;
  /** How often it was tried. */
  readonly tries: number;
}

/** Sends messages and reads them. Made once, and used for many calls at a time. */
export declare class Client {
  /** Checks the options and reports everything that is wrong with them. */
  constructor(options: ClientOptions);
  /** Sends one message. Resolves when it is stored and has its place in the channel. */
  send(send: Send, options?: CallOptions): Promise<Result>;
  /** Sends one message to each of many persons. */
  sendBatch(batch: Batch, options?: CallOptions): Promise<BatchResult>;
  /**
   * Sends many messages in few requests, and resolves to an outcome for each, in the order of the sends. It is not rejected because sends
   * fail. Sends to one channel keep their order, but one that is sent again comes after those that are not.
   */
  sendBulk(sends: Send[], options?: CallOptions): Promise<Outcome[]>;
  /** Asks how far back a send is recognized. */
  window(options?: CallOptions): Promise<Window>;
  /** Asks what became of a send, by the fields that it had. */
  status(send: Pick<Send, "from_uid" | "channel_id" | "channel_type" | "sync_once"> & { client_msg_no: string }, options?: CallOptions): Promise<Status>;
  /** Reads a page of the messages of a channel. */
  messages(query: MessageQuery, options?: CallOptions): Promise<MessagePage>;

  defineChannel(channel: ChannelFlags & { reset?: 0 | 1; subscribers?: string[] }, options?: CallOptions): Promise<void>;
  setChannelFlags(channel: ChannelFlags, options?: CallOptions): Promise<void>;
  deleteChannel(channel: ChannelName, options?: CallOptions): Promise<void>;
  addSubscribers(change: ChannelName & { subscribers: string[]; reset?: 0 | 1 }, options?: CallOptions): Promise<void>;
  removeSubscribers(change: ChannelName & { subscribers: string[] }, options?: CallOptions): Promise<void>;
  removeAllSubscribers(channel: ChannelName, options?: CallOptions): Promise<void>;
  addToDenylist(change: ChannelName & { uids: string[] }, options?: CallOptions): Promise<void>;
  setDenylist(change: ChannelName & { uids: string[] }, options?: CallOptions): Promise<void>;
  removeFromDenylist(change: ChannelName & { uids: string[] }, options?: CallOptions): Promise<void>;
  clearDenylist(channel: ChannelName, options?: CallOptions): Promise<void>;
  addToAllowlist(change: ChannelName & { uids: string[] }, options?: CallOptions): Promise<void>;
  setAllowlist(change: ChannelName & { uids: string[] }, options?: CallOptions): Promise<void>;
  removeFromAllowlist(change: ChannelName & { uids: string[] }, options?: CallOptions): Promise<void>;
  clearAllowlist(channel: ChannelName, options?: CallOptions): Promise<void>;
  addSystemUIDs(change: { uids: string[] }, options?: CallOptions): Promise<void>;
  removeSystemUIDs(change: { uids: string[] }, options?: CallOptions): Promise<void>;
  /** The uids on a channel's allowlist, sorted. */
  allowlist(channel: ChannelName, options?: CallOptions): Promise<string[]>;
  /** The system accounts, sorted. */
  systemUIDs(options?: CallOptions): Promise<string[]>;
}

/** Encodes a payload as the API takes it. btoa alone fails on text beyond Latin-1. */
export declare function base64(payload: Payload): string;
/** Decodes base64. */
export declare function bytesOf(text: string): Uint8Array;
/** What a status and a code of the server mean for another try. */
export declare function classify(status: number, code: string): { retryable: boolean; refused: boolean; maybeStored: boolean };
