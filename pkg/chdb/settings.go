package chdb

import (
	"strings"
)

// setting is a setting of ClickHouse or, if its name begins with "param_", the value of a query parameter.
type setting struct{ name, value string }

// settings are in the order in which they are set.
type settings []setting

// with returns the settings with one of them changed or added. The receiver stays as it is.
func (s settings) with(name, value string) settings {
	changed := append(make(settings, 0, len(s)+1), s...)
	for i := range changed {
		if changed[i].name == name {
			changed[i].value = value
			return changed
		}
	}
	return append(changed, setting{name, value})
}

func (s settings) get(name string) string {
	for _, one := range s {
		if one.name == name {
			return one.value
		}
	}
	return ""
}

// sql is the statement that sets them all. The names must have been checked with settingName. SET on the connection is used, and not a
// SETTINGS clause spliced into the client's SQL, because it needs no parsing of that SQL and works for every kind of statement.
func (s settings) sql() string {
	var text strings.Builder
	text.WriteString("SET ")
	for i, one := range s {
		if i > 0 {
			text.WriteString(", ")
		}
		text.WriteString(one.name)
		text.WriteString(" = ")
		text.WriteString(quoteString(one.value))
	}
	return text.String()
}

// quoteString writes value as a string literal of ClickHouse SQL.
func quoteString(value string) string {
	return "'" + strings.NewReplacer(`\`, `\\`, `'`, `\'`, "\x00", `\0`).Replace(value) + "'"
}

// quoteIdentifier writes name as a quoted identifier of ClickHouse SQL.
func quoteIdentifier(name string) string {
	return "`" + strings.NewReplacer(`\`, `\\`, "`", "\\`", "\x00", `\0`).Replace(name) + "`"
}
