package testkit

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
)

// MemoryBytes is how much memory a process and all that descend from it occupy: their PSS, by which what they share counts once. It wants
// /proc, as Linux has it.
func MemoryBytes(pid int) (bytes int, err error) {
	pids, err := ProcessTree(pid)
	if err != nil {
		return 0, err
	}
	for _, one := range pids {
		pss, err := ProcBytes(one, "smaps_rollup", "Pss")
		if one != pid && (errors.Is(err, fs.ErrNotExist) || errors.Is(err, syscall.ESRCH)) {
			continue // a child that has ended
		}
		if err != nil {
			return 0, err
		}
		bytes += pss
	}
	return bytes, nil
}

// ProcBytes reads a line such as "Pss: 12 kB" of a file of a process below /proc.
func ProcBytes(pid int, name, key string) (int, error) {
	file := fmt.Sprintf("/proc/%d/%s", pid, name)
	text, err := os.ReadFile(file)
	if err != nil {
		return 0, err
	}
	_, rest, found := strings.Cut(string(text), "\n"+key+":")
	if !found {
		return 0, fmt.Errorf("read %s: no line %s", file, key)
	}
	var kib int
	if _, err := fmt.Sscanf(rest, "%d kB", &kib); err != nil {
		return 0, fmt.Errorf("read %s: %s: %w", file, key, err)
	}
	return kib << 10, nil
}

// ProcessTree is a process and all that descend from it, as /proc shows them; without a /proc, the process alone.
func ProcessTree(pid int) ([]int, error) {
	files, err := filepath.Glob("/proc/[0-9]*/status")
	if err != nil {
		return nil, err
	}
	children := make(map[int][]int)
	for _, file := range files {
		text, err := os.ReadFile(file)
		if errors.Is(err, fs.ErrNotExist) || errors.Is(err, syscall.ESRCH) {
			continue // it has ended
		}
		if err != nil {
			return nil, err
		}
		child, err := strconv.Atoi(filepath.Base(filepath.Dir(file)))
		if err != nil {
			return nil, fmt.Errorf("read %s: %w", file, err)
		}
		_, rest, _ := strings.Cut(string(text), "\nPPid:")
		line, _, _ := strings.Cut(rest, "\n")
		parent, err := strconv.Atoi(strings.TrimSpace(line))
		if err != nil {
			return nil, fmt.Errorf("read %s: %w", file, err)
		}
		children[parent] = append(children[parent], child)
	}
	all := []int{pid}
	for i := 0; i < len(all); i++ {
		all = append(all, children[all[i]]...)
	}
	return all, nil
}
