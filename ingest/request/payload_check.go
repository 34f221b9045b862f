package request

import (
	"fmt"
	"math/bits"
	"strconv"
	"unicode/utf8"

	"github.com/go-faster/jx"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/sendhouse/sendhouse/ingest/outcome"
	"github.com/sendhouse/sendhouse/pkg/message"
)

// PayloadRules checks payloads against the table of rules. It is read-only.
type PayloadRules struct {
	mode           string                        // payloadRulesOff, payloadRulesWarn or payloadRulesEnforce
	violations     map[string]prometheus.Counter // by rule name, for all rules
	table          []payloadRule
	system, custom *payloadRule
}

// NewPayloadRules returns the rules for a mode, and registers the metric of their violations.
func NewPayloadRules(mode string, reg prometheus.Registerer) (*PayloadRules, error) {
	p := &PayloadRules{mode: mode, violations: make(map[string]prometheus.Counter), table: payloadRuleTable()}
	violations := prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "sendhouse_ingest_payload_violations_total", Help: "Sends whose payload breaks a rule, by the rule; accepted or refused, depending on ingest-payload-rules.",
	}, []string{"rule"})
	for _, rule := range payloadRuleNames(p.table) {
		p.violations[rule] = violations.WithLabelValues(rule)
	}
	n := len(p.table)
	p.system, p.custom = &p.table[n-2], &p.table[n-1]
	p.table = p.table[:n-2]
	return p, reg.Register(violations)
}

// of returns the rule of a type. The most common types come first.
func (p *PayloadRules) of(kind int64) *payloadRule {
	for i := range p.table {
		if p.table[i].kind == kind {
			return &p.table[i]
		}
	}
	if kind > systemTypesAbove {
		return p.system
	}
	return p.custom
}

// violation is the first violation found in a payload. The zero value means that there is none. Creating one does not
// allocate; only formatting it does.
type violation struct {
	rule  string
	field string // path in the payload; "" is the payload itself
	what  string // completes a sentence that starts with the field
}

func (v violation) ok() bool { return v.rule == "" }

func (v violation) problem() outcome.Problem {
	what := v.what
	if v.field != "" {
		what = v.field + " " + v.what
	}
	return outcome.Problem{
		Outcome: outcome.InvalidPayload, Field: fieldPayload.String(),
		Msg: fmt.Sprintf("payload breaks the rule %q: %s", v.rule, what),
	}
}

// Apply checks a validated send against the rules. The mode decides what a violation means.
func (p *PayloadRules) Apply(req *Request) outcome.Problem {
	if p.mode == PayloadRulesOff {
		return outcome.Problem{}
	}
	v := p.check(&req.json, &req.Send)
	if v.ok() {
		return outcome.Problem{}
	}
	p.violations[v.rule].Inc()
	if p.mode != PayloadRulesEnforce {
		return outcome.Problem{}
	}
	return v.problem()
}

const notJSONOrDeep = "it is not valid JSON, or nested deeper than 64"

// check finds the rule by the payload's type, then checks the payload against it. A payload that starts with its type, as
// most do, is read only once.
func (p *PayloadRules) check(d *jx.Decoder, s *message.Send) violation {
	if !utf8.Valid(s.Payload) {
		return violation{rule: ruleNotJSON, what: "it is not UTF-8"}
	}
	d.ResetBytes(s.Payload)
	if d.Next() != jx.Object {
		return violation{rule: ruleNotJSON, what: "it must be a JSON object"}
	}
	kind, v := payloadType(d)
	if !v.ok() {
		return v
	}
	rule := p.of(kind)
	d.ResetBytes(s.Payload)
	reading := payloadReading{d: d, rule: rule.name}
	_, v, err := reading.object(rule.fields, 1)
	switch {
	case err != nil || v.ok() && atEnd(d) != nil:
		return violation{rule: ruleNotJSON, what: notJSONOrDeep}
	case !v.ok():
		return v
	case reading.types > 1:
		return violation{rule: ruleType, field: "type", what: "must stand there once"}
	case !rule.flags.met(s.NoPersist, s.RedDot, s.SyncOnce):
		return violation{rule: rule.name + flagsSuffix, what: "a message of this type " + rule.flags.String()}
	}
	return violation{}
}

// payloadType reads the payload up to its type.
func payloadType(d *jx.Decoder) (int64, violation) {
	notJSON := violation{rule: ruleNotJSON, what: notJSONOrDeep}
	it, err := d.ObjIter()
	if err != nil {
		return 0, notJSON
	}
	for it.Next() {
		if string(it.Key()) != "type" {
			if skip(d, 2) != nil {
				return 0, notJSON
			}
			continue
		}
		if d.Next() == jx.Number {
			if raw, err := d.Raw(); err == nil {
				if kind, err := strconv.ParseInt(alias(raw), 10, 64); err == nil {
					return kind, violation{}
				}
			}
		}
		return 0, violation{rule: ruleType, field: "type", what: "must be an integer"}
	}
	if it.Err() != nil {
		return 0, notJSON
	}
	return 0, violation{rule: ruleType, field: "type", what: isRequired}
}

// payloadReading is the state of reading one payload.
type payloadReading struct {
	d     *jx.Decoder
	rule  string
	types int // number of "type" keys at top level
}

func (p *payloadReading) broken(f *payloadField, what string) violation {
	return violation{rule: p.rule, field: f.path, what: what}
}

// object reads an object at the given depth and checks its fields against the rule's. It counts the fields whose value is
// neither 0 nor empty. For a duplicate key the last value counts, but every value must be valid. err is a syntax error; a
// violation is returned separately.
func (p *payloadReading) object(fields []payloadField, depth int) (filled int, v violation, err error) {
	it, err := p.d.ObjIter()
	if err != nil {
		return 0, v, err
	}
	var given, full uint32 // one bit per field
	for it.Next() {
		key := it.Key()
		if depth == 1 && string(key) == "type" {
			p.types++
		}
		at := -1
		for i := range fields {
			if fields[i].key == string(key) {
				at = i
				break
			}
		}
		if at >= 0 {
			given, full = given&^(1<<at), full&^(1<<at)
		}
		if at < 0 || p.d.Next() == jx.Null {
			if err := skip(p.d, depth+1); err != nil {
				return 0, v, err
			}
			continue
		}
		holds, v, err := p.value(&fields[at], depth+1)
		if err != nil || !v.ok() {
			return 0, v, err
		}
		given |= 1 << at
		if holds {
			full |= 1 << at
		}
	}
	if err := it.Err(); err != nil {
		return 0, v, err
	}
	for i := range fields {
		if !fields[i].optional && given&(1<<i) == 0 {
			return 0, p.broken(&fields[i], isRequired), nil
		}
	}
	return bits.OnesCount32(full), v, nil
}

// value reads the value of a field, and reports whether it is neither 0 nor empty.
func (p *payloadReading) value(f *payloadField, depth int) (holds bool, v violation, err error) {
	wrong := p.broken(f, f.value.String())
	switch next := p.d.Next(); {
	case next == jx.String && (f.value == valueText || f.value == valueName):
		raw, err := p.d.Raw()
		holds = len(raw) > len(`""`)
		if err == nil && !holds && f.value == valueName {
			v = wrong
		}
		return holds, v, err
	case next == jx.Number && (f.value == valueCount || f.value == valueFlag):
		raw, err := p.d.Raw()
		if err != nil {
			return false, v, err
		}
		n, ok := parseCount(raw)
		if !ok || f.value == valueFlag && n > 1 {
			return false, wrong, nil
		}
		return n != 0, v, nil
	case next == jx.Object && f.value == valueObject:
		filled, v, err := p.object(f.fields, depth)
		if err == nil && v.ok() && f.exclusive != "" && filled > 1 {
			v = p.broken(f, f.exclusive)
		}
		return filled > 0, v, err
	case next == jx.Array && (f.value == valueTexts || f.value == valueObjects):
		return p.array(f, wrong, depth)
	default:
		return false, wrong, nil
	}
}

func (p *payloadReading) array(f *payloadField, wrong violation, depth int) (holds bool, v violation, err error) {
	it, err := p.d.ArrIter()
	if err != nil {
		return false, v, err
	}
	for it.Next() {
		holds = true
		switch next := p.d.Next(); {
		case next == jx.String && f.value == valueTexts:
			err = p.d.Skip()
		case next == jx.Object && f.value == valueObjects:
			_, v, err = p.object(f.fields, depth+1)
		case next == jx.Invalid:
			err = p.d.Skip()
		default:
			v = wrong
		}
		if err != nil || !v.ok() {
			return holds, v, err
		}
	}
	return holds, v, it.Err()
}

// parseCount parses a non-negative integer.
func parseCount(raw []byte) (int64, bool) {
	n, err := strconv.ParseInt(alias(raw), 10, 64)
	return n, err == nil && n >= 0
}
