// Package compat stands in front of the API and lets callers that were written for WuKongIM work unchanged. It is off by default:
// see the flag --api-compat.
//
// The package changes what such callers send and read, and nothing about what is stored:
//
//	request  Content-Type is not looked at: WuKongIM takes every body for JSON
//	         the header token counts as a bearer token: it carries WuKongIM's manager token
//	answer   that of /message/send has the shapes of the documentation, of v2 and of v3 in one object
//	         an error has its text as error too, where v3's callers look for it
//	         a message of the system account has an empty from_uid, as in v2
//
// Two more changes are settings of the packages that decide: an absent from_uid is the system account (ingest), and only the
// channel's ban and disband count (permission). docs/reference/wukongim.md lists what still differs.
//
// A page in a browser can send a form or text/plain to any host without asking first, so application/json is one of two
// barriers against pages of other origins. The other one, Origin and Sec-Fetch-Site (package guard), does not depend on the
// mode, and every browser since 2020 sends at least one of the two with a POST.
package compat
