CREATE TABLE IF NOT EXISTS `{database}`.messages ON CLUSTER `{cluster}`
AS `{database}`.messages_local
ENGINE = Distributed('{cluster}', '{database}', 'messages_local', cityHash64(channel_id, channel_type))
