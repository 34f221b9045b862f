-- wrk script: each request is one send with a client_msg_no of its own, to one of CHANNELS person channels.
local channels = tonumber(os.getenv("CHANNELS") or "10000")
local run = os.getenv("RUN") or tostring(os.time())
local payload = "eyJ0eXBlIjoxLCJjb250ZW50IjoiSGVsbG8gV29ybGQsIHRoaXMgaXMgYSB0ZXN0IG1lc3NhZ2UgZm9yIGJlbmNoIn0="
local sent, refused = 0, 0
math.randomseed(tonumber(os.getenv("SEED") or "0")) -- those that run at one time draw different channels

function request()
  sent = sent + 1
  local channel = math.random(channels)
  local body = string.format(
    '{"header":{"no_persist":0,"red_dot":1,"sync_once":0},"client_msg_no":"%s-%d","from_uid":"u%d","channel_id":"c%d","channel_type":1,"expire":0,"payload":"%s"}',
    run, sent, channel % 97, channel, payload)
  return wrk.format("POST", "/message/send", { ["Content-Type"] = "application/json" }, body)
end

function response(status, _, body)
  if status ~= 200 then
    refused = refused + 1
    if refused <= 3 then io.stderr:write(status, " ", body, "\n") end
  end
end

-- One line for the program that started wrk: requests, answers other than 200, seconds, p50 and p99 in milliseconds.
function done(summary, latency)
  local errors = summary.errors
  io.write(string.format("RESULT %d %d %d %.3f %.3f %.3f\n",
    summary.requests, errors.status, errors.connect + errors.read + errors.write + errors.timeout,
    summary.duration / 1e6, latency:percentile(50) / 1e3, latency:percentile(99) / 1e3))
end
