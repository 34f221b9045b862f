CREATE TABLE IF NOT EXISTS `{database}`.messages
(
    message_id Int64,
    message_seq UInt64,
    channel_id String,
    channel_type UInt8,
    from_uid String,
    client_msg_no String,
    red_dot UInt8,
    sync_once UInt8,
    stream_no String,
    tag_key String,
    expire UInt32,
    subscribers Array(String),
    payload String,
    timestamp DateTime,
    partition UInt16,
    partition_seq UInt64,
    wal_seq UInt64,
    wal_index UInt32
)
ENGINE = ReplacingMergeTree()
PARTITION BY toYYYYMM(timestamp)
ORDER BY (channel_id, channel_type, message_seq)
