package openapi

import (
	"bytes"
	_ "embed"
	"encoding/json"
	"fmt"
	"html/template"
	"slices"
	"strings"

	"go.yaml.in/yaml/v3"
)

//go:embed page.html
var pageSource string

// Page generates the page. It is self-contained and has no script.
func Page() ([]byte, error) {
	d, err := parse()
	if err != nil {
		return nil, err
	}
	t, err := template.New("page").Funcs(template.FuncMap{"prose": prose}).Parse(pageSource)
	if err != nil {
		return nil, fmt.Errorf("page.html: %w", err)
	}
	var page bytes.Buffer
	if err := t.Execute(&page, d.view()); err != nil {
		return nil, fmt.Errorf("page.html: %w", err)
	}
	return page.Bytes(), nil
}

// prose converts text with `code` spans to paragraphs.
func prose(text string) template.HTML {
	var out strings.Builder
	for paragraph := range strings.SplitSeq(strings.TrimSpace(text), "\n\n") {
		out.WriteString("<p>")
		for i, part := range strings.Split(paragraph, "`") {
			part = template.HTMLEscapeString(part)
			if i%2 == 1 {
				part = "<code>" + part + "</code>"
			}
			out.WriteString(part)
		}
		out.WriteString("</p>")
	}
	return template.HTML(out.String()) //nolint:gosec // all its text is escaped above
}

// The data of the template.
type (
	pageView struct {
		Title, Summary, Description string
		Groups                      []groupView
		Schemas                     []schemaView
	}
	groupView struct {
		Name, Description string
		Operations        []operationView
	}
	operationView struct {
		ID, Method, Path, Summary, Description string
		Parameters                             []fieldView
		Body                                   []contentView
		Responses                              []responseView
	}
	contentView struct {
		Type, Schema, Example string
	}
	responseView struct {
		Status, Description string
		Content             []contentView
	}
	schemaView struct {
		Name, Description string
		Fields            []fieldView
	}
	fieldView struct {
		Name, Kind, Description string
		Required                bool
	}
)

func (d *document) view() pageView {
	v := pageView{Title: d.Info.Title, Summary: d.Info.Summary, Description: d.Info.Description}
	for _, t := range d.Tags {
		group := groupView{Name: t.Name, Description: t.Description}
		for _, path := range sorted(d.Paths) {
			for _, method := range methods() {
				op := d.Paths[path][method]
				if op == nil || method == "head" || !slices.Contains(op.Tags, t.Name) {
					continue // HEAD is GET without a body
				}
				group.Operations = append(group.Operations, d.operation(path, method, op))
			}
		}
		v.Groups = append(v.Groups, group)
	}
	for _, n := range sorted(d.Components.Schemas) {
		if one := d.Components.Schemas[n]; len(one.Properties) > 0 {
			v.Schemas = append(v.Schemas, schemaView{Name: n, Description: one.Description, Fields: d.fields(one)})
		}
	}
	return v
}

func (d *document) operation(path, method string, op *operation) operationView {
	v := operationView{
		ID: method + strings.ReplaceAll(path, "/", "-"), Method: strings.ToUpper(method), Path: path, Summary: op.Summary, Description: op.Description,
	}
	for _, p := range op.Parameters {
		v.Parameters = append(v.Parameters, fieldView{Name: p.Name, Kind: d.kind(p.Schema), Description: p.Description, Required: p.Required})
	}
	if op.RequestBody != nil {
		v.Body = d.contents(op.RequestBody.Content)
	}
	for _, status := range sorted(op.Responses) {
		r := op.Responses[status]
		if r.Ref != "" {
			r = d.Components.Responses[name(r.Ref)]
		}
		one := responseView{Status: status, Description: r.Description}
		if status == "200" { // all others have the same shape
			one.Content = d.contents(r.Content)
		}
		v.Responses = append(v.Responses, one)
	}
	return v
}

func (d *document) contents(all map[string]*content) (views []contentView) {
	for _, mediaType := range sorted(all) {
		c := all[mediaType]
		views = append(views, contentView{Type: mediaType, Schema: d.kind(c.Schema), Example: example(&c.Example)})
	}
	return views
}

func (d *document) fields(s *schema) (all []fieldView) {
	for _, n := range sorted(s.Properties) {
		p := d.schema(s.Properties[n])
		all = append(all, fieldView{Name: n, Kind: d.kind(s.Properties[n]), Description: p.Description, Required: slices.Contains(s.Required, n)})
	}
	return all
}

// kind describes the values of a schema in a few words.
func (d *document) kind(s *schema) string {
	if s == nil {
		return ""
	}
	if s.Ref != "" && len(d.schema(s).Properties) > 0 {
		return name(s.Ref)
	}
	s = d.schema(s)
	var words []string
	switch {
	case len(s.OneOf) > 0:
		kinds := make([]string, len(s.OneOf))
		for i, one := range s.OneOf {
			kinds[i] = d.kind(one)
		}
		return strings.Join(kinds, " or ")
	case s.Items != nil:
		words = append(words, "array of "+d.kind(s.Items))
	case s.Type.Kind == yaml.SequenceNode && len(s.Type.Content) > 0:
		words = append(words, s.Type.Content[0].Value) // null is accepted everywhere
	default:
		words = append(words, s.Type.Value)
	}
	for _, limit := range []struct {
		text string
		node yaml.Node
	}{{"from", s.Minimum}, {"to", s.Maximum}, {"at most", s.MaxLength}, {"at most", s.MaxItems}, {"default", s.Default}} {
		if limit.node.Value != "" {
			words = append(words, limit.text, limit.node.Value)
		}
	}
	return strings.Join(words, " ")
}

// example formats an example as it would be sent.
func example(node *yaml.Node) string {
	var value any
	if node.IsZero() || node.Decode(&value) != nil {
		return ""
	}
	if text, ok := value.(string); ok {
		return strings.TrimSpace(text)
	}
	var out bytes.Buffer
	encoder := json.NewEncoder(&out)
	encoder.SetEscapeHTML(false)
	encoder.SetIndent("", "  ")
	if encoder.Encode(value) != nil {
		return ""
	}
	return strings.TrimSpace(out.String())
}
