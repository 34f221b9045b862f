package engine

import (
	"crypto/rand"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"strings"

	"github.com/sendhouse/sendhouse/pkg/lifecycle"
)

// loadPassword reads the password of the owner from the file, or makes one and writes it there, readable for this user alone. It is
// written to another name first, so that no start finds half of one. A file that others can read, a copied one say, is taken from them.
func loadPassword(path string, log *slog.Logger) (string, error) {
	info, err := os.Stat(path)
	if errors.Is(err, os.ErrNotExist) {
		return makePassword(path)
	}
	if err != nil {
		return "", fmt.Errorf("read the password of ClickHouse: %w", err)
	}
	if mode := info.Mode().Perm(); mode&0o077 != 0 {
		if err := os.Chmod(path, 0o600); err != nil {
			return "", fmt.Errorf("take the password of ClickHouse from others who can read it (mode %o): %w; make the file this user's, or remove it to have another made", mode, err)
		}
		log.Warn("password of ClickHouse could be read by others and no longer can; remove the file before a start to have another made", "file", path, "mode", fmt.Sprintf("%o", mode))
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
	if err := lifecycle.ReplaceFile(path, []byte(password+"\n"), 0o600); err != nil {
		return "", fmt.Errorf("keep the password of ClickHouse: %w", err)
	}
	return password, nil
}
