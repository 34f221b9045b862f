CREATE VIEW IF NOT EXISTS `{database}`.channel_counts AS
SELECT
    channel_id,
    channel_type,
    uniqExact(message_seq) AS messages,
    max(message_seq) AS last_message_seq,
    max(message_id) AS last_message_id,
    max(timestamp) AS last_timestamp
FROM `{database}`.messages
WHERE expire = 0 OR toUnixTimestamp(timestamp) + toUInt64(expire) > toUnixTimestamp(now())
GROUP BY channel_id, channel_type
SETTINGS optimize_aggregation_in_order = 1
