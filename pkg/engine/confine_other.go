//go:build !linux

package engine

import (
	"errors"
	"os/exec"
)

// start starts the program. Only Linux can confine it.
func start(cmd *exec.Cmd, _, _ string, _ <-chan struct{}) (warning, err error) {
	return errors.New("files and connections are not confined: only Linux can"), cmd.Start()
}
