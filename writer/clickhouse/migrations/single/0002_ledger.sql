CREATE TABLE IF NOT EXISTS `{database}`.schema_migrations
(
    version UInt32,
    name String,
    checksum UInt32,
    applied_at DateTime('UTC')
)
ENGINE = ReplacingMergeTree
ORDER BY version
SETTINGS fsync_after_insert = 1, fsync_part_directory = 1
