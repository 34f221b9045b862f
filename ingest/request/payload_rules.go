package request

// The values of ingest-payload-rules.
const (
	PayloadRulesOff     = "off"     // payloads are not examined
	PayloadRulesWarn    = "warn"    // violations are counted and accepted
	PayloadRulesEnforce = "enforce" // violations are refused
)

// Rules that apply before a message's type is known.
const (
	ruleNotJSON = "not_json"
	ruleType    = "type"
)

// payloadRule is the protocol's rule for one message type.
type payloadRule struct {
	kind   int64  // the payload's "type"
	name   string // in errors and metrics; violations of flags are reported as name + flagsSuffix
	fields []payloadField
	flags  payloadFlags
}

// payloadField is one field of a payload.
type payloadField struct {
	key      string
	path     string // as named in errors
	value    payloadValue
	optional bool
	fields   []payloadField // of valueObject, and of each element of valueObjects
	// exclusive is the rule that at most one of fields may be neither 0 nor empty.
	exclusive string
}

// payloadValue is the kind of value that a field may have. Null counts as absent.
type payloadValue uint8

const (
	valueText    payloadValue = iota // a string
	valueName                        // a non-empty string
	valueCount                       // a non-negative integer
	valueFlag                        // 0 or 1
	valueObject                      // an object; unknown fields may have any value
	valueTexts                       // an array of strings
	valueObjects                     // an array of objects
)

func (v payloadValue) String() string {
	switch v {
	case valueText:
		return "must be a string"
	case valueName:
		return "must be a string that is not empty"
	case valueCount:
		return "must be an integer, 0 or more"
	case valueFlag:
		return isFlag
	case valueObject:
		return "must be an object"
	case valueTexts:
		return "must be an array of strings"
	default:
		return "must be an array of objects"
	}
}

// payloadFlags are the header flags required for messages of a type.
type payloadFlags uint8

const (
	flagsAny          payloadFlags = iota
	flagsCommand                   // SyncOnce:1
	flagsSystemSilent              // NoPersist:0, RedDot:0, SyncOnce:1
	flagsSystemUnread              // NoPersist:0, RedDot:1, SyncOnce:0
)

const flagsSuffix = "_flags"

func (f payloadFlags) met(noPersist, redDot, syncOnce bool) bool {
	switch f {
	case flagsCommand:
		return syncOnce
	case flagsSystemSilent:
		return !noPersist && !redDot && syncOnce
	case flagsSystemUnread:
		return !noPersist && redDot && !syncOnce
	default:
		return true
	}
}

func (f payloadFlags) String() string {
	switch f {
	case flagsCommand:
		return "must be sent with header sync_once=1"
	case flagsSystemSilent:
		return "must be sent with header no_persist=0, red_dot=0, sync_once=1"
	case flagsSystemUnread:
		return "must be sent with header no_persist=0, red_dot=1, sync_once=0"
	default:
		return ""
	}
}

// payloadRuleTable holds WuKongIM's recommended payloads, as documented on its page about POST /message/send: one row per
// type, one field per documented field. Other types belong to applications and may hold anything; the page reserves all
// types above 1000 for system messages, so those share a row.
func payloadRuleTable() []payloadRule {
	req := func(key string, value payloadValue) payloadField {
		return payloadField{key: key, path: key, value: value}
	}
	opt := func(key string, value payloadValue) payloadField {
		return payloadField{key: key, path: key, value: value, optional: true}
	}
	of := func(f payloadField, fields ...payloadField) payloadField {
		for _, inner := range fields {
			inner.path = f.path + "." + inner.key
			f.fields = append(f.fields, inner)
		}
		return f
	}
	mention := of(opt("mention", valueObject), opt("all", valueFlag), opt("uids", valueTexts))
	mention.exclusive = "uids must be empty when all is 1"
	reply := of(opt("reply", valueObject),
		req("root_mid", valueText), req("message_id", valueName), req("message_seq", valueCount),
		req("from_uid", valueName), req("from_name", valueText), req("payload", valueObject))
	picture := []payloadField{req("url", valueName), req("width", valueCount), req("height", valueCount)}
	content := req("content", valueText)
	members := of(req("extra", valueObjects), req("uid", valueName), req("name", valueText))
	notice := []payloadField{content, members}

	return []payloadRule{
		{1, "text", []payloadField{content, mention, reply}, flagsAny},
		{2, "image", picture, flagsAny},
		{3, "gif", picture, flagsAny},
		{4, "voice", []payloadField{req("url", valueName), req("timeTrad", valueCount)}, flagsAny},
		{8, "file", []payloadField{req("url", valueName), req("name", valueName), req("size", valueCount)}, flagsAny},
		{99, "command", []payloadField{req("cmd", valueName), req("param", valueObject)}, flagsCommand},

		{1001, "group_created", append([]payloadField{req("creator", valueName), req("creator_name", valueText)}, notice...), flagsSystemSilent},
		{1002, "members_added", notice, flagsSystemSilent},
		{1003, "members_removed", notice, flagsSystemSilent},
		{1005, "group_updated", notice, flagsSystemSilent}, // its name, or its announcement
		{1006, "message_revoked", append([]payloadField{req("message_id", valueName)}, notice...), flagsSystemSilent},
		{1010, "member_kicked", notice, flagsSystemUnread},
		{anySystemType, "system", []payloadField{opt("content", valueText), opt("extra", valueObjects)}, flagsAny},
		{anyType, "custom", nil, flagsAny},
	}
}

// The last two rows of the table are for types without a row of their own.
const (
	systemTypesAbove = 1000
	anySystemType    = -1
	anyType          = -2
)

// payloadRuleNames returns every name that an error can have: the metric's labels.
func payloadRuleNames(table []payloadRule) []string {
	names := []string{ruleNotJSON, ruleType}
	for _, rule := range table {
		if len(rule.fields) > 0 {
			names = append(names, rule.name)
		}
		if rule.flags != flagsAny {
			names = append(names, rule.name+flagsSuffix)
		}
	}
	return names
}
