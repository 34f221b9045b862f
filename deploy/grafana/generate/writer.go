package main

// writer returns the board about the insertion into ClickHouse.
func writer() board {
	return board{
		uid: "sendhouse-writer", title: "Sendhouse / Writer", from: "now-1h", variables: metricVariables(true),
		description: "Message log in, ClickHouse out: lag, states, batches, what is refused, and how ClickHouse is.",
		rows: []row{
			{"How far", []panel{
				lines("Age of the oldest message not in ClickHouse", seconds, "One or two seconds are normal.", q(`max by (partition) (sendhouse_writer_lag_seconds{$part})`, "{{partition}}")).limits(10, 60),
				lines("Messages not in ClickHouse", count, "Messages that are only in the message log.", q(`max by (partition) (sendhouse_writer_lag_messages{$part})`, "{{partition}}")).stacked(),
				heat("From the send to the row", seconds, "Delay of the oldest message of each batch.", "sendhouse_writer_visible_delay_seconds", "$at"),
				lines("Inserted", perSecond, "Rows.", q(`sum by (partition) (rate(sendhouse_writer_messages_inserted_total{$part}[$__rate_interval]))`, "{{partition}}")).stacked(),
				lines("Retention's distance", share, "Share of the message log that is not in ClickHouse. At 100%, with the log at its limit, messages are lost.",
					q(`max by (partition) (sendhouse_writer_lag_messages{$part}) / clamp_min(max by (partition) (sendhouse_writer_lag_messages{$part}) + max by (partition) (sendhouse_writer_retained_messages{$part}), 1)`, "{{partition}}")).limits(0.5, 0.7),
				lines("Lost and dead", count, "Messages that retention removed, and dead letters, since the processes started.", q(`sum(sendhouse_writer_messages_lost_total{$part})`, "lost"), q(`sum by (reason) (sendhouse_writer_dead_letters_total{$at})`, "dead letters, {{reason}}")).limits(1, 1),
			}},
			{"Who, and in which state", []panel{
				table("Holders", "The instance that writes each partition, and the epoch of its lease.", q(`sendhouse_writer_lease_epoch{$part}`, "")),
				lines("States", count, "Partitions in each state. Paused: a person must act. Behind or retrying for long: see the log.", q(`sum by (state) (sendhouse_writer_partition_state{$part})`, "{{state}}")).stacked(),
				lines("Restarts and retries", count, "Partitions that were read again after an error, positions that another writer had moved, and retried writes to NATS, in 15 minutes.",
					q(`sum(increase(sendhouse_writer_reader_restarts_total{$part}[15m]))`, "restarted"), q(`sum(increase(sendhouse_writer_fenced_total{$part}[15m]))`, "moved by another"), q(`sum(increase(sendhouse_writer_nats_retries_total{$at}[15m]))`, "NATS retried")),
			}},
			{"Batches", []panel{
				lines("Rows", count, "Of an inserted batch. Many small ones make many parts.", quantiles("sendhouse_writer_batch_rows", "$at")...).size(6, 8),
				lines("Bytes", bytesIEC, "Of an inserted batch, uncompressed.", quantiles("sendhouse_writer_batch_bytes", "$at")...).size(6, 8),
				lines("Time of an insert", seconds, "Until it is on disk.", quantiles("sendhouse_writer_insert_duration_seconds", "$at")...).size(6, 8),
				lines("Memory of batches", bytesIEC, "At --writer-bytes-max (256 MiB), the readers wait.", q(`sum by (instance) (sendhouse_writer_batch_memory_bytes{$at})`, "{{instance}}")).size(6, 8),
				lines("Inserts that failed", perSecond, "By class, see docs/runbook.md.", q(`sum by (class) (rate(sendhouse_writer_retries_total{$at}[$__rate_interval]))`, "{{class}}")).stacked().size(12, 8),
				lines("Batches cut in two", perSecond, "ClickHouse refused them because of a row or their size.", q(`sum(rate(sendhouse_writer_batch_splits_total{$at}[$__rate_interval]))`, "cut")).size(12, 8),
			}},
			{"ClickHouse", []panel{
				number("Answers", count, "1 if the last health check of every writer succeeded.", q(`min(sendhouse_writer_clickhouse_up{$at})`, "up")).least(1).size(4, 8),
				lines("Time to answer", seconds, "Duration of the health check.", quantiles("sendhouse_writer_clickhouse_answer_duration_seconds", "$at")...).size(5, 8),
				lines("Rows", count, "Of the table of messages.", q(`max(sendhouse_writer_clickhouse_table_rows{$at})`, "rows")).size(5, 8),
				lines("Size", bytesIEC, "Size of the table on disk, in total and per row.", q(`max(sendhouse_writer_clickhouse_table_bytes{$at})`, "table"), q(`max(sendhouse_writer_clickhouse_table_bytes{$at}) / clamp_min(max(sendhouse_writer_clickhouse_table_rows{$at}), 1)`, "a row")).size(5, 8),
				lines("Parts", count, "Parts of the table partition with the most. At 1,000, ClickHouse slows inserts down.", q(`max(sendhouse_writer_clickhouse_parts_max{$at})`, "parts")).limits(500, 900).size(5, 8),
				lines("Free disk", share, "Free share of the fullest disk.", q(`min(sendhouse_writer_clickhouse_disk_free_bytes{$at} / (sendhouse_writer_clickhouse_disk_bytes{$at} > 0))`, "free")).least(0.1).size(8, 8),
				lines("Embedded: statements", count, "Running and queued statements. Only if ClickHouse is embedded.", q(`sum by (kind) (sendhouse_chdb_running_statements{$at})`, "{{kind}} runs"), q(`max by (kind) (sendhouse_chdb_running_statements_max{$at})`, "{{kind}} may run"), q(`sum by (kind) (sendhouse_chdb_waiting_statements{$at})`, "{{kind}} waits")).size(8, 8),
				lines("Embedded: inserts on their way", bytesIEC, "Bytes on disk, and their limit.", q(`sum(sendhouse_chdb_spooled_bytes{$at})`, "on their way"), q(`max(sendhouse_chdb_spooled_bytes_max{$at})`, "may be")).size(8, 8),
			}},
		},
	}
}
