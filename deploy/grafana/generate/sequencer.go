package main

// sequencer returns the board about folding: its owners, progress and checkpoints.
func sequencer() board {
	return board{
		uid: "sendhouse-sequencer", title: "Sendhouse / Sequencer", from: "now-1h", variables: metricVariables(true),
		description: "Write-ahead log in, answers and message log out: owners, lag, the fold, checkpoints.",
		rows: []row{
			{"Who has what", []panel{
				table("Owners", "The instance that sequences each partition, and the epoch of its lease; it grows with each change of ownership.", q(`sendhouse_sequencer_lease_epoch{$part}`, "")),
				lines("Partitions by instance", count, "Shares differ by at most one.", q(`count by (instance) (sendhouse_sequencer_lease_epoch{$at})`, "{{instance}}")).stacked(),
				lines("Recoveries", count, "Partitions that stopped with an error and recovered, in 15 minutes.", q(`sum by (partition) (increase(sendhouse_sequencer_restarts_total{$part}[15m]))`, "{{partition}}")).limits(1, 4),
			}},
			{"Folding", []panel{
				lines("Sends", perSecond, "By outcome. Many duplicates: clients retry. Conflicts: a client uses a client_msg_no twice.", q(`sum by (outcome) (rate(sendhouse_sequencer_sends_total{$part}[$__rate_interval]))`, "{{outcome}}")).stacked(),
				lines("By partition", perSecond, "How evenly channels are spread.", q(`sum by (partition) (rate(sendhouse_sequencer_sends_total{$part}[$__rate_interval]))`, "{{partition}}")).stacked(),
				lines("Records", perSecond, "Folded group commits.", q(`sum by (partition) (rate(sendhouse_sequencer_fold_record_seconds_count{$part}[$__rate_interval]))`, "{{partition}}")).stacked(),
				lines("Time for a record", seconds, "Folding it and sending the replies.", quantiles("sendhouse_sequencer_fold_record_seconds", "$part")...),
				lines("Time in the log", seconds, "From storing a record in the broker until it is folded, by the broker's clock.", quantiles("sendhouse_sequencer_wal_delay_seconds", "$part")...).limits(0.1, 1),
				lines("Answers that could not leave", perSecond, "Replies that could not be sent because NATS was unreachable; clients retry.", q(`sum(rate(sendhouse_sequencer_answers_failed_total{$part}[$__rate_interval]))`, "answers"), q(`sum(rate(sendhouse_sequencer_live_failed_total{$part}[$__rate_interval]))`, "no_persist messages"), q(`sum(rate(sendhouse_sequencer_malformed_records_total{$part}[$__rate_interval]))`, "foreign records")),
			}},
			{"Lag", []panel{
				lines("Records not folded", count, "Should be near 0. Sampled every 5 seconds.", q(`max by (partition) (sendhouse_sequencer_wal_lag_records{$part})`, "{{partition}}")),
				lines("Age of the oldest", seconds, "Above 5 s, clients get 503 no_answer.", q(`max by (partition) (sendhouse_sequencer_wal_lag_seconds{$part})`, "{{partition}}")).limits(2, 5),
				lines("Messages not in the message log", count, "Derived but not yet acknowledged. At --outbox-messages-max (65,536), folding waits.", q(`max by (partition) (sendhouse_sequencer_output_lag_messages{$part})`, "{{partition}}")).limits(32768, 65536),
				lines("Writing resumed at the tail", count, "After a refusal or a time-out of the message log, in 15 minutes. A few at a fail-over.", q(`sum by (partition) (increase(sendhouse_sequencer_output_resumes_total{$part}[15m]))`, "{{partition}}")).size(12, 8),
				lines("Recovering", seconds, "Reading the checkpoint, before the rest of the log is folded; the mean since the process started.", q(`sum by (partition) (sendhouse_sequencer_recovery_seconds_sum{$part}) / sum by (partition) (sendhouse_sequencer_recovery_seconds_count{$part})`, "{{partition}}")).size(12, 8),
			}},
			{"Clocks", []panel{
				lines("Broker's clock", seconds, "Offset from the sequencer's own clock. Messages carry the broker's time.", q(`max by (partition) (sendhouse_sequencer_broker_clock_offset_seconds{$part})`, "{{partition}}")),
				lines("Steps", count, "Steps of the broker's clock between two records, in 15 minutes.", q(`sum by (partition, direction) (increase(sendhouse_sequencer_clock_steps_total{$part}[15m]))`, "{{partition}} {{direction}}")).limits(1, 4),
				lines("IDs ahead", seconds, "Lead of the IDs over the broker's clock, which was ahead by this much before.", q(`max by (partition) (sendhouse_sequencer_id_clock_ahead_seconds{$part})`, "{{partition}}")).limits(60, 3600),
			}},
			{"State and checkpoints", []panel{
				lines("Age of the newest checkpoint", seconds, "A checkpoint is taken every --checkpoint-interval (60 s) if there is new data; otherwise the age grows.", q(`max by (partition) (sendhouse_sequencer_checkpoint_age_seconds{$part})`, "{{partition}}")).limits(300, 600),
				lines("Size", bytesIEC, "Size of the newest; 0 until this process has stored one.", q(`max by (partition) (sendhouse_sequencer_checkpoint_bytes{$part})`, "{{partition}}")),
				lines("Failures", count, "Checkpoints that could not be stored or read back, in 15 minutes.", q(`sum(increase(sendhouse_sequencer_checkpoints_failed_total{$part}[15m]))`, "not stored"), q(`sum(increase(sendhouse_sequencer_checkpoints_damaged_total{$part}[15m]))`, "not read back")).limits(1, 3),
				lines("Time to store one", seconds, "Folding continues meanwhile.", q(`histogram_quantile(0.95, sum by (le) (rate(sendhouse_sequencer_checkpoint_seconds_bucket{$part}[10m])))`, "p95")).size(6, 8),
				lines("Folding stood still for it", seconds, "Milliseconds.", q(`histogram_quantile(0.95, sum by (le) (rate(sendhouse_sequencer_snapshot_pause_seconds_bucket{$part}[10m])))`, "p95")).size(6, 8),
				lines("Channels", count, "Channels with a sequence.", q(`max by (partition) (sendhouse_sequencer_channels{$part})`, "{{partition}}")).stacked().size(6, 8),
				lines("Deduplication window", count, "Sends in it; at most a million by default.", q(`max by (partition) (sendhouse_sequencer_dedup_entries{$part})`, "{{partition}}")).stacked().size(6, 8),
			}},
		},
	}
}
