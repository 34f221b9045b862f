// Package frontpage is the front page of a process, at / of its admin listener: the way of a message from ingest to ClickHouse with
// live rates, lag, owners, dead letters and the latest warnings, and a form that sends a message and shows it arriving in the table.
//
// It shows what the process knows of itself: its metrics, its readiness, its log. What only the deployment knows (owners, dead letters) comes
// from functions that are handed in, and is asked for at most once every few seconds, however many pages are open. When no page is open it does nothing:
// it has no goroutine and no timer.
//
// The page is for operators, like the rest of the admin listener. It is plain HTML, CSS and JavaScript from the binary and loads nothing from
// elsewhere. The form goes through the handler of the API, with its rules and its tokens; it is not offered if it would open to
// others what the API keeps to this machine.
package frontpage
