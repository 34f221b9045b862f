package main

// ingest returns the board about requests and their processing up to the response.
func ingest() board {
	return board{
		uid: "sendhouse-ingest", title: "Sendhouse / Ingest", from: "now-1h", variables: metricVariables(true),
		description: "HTTP in, write-ahead log out: rates, reasons, stages, and how near the limits are.",
		rows: []row{
			{"Requests", []panel{
				lines("By outcome", "reqps", "Requests answered, by the code of the answer (docs/reference/api.md).", q(`sum by (code, reason) (rate(sendhouse_ingest_requests_total{$at}[$__rate_interval])) > 0`, "{{code}} {{reason}}")).stacked(),
				lines("By route", "reqps", "One send, a batch to many persons, or a bulk.", q(`sum by (route) (rate(sendhouse_ingest_request_duration_seconds_count{$at}[$__rate_interval]))`, "{{route}}")).stacked(),
				lines("By instance", "reqps", "How evenly clients are spread.", q(`sum by (instance) (rate(sendhouse_ingest_requests_total{$at}[$__rate_interval]))`, "{{instance}}")).stacked(),
				lines("Sends of batches and bulks", perSecond, "Their items, by outcome.", q(`sum by (code, reason) (rate(sendhouse_ingest_items_total{$at}[$__rate_interval]))`, "{{code}} {{reason}}")).stacked(),
				lines("Payloads that break a rule", perSecond, "By rule. --ingest-payload-rules accepts or refuses them.", q(`sum by (rule) (rate(sendhouse_ingest_payload_violations_total{$at}[$__rate_interval]))`, "{{rule}}")).stacked(),
				lines("Late answers and failed handshakes", perSecond, "Replies of the sequencer whose request had timed out, and failed TLS handshakes.",
					q(`sum(rate(sendhouse_ingest_late_answers_total{$at}[$__rate_interval]))`, "late answers"), q(`sum(rate(sendhouse_ingest_tls_handshakes_failed_total{$at}[$__rate_interval]))`, "failed handshakes")),
			}},
			{"How long", []panel{
				heat("Sends", seconds, "From the header of a request to its response.", "sendhouse_ingest_request_duration_seconds", `$at,route="send"`).size(12, 9),
				lines("By route, p99", seconds, "A bulk of 10,000 naturally takes longer than a send.",
					q(`histogram_quantile(0.99, sum by (le, route) (rate(sendhouse_ingest_request_duration_seconds_bucket{$at}[$__rate_interval])))`, "{{route}}")).size(12, 9),
				lines("Decoding", seconds, "Reading, decoding and validating the body, for one send in 16.", quantiles("sendhouse_ingest_decode_duration_seconds", "$at")...).size(6, 8),
				lines("Gathering", seconds, "From the first send of a group commit until it is published. It waits for the previous one.", quantiles("sendhouse_ingest_gather_duration_seconds", "$at")...).size(6, 8),
				lines("Acknowledgement", seconds, "From publishing a group commit until it is on disk.", quantiles("sendhouse_ingest_ack_duration_seconds", "$at")...).size(6, 8),
				lines("Answer", seconds, "From publishing a group commit until the sequencer's reply.", quantiles("sendhouse_ingest_answer_duration_seconds", "$at")...).size(6, 8),
			}},
			{"Group commits", []panel{
				lines("Sends in one", count, "Near 1,024 the log is the bottleneck; 1 means low load.", quantiles("sendhouse_ingest_batch_sends", "$at")...).limits(512, 1024),
				lines("Bytes of one", bytesIEC, "At most 512 KiB.", quantiles("sendhouse_ingest_batch_size_bytes", "$at")...),
				lines("Rate", perSecond, "Group commits; each costs one disk sync.", q(`sum by (instance) (rate(sendhouse_ingest_batch_sends_count{$at}[$__rate_interval]))`, "{{instance}}")).stacked(),
			}},
			{"Limits", []panel{
				gauges("Used of what is allowed", "At 100%, requests get 503.",
					q(`max by (instance) (sendhouse_ingest_in_flight_requests{$at} / sendhouse_ingest_in_flight_requests_max{$at})`, "requests {{instance}}"),
					q(`max by (instance) (sendhouse_ingest_connections{$at} / sendhouse_ingest_connections_max{$at})`, "connections {{instance}}"),
					q(`max by (instance) (sendhouse_ingest_body_bytes{$at} / sendhouse_ingest_body_bytes_max{$at})`, "memory of bodies {{instance}}"),
					q(`max by (instance) (sendhouse_ingest_wait_seconds{$part} / on (instance, job) group_left () sendhouse_ingest_wait_max_seconds)`, "longest wait {{instance}}"),
					q(`max by (instance) (sendhouse_ingest_queue_sends{$part} / on (instance, job) group_left () sendhouse_ingest_queue_sends_max)`, "sends that wait {{instance}}"),
					q(`max by (instance) (sendhouse_ingest_queue_bytes{$part} / on (instance, job) group_left () sendhouse_ingest_queue_bytes_max)`, "bytes that wait {{instance}}")).limits(0.5, 0.8),
				lines("Requests in flight", count, "Requests in progress, most of them waiting for their reply, and open connections.", q(`sum by (instance) (sendhouse_ingest_in_flight_requests{$at})`, "requests {{instance}}"), q(`sum by (instance) (sendhouse_ingest_connections{$at})`, "connections {{instance}}")),
				lines("Sends that wait", count, "Waiting for their group commit, by partition. A partition that stands out is hot.", q(`sum by (partition) (sendhouse_ingest_queue_sends{$part})`, "{{partition}}")).stacked(),
				lines("Longest wait for an answer", seconds, "By partition. If it is too long and many sends wait, new sends are refused at once: overloaded.", q(`max by (partition) (sendhouse_ingest_wait_seconds{$part})`, "{{partition}}")).size(12, 8),
				lines("Partitions that would answer a send", count, "As each process sees it, 1 or 0. /readyz of the API returns the reason.", q(`min by (partition) (sendhouse_ingest_partition_ready{$part})`, "{{partition}}")).size(24, 6),
				lines("Days until the certificate expires", "d", "Of the API's TLS; nothing to see without.", q(`min by (instance) (sendhouse_ingest_tls_certificate_expiry_timestamp_seconds{$at} - time()) / 86400`, "{{instance}}")).size(12, 8),
			}},
			{"Permissions", []panel{
				number("Sends can be decided on", count, "0: NATS does not serve the bucket of permissions, or a starting process is still reading it. Sends are refused meanwhile.", q(`min(sendhouse_ingest_permission_usable{$at})`, "usable")).least(1).size(4, 8),
				lines("Decisions", perSecond, "Permission decisions on sends.", q(`sum by (decision) (rate(sendhouse_ingest_permission_decisions_total{$at}[$__rate_interval]))`, "{{decision}}")).stacked().size(10, 8),
				lines("Age of the cache", seconds, "Time since it was last known to be complete. At the dashed line, sends are refused.", q(`max by (instance) (sendhouse_ingest_permission_cache_age_seconds{$at})`, "{{instance}}"), q(`min(sendhouse_ingest_permission_stale_max_seconds{$at})`, "limit")).size(10, 8),
				lines("Changes", perSecond, "Requested from these processes, by result.", q(`sum by (result) (rate(sendhouse_ingest_permission_changes_total{$at}[$__rate_interval]))`, "{{result}}"), q(`sum(rate(sendhouse_ingest_permission_conflicts_total{$at}[$__rate_interval]))`, "made again: another was faster")).size(6, 8),
				lines("Time of a change", seconds, "From the request until the change is in force in the process that received it.", quantiles("sendhouse_ingest_permission_change_duration_seconds", "$at")...).size(6, 8),
				lines("In the cache", count, "Channels, and entries of all lists.", q(`max by (instance) (sendhouse_ingest_permission_channels{$at})`, "channels {{instance}}"), q(`max by (instance) (sendhouse_ingest_permission_uids{$at})`, "uids {{instance}}"), q(`max(sendhouse_ingest_permission_loose_pages{$at})`, "loose pages")).size(6, 8),
				lines("Memory of the cache", bytesIEC, "Approximate.", q(`max by (instance) (sendhouse_ingest_permission_cache_bytes{$at})`, "{{instance}}")).size(6, 8),
				lines("Trouble with the bucket", count, "In 15 minutes: restarted watches, failed confirmations that the cache is complete, unreadable records.",
					q(`sum(increase(sendhouse_ingest_permission_watch_restarts_total{$at}[15m]))`, "begun again"), q(`sum(increase(sendhouse_ingest_permission_unconfirmed_total{$at}[15m]))`, "not confirmed"), q(`sum(increase(sendhouse_ingest_permission_damaged_total{$at}[15m]))`, "damaged")).limits(1, 10).size(24, 6),
			}},
			{"Reading back", []panel{
				lines("Requests", "reqps", "Of the routes that read messages, by what became of them.", q(`sum by (route, code) (rate(sendhouse_history_requests_total{$at}[$__rate_interval]))`, "{{route}} {{code}}")).stacked().size(6, 8),
				lines("Duration, p99", seconds, "From the request to its response.", q(`histogram_quantile(0.99, sum by (le, route) (rate(sendhouse_history_request_duration_seconds_bucket{$at}[$__rate_interval])))`, "{{route}}")).size(6, 8),
				lines("Statuses", perSecond, "Responses of /message/status.", q(`sum by (state) (rate(sendhouse_history_statuses_total{$at}[$__rate_interval]))`, "{{state}}")).stacked().size(6, 8),
				lines("Reads under way", count, "At --history-requests-max, further reads wait.", q(`sum by (instance) (sendhouse_history_running_reads{$at})`, "{{instance}}")).size(6, 8),
			}},
		},
	}
}
