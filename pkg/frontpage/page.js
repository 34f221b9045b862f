"use strict";
// All text is put in as text, never as HTML: names and errors come from clients.

const $ = (id) => document.getElementById(id);
const stateEvery = 1000, deploymentEvery = 5000; // milliseconds
const rateOver = 10_000, historyMax = 60;

// make makes an element: make("td", {className: "x"}, "text", child …).
function make(name, properties = {}, ...children) {
  const e = Object.assign(document.createElement(name), properties);
  e.append(...children);
  return e;
}

// --- Figures

const whole = new Intl.NumberFormat("en", { maximumFractionDigits: 0 });
const short = new Intl.NumberFormat("en", { maximumSignificantDigits: 3 });

function number(n) { return n >= 1000 ? whole.format(n) : short.format(n); }

function bytes(n) {
  const units = ["B", "KiB", "MiB", "GiB", "TiB"];
  let u = 0;
  for (; n >= 1024 && u < units.length - 1; u++) n /= 1024;
  return short.format(n) + " " + units[u];
}

function seconds(s) {
  if (s > 0 && s < 1) return short.format(s * 1000) + " ms";
  if (s < 120) return short.format(s) + " s";
  return s < 7200 ? whole.format(s / 60) + " min" : whole.format(s / 3600) + " h";
}

function written(n, unit) {
  if (n === null || n === undefined) return "–";
  return unit === "bytes" ? bytes(n) : unit === "s" ? seconds(n) : unit === "yes" ? (n ? "yes" : "no") : number(n);
}

// --- What was seen, of this process since it started

let started = "", seen = []; // states, the oldest first

function remember(state) {
  if (state.started !== started) { started = state.started; seen = []; }
  seen.push(state);
  if (seen.length > historyMax + rateOver / stateEvery) seen.shift();
}

// change is what a figure did between a state that was seen and the one rateOver or a little more before it. A counter that appears has been 0 before; a gauge
// that appears has no change.
function change(at, stage, label) {
  const now = seen[at];
  let then = at;
  while (then > 0 && now.uptime_millis - seen[then].uptime_millis < rateOver) then--;
  const one = now.stages[stage].figures.find((f) => f.label === label);
  const other = seen[then].stages[stage].figures.find((f) => f.label === label) || {};
  if (then === at || one.value === null || (one.kind === "growth" && (other.value ?? null) === null)) return null;
  return {
    value: Math.max(0, one.value - (other.value ?? 0)), count: (one.count ?? 0) - (other.count ?? 0),
    seconds: (now.uptime_millis - seen[then].uptime_millis) / 1000,
  };
}

// now is what to show of a figure, in its unit.
function now(at, stage, f) {
  if (f.kind === "value") return f.value;
  const c = change(at, stage, f.label);
  if (c === null || (f.kind === "mean" && c.count === 0)) return null;
  return f.kind === "mean" ? c.value / c.count : c.value / c.seconds;
}

function figureText(f, n) {
  let text = written(n, f.unit) + ((f.kind === "rate" || f.kind === "growth") && n !== null ? "/s" : "");
  if (f.of) text += " of " + written(f.of, f.unit);
  return text;
}

// curve draws the first figure over the last minute.
function curve(stage, f) {
  const points = [];
  for (let at = Math.max(0, seen.length - historyMax); at < seen.length; at++) points.push(now(at, stage, f) ?? 0);
  const most = Math.max(...points, 1e-9), ns = "http://www.w3.org/2000/svg";
  const svg = document.createElementNS(ns, "svg"), line = document.createElementNS(ns, "polyline");
  svg.setAttribute("viewBox", `0 0 ${historyMax} 20`);
  svg.setAttribute("preserveAspectRatio", "none");
  svg.setAttribute("aria-hidden", "true"); // the number above it says what it is now
  line.setAttribute("vector-effect", "non-scaling-stroke");
  line.setAttribute("points", points.map((p, i) => `${historyMax - points.length + i},${(19 - (18 * p) / most).toFixed(2)}`).join(" "));
  svg.append(line);
  return svg;
}

function showStage(stage, index) {
  const box = make("li", { className: stage.here ? "" : "elsewhere" }, make("h3", {}, stage.name));
  box.dataset.stage = stage.name;
  if (!stage.here) {
    box.append(make("p", { className: "quiet" }, "not in this process"));
    return box;
  }
  const rows = make("dl");
  stage.figures.forEach((f, i) => {
    const n = now(seen.length - 1, index, f);
    const alarming = (f.alert && n !== null && n >= f.alert) || (f.unit === "yes" && n === 0);
    if (i === 0) {
      box.append(make("p", { className: "main" }, figureText(f, n)), make("p", { className: "quiet" }, f.label), curve(index, f));
    } else {
      rows.append(make("dt", {}, f.label), make("dd", { className: alarming ? "bad" : "" }, figureText(f, n)));
    }
  });
  box.append(rows);
  return box;
}

// --- The rest of the state

function table(caption, heads, rows, classes = []) {
  const head = make("tr", {}, ...heads.map((h, i) => make("th", { scope: "col", className: classes[i] || "" }, h)));
  const body = rows.map((r) => make("tr", {}, ...r.map((c, i) => make("td", { className: classes[i] || "" }, String(c)))));
  return make("table", {}, make("caption", {}, caption), make("thead", {}, head), make("tbody", {}, ...body));
}

const quiet = (text) => make("p", { className: "quiet" }, text);

// text sets a text that screen readers follow only where it changes.
function text(element, value) { if (element.textContent !== value) element.textContent = value; }

function showState(state) {
  remember(state);
  $("gone").hidden = true;
  text($("ready"), state.readiness.ready ? "ready" : "not ready");
  $("ready").className = "badge " + (state.readiness.ready ? "good" : "bad");
  const failing = state.readiness.checks.filter((c) => !c.ok).map((c) => make("li", {}, `${c.name}: ${c.error}`));
  $("checks").replaceChildren(...failing);
  $("checks").hidden = failing.length === 0;
  $("about").textContent = `${state.build.version}, up for ${seconds(Math.floor(state.uptime_millis / 1000))}`;
  $("flow").replaceChildren(...state.stages.map(showStage));
  $("send").hidden = !state.form.offered;
  $("no-form").hidden = state.form.offered;
  $("no-form").textContent = state.form.why || "";
  $("token-field").hidden = !state.form.token;
  $("token").required = state.form.token;
  $("log").replaceChildren(state.log.length === 0 ? quiet("None since the start.") : table(
    "The newest first; the log has all.", ["time", "level", "message", "details"],
    state.log.map((l) => [new Date(l.time).toLocaleTimeString(), l.level, l.message, l.attrs]), ["word", "word"]));
}

function showDeployment(d) {
  const parts = [];
  for (const [role, lag] of [["sequencer", "records"], ["writer", "messages"]]) {
    if (!d[role]) parts.push(quiet(`Who the ${role}s of the partitions are is known to processes with the role ${role}.`));
    else if (d[role].error) parts.push(make("p", { className: "problem" }, `${role}s: ${d[role].error}`));
    else parts.push(table(`${role}s, as the last renewal of their leases says`, ["partition", "owner", "epoch", "lag, " + lag, "state"],
      d[role].partitions.map((p) => [p.number, p.owner || "nobody", p.owner ? p.epoch : "–", number(p.lag), [p.state, p.problem].filter(Boolean).join(": ")]),
      ["number", "", "number", "number"]));
  }
  $("partitions").replaceChildren(...parts);
  const letters = d.dead_letters;
  let shown;
  if (!letters) shown = quiet("This process does not ask for them; processes with the role sequencer or writer do.");
  else if (letters.error) shown = make("p", { className: "problem" }, letters.error);
  else if (letters.groups.length === 0) shown = quiet("There are none.");
  else shown = table("sendhouse deadletters shows what they hold", ["role", "reason", "how many", "latest", "its ID", "its error"],
    letters.groups.map((g) => [g.role, g.reason, number(g.count), g.latest ? new Date(g.latest.time).toLocaleString() : "–", g.latest?.id ?? "–", g.latest?.error ?? ""]),
    ["word", "word", "number", "", "number"]);
  $("letters").replaceChildren(shown);
}

// --- Asking

// follow asks again and again while the page is looked at.
async function follow(path, every, show, failed) {
  for (;;) {
    if (!document.hidden) {
      try {
        const answer = await fetch(path, { signal: AbortSignal.timeout(15_000) });
        if (!answer.ok) throw new Error(`${answer.status} ${(await answer.text()).trim()}`);
        show(await answer.json());
      } catch (e) {
        failed(e);
      }
    }
    await pause(every);
  }
}

const pause = (millis) => new Promise((done) => setTimeout(done, millis));

// --- Sending

let sending = false, unsure = null; // a send that may or may not have been taken: the same again is safe with its key

function key() {
  return "front-page-" + Array.from(crypto.getRandomValues(new Uint8Array(12)), (b) => b.toString(16).padStart(2, "0")).join("");
}

const base64 = (s) => btoa(Array.from(new TextEncoder().encode(s), (b) => String.fromCharCode(b)).join(""));
const fromBase64 = (s) => new TextDecoder().decode(Uint8Array.from(atob(s), (c) => c.charCodeAt(0)));

// api asks the API. It returns the body, or throws what the API says is wrong.
async function api(path, body) {
  const headers = { "X-Sendhouse-Front-Page": "1" };
  if ($("token").value) headers.Authorization = "Bearer " + $("token").value;
  if (body) headers["Content-Type"] = "application/json";
  const answer = await fetch("/frontpage/api" + path, { method: body ? "POST" : "GET", headers, body: body && JSON.stringify(body), signal: AbortSignal.timeout(30_000) });
  const said = await answer.text();
  if (answer.ok) return JSON.parse(said);
  let message = said.trim();
  try { message = JSON.parse(said).msg; } catch { /* it is text already */ }
  throw Object.assign(new Error(`${answer.status}: ${message}`), { status: answer.status });
}

function step(words, bad = false) { $("steps").append(make("li", { className: bad ? "bad" : "" }, words)); }

async function send() {
  $("steps").replaceChildren();
  $("row").replaceChildren();
  const body = { from_uid: $("from").value, channel_id: $("channel").value, channel_type: Number($("type").value), payload: base64($("text").value) };
  const content = JSON.stringify(body);
  body.client_msg_no = unsure?.content === content ? unsure.key : key();
  unsure = { content, key: body.client_msg_no };
  const begun = performance.now();
  let answer;
  try {
    answer = await api("/message/send", body);
  } catch (e) {
    if (e.status && e.status < 500) unsure = null; // it was refused
    step(`not answered: ${e.message}${unsure ? "; sending the same again is safe" : ""}`, true);
    return;
  }
  unsure = null;
  step(`answered after ${seconds((performance.now() - begun) / 1000)}: message_id ${answer.message_idstr}, message_seq ${answer.message_seq}`);
  await arrive(body, answer, begun);
}

// arrive waits until the message is in the table.
async function arrive(body, answer, begun) {
  const query = new URLSearchParams({ client_msg_no: body.client_msg_no, from_uid: body.from_uid, channel_id: body.channel_id, channel_type: body.channel_type });
  let before = "";
  while (performance.now() - begun < 120_000) {
    let state;
    try {
      state = (await api("/message/status?" + query)).state;
    } catch (e) {
      state = e.message;
      if (e.status && e.status < 500 && e.status !== 429) { step(`whether it is stored cannot be asked: ${e.message}`, true); return; }
    }
    if (state === "stored") {
      step(`stored after ${seconds((performance.now() - begun) / 1000)}: its row is in ClickHouse`);
      await showRow(body, answer);
      return;
    }
    if (state !== before) step(state === "accepted" ? "accepted: it is in the logs, and waits for its batch" : state);
    before = state;
    await pause(200);
  }
  step("not stored after two minutes; the writer's lag says how far it is behind", true);
}

async function showRow(body, answer) {
  try {
    const page = await api("/channel/messagesync", {
      login_uid: body.from_uid, channel_id: body.channel_id, channel_type: body.channel_type,
      start_message_seq: answer.message_seq, end_message_seq: answer.message_seq + 1, pull_mode: 1, limit: 1,
    });
    $("row").replaceChildren(table("Read back from the table", ["message_seq", "message_id", "from_uid", "payload"],
      page.messages.map((m) => [m.message_seq, m.message_idstr, m.from_uid, fromBase64(m.payload)]), ["number", "word"]));
  } catch (e) {
    step(`the row cannot be shown: ${e.message}`);
  }
}

$("send").addEventListener("submit", async (event) => {
  event.preventDefault();
  if (sending) return;
  sending = true;
  const button = $("send").querySelector("button");
  button.setAttribute("aria-disabled", "true"); // not disabled: it would lose the focus
  try {
    await send();
  } finally {
    sending = false;
    button.removeAttribute("aria-disabled");
  }
});

follow("/frontpage/state", stateEvery, showState, (e) => {
  text($("gone"), `The process does not answer: ${e.message}`);
  $("gone").hidden = false;
  text($("ready"), "not answering");
  $("ready").className = "badge bad";
});
follow("/frontpage/deployment", deploymentEvery, showDeployment, (e) => {
  $("partitions").replaceChildren(make("p", { className: "problem" }, `could not be asked: ${e.message}`));
});
