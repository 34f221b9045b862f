package e2e

import (
	"encoding/base64"
	"net/http"
)

// wukongCaller is a program that was written for WuKongIM, and what it sends in turn.
type wukongCaller struct {
	name  string
	calls []wukongCall
}

// wukongCall is one request, and what the caller reads from the answer.
type wukongCall struct {
	does        string
	route       string // method and path; POST if it is a path alone
	contentType string // "" means application/json, noContentType none
	body        string

	status int            // with the mode; 0 means 200
	reads  map[string]any // with the mode, by path: a value, something, or nothing
	plain  string         // the code of the error without the mode; "" means that the call works there too
}

// What a caller may expect of a field besides a value.
type expectation string

const (
	something expectation = "a value other than 0 and \"\""
	nothing   expectation = "no value"

	noContentType = "none"
)

// payloadOf is a payload as a JSON string.
func payloadOf(text string) string {
	return `"` + base64.StdEncoding.EncodeToString([]byte(text)) + `"`
}

var (
	sentV2  = map[string]any{"status": http.StatusOK, "data.message_id": something, "data.client_msg_no": something}
	changed = map[string]any{"status": http.StatusOK}
	failed  = map[string]any{"msg": something}
)

// wukongCallers are callers of public projects, in our own words; each uses channels of its own.
func wukongCallers() []wukongCaller {
	return []wukongCaller{
		documentationCaller(), chatServerCaller(), serviceDeskCaller(), axiosCaller(), laxCaller(), v3Caller(), plainHTTPCaller(),
	}
}

// documentationCaller follows the page that the API was built from.
func documentationCaller() wukongCaller {
	page := map[string]any{"message_id": something, "message_seq": something, "client_msg_no": something}
	return wukongCaller{"the documentation's examples", []wukongCall{
		{does: "the curl example", route: "/message/send", reads: page, body: `{"header":{"no_persist":0,"red_dot":1,"sync_once":0},"client_msg_no":"client_msg_123",
			"from_uid":"user123","channel_id":"group123","channel_type":2,"expire":0,"payload":"SGVsbG8gV29ybGQ=","tag_key":"important"}`},
		{does: "the JavaScript example", route: "/message/send", reads: page,
			body: `{"from_uid":"user123","channel_id":"group123","channel_type":2,"payload":` + payloadOf(`{"type":1,"content":"这是一条文本消息"}`) + `}`},
		{does: "a request without payload", route: "/message/send", body: `{"from_uid":"user123","channel_id":"group123","channel_type":2}`, status: http.StatusBadRequest, plain: "invalid_request", reads: failed},
	}}
}

// chatServerCaller is the back end of an open-source chat server: a Go library that marshals structs, so every field is always there. It reads
// data of the answer to a send, and msg of an error with status 400.
func chatServerCaller() wukongCaller {
	const channel = `"channel_id":"chat-g","channel_type":2`
	send := func(header, from, to, more, payload string) string {
		return `{"header":{` + header + `},"setting":0,"from_uid":"` + from + `",` + to + `,"stream_no":"","subscribers":` + more + `,"payload":` + payloadOf(payload) + `}`
	}
	const text, command = `"no_persist":0,"red_dot":1,"sync_once":0`, `"no_persist":0,"red_dot":0,"sync_once":1`
	return wukongCaller{"a chat server, Go", []wukongCall{
		{does: "creates a group", route: "/channel", body: `{` + channel + `,"ban":0,"large":0,"subscribers":["a","b"]}`, reads: changed},
		{does: "changes the group", route: "/channel/info", body: `{` + channel + `,"ban":0,"large":1}`, reads: changed},
		{does: "adds a member", route: "/channel/subscriber_add", body: `{` + channel + `,"reset":0,"subscribers":["c"]}`, reads: changed},
		{does: "announces the group", route: "/message/send", reads: sentV2, plain: "invalid_request",
			body: send(text, "", channel, "null", `{"type":1001,"creator":"a","creator_name":"A","content":"{0}","extra":[{"uid":"b","name":"B"}],"version":1}`)},
		{does: "sends for a member", route: "/message/send", body: send(text, "a", channel, "null", `{"type":1,"content":"hi"}`), reads: sentV2},
		{does: "sends for one who is no member", route: "/message/send", body: send(text, "robot", channel, "null", `{"type":1,"content":"hi"}`), reads: sentV2, plain: "not_subscribed"},
		{does: "denies a member", route: "/channel/blacklist_add", body: `{` + channel + `,"uids":["b"]}`, reads: changed},
		{does: "revokes a message of the denied member", route: "/message/send", body: send(command, "b", channel, "null", `{"type":99,"cmd":"messageRevoke","param":{"message_id":"7"}}`), reads: sentV2, plain: "denylisted"},
		{does: "tells the group of a change", route: "/message/send", body: send(command, "", channel, "[]", `{"type":99,"cmd":"channelUpdate","param":{}}`), reads: sentV2, plain: "invalid_request"},
		{does: "tells a user of a friend request", route: "/message/send", body: send(command, "", `"channel_id":"chat-u","channel_type":1`, "null", `{"type":99,"cmd":"friendRequest"}`), reads: sentV2, plain: "invalid_request"},
		{does: "shows that a user types", route: "/message/send", plain: "invalid_request", reads: map[string]any{"status": http.StatusOK, "data.message_id": something, "data.message_seq": 0},
			body: send(`"no_persist":1,"red_dot":0,"sync_once":1`, "", `"channel_id":"chat-u","channel_type":1`, "null", `{"type":99,"cmd":"typing"}`)},
		{does: "commands named users", route: "/message/send", body: send(command, "", `"channel_id":"","channel_type":0`, `["a","b"]`, `{"type":99,"cmd":"x","param":{}}`), reads: sentV2, plain: "invalid_request"},
		{does: "notifies many users", route: "/message/sendbatch", body: `{"header":{` + text + `},"from_uid":"u_10000","subscribers":["a","b"],"payload":` + payloadOf(`{"type":1,"content":"hi"}`) + `}`, reads: map[string]any{"fail_uids": "[]"}},
		{does: "sends nothing", route: "/message/send", body: send(text, "a", channel, "null", ""), status: http.StatusBadRequest, plain: "invalid_request", reads: map[string]any{"status": http.StatusBadRequest, "msg": something}},
		{does: "reads the group", route: "/channel/messagesync", body: `{"login_uid":"a","device_uuid":"x",` + channel + `,"start_message_seq":0,"end_message_seq":0,"limit":20,"pull_mode":0}`,
			reads: map[string]any{"more": 0, "messages.0.from_uid": "", "messages.0.message_seq": 1, "messages.1.from_uid": "a", "messages.2.from_uid": "robot", "messages.3": nothing}},
		{does: "reads the last number", route: "GET /channel/max_message_seq?channel_id=chat-g&channel_type=2", reads: map[string]any{"message_seq": 3}},
		{does: "reads messages by their numbers", route: "/messages", body: `{"login_uid":"a",` + channel + `,"message_seqs":[1,3]}`, reads: map[string]any{"messages.0.from_uid": "", "messages.1.from_uid": "robot"}},
		{does: "admits the member", route: "/channel/blacklist_remove", body: `{` + channel + `,"uids":["b"]}`, reads: changed},
		{does: "empties the denylist", route: "/channel/blacklist_set", body: `{` + channel + `,"uids":null}`, reads: changed},
		{does: "allows", route: "/channel/whitelist_set", body: `{"channel_id":"chat-u","channel_type":1,"uids":["a"]}`, reads: changed},
		{does: "allows one more", route: "/channel/whitelist_add", body: `{"channel_id":"chat-u","channel_type":1,"uids":["b"]}`, reads: changed},
		{does: "allows one less", route: "/channel/whitelist_remove", body: `{"channel_id":"chat-u","channel_type":1,"uids":["b"]}`, reads: changed},
		{does: "removes a member", route: "/channel/subscriber_remove", body: `{` + channel + `,"subscribers":["c"]}`, reads: changed},
		{does: "disbands the group", route: "/channel/delete", body: `{` + channel + `}`, reads: changed},
		{does: "sends into the disbanded group", route: "/message/send", body: send(text, "a", channel, "null", `{"type":1,"content":"hi"}`), status: http.StatusForbidden, plain: "channel_disbanded", reads: failed},
	}}
}

// serviceDeskCaller is a customer service platform: a Python client that leaves out what it does not set. It reads data of the answer to a send,
// and msg of any error.
func serviceDeskCaller() wukongCaller {
	const visitor, staff = `"channel_id":"desk-1-vtr","channel_type":251`, `"channel_id":"desk-prj","channel_type":249`
	text := `"payload":` + payloadOf(`{"type":1,"content":"hi"}`)
	given := func(key string) map[string]any {
		return map[string]any{"status": http.StatusOK, "data.message_id": something, "data.client_msg_no": key}
	}
	return wukongCaller{"a service desk, Python", []wukongCall{
		{does: "creates a visitor's channel", route: "/channel", body: `{` + visitor + `,"subscribers":["visitor","agent"]}`, reads: changed},
		{does: "creates a channel without members", route: "/channel", body: `{"channel_id":"desk-g","channel_type":2,"subscribers":[]}`, reads: changed},
		{does: "adds agents", route: "/channel/subscriber_add", body: `{` + staff + `,"subscribers":["agent"],"reset":0}`, reads: changed},
		{does: "sends for a visitor", route: "/message/send", body: `{` + text + `,"from_uid":"visitor",` + visitor + `,"client_msg_no":"desk-1"}`, reads: given("desk-1")},
		{does: "sends for a bot that is no member", route: "/message/send", body: `{` + text + `,"from_uid":"bot","channel_id":"desk-g","channel_type":2,"client_msg_no":"desk-2"}`, reads: given("desk-2"), plain: "not_subscribed"},
		{does: "says that an agent was assigned", route: "/message/send", plain: "invalid_request", reads: given("desk-3"),
			body: `{"payload":` + payloadOf(`{"type":1000,"content":"{0}","extra":[{"uid":"agent","name":"A"}]}`) + `,"channel_id":"desk-g","channel_type":2,"client_msg_no":"desk-3"}`},
		{does: "sends without a red dot", route: "/message/send", body: `{` + text + `,"from_uid":"agent","channel_id":"desk-p","channel_type":1,"header":{"red_dot":0}}`, reads: sentV2},
		{does: "adds system accounts", route: "/user/systemuids_add", body: `{"uids":["desk-system"]}`, reads: changed},
		{does: "reads them", route: "GET /user/systemuids", reads: map[string]any{"0": something}},
		{does: "removes them", route: "/user/systemuids_remove", body: `{"uids":["desk-system"]}`, reads: changed},
		{does: "adds them to a cache", route: "/user/systemuids_add_to_cache", body: `{"uids":["desk-system"]}`, reads: changed},
		{does: "reads the channel", route: "/channel/messagesync", body: `{"login_uid":"agent","channel_id":"desk-g","channel_type":2,"start_message_seq":0,"end_message_seq":0,"limit":50,"pull_mode":1}`,
			reads: map[string]any{"messages.0.client_msg_no": "desk-2", "messages.0.payload": something, "messages.1.from_uid": "", "messages.1.client_msg_no": "desk-3"}},
		{does: "reads the last message", route: "GET /channel/last_message?channel_id=desk-g&channel_type=2&login_uid=agent", plain: "message_not_found", reads: map[string]any{"client_msg_no": "desk-3", "from_uid": ""}},
		{does: "reads the last number", route: "GET /channel/max_message_seq?channel_id=desk-g&channel_type=2&login_uid=agent", reads: map[string]any{"message_seq": 2}},
		{does: "reads a message by its key", route: "GET /message/byclientmsgno?channel_id=desk-g&channel_type=2&client_msg_no=desk-2", plain: "message_not_found", reads: map[string]any{"from_uid": "bot", "message_seq": 1}},
		{does: "reads the allowlist", route: "GET /channel/whitelist?channel_id=desk-g&channel_type=2", reads: map[string]any{"0": nothing}},
		{does: "removes all members", route: "/channel/subscriber_remove_all", body: `{"channel_id":"desk-g","channel_type":2}`, reads: changed},
		{does: "streams to sockets", route: "/event?force=1", body: `{"channel_id":"desk-g","channel_type":2,"event":{"id":"1","type":"x","data":""}}`, status: http.StatusNotFound, plain: "not_found", reads: failed},
	}}
}

// axiosCaller is a TypeScript service that reads message_id at the top, as the documentation has it.
func axiosCaller() wukongCaller {
	top := map[string]any{"message_id": something, "client_msg_no": something}
	return wukongCaller{"a service, TypeScript", []wukongCall{
		{does: "sends", route: "/message/send", body: `{"channel_id":"axios-g","channel_type":2,"from_uid":"a","payload":` + payloadOf(`{"type":1,"content":"hi"}`) + `}`, reads: top},
		{does: "sends with a key", route: "/message/send", body: `{"channel_id":"axios-g","channel_type":2,"from_uid":"a","payload":` + payloadOf("x") + `,"client_msg_no":"axios-1"}`, reads: map[string]any{"client_msg_no": "axios-1"}},
		{does: "asks for its health", route: "GET /health", reads: map[string]any{"status": "ok"}},
	}}
}

// laxCaller are senders that do not set what v2 does not look at.
func laxCaller() wukongCaller {
	send := func(from string) string {
		return `{` + from + `"channel_id":"lax-g","channel_type":2,"payload":` + payloadOf("x") + `}`
	}
	const form = "application/x-www-form-urlencoded"
	return wukongCaller{"senders that v2 takes", []wukongCall{
		{does: "curl -d", route: "/message/send", contentType: form, body: send(`"from_uid":"a",`), reads: sentV2, plain: "unsupported_media_type"},
		{does: "fetch with a string", route: "/message/send", contentType: "text/plain;charset=UTF-8", body: send(`"from_uid":"a",`), reads: sentV2, plain: "unsupported_media_type"},
		{does: "an HTTP library without a Content-Type", route: "/message/send", contentType: noContentType, body: send(`"from_uid":"a",`), reads: sentV2, plain: "unsupported_media_type"},
		{does: "a sender that is null", route: "/message/send", body: send(`"from_uid":null,`), reads: sentV2, plain: "invalid_request"},
		{does: "a sender of blanks", route: "/message/send", body: send(`"from_uid":"  ",`), reads: sentV2, plain: "invalid_request"},
		{does: "no sender", route: "/message/send", body: send(""), reads: sentV2, plain: "invalid_request"},
		{does: "curl -d, to manage a channel", route: "/channel", contentType: form, body: `{"channel_id":"lax-g","channel_type":2}`, reads: changed, plain: "unsupported_media_type"},
		{does: "curl -d, to read", route: "/channel/messagesync", contentType: form, body: `{"login_uid":"a","channel_id":"lax-g","channel_type":2}`, reads: map[string]any{"messages.0.from_uid": "a"}, plain: "unsupported_media_type"},
		{does: "a slash at the end", route: "/message/send/", body: send(`"from_uid":"a",`), reads: sentV2},
	}}
}

// v3Caller reads the flat answer of v3 with its reason, and error of an error.
func v3Caller() wukongCaller {
	sent := map[string]any{"message_id": something, "message_seq": something, "reason": 1}
	return wukongCaller{"callers of v3", []wukongCall{
		{does: "sends with all fields", route: "/message/send", reads: sent, body: `{"from_uid":"a","device_id":"d","channel_id":"v3-g","channel_type":2,"client_msg_no":"v3-1","setting":9,"topic":"t","expire":3600,
			"payload":"aGk=","subscribers":[],"header":{"no_persist":0,"sync_once":0},"no_persist":0,"sync_once":0}`},
		{does: "names the sender as sender_uid", route: "/message/send", body: `{"sender_uid":"a","channel_id":"b","channel_type":1,"client_msg_no":"v3-2","payload":"aGk=","header":{"no_persist":1},"sync_once":1}`, reads: map[string]any{"message_id": something, "reason": 1}},
		{does: "commands named users", route: "/message/send", body: `{"from_uid":"system","payload":"Y21k","subscribers":["a","b"],"sync_once":1}`, reads: sent},
		{does: "sends a broken payload", route: "/message/send", body: `{"from_uid":"a","channel_id":"v3-g","channel_type":2,"payload":"?"}`, status: http.StatusBadRequest, plain: "invalid_request", reads: map[string]any{"error": something}},
		{does: "sends no JSON", route: "/message/send", body: `{"from_uid":`, status: http.StatusBadRequest, plain: "invalid_json", reads: map[string]any{"error": something}},
		{does: "sends into a banned channel", route: "/channel", body: `{"channel_id":"v3-ban","channel_type":2,"ban":1}`, reads: changed},
		{does: "reads the reason", route: "/message/send", body: `{"from_uid":"a","channel_id":"v3-ban","channel_type":2,"payload":"aGk="}`, status: http.StatusForbidden, plain: "channel_banned", reads: map[string]any{"error": something, "reason": 19}},
		{does: "reads several channels", route: "/channel/messagesyncbatch", body: `{"login_uid":"a","items":[{"channel_id":"v3-g","channel_type":2,"limit":10}]}`, reads: map[string]any{"items.0.messages.0.client_msg_no": "v3-1"}},
	}}
}

// plainHTTPCaller is a PHP client: JSON with every field as an empty string or 0 if it is not set.
func plainHTTPCaller() wukongCaller {
	return wukongCaller{"a client, PHP", []wukongCall{
		{does: "sends", route: "/message/send", body: `{"header":{"no_persist":0,"red_dot":1,"sync_once":0},"from_uid":"a","channel_id":"php-g","channel_type":2,"expire":0,"subscribers":[],"client_msg_no":"","payload":` + payloadOf(`{"type":1,"content":"hi"}`) + `}`, reads: sentV2},
		{does: "sends an object with unknown fields", route: "/message/send", body: `{"from_uid":"a","channel_id":"php-g","channel_type":2,"payload":"aGk=","is_stream":0,"setting":{"receipt":1},"device_flag":1}`, reads: sentV2},
		{does: "notifies users", route: "/message/sendbatch", body: `{"header":{"red_dot":1},"from_uid":"a","subscribers":["b"],"payload":"aGk="}`, reads: map[string]any{"fail_uids": "[]", "reason": "[]"}},
		{does: "replaces the members", route: "/channel/subscriber_add", body: `{"channel_id":"php-g","channel_type":2,"reset":1,"subscribers":["a"],"temp_subscriber":0}`, reads: changed},
		{does: "adds members without a type", route: "/channel/subscriber_add", body: `{"channel_id":"php-g","subscribers":["b"]}`, reads: changed},
		{does: "clears the denylist", route: "/channel/blacklist_remove_all", body: `{"channel_id":"php-g","channel_type":2}`, reads: changed},
		{does: "clears the allowlist", route: "/channel/whitelist_remove_all", body: `{"channel_id":"php-g","channel_type":2}`, reads: changed},
	}}
}
