package testkit

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"testing"
)

// lackingFile is the variable that names a file for what tests lacked. `make test` sets it, and prints the file in its last lines.
const lackingFile = "TEST_LACKING_FILE"

// Lacking ends a test that needs something the machine does not have: the test is skipped, and noted for `make test` to name. With CI set
// nothing may be missing, and the test fails. what names the thing and where to get it.
func Lacking(t testing.TB, what string) {
	t.Helper()
	if os.Getenv("CI") != "" {
		t.Fatalf("this machine lacks %s", what)
	}
	if path := os.Getenv(lackingFile); path != "" {
		if err := appendLine(path, what+"\t"+t.Name()); err != nil {
			t.Fatalf("note that this machine lacks %s: %v", what, err)
		}
	}
	t.Skipf("this machine lacks %s", what)
}

// Program returns the path of a program that a package of Debian brings. Without it the test is Lacking.
func Program(t testing.TB, name, debianPackage string) string {
	t.Helper()
	path, err := exec.LookPath(name)
	if err != nil {
		Lacking(t, fmt.Sprintf("%s (Debian: apt-get install %s)", name, debianPackage))
	}
	return path
}

// RequireRoot is Lacking unless this is root, who alone may mount a disk.
func RequireRoot(t testing.TB) {
	t.Helper()
	if os.Geteuid() != 0 {
		Lacking(t, "root, to mount small disks")
	}
}

// appendLine writes a line in one write, since the binaries of several packages write to the file at once.
func appendLine(path, line string) error {
	file, err := os.OpenFile(path, os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	_, err = file.WriteString(line + "\n")
	return errors.Join(err, file.Close())
}
