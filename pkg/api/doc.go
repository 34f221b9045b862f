// Package api is what the routes of the HTTP API have in common, whichever part of the program answers them.
//
// A client knows one base URL. So one listener, that of ingest, serves all routes; what it does not answer itself, others hand to it
// as a [Route]. The listener admits and authorises before a route is called; errors have one shape, [Problem].
package api
