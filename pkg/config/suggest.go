package config

import (
	"fmt"
	"slices"
	"strings"
)

// suggest asks whether the known key that is nearest to the one given was meant.
func suggest[V any](key string, known map[string]V) string {
	if best := nearest(key, known); best != "" {
		return fmt.Sprintf("did you mean %q?", best)
	}
	return ""
}

// nearest returns the known key that is nearest to the one given, or nothing when none is near enough to
// be what was meant.
func nearest[V any](key string, known map[string]V) string {
	normal := strings.ToLower(strings.ReplaceAll(key, "_", "-"))
	best, bestDistance := "", max(2, len(key)/3)+1
	for name := range known {
		d := distance(normal, name)
		// The names come in no order: a tie goes to the one that sorts first.
		if d < bestDistance || d == bestDistance && best != "" && name < best {
			best, bestDistance = name, d
		}
	}
	return best
}

// distance is the Levenshtein distance in bytes: how many insertions, deletions and replacements
// lead from a to b. Flag names are ASCII.
func distance(a, b string) int {
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		previous := slices.Clone(row)
		row[0] = i + 1
		for j := range len(b) {
			replace := previous[j]
			if a[i] != b[j] {
				replace++
			}
			row[j+1] = min(replace, previous[j+1]+1, row[j]+1)
		}
	}
	return row[len(b)]
}
