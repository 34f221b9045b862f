package main

// overview returns the board that shows the health of a deployment and where to look: requests at the top, then the pipeline from left to right.
func overview() board {
	return board{
		uid: "sendhouse-overview", title: "Sendhouse / Overview", from: "now-1h", variables: metricVariables(false),
		description: "Is it healthy? Requests at the top, then the way of a message from ingest to ClickHouse. The other boards say more.",
		rows: []row{
			{"Is it healthy?", []panel{
				number("Alerts", count, "Firing alerts. Each has an entry in docs/runbook.md.", q(`count(ALERTS{alertname=~"Sendhouse.*",alertstate="firing"}) or vector(0)`, "firing")).limits(1, 3),
				number("Failing requests", share, "Share of requests with a 5xx response. The objective is 0.1% over 30 days.",
					q(`sum(rate(sendhouse_ingest_requests_total{$at,code=~"5.."}[$__rate_interval])) / sum(rate(sendhouse_ingest_requests_total{$at}[$__rate_interval]))`, "5xx")).limits(0.001, 0.01).details("sendhouse-ingest"),
				number("Slow sends", share, "Share of sends that take longer than 250 ms. The objective is 1% over 30 days.",
					q(`1 - sum(rate(sendhouse_ingest_request_duration_seconds_bucket{$at,route="send",le="0.25"}[$__rate_interval])) / sum(rate(sendhouse_ingest_request_duration_seconds_count{$at,route="send"}[$__rate_interval]))`, "slow")).limits(0.01, 0.1).details("sendhouse-ingest"),
				number("Oldest message not in ClickHouse", seconds, "One or two seconds are normal: batches wait for --flush-interval.", q(`max(sendhouse_writer_lag_seconds{$at})`, "age")).limits(10, 60).details("sendhouse-writer"),
				number("Partitions without a sequencer", count, "Their sends get 503.",
					q(`max(sendhouse_deployment_partitions{$at}) - (count(count by (partition) (sendhouse_sequencer_lease_epoch{$at})) or vector(0))`, "without")).limits(1, 1).details("sendhouse-sequencer"),
				number("Partitions without a writer", count, "Their messages wait for ClickHouse in the message log.",
					q(`max(sendhouse_deployment_partitions{$at}) - (count(count by (partition) (sendhouse_writer_lease_epoch{$at})) or vector(0))`, "without")).limits(1, 1).details("sendhouse-writer"),
			}},
			{"Requests", []panel{
				lines("Rate", "reqps", "Requests answered, by what became of them.", q(`sum by (reason) (rate(sendhouse_ingest_requests_total{$at}[$__rate_interval])) > 0`, "{{reason}}")).stacked().details("sendhouse-ingest"),
				lines("Errors", share, "Share of requests with a 5xx response, by code.",
					q(`sum by (reason) (rate(sendhouse_ingest_requests_total{$at,code=~"5.."}[$__rate_interval])) / ignoring (reason) group_left () sum(rate(sendhouse_ingest_requests_total{$at}[$__rate_interval]))`, "{{reason}}")).limits(0.001, 0.01).details("sendhouse-ingest"),
				lines("Duration of sends", seconds, "From the header of a request to its response, when the message is durable and has its sequence number.",
					quantiles("sendhouse_ingest_request_duration_seconds", `$at,route="send"`)...).limits(0.25, 1).details("sendhouse-ingest"),
			}},
			{"The way of a message: ingest → write-ahead log → sequencer → message log → writer → ClickHouse", []panel{
				lines("Ingest", perSecond, "Sends that ingest has put into group commits.", q(`sum(rate(sendhouse_ingest_batch_sends_sum{$at}[$__rate_interval]))`, "sends"), q(`sum(rate(sendhouse_ingest_batch_sends_count{$at}[$__rate_interval]))`, "group commits")).size(4, 8).details("sendhouse-ingest"),
				lines("Write-ahead log", share, "Used share. Each checkpoint trims it; when full, it refuses sends.", q(`max by (partition) (sendhouse_jetstream_stream_bytes{$at,kind="wal"} / sendhouse_jetstream_stream_bytes_max{$at,kind="wal"})`, "{{partition}}")).limits(0.5, 0.7).size(4, 8).details("sendhouse-jetstream"),
				lines("Sequencer", perSecond, "Folded sends, by outcome.", q(`sum by (outcome) (rate(sendhouse_sequencer_sends_total{$at}[$__rate_interval]))`, "{{outcome}}")).stacked().size(4, 8).details("sendhouse-sequencer"),
				lines("Message log", perSecond, "Stored messages.", q(`sum by (partition) (rate(sendhouse_jetstream_stream_last_seq{$at,kind="messages"}[$__rate_interval]))`, "{{partition}}")).stacked().size(4, 8).details("sendhouse-jetstream"),
				lines("Writer", count, "Messages that are in the message log and not in ClickHouse.", q(`max by (partition) (sendhouse_writer_lag_messages{$at})`, "{{partition}}")).stacked().size(4, 8).details("sendhouse-writer"),
				lines("ClickHouse", perSecond, "Inserted rows.", q(`sum by (partition) (rate(sendhouse_writer_messages_inserted_total{$at}[$__rate_interval]))`, "{{partition}}")).stacked().size(4, 8).details("sendhouse-messages"),
			}},
			{"What went wrong", []panel{
				lines("Dead letters and losses", count, "Records that became dead letters, and messages that retention removed before they were inserted, in the last hour.",
					q(`sum by (reason) (increase(sendhouse_writer_dead_letters_total{$at}[1h]))`, "{{reason}}"), q(`sum(increase(sendhouse_writer_messages_lost_total{$at}[1h]))`, "lost messages")).limits(1, 1).details("sendhouse-writer"),
				lines("Warnings and errors in the log", perSecond, "Log lines of the processes.", q(`sum by (level, instance) (rate(sendhouse_log_lines_total{$at}[$__rate_interval]))`, "{{level}} {{instance}}")),
				lines("Recoveries", count, "Partitions that stopped with an error and recovered, in the last hour.", q(`sum by (partition) (increase(sendhouse_sequencer_restarts_total{$at}[1h]))`, "sequencer {{partition}}"), q(`sum by (partition) (increase(sendhouse_writer_reader_restarts_total{$at}[1h]))`, "writer {{partition}}")).limits(1, 4),
			}},
			{"Processes", []panel{
				lines("CPU", count, "Cores in use.", q(`rate(process_cpu_seconds_total{$at}[$__rate_interval])`, "{{instance}}")).size(6, 8),
				lines("Memory", bytesIEC, "Resident memory and the Go heap within it. The embedded ClickHouse has memory of its own.", q(`process_resident_memory_bytes{$at}`, "{{instance}} resident"), q(`go_memstats_heap_inuse_bytes{$at}`, "{{instance}} heap")).size(6, 8),
				lines("Goroutines", count, "One per connection, and some per partition.", q(`go_goroutines{$at}`, "{{instance}}")).size(6, 8),
				lines("Garbage collection", seconds, "Longest pause of the latest collections.", q(`go_gc_duration_seconds{$at,quantile=~"1|1.0"}`, "{{instance}}")).size(6, 8),
				table("Versions", "More than one is normal only during an upgrade.", q(`sendhouse_build_info{$at}`, "")).size(24, 5),
			}},
		},
	}
}
