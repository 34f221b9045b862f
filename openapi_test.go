package main

import (
	"testing"

	"github.com/getkin/kin-openapi/openapi3"
	"github.com/stretchr/testify/require"

	"github.com/sendhouse/sendhouse/ingest/openapi"
	"github.com/sendhouse/sendhouse/writer/history"
)

// TestHostedRoutesAreDescribed holds the routes that ingest hosts for others against its document, both ways. Those of ingest itself have a test
// there.
func TestHostedRoutesAreDescribed(t *testing.T) {
	t.Parallel()
	served := make(map[string]bool)
	for _, route := range history.NotServed() { // the same that are served
		served[route.Method+" "+route.Path] = true
	}
	require.NotEmpty(t, served)
	doc, err := openapi3.NewLoader().LoadFromData(openapi.Document())
	require.NoError(t, err)
	for path, item := range doc.Paths.Map() {
		for method, op := range item.Operations() {
			route := method + " " + path
			if op.Extensions["x-hosted"] != nil && !served[route] {
				t.Errorf("ingest/openapi/openapi.yaml describes %s as hosted, which nobody hosts: take it out there, or add its package to this test", route)
			}
			delete(served, route)
		}
	}
	for route := range served {
		t.Errorf("%s is hosted, and ingest/openapi/openapi.yaml does not describe it: add it under paths, with x-hosted, its request and all its answers, and to docs/api.md", route)
	}
}
