CREATE TABLE IF NOT EXISTS `{database}`.messages
(
    message_id Int64 COMMENT 'milliseconds since 2024-01-01 (41 bits), partition (10), counter (12)' CODEC(Delta, ZSTD(1)),
    message_seq UInt64 COMMENT '1, 2, 3, ... in the channel' CODEC(Delta, ZSTD(1)),
    channel_id String COMMENT 'canonical: a@b for a person channel, ____cmd behind it for commands' CODEC(ZSTD(1)),
    channel_type UInt8 COMMENT '1 person, 2 group, 3 customer service, 4 community, 5 community topic, 6 info, 7 data, 8 temporary, 9 live, 10 visitors, 11 agent, 12 agent group' CODEC(T64, ZSTD(1)),
    from_uid String COMMENT 'sender' CODEC(ZSTD(1)),
    client_msg_no String COMMENT 'key of the sender for this message' CODEC(ZSTD(1)),
    red_dot UInt8 COMMENT '1: show the unread mark' CODEC(T64, ZSTD(1)),
    sync_once UInt8 COMMENT '1: a command' CODEC(T64, ZSTD(1)),
    stream_no String CODEC(ZSTD(1)),
    tag_key String CODEC(ZSTD(1)),
    expire UInt32 COMMENT 'seconds after timestamp until the row is gone; 0: never' CODEC(T64, ZSTD(1)),
    subscribers Array(String) COMMENT 'receivers, where the send named them' CODEC(ZSTD(1)),
    payload String CODEC(ZSTD(3)),
    timestamp DateTime64(3, 'UTC') COMMENT 'when the message was accepted; the time in message_id' CODEC(Delta, ZSTD(1)),
    partition UInt16 COMMENT 'of the message log' CODEC(T64, ZSTD(1)),
    partition_seq UInt64 COMMENT 'counts the messages of the partition: 1, 2, 3' CODEC(Delta, ZSTD(1)),
    wal_seq UInt64 COMMENT 'in the write-ahead log, SENDS_<partition>' CODEC(Delta, ZSTD(1)),
    wal_index UInt32 COMMENT 'place in the record of the write-ahead log' CODEC(T64, ZSTD(1)),
    INDEX message_id_index message_id TYPE bloom_filter(0.01) GRANULARITY 4,
    INDEX client_msg_no_index client_msg_no TYPE bloom_filter(0.01) GRANULARITY 4
)
ENGINE = ReplacingMergeTree
PARTITION BY toYYYYMM(timestamp)
ORDER BY (channel_id, channel_type, message_seq)
TTL toDateTime(least(toUnixTimestamp(timestamp) + toUInt64(expire), 4294967295), 'UTC') DELETE WHERE expire > 0
SETTINGS
    fsync_after_insert = 1,
    fsync_part_directory = 1,
    non_replicated_deduplication_window = 100000
