-- 0001_database
CREATE DATABASE IF NOT EXISTS `sendhouse` ON CLUSTER `main-1`;

-- 0002_ledger
CREATE TABLE IF NOT EXISTS `sendhouse`.schema_migrations ON CLUSTER `main-1`
(
    version UInt32,
    name String,
    checksum UInt32,
    applied_at DateTime('UTC')
)
ENGINE = ReplicatedReplacingMergeTree('/clickhouse/tables/all/sendhouse/schema_migrations', '{shard}-{replica}')
ORDER BY version
SETTINGS fsync_after_insert = 1, fsync_part_directory = 1;

INSERT INTO `sendhouse`.schema_migrations (version, name, checksum, applied_at) SELECT 1, 'database', 480149914, now();

INSERT INTO `sendhouse`.schema_migrations (version, name, checksum, applied_at) SELECT 2, 'ledger', 310037439, now();

-- 0003_messages_local
CREATE TABLE IF NOT EXISTS `sendhouse`.messages_local ON CLUSTER `main-1`
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
ENGINE = ReplicatedReplacingMergeTree('/clickhouse/tables/{shard}/sendhouse/messages_local', '{replica}')
PARTITION BY toYYYYMM(timestamp)
ORDER BY (channel_id, channel_type, message_seq)
TTL toDateTime(least(toUnixTimestamp(timestamp) + toUInt64(expire), 4294967295), 'UTC') DELETE WHERE expire > 0
SETTINGS
    fsync_after_insert = 1,
    fsync_part_directory = 1,
    replicated_deduplication_window = 10000,
    replicated_deduplication_window_seconds = 604800;

INSERT INTO `sendhouse`.schema_migrations (version, name, checksum, applied_at) SELECT 3, 'messages_local', 298862442, now();

-- 0004_messages
CREATE TABLE IF NOT EXISTS `sendhouse`.messages ON CLUSTER `main-1`
AS `sendhouse`.messages_local
ENGINE = Distributed('main-1', 'sendhouse', 'messages_local', cityHash64(channel_id, channel_type));

INSERT INTO `sendhouse`.schema_migrations (version, name, checksum, applied_at) SELECT 4, 'messages', 3311538890, now();

-- 0005_messages_latest
CREATE VIEW IF NOT EXISTS `sendhouse`.messages_latest ON CLUSTER `main-1` AS
SELECT
    message_id, message_seq, channel_id, channel_type, from_uid, client_msg_no, red_dot, sync_once, stream_no, tag_key, expire,
    subscribers, payload, timestamp, partition, partition_seq, wal_seq, wal_index
FROM `sendhouse`.messages FINAL
WHERE expire = 0 OR toUnixTimestamp(timestamp) + toUInt64(expire) > toUnixTimestamp(now())
SETTINGS do_not_merge_across_partitions_select_final = 1;

INSERT INTO `sendhouse`.schema_migrations (version, name, checksum, applied_at) SELECT 5, 'messages_latest', 3992383686, now();

-- 0006_channel_counts
CREATE VIEW IF NOT EXISTS `sendhouse`.channel_counts ON CLUSTER `main-1` AS
SELECT
    channel_id,
    channel_type,
    uniqExact(message_seq) AS messages,
    max(message_seq) AS last_message_seq,
    max(message_id) AS last_message_id,
    max(timestamp) AS last_timestamp
FROM `sendhouse`.messages
WHERE expire = 0 OR toUnixTimestamp(timestamp) + toUInt64(expire) > toUnixTimestamp(now())
GROUP BY channel_id, channel_type
SETTINGS optimize_aggregation_in_order = 1;

INSERT INTO `sendhouse`.schema_migrations (version, name, checksum, applied_at) SELECT 6, 'channel_counts', 4204821409, now();

-- 0007_messages_by_message_id
CREATE VIEW IF NOT EXISTS `sendhouse`.messages_by_message_id ON CLUSTER `main-1` AS
SELECT
    message_id, message_seq, channel_id, channel_type, from_uid, client_msg_no, red_dot, sync_once, stream_no, tag_key, expire,
    subscribers, payload, timestamp, partition, partition_seq, wal_seq, wal_index
FROM `sendhouse`.messages
WHERE message_id = {message_id:Int64}
    AND timestamp = fromUnixTimestamp64Milli(toInt64(1704067200000 + bitShiftRight({message_id:Int64}, 22)), 'UTC')
    AND (expire = 0 OR toUnixTimestamp(timestamp) + toUInt64(expire) > toUnixTimestamp(now()))
LIMIT 1;

INSERT INTO `sendhouse`.schema_migrations (version, name, checksum, applied_at) SELECT 7, 'messages_by_message_id', 1785460398, now();

-- 0008_messages_by_client_msg_no
CREATE VIEW IF NOT EXISTS `sendhouse`.messages_by_client_msg_no ON CLUSTER `main-1` AS
SELECT
    message_id, message_seq, channel_id, channel_type, from_uid, client_msg_no, red_dot, sync_once, stream_no, tag_key, expire,
    subscribers, payload, timestamp, partition, partition_seq, wal_seq, wal_index
FROM `sendhouse`.messages
WHERE client_msg_no = {client_msg_no:String}
    AND (expire = 0 OR toUnixTimestamp(timestamp) + toUInt64(expire) > toUnixTimestamp(now()))
LIMIT 1 BY channel_id, channel_type, message_seq;

INSERT INTO `sendhouse`.schema_migrations (version, name, checksum, applied_at) SELECT 8, 'messages_by_client_msg_no', 4272596320, now();

-- 0009_messages_local_sync
ALTER TABLE `sendhouse`.messages_local ON CLUSTER `main-1`
    MODIFY SETTING
        min_rows_to_fsync_after_merge = 1,
        min_compressed_bytes_to_fsync_after_merge = 1,
        min_compressed_bytes_to_fsync_after_fetch = 1;

INSERT INTO `sendhouse`.schema_migrations (version, name, checksum, applied_at) SELECT 9, 'messages_local_sync', 3024975672, now();

-- 0010_messages_by_message_id_lead
CREATE OR REPLACE VIEW `sendhouse`.messages_by_message_id ON CLUSTER `main-1` AS
SELECT
    message_id, message_seq, channel_id, channel_type, from_uid, client_msg_no, red_dot, sync_once, stream_no, tag_key, expire,
    subscribers, payload, timestamp, partition, partition_seq, wal_seq, wal_index
FROM `sendhouse`.messages
WHERE message_id = {message_id:Int64}
    AND timestamp <= fromUnixTimestamp64Milli(toInt64(1704067200000 + bitShiftRight({message_id:Int64}, 22)), 'UTC')
    AND (expire = 0 OR toUnixTimestamp(timestamp) + toUInt64(expire) > toUnixTimestamp(now()))
LIMIT 1;

INSERT INTO `sendhouse`.schema_migrations (version, name, checksum, applied_at) SELECT 10, 'messages_by_message_id_lead', 1959879534, now();

