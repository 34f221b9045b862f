package main

// jetStream returns the board about the streams and the connections to NATS.
func jetStream() board {
	return board{
		uid: "sendhouse-jetstream", title: "Sendhouse / JetStream", from: "now-1h", variables: metricVariables(true),
		description: "The streams as JetStream itself tells the sequencers, embedded or a cluster, and the connections to it.",
		rows: []row{
			{"Health", []panel{
				number("Answers", count, "1 if JetStream answered a sequencer's last health check.", q(`max(sendhouse_jetstream_up{$at})`, "up")).least(1).size(4, 8),
				number("Copies missing", count, "Streams with fewer replicas than configured.", q(`count((max by (stream) (sendhouse_jetstream_stream_replicas_current{$at}) < max by (stream) (sendhouse_jetstream_stream_replicas{$at}))) or vector(0)`, "streams")).limits(1, 1).size(4, 8),
				lines("Time to answer", seconds, "Of queries for the account and all streams.", quantiles("sendhouse_jetstream_answer_duration_seconds", "$at")...).limits(0.5, 2),
				lines("Storage", bytesIEC, "Storage that the account uses, and its limit.", q(`max(sendhouse_jetstream_storage_bytes{$at})`, "used"), q(`max(sendhouse_jetstream_storage_bytes_max{$at}) or max(sendhouse_nats_server_storage_bytes_max{$at})`, "may be used"), q(`max(sendhouse_nats_server_storage_reserved_bytes{$at})`, "reserved, embedded")),
			}},
			{"Streams", []panel{
				gauges("How full", "Of each stream's limit. A write-ahead log refuses sends when it is full; a message log drops its oldest.", q(`max by (stream) (sendhouse_jetstream_stream_bytes{$at} / sendhouse_jetstream_stream_bytes_max{$at})`, "{{stream}}")).limits(0.7, 0.9).size(8, 10),
				lines("Size", bytesIEC, "By kind.", q(`sum by (kind) (max by (stream, kind) (sendhouse_jetstream_stream_bytes{$at}))`, "{{kind}}")).stacked().size(8, 10),
				lines("Written", perSecond, "Records, by kind. One of either log is a group commit.", q(`sum by (kind) (max by (stream, kind) (rate(sendhouse_jetstream_stream_last_seq{$at}[$__rate_interval])))`, "{{kind}}")).size(8, 10),
				lines("Records", count, "In the write-ahead logs and the message logs.", q(`max by (stream) (sendhouse_jetstream_stream_messages{$part,kind=~"wal|messages"})`, "{{stream}}")),
				lines("Age of the oldest record", seconds, "What the message logs can replay.", q(`max by (stream) (sendhouse_jetstream_stream_age_seconds{$part,kind=~"wal|messages"})`, "{{stream}}")),
				lines("Dead letters", count, "Records in DEAD_LETTERS.", q(`max(sendhouse_jetstream_stream_messages{$at,kind="dead_letters"})`, "records")).limits(1, 100),
				lines("Written, by partition", bytesIEC, "Size of the write-ahead logs: a sawtooth, trimmed by each checkpoint.", q(`max by (partition) (sendhouse_jetstream_stream_bytes{$part,kind="wal"})`, "{{partition}}")).size(12, 8),
				lines("Consumers", count, "Of the logs: the sequencer's, the writer's, yours.", q(`sum by (kind) (max by (stream, kind) (sendhouse_jetstream_stream_consumers{$part,kind=~"wal|messages"}))`, "{{kind}}")).size(12, 8),
			}},
			{"Connections", []panel{
				lines("Connected", count, "1 while a role's connection is up.", q(`sendhouse_nats_connected{$at}`, "{{connection}} {{instance}}")).least(1).size(6, 8),
				lines("Reconnects", count, "In 15 minutes.", q(`increase(sendhouse_nats_reconnects_total{$at}[15m])`, "{{connection}} {{instance}}")).size(6, 8),
				lines("Sent", "Bps", "By the roles.", q(`sum by (connection) (rate(sendhouse_nats_sent_bytes_total{$at}[$__rate_interval]))`, "{{connection}}")).size(6, 8),
				lines("Received", "Bps", "By the roles.", q(`sum by (connection) (rate(sendhouse_nats_received_bytes_total{$at}[$__rate_interval]))`, "{{connection}}")).size(6, 8),
				lines("Embedded: clients", count, "Only if NATS is embedded.", q(`sendhouse_nats_server_connections{$at}`, "clients"), q(`sendhouse_nats_server_subscriptions{$at}`, "subscriptions")).size(12, 8),
				lines("Embedded: cannot write", count, "1 while the embedded server cannot write to its files, and its resulting restarts within the process, in an hour.", q(`max(sendhouse_nats_server_storage_fault{$at})`, "cannot write"), q(`sum(increase(sendhouse_nats_server_restarts_total{$at}[1h]))`, "restarts")).limits(1, 2).size(24, 6),
				lines("Embedded: slow consumers", count, "Clients that were disconnected because they did not read fast enough, in an hour.", q(`increase(sendhouse_nats_server_slow_consumers_total{$at}[1h])`, "cut off")).limits(1, 10).size(12, 8),
			}},
		},
	}
}
