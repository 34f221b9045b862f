// Package openapi holds the OpenAPI 3.1 description of the HTTP API, and the HTML page generated from it.
//
// openapi.yaml is written by hand. Tests of package ingest check it against the handlers in both directions: every served
// route is described and every described route is served; accepted requests, and all responses, match the description.
package openapi

import (
	_ "embed"
	"fmt"
	"maps"
	"slices"
	"strings"

	"go.yaml.in/yaml/v3"
)

//go:embed openapi.yaml
var source []byte

// Document returns the description as it is served.
func Document() []byte { return source }

// methods returns the methods of a path in the order in which the page shows them.
func methods() []string { return []string{"get", "head", "post", "put", "patch", "delete"} }

// document is the part of the description that the page shows.
type document struct {
	Info struct {
		Title       string `yaml:"title"`
		Summary     string `yaml:"summary"`
		Description string `yaml:"description"`
	} `yaml:"info"`
	Tags       []tag                            `yaml:"tags"`
	Paths      map[string]map[string]*operation `yaml:"paths"`
	Components struct {
		Schemas   map[string]*schema   `yaml:"schemas"`
		Responses map[string]*response `yaml:"responses"`
	} `yaml:"components"`
}

type tag struct {
	Name        string `yaml:"name"`
	Description string `yaml:"description"`
}

type operation struct {
	Tags        []string             `yaml:"tags"`
	Summary     string               `yaml:"summary"`
	Description string               `yaml:"description"`
	Parameters  []parameter          `yaml:"parameters"`
	RequestBody *response            `yaml:"requestBody"`
	Responses   map[string]*response `yaml:"responses"`
}

type parameter struct {
	Name        string  `yaml:"name"`
	In          string  `yaml:"in"`
	Required    bool    `yaml:"required"`
	Description string  `yaml:"description"`
	Schema      *schema `yaml:"schema"`
}

// response also describes a request's body.
type response struct {
	Ref         string              `yaml:"$ref"`
	Description string              `yaml:"description"`
	Content     map[string]*content `yaml:"content"`
}

type content struct {
	Schema  *schema   `yaml:"schema"`
	Example yaml.Node `yaml:"example"`
}

type schema struct {
	Ref         string             `yaml:"$ref"`
	Type        yaml.Node          `yaml:"type"`
	Description string             `yaml:"description"`
	Default     yaml.Node          `yaml:"default"`
	Minimum     yaml.Node          `yaml:"minimum"`
	Maximum     yaml.Node          `yaml:"maximum"`
	MaxLength   yaml.Node          `yaml:"maxLength"`
	MaxItems    yaml.Node          `yaml:"maxItems"`
	Required    []string           `yaml:"required"`
	Properties  map[string]*schema `yaml:"properties"`
	Items       *schema            `yaml:"items"`
	OneOf       []*schema          `yaml:"oneOf"`
}

func parse() (*document, error) {
	var d document
	if err := yaml.Unmarshal(source, &d); err != nil {
		return nil, fmt.Errorf("openapi.yaml: %w", err)
	}
	return &d, nil
}

// name returns the last part of a reference.
func name(ref string) string { return ref[strings.LastIndexByte(ref, '/')+1:] }

// schema resolves a reference to a schema, and keeps the description next to the reference.
func (d *document) schema(s *schema) *schema {
	target := d.Components.Schemas[name(s.Ref)]
	if s.Ref == "" || target == nil {
		return s
	}
	resolved := *target
	if s.Description != "" {
		resolved.Description = s.Description
	}
	return &resolved
}

func sorted[V any](m map[string]V) []string { return slices.Sorted(maps.Keys(m)) }
