package engine

import (
	"context"
	"encoding/json"
	"log/slog"
	"maps"
	"slices"
)

// relay logs a record of the child, which a slog.JSONHandler wrote, as this process's own.
func relay(log *slog.Logger, record json.RawMessage) {
	var fields map[string]any
	if err := json.Unmarshal(record, &fields); err != nil {
		log.Warn("the ClickHouse engine logged what cannot be read", "line", string(record), "error", err)
		return
	}
	var level slog.Level
	name, _ := fields[slog.LevelKey].(string)
	if err := level.UnmarshalText([]byte(name)); err != nil {
		level = slog.LevelWarn
	}
	message, _ := fields[slog.MessageKey].(string)
	for _, key := range []string{slog.LevelKey, slog.MessageKey, slog.TimeKey} {
		delete(fields, key)
	}
	var attributes []slog.Attr
	for _, key := range slices.Sorted(maps.Keys(fields)) {
		attributes = append(attributes, slog.Any(key, fields[key]))
	}
	log.LogAttrs(context.Background(), level, message, attributes...) //nolint:sloglint // the child's message
}
