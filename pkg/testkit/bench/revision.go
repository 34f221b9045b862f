package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
)

// repository is a folder of a git repository; empty: the current one.
type repository string

// build builds a revision as its own Makefile does it, in a worktree that is gone when
// this returns, and returns its abbreviated hash.
func (r repository) build(ctx context.Context, revision, folder, binary string, log *os.File) (hash string, err error) {
	hash, err = r.git(ctx, "rev-parse", "--short=12", "--verify", "--quiet", revision+"^{commit}")
	if err != nil {
		return "", fmt.Errorf("-base %s: no such revision: %w", revision, err)
	}
	tree := filepath.Join(folder, "base")
	if _, err := r.git(ctx, "worktree", "add", "--quiet", "--detach", tree, hash); err != nil {
		return "", err
	}
	defer func() {
		// Also when told to stop.
		_, removeErr := r.git(context.WithoutCancel(ctx), "worktree", "remove", "--force", tree)
		err = errors.Join(err, removeErr)
	}()
	cmd := exec.CommandContext(ctx, "make", "-C", tree, "deps", "build")
	cmd.Env = withoutMake(os.Environ())
	cmd.Stdout, cmd.Stderr = log, log
	// What make has started ends with it.
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGTERM) }
	cmd.WaitDelay = stopTimeout
	if err := cmd.Run(); err != nil {
		return "", errors.Join(ctx.Err(), fmt.Errorf("build %s; see %s: %w", hash, log.Name(), err))
	}
	return hash, copyProgram(filepath.Join(tree, "bin", "sendhouse"), binary)
}

// withoutMake leaves out what a make passes to those that it starts: the settings of
// this tree's targets are not meant for the other.
func withoutMake(env []string) []string {
	return slices.DeleteFunc(slices.Clone(env), func(entry string) bool {
		name, _, _ := strings.Cut(entry, "=")
		return slices.Contains([]string{"MAKEFLAGS", "MFLAGS", "MAKEOVERRIDES", "MAKELEVEL"}, name)
	})
}

// git returns what it prints.
func (r repository) git(ctx context.Context, args ...string) (string, error) {
	cmd := exec.CommandContext(ctx, "git", args...)
	cmd.Dir = string(r)
	var out, errOut bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errOut
	if err := cmd.Run(); err != nil {
		return "", errors.Join(ctx.Err(), fmt.Errorf("git %s: %w %s", strings.Join(args, " "), err, strings.TrimSpace(errOut.String())))
	}
	return strings.TrimSpace(out.String()), nil
}
