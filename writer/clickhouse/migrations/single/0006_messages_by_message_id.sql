CREATE VIEW IF NOT EXISTS `{database}`.messages_by_message_id AS
SELECT
    message_id, message_seq, channel_id, channel_type, from_uid, client_msg_no, red_dot, sync_once, stream_no, tag_key, expire,
    subscribers, payload, timestamp, partition, partition_seq, wal_seq, wal_index
FROM `{database}`.messages
WHERE message_id = {message_id:Int64}
    AND timestamp = fromUnixTimestamp64Milli(toInt64(1704067200000 + bitShiftRight({message_id:Int64}, 22)), 'UTC')
    AND (expire = 0 OR toUnixTimestamp(timestamp) + toUInt64(expire) > toUnixTimestamp(now()))
LIMIT 1
