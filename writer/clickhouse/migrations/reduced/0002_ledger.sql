CREATE TABLE IF NOT EXISTS `{database}`.schema_migrations
(
    version UInt32,
    name String,
    checksum UInt32,
    applied_at DateTime
)
ENGINE = ReplacingMergeTree()
ORDER BY version
