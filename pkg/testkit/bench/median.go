package main

import "slices"

// median of a list that is not empty; between the two in the middle where its length is even.
func median(values []float64) float64 {
	sorted := slices.Sorted(slices.Values(values))
	half := len(sorted) / 2
	if len(sorted)%2 == 0 {
		return (sorted[half-1] + sorted[half]) / 2
	}
	return sorted[half]
}

// medianOf is the median of what value gives for each.
func medianOf[T any](all []T, value func(T) float64) float64 {
	values := make([]float64, len(all))
	for i := range all {
		values[i] = value(all[i])
	}
	return median(values)
}

func rateOf(f figures) float64    { return f.PerSecond }
func p50Of(f figures) float64     { return f.P50 }
func p99Of(f figures) float64     { return f.P99 }
func cpuOf(f figures) float64     { return f.CPU }
func highestOf(f figures) float64 { return f.Highest }
