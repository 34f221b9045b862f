package writer

import (
	"os"
	"testing"

	"github.com/sendhouse/sendhouse/pkg/testkit/enginetest"
)

var engine *enginetest.Engine

func TestMain(m *testing.M) {
	if text := os.Getenv(childVariable); text != "" {
		os.Exit(runChild(text))
	}
	os.Exit(enginetest.Main(m, func(e *enginetest.Engine) { engine = e }))
}
