package engine

import (
	"crypto/rand"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
)

// loadPassword reads the password of the owner from the file, or makes one and writes it there, readable for this user alone. It is made
// whole under another name first, so that no start finds half of one.
func loadPassword(path string) (string, error) {
	info, err := os.Stat(path)
	if errors.Is(err, os.ErrNotExist) {
		return makePassword(path)
	}
	if err != nil {
		return "", fmt.Errorf("read the password of ClickHouse: %w", err)
	}
	if info.Mode().Perm()&0o077 != 0 {
		return "", fmt.Errorf("read the password of ClickHouse: %s can be read by others (mode %o); run chmod 600 on it, or remove it to have another made", path, info.Mode().Perm())
	}
	text, err := os.ReadFile(path)
	if err != nil {
		return "", fmt.Errorf("read the password of ClickHouse: %w", err)
	}
	password := strings.TrimSpace(string(text))
	if password == "" {
		return "", fmt.Errorf("read the password of ClickHouse: %s is empty; remove it to have another made, or write one into it", path)
	}
	return password, nil
}

func makePassword(path string) (string, error) {
	password := rand.Text()
	file, err := os.CreateTemp(filepath.Dir(path), ".password-*") // Of mode 0600.
	if err != nil {
		return "", fmt.Errorf("keep the password of ClickHouse: %w", err)
	}
	_, err = file.WriteString(password + "\n")
	err = errors.Join(err, file.Sync(), file.Close())
	if err == nil {
		err = os.Rename(file.Name(), path)
	}
	if err != nil {
		return "", errors.Join(fmt.Errorf("keep the password of ClickHouse in %s: %w", path, err), os.Remove(file.Name()))
	}
	return password, nil
}
