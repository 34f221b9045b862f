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

// PayloadRules checks payloads against the table. It is read-only.
type PayloadRules struct {
	mode           string                        // payloadRulesOff, payloadRulesWarn or payloadRulesEnforce
	violations     map[string]prometheus.Counter // by the rule's name, for every name that there is
	table          []payloadRule
	system, custom *payloadRule
}

// NewPayloadRules makes the rules, and registers the metric of their violations.
func NewPayloadRules(mode string, reg prometheus.Registerer) (*PayloadRules, error) {
	p := &PayloadRules{mode: mode, violations: make(map[string]prometheus.Counter), table: payloadRuleTable()}
	violations := prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "sendhouse_ingest_payload_violations_total", Help: "Sends whose payload breaks a rule, by the rule; taken or refused, as ingest-payload-rules says.",
	}, []string{"rule"})
	for _, rule := range payloadRuleNames(p.table) {
		p.violations[rule] = violations.WithLabelValues(rule)
	}
	n := len(p.table)
	p.system, p.custom = &p.table[n-2], &p.table[n-1]
	p.table = p.table[:n-2]
	return p, reg.Register(violations)
}

// of is the rule of a type. The commonest stand first.
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

// violation is the first thing in which a payload breaks a rule. The zero value says
// that it breaks none. Making one allocates nothing; only the telling does.
type violation struct {
	rule  string
	field string // path in the payload; "" is the payload itself
	what  string // to be read behind the field
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

// Apply holds a checked send against the rules, as the setting says.
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

// check finds the rule by the payload's type, and then reads the payload by it: for a
// payload that begins with its type, as most do, that is one reading.
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

// payloadType reads as far as the type.
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

// payloadReading is one payload being read.
type payloadReading struct {
	d     *jx.Decoder
	rule  string
	types int // how many there are at top level
}

func (p *payloadReading) broken(f *payloadField, what string) violation {
	return violation{rule: p.rule, field: f.path, what: what}
}

// object reads an object at a depth and holds its fields against the rule's. It counts
// those that hold something, not 0 and not empty. Of a key that stands there twice the
// last value counts, but each must be right. A syntax error is err, not a violation.
func (p *payloadReading) object(fields []payloadField, depth int) (filled int, v violation, err error) {
	it, err := p.d.ObjIter()
	if err != nil {
		return 0, v, err
	}
	var given, full uint32 // of fields, a bit each
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

// value reads the value of a field, and says whether it holds something.
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

// parseCount reads an integer from 0.
func parseCount(raw []byte) (int64, bool) {
	n, err := strconv.ParseInt(alias(raw), 10, 64)
	return n, err == nil && n >= 0
}
