package kvgear

import (
	"errors"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
)

// Readers see one of the states that the writer makes, never something between two.
func TestReadersAndOneWriter(t *testing.T) {
	const steps, each, readers = 40, 8, 6
	_, plan, cache := open(t, Options{Threads: 1}, "gear-4,block=64,segment=64,window=64")
	k, v := fill((steps+1)*each*row, 1), fill((steps+1)*each*row, 2)
	q := fill(qRow, 3)
	appendStep := func(c *Cache, step int) {
		part := func(x []float32) Tensor { return F32(x[step*each*row : (step+1)*each*row]) }
		ok(t, c.Append(0, part(k), part(v)))
	}
	attend := func(c *Cache, out []float32) error { return c.Attend(0, F32(q), F32(out), AttendOptions{}) }

	// What each state answers, found on one goroutine.
	alone := must[*Cache](t)(cache.rt.NewCache(plan))
	defer alone.Close()
	states := map[[4]float32]bool{}
	var out [qRow]float32
	for step := 0; step <= steps; step++ {
		appendStep(alone, step)
		ok(t, attend(alone, out[:]))
		states[[4]float32(out[:4])] = true
	}

	appendStep(cache, 0)
	var wg sync.WaitGroup
	var done atomic.Bool
	var seen atomic.Int64
	for r := 0; r < readers; r++ {
		wg.Add(1)
		go func() {
			defer wg.Done()
			out, rows := make([]float32, qRow), make([]uint16, row)
			for last := false; !last; {
				last = done.Load()
				if err := attend(cache, out); err != nil || !states[[4]float32(out[:4])] {
					t.Errorf("%v, or a state that the cache never had", err)
					return
				}
				n, err := cache.Length(0)
				if err != nil || n%each != 0 {
					t.Error(n, err)
				}
				if err := cache.Read(0, SideK, n-1, 1, F16(rows)); err != nil {
					t.Error(err)
				}
				if s, err := cache.Stats(0, SideBoth); err != nil || s.Tokens < n {
					t.Error(s, err)
				}
				seen.Add(1)
			}
		}()
	}
	for step := 1; step <= steps; step++ {
		appendStep(cache, step)
	}
	done.Store(true)
	wg.Wait()
	if seen.Load() < readers {
		t.Error("the readers did nothing")
	}
}

// Forks that share segments are used from different goroutines, and answer as a lone cache with the same tokens.
func TestForksOnDifferentGoroutines(t *testing.T) {
	const forks = 8
	_, plan, cache := open(t, Options{Threads: 1}, "gear-2")
	ok(t, cache.Append(0, F32(fill(200*row, 1)), F32(fill(200*row, 2))))
	q := fill(qRow, 3)
	var wg sync.WaitGroup
	for f := uint32(0); f < forks; f++ {
		fork := must[*Cache](t)(cache.Fork())
		wg.Add(1)
		go func(f uint32) {
			defer wg.Done()
			defer fork.Close()
			own := F32(fill(150*row, 10+f))
			if err := fork.Append(0, own, own); err != nil {
				t.Error(err)
				return
			}
			got, want := make([]float32, qRow), make([]float32, qRow)
			if err := fork.Attend(0, F32(q), F32(got), AttendOptions{}); err != nil {
				t.Error(err)
			}
			alone, err := cache.rt.NewCache(plan)
			if err != nil {
				t.Error(err)
				return
			}
			defer alone.Close()
			for _, part := range [][2]Tensor{{F32(fill(200*row, 1)), F32(fill(200*row, 2))}, {own, own}} {
				if err := alone.Append(0, part[0], part[1]); err != nil {
					t.Error(err)
				}
			}
			if err := alone.Attend(0, F32(q), F32(want), AttendOptions{}); err != nil {
				t.Error(err)
			}
			if fmt.Sprint(got) != fmt.Sprint(want) {
				t.Error("a fork answers differently from a cache with the same tokens")
			}
		}(f)
	}
	ok(t, cache.Clear()) // the forks keep what they share
	wg.Wait()
}

// Batches over the same caches in different orders, beside writers of each: nobody waits for ever, and each answer is that of
// some whole state.
func TestBatchesAndWriters(t *testing.T) {
	rt, plan, first := open(t, Options{Threads: 1}, "int8")
	other := must[*Cache](t)(rt.NewCache(plan))
	defer other.Close()
	x := F32(fill(64*row, 1))
	ok(t, errors.Join(first.Append(0, x, x), other.Append(0, x, x)))
	var wg sync.WaitGroup
	run := func(call func() error) {
		wg.Add(1)
		go func() {
			defer wg.Done()
			for i := 0; i < 2000; i++ {
				if err := call(); err != nil {
					t.Error(err)
					return
				}
			}
		}()
	}
	for _, order := range [][]*Cache{{first, other}, {other, first}, {other, first, other}} {
		order := order
		q, out := F32(fill(len(order)*qRow, 2)), F32(make([]float32, len(order)*qRow))
		run(func() error { return AttendBatch(order, 0, q, out, AttendOptions{}) })
	}
	for _, c := range []*Cache{first, other} {
		c := c
		run(func() error { return errors.Join(c.Append(0, x, x), c.Truncate(0, 64)) })
	}
	wg.Wait()
}

// Close during calls: each call either succeeds or says that the cache is closed; memory is given back at the end.
func TestCloseDuringUse(t *testing.T) {
	rt, plan, _ := open(t, Options{}, "int8")
	x, q := F32(fill(64*row, 1)), F32(fill(qRow, 2))
	before := must[uint64](t)(rt.Memory())
	for round := 0; round < 30; round++ {
		cache := must[*Cache](t)(rt.NewCache(plan))
		ok(t, cache.Append(0, x, x))
		var wg sync.WaitGroup
		start := make(chan struct{})
		use := func(call func() error) {
			wg.Add(1)
			go func() {
				defer wg.Done()
				<-start
				for { // until it is closed
					if err := call(); err != nil {
						if !errors.Is(err, ErrState) || !strings.Contains(err.Error(), "closed") {
							t.Error(err)
						}
						return
					}
				}
			}()
		}
		for i := 0; i < 3; i++ {
			out := make([]float32, qRow)
			use(func() error { return cache.Attend(0, q, F32(out), AttendOptions{}) })
		}
		// Never to 0, for a cache without tokens refuses the others' Attend.
		use(func() error { return errors.Join(cache.Append(0, x, x), cache.Truncate(0, 64)) })
		use(func() error {
			fork, err := cache.Fork()
			fork.Close()
			return err
		})
		for i := 0; i < 2; i++ {
			wg.Add(1)
			go func() {
				defer wg.Done()
				<-start
				cache.Close()
			}()
		}
		close(start)
		wg.Wait()
	}
	if n := must[uint64](t)(rt.Memory()); n != before {
		t.Errorf("%d bytes are left, not %d", n, before)
	}
}

// Closing runtime and plan during calls that need them.
func TestCloseOfTheOthersDuringUse(t *testing.T) {
	for round := 0; round < 50; round++ {
		rt := must[*Runtime](t)(NewRuntime(Options{}))
		plan := must[*Plan](t)(NewPlan(shape, "gear-2"))
		var wg sync.WaitGroup
		for i := 0; i < 4; i++ {
			wg.Add(1)
			go func() {
				defer wg.Done()
				for {
					cache, err := rt.NewCache(plan)
					if err == nil {
						err = errors.Join(cache.Close(), rt.SetLog(func(LogLevel, string) {}), second(rt.Describe()), second(plan.Recipe(1)))
					}
					if err != nil {
						if !errors.Is(err, ErrState) {
							t.Error(err)
						}
						return
					}
				}
			}()
		}
		ok(t, plan.Close())
		ok(t, rt.Close())
		wg.Wait()
	}
}

// The detail of a failure is that of the same call, also when many goroutines fail at once.
func TestDetailsDoNotMix(t *testing.T) {
	_, plan, _ := open(t, Options{}, "fp16")
	var wg sync.WaitGroup
	for g := uint32(0); g < 64; g++ {
		wg.Add(1)
		go func(g uint32) {
			defer wg.Done()
			for i := uint32(0); i < 200; i++ {
				layer := 1000 + g*1000 + i
				if _, err := plan.Recipe(layer); err == nil || !strings.Contains(err.Error(), fmt.Sprint(layer)) {
					t.Errorf("layer %d: %v", layer, err)
					return
				}
			}
		}(g)
	}
	wg.Wait()
}

func TestGuard(t *testing.T) {
	for round := 0; round < 2000; round++ {
		var g guard
		var inside, ends atomic.Int32
		g.end = func() {
			if inside.Load() != 0 {
				t.Error("ended during a call")
			}
			ends.Add(1)
		}
		var wg sync.WaitGroup
		for i := 0; i < 4; i++ {
			wg.Add(1)
			go func() {
				defer wg.Done()
				for g.enter() {
					inside.Add(1)
					inside.Add(-1)
					g.leave()
				}
			}()
		}
		wg.Add(1)
		go func() {
			defer wg.Done()
			g.close()
		}()
		g.close()
		wg.Wait()
		if ends.Load() != 1 {
			t.Fatalf("ended %d times", ends.Load())
		}
	}
}
