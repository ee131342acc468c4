package kvgear

import (
	"math"
	"testing"
)

// Inputs that fp16 holds exactly: a multiple of 1/64 in [-2, 2), from the position alone.
func input(seed uint32, i int) float32 {
	x := (uint32(i)+1)*2654435761 ^ seed*40503
	x ^= x >> 15
	x *= 2246822519
	x ^= x >> 13
	return float32(int32(x%256)-128) / 64
}

func fill(n int, seed uint32) []float32 {
	x := make([]float32, n)
	for i := range x {
		x[i] = input(seed, i)
	}
	return x
}

// f16 of a value of input().
func f16(x float32) uint16 {
	if x == 0 {
		return 0
	}
	bits := math.Float32bits(x)
	return uint16(bits>>16&0x8000 | (bits>>23&0xFF-112)<<10 | bits>>13&0x3FF)
}

func halves(x []float32) []uint16 {
	h := make([]uint16, len(x))
	for i := range x {
		h[i] = f16(x[i])
	}
	return h
}

func f32(h uint16) float32 {
	sign, exponent, fraction := uint32(h&0x8000)<<16, uint32(h>>10&31), uint32(h&0x3FF)
	if exponent == 0 {
		return math.Float32frombits(sign | math.Float32bits(float32(fraction)/(1<<24)))
	}
	return math.Float32frombits(sign | (exponent+112)<<23 | fraction<<13)
}

var shape = Shape{Layers: 2, QHeads: 4, KVHeads: 2, HeadDim: 32}

const row = 2 * 32 // of K or V
const qRow = 4 * 32

func must[T any](t testing.TB) func(T, error) T {
	return func(x T, err error) T {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return x
	}
}

func ok(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// open makes a cache with what it needs; all are closed when the test ends.
func open(t testing.TB, options Options, recipes string) (*Runtime, *Plan, *Cache) {
	t.Helper()
	rt := must[*Runtime](t)(NewRuntime(options))
	plan := must[*Plan](t)(NewPlan(shape, recipes))
	cache := must[*Cache](t)(rt.NewCache(plan))
	t.Cleanup(func() {
		ok(t, cache.Close())
		ok(t, plan.Close())
		ok(t, rt.Close())
	})
	return rt, plan, cache
}

// attention in double precision: causal, the newest queries.
func attention(k, v, q []float32, s Shape, queries int) []float64 {
	d, kvHeads, heads := int(s.HeadDim), int(s.KVHeads), int(s.QHeads)
	tokens := len(k) / (kvHeads * d)
	out := make([]float64, len(q))
	for i := 0; i < queries; i++ {
		for h := 0; h < heads; h++ {
			g, qAt := h/(heads/kvHeads), (i*heads+h)*d
			sees := tokens - queries + i + 1
			weights, sum := make([]float64, sees), 0.0
			for t := range weights {
				dot := 0.0
				for j := 0; j < d; j++ {
					dot += float64(q[qAt+j]) * float64(k[(t*kvHeads+g)*d+j])
				}
				weights[t] = math.Exp(dot / math.Sqrt(float64(d)))
				sum += weights[t]
			}
			for t, w := range weights {
				for j := 0; j < d; j++ {
					out[qAt+j] += w / sum * float64(v[(t*kvHeads+g)*d+j])
				}
			}
		}
	}
	return out
}
