package queue_test

import (
	"os"
	"testing"

	"github.com/sendhouse/sendhouse/pkg/client/internal/clienttest"
)

// house is a real server, for the example.
var house = clienttest.New()

func TestMain(m *testing.M) {
	code := m.Run()
	house.Close()
	os.Exit(code)
}
