package main

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"

	"github.com/sendhouse/sendhouse/pkg/testkit"
)

// clockTicks is USER_HZ on every Linux that Go runs on.
const clockTicks = 100

// parseStat reads the name and the processor seconds, user and system, of a process
// or a thread from its stat file: pid (name) state …, and the name may hold anything.
func parseStat(text string) (name string, seconds float64, err error) {
	open, closing := strings.IndexByte(text, '('), strings.LastIndexByte(text, ')')
	if open < 0 || closing < open {
		return "", 0, fmt.Errorf("not a stat file: %.60q", text)
	}
	fields := strings.Fields(text[closing+1:])
	if len(fields) < 13 {
		return "", 0, fmt.Errorf("a stat file with %d fields after the name: %.60q", len(fields), text)
	}
	user, err1 := strconv.ParseFloat(fields[11], 64)
	system, err2 := strconv.ParseFloat(fields[12], 64)
	return text[open+1 : closing], (user + system) / clockTicks, errors.Join(err1, err2)
}

// cpuSeconds is the processor time that a process has used.
func cpuSeconds(pid int) (float64, error) {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return 0, err
	}
	_, seconds, err := parseStat(string(text))
	return seconds, err
}

// thread is one thread's name and the processor time that it has used.
type thread struct {
	name    string
	seconds float64
}

// threads are those that a process has now, by their numbers.
func threads(pid int) (map[string]thread, error) {
	files, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/stat", pid))
	if err != nil {
		return nil, err
	}
	out := make(map[string]thread, len(files))
	for _, file := range files {
		text, err := os.ReadFile(file)
		if errors.Is(err, fs.ErrNotExist) {
			continue // the thread has ended
		}
		if err != nil {
			return nil, err
		}
		name, seconds, err := parseStat(string(text))
		if err != nil {
			return nil, err
		}
		out[filepath.Base(filepath.Dir(file))] = thread{name, seconds}
	}
	return out, nil
}

// familyThreads are the threads of a process and of those that it has started. A child's with the name of the program, which are Go's,
// are called engine.
func familyThreads(pid int) (map[string]thread, error) {
	program, err := commandName(pid)
	if err != nil {
		return nil, err
	}
	pids, err := testkit.ProcessTree(pid)
	if err != nil {
		return nil, err
	}
	all := make(map[string]thread)
	for _, one := range pids {
		of, err := threads(one)
		if err != nil {
			return nil, err
		}
		for id, t := range of {
			if one != pid && t.name == program {
				t.name = "engine"
			}
			all[id] = t
		}
	}
	return all, nil
}

// parseMemory reads resident memory in MiB, now and at most so far, from a process's
// status file.
func parseMemory(text string) (now, most int) {
	for line := range strings.Lines(text) {
		var kib int
		if n, _ := fmt.Sscanf(line, "VmRSS: %d kB", &kib); n == 1 {
			now = kib >> 10
		}
		if n, _ := fmt.Sscanf(line, "VmHWM: %d kB", &kib); n == 1 {
			most = kib >> 10
		}
	}
	return now, most
}

func memoryMiB(pid int) (now, most int, err error) {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		return 0, 0, err
	}
	now, most = parseMemory(string(text))
	return now, most, nil
}

// programMiB is the resident memory of a process that is its program's file, and so the same pages in each process of the program.
func programMiB(pid int) (int, error) {
	program, err := os.Readlink(fmt.Sprintf("/proc/%d/exe", pid))
	if err != nil {
		return 0, err
	}
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/smaps", pid))
	if err != nil {
		return 0, err
	}
	return parseProgram(string(text), program), nil
}

// parseProgram reads it from a smaps file. What the process has changed of the file is anonymous memory.
func parseProgram(smaps, program string) int {
	kib, counts := 0, false
	for line := range strings.Lines(smaps) {
		fields := strings.Fields(line)
		if len(fields) < 2 {
			continue
		}
		if !strings.HasSuffix(fields[0], ":") {
			counts = fields[len(fields)-1] == program
			continue
		}
		n, err := strconv.Atoi(fields[1])
		switch {
		case !counts || err != nil: // VmFlags have no number
		case fields[0] == "Rss:":
			kib += n
		case fields[0] == "Anonymous:":
			kib -= n
		}
	}
	return kib >> 10
}

// contextSwitches counts those of all threads that a process has now, for want of something to do or because they had
// done enough.
func contextSwitches(pid int) (int, error) {
	files, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/status", pid))
	if err != nil {
		return 0, err
	}
	total := 0
	for _, file := range files {
		text, err := os.ReadFile(file)
		if errors.Is(err, fs.ErrNotExist) || errors.Is(err, syscall.ESRCH) {
			continue // the thread has ended
		}
		if err != nil {
			return 0, err
		}
		total += parseSwitches(string(text))
	}
	return total, nil
}

// parseSwitches reads a thread's status file.
func parseSwitches(text string) int {
	total := 0
	for line := range strings.Lines(text) {
		for _, key := range []string{"voluntary_ctxt_switches:", "nonvoluntary_ctxt_switches:"} {
			var n int
			if read, _ := fmt.Sscanf(line, key+" %d", &n); read == 1 {
				total += n
			}
		}
	}
	return total
}
