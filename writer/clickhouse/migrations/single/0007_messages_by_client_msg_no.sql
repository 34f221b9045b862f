CREATE VIEW IF NOT EXISTS `{database}`.messages_by_client_msg_no AS
SELECT
    message_id, message_seq, channel_id, channel_type, from_uid, client_msg_no, red_dot, sync_once, stream_no, tag_key, expire,
    subscribers, payload, timestamp, partition, partition_seq, wal_seq, wal_index
FROM `{database}`.messages
WHERE client_msg_no = {client_msg_no:String}
    AND (expire = 0 OR toUnixTimestamp(timestamp) + toUInt64(expire) > toUnixTimestamp(now()))
LIMIT 1 BY channel_id, channel_type, message_seq
