package main

// messages returns the board about the sent messages, from the table in ClickHouse.
func messages() board {
	const inTime = "$__timeFilter(timestamp)"
	clickHouseVariable := object{"name": "clickhouse", "label": "ClickHouse", "type": "datasource", "query": "grafana-clickhouse-datasource", "current": object{"text": "ClickHouse", "value": clickHouseUID}}
	over := func(title, unit, description, text string) panel {
		return lines(title, unit, description, sql(text)).fromClickHouse()
	}
	list := func(title, description, text string) panel {
		return table(title, description, sql(text)).fromClickHouse()
	}
	one := func(title, unit, description, text string) panel {
		return number(title, unit, description, sql(text)).fromClickHouse()
	}
	return board{
		uid: "sendhouse-messages", title: "Sendhouse / Messages", from: "now-6h", variables: []object{clickHouseVariable},
		description: "What was sent: messages by time, channel, type and sender, those that expire, and rows that are there twice until they are merged.",
		rows: []row{
			{"Altogether", []panel{
				one("Messages", count, "In the selected time; duplicate rows count once.", "SELECT count() FROM (SELECT 1 FROM sendhouse.messages WHERE "+inTime+" GROUP BY channel_id, channel_type, message_seq)"),
				one("Channels", count, "With a message.", "SELECT uniq(channel_id, channel_type) FROM sendhouse.messages WHERE "+inTime),
				one("Senders", count, "With a sent message.", "SELECT uniq(from_uid) FROM sendhouse.messages WHERE "+inTime),
				one("Payload, mean", bytesIEC, "Bytes of a decoded payload.", "SELECT avg(length(payload)) FROM sendhouse.messages WHERE "+inTime),
				one("Newest", "dateTimeFromNow", "When the newest message was accepted.", "SELECT max(timestamp) FROM sendhouse.messages"),
				one("Rows that are there twice", count, "Inserted again after a fault, until a merge drops them. SELECT … FINAL and the views hide them.",
					"SELECT count() - uniqExact(channel_id, channel_type, message_seq) FROM sendhouse.messages WHERE "+inTime).limits(1, 10000),
			}},
			{"When", []panel{
				over("By channel type", count, "Messages in each interval.",
					"SELECT $__timeInterval(timestamp) AS time, transform(channel_type, [1,2,3,4,5,6,7,8,9,10,11,12], ['person','group','customer service','community','community topic','info','data','temporary','live','visitors','agent','agent group'], 'other') AS type, count() AS messages FROM sendhouse.messages WHERE "+inTime+" GROUP BY time, type ORDER BY time").stacked().size(12, 8),
				over("Commands and messages", count, "Commands (sync_once) have channels of their own.",
					"SELECT $__timeInterval(timestamp) AS time, countIf(sync_once = 1) AS commands, countIf(sync_once = 0) AS messages FROM sendhouse.messages WHERE "+inTime+" GROUP BY time ORDER BY time").stacked().size(12, 8),
				list("By hour of the day", "UTC.", "SELECT toHour(timestamp, 'UTC') AS hour, count() AS messages, uniq(from_uid) AS senders, uniq(channel_id, channel_type) AS channels FROM sendhouse.messages WHERE "+inTime+" GROUP BY hour ORDER BY hour").size(8, 10),
				over("Payload", bytesIEC, "Bytes of payloads in each interval.", "SELECT $__timeInterval(timestamp) AS time, sum(length(payload)) AS bytes FROM sendhouse.messages WHERE "+inTime+" GROUP BY time ORDER BY time").size(8, 10),
				over("By partition", count, "How evenly channels are spread.", "SELECT $__timeInterval(timestamp) AS time, toString(partition) AS p, count() AS messages FROM sendhouse.messages WHERE "+inTime+" GROUP BY time, p ORDER BY time").stacked().size(8, 10),
			}},
			{"Who and where", []panel{
				list("Busiest channels", "The 20 with the most messages.", "SELECT channel_id, channel_type, count() AS messages, uniq(from_uid) AS senders, max(message_seq) AS last_seq, max(timestamp) AS newest FROM sendhouse.messages WHERE "+inTime+" GROUP BY channel_id, channel_type ORDER BY messages DESC LIMIT 20").size(12, 10),
				list("Busiest senders", "The 20 with the most messages.", "SELECT from_uid, count() AS messages, uniq(channel_id, channel_type) AS channels, max(timestamp) AS newest FROM sendhouse.messages WHERE "+inTime+" GROUP BY from_uid ORDER BY messages DESC LIMIT 20").size(12, 10),
				list("Newest messages", "The last 50, with truncated payloads.", "SELECT timestamp, channel_id, channel_type, message_seq, from_uid, client_msg_no, substringUTF8(toValidUTF8(payload), 1, 200) AS payload FROM sendhouse.messages WHERE "+inTime+" ORDER BY timestamp DESC LIMIT 50").size(24, 10),
			}},
			{"What goes, and what is twice", []panel{
				list("Expiring", "Messages with an expiry, by the day on which their rows expire.",
					"SELECT toDate(timestamp + toIntervalSecond(expire)) AS day, count() AS messages, sum(length(payload)) AS payload_bytes FROM sendhouse.messages WHERE expire > 0 AND "+inTime+" GROUP BY day ORDER BY day LIMIT 60"),
				over("Expiring, by when they were sent", count, "With and without an expiry.", "SELECT $__timeInterval(timestamp) AS time, countIf(expire > 0) AS expiring, countIf(expire = 0) AS kept FROM sendhouse.messages WHERE "+inTime+" GROUP BY time ORDER BY time").stacked(),
				list("Twice", "Messages stored in more than one row, until a merge.",
					"SELECT channel_id, channel_type, message_seq, count() AS copies FROM sendhouse.messages WHERE "+inTime+" GROUP BY channel_id, channel_type, message_seq HAVING copies > 1 ORDER BY copies DESC LIMIT 50"),
			}},
		},
	}
}
