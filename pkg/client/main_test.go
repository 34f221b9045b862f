package client_test

import (
	"os"
	"testing"

	"github.com/sendhouse/sendhouse/pkg/client/internal/clienttest"
)

// house is a real server, for the examples and the tests that need one.
var house = clienttest.New()

func TestMain(m *testing.M) {
	code := m.Run()
	house.Close()
	os.Exit(code)
}
