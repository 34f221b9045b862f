package load

import "math"

// zipf draws ranks 0 to n-1, rank k with a probability proportional to (k+1)^-exponent, for any
// exponent above 0. It inverts the integral of the density and rejects what that gets wrong
// (W. Hörmann and G. Derflinger, "Rejection-inversion to generate variates from monotone discrete
// distributions", 1996): constant time and memory, whatever n is.
type zipf struct {
	n, exponent      float64
	lowest, highest  float64 // the integral at the ends
	acceptedDirectly float64
}

func newZipf(n uint32, exponent float64) *zipf {
	z := &zipf{n: float64(n), exponent: exponent}
	z.lowest = z.integral(1.5) - 1
	z.highest = z.integral(z.n + 0.5)
	z.acceptedDirectly = 2 - z.inverse(z.integral(2.5)-z.density(2))
	return z
}

func (z *zipf) density(x float64) float64 { return math.Exp(-z.exponent * math.Log(x)) }

// integral of the density from 1 to x.
func (z *zipf) integral(x float64) float64 {
	log := math.Log(x)
	return growth((1-z.exponent)*log) * log
}

func (z *zipf) inverse(y float64) float64 {
	t := max(y*(1-z.exponent), -1)
	return math.Exp(logRatio(t) * y)
}

// growth is (e^x - 1) / x, and logRatio log(1+x) / x, both also where x is next to 0.
func growth(x float64) float64 {
	if math.Abs(x) > 1e-8 {
		return math.Expm1(x) / x
	}
	return 1 + x/2
}

func logRatio(x float64) float64 {
	if math.Abs(x) > 1e-8 {
		return math.Log1p(x) / x
	}
	return 1 - x/2
}

// rank draws with a source of random words.
func (z *zipf) rank(words *splitMix) uint32 {
	for {
		u := z.highest + words.float()*(z.lowest-z.highest)
		x := z.inverse(u)
		k := min(max(math.Floor(x+0.5), 1), z.n)
		if k-x <= z.acceptedDirectly || u >= z.integral(k+0.5)-z.density(k) {
			return uint32(k) - 1
		}
	}
}

// splitMix is a small random generator whose seed can be a counter: each send has one of its own,
// so that its content is a function of its number (G. Steele, D. Lea and C. Flood, "Fast splittable
// pseudorandom number generators", 2014).
type splitMix uint64

func (s *splitMix) next() uint64 {
	*s += 0x9e3779b97f4a7c15
	z := uint64(*s)
	z = (z ^ z>>30) * 0xbf58476d1ce4e5b9
	z = (z ^ z>>27) * 0x94d049bb133111eb
	return z ^ z>>31
}

// float is a number from 0 to below 1.
func (s *splitMix) float() float64 { return float64(s.next()>>11) / (1 << 53) }
