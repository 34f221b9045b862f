CREATE VIEW IF NOT EXISTS `{database}`.messages_latest AS
SELECT
    message_id, message_seq, channel_id, channel_type, from_uid, client_msg_no, red_dot, sync_once, stream_no, tag_key, expire,
    subscribers, payload, timestamp, partition, partition_seq, wal_seq, wal_index
FROM `{database}`.messages FINAL
WHERE expire = 0 OR toUnixTimestamp(timestamp) + toUInt64(expire) > toUnixTimestamp(now())
SETTINGS do_not_merge_across_partitions_select_final = 1
