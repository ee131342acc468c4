package kvgear

import (
	"fmt"
	"os"
	"strconv"
	"testing"
	"time"
)

// TestOverhead prints what a call costs, as bindings/bench/attend.c does for C: the least of many rounds, for
// KVGEAR_OVERHEAD seconds. bindings/go/bench.sh compares the two.
func TestOverhead(t *testing.T) {
	seconds, err := strconv.ParseFloat(os.Getenv("KVGEAR_OVERHEAD"), 64)
	if err != nil {
		t.Skip("KVGEAR_OVERHEAD is not set")
	}
	const tokens, qHeads, kvHeads, dim = 1024, 32, 8, 128
	random := func(n int, seed uint32) []float32 {
		x := make([]float32, n)
		for i := range x {
			seed = seed*1664525 + 1013904223
			x[i] = float32(int32(seed>>8))/(1<<23) - 1
		}
		return x
	}
	rt := must[*Runtime](t)(NewRuntime(Options{}))
	defer rt.Close()
	plan := must[*Plan](t)(NewPlan(Shape{Layers: 1, QHeads: qHeads, KVHeads: kvHeads, HeadDim: dim}, "gear-2"))
	defer plan.Close()
	cache := must[*Cache](t)(rt.NewCache(plan))
	defer cache.Close()
	ok(t, cache.Append(0, F32(random(tokens*kvHeads*dim, 1)), F32(random(tokens*kvHeads*dim, 2))))
	q, out := random(qHeads*dim, 3), make([]float32, qHeads*dim)

	least := func(best *float64, calls int, call func() error) {
		start := time.Now()
		for i := 0; i < calls; i++ {
			if err := call(); err != nil {
				t.Fatal(err)
			}
		}
		*best = min(*best, float64(time.Since(start).Nanoseconds())/float64(calls))
	}
	attend, length := 1e30, 1e30
	for end := time.Now().Add(time.Duration(seconds * 1e9)); time.Now().Before(end); {
		least(&attend, 10, func() error { return cache.Attend(0, F32(q), F32(out), AttendOptions{}) })
		least(&length, 1000, func() error { return second(cache.Length(0)) })
	}
	fmt.Printf("attend %.1f\nlength %.1f\n", attend, length)
}
