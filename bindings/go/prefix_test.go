package kvgear

import (
	"errors"
	"strings"
	"sync"
	"testing"
	"time"
)

func ids(n int) []uint32 {
	x := make([]uint32, n)
	for i := range x {
		x[i] = uint32(i*7 + 1)
	}
	return x
}

func TestPrefixes(t *testing.T) {
	rt, plan, cache := open(t, Options{}, "int8")
	store := must[*Prefix](t)(rt.NewPrefix(0))
	defer store.Close()
	const tokens = 300
	for layer := uint32(0); layer < shape.Layers; layer++ {
		ok(t, cache.Append(layer, F32(fill(tokens*row, 1)), F32(fill(tokens*row, 2))))
	}
	seen := ids(tokens)
	ok(t, store.Insert(seen, cache))
	found, matched, err := store.Find(plan, append(ids(tokens), 5, 6))
	ok(t, err)
	if matched != tokens || must[uint64](t)(found.Length(0)) != tokens {
		t.Error(matched)
	}
	q := F32(fill(qRow, 3))
	want, got := make([]float32, qRow), make([]float32, qRow)
	ok(t, cache.Attend(1, q, F32(want), AttendOptions{}))
	ok(t, found.Attend(1, q, F32(got), AttendOptions{}))
	if strings.Compare(string(F32(want).bytes), string(F32(got).bytes)) != 0 {
		t.Error("a found cache answers otherwise")
	}
	ok(t, found.Close())

	// A shorter beginning is cut where it can be.
	part := ids(tokens)
	part[200] = 0
	found, matched, err = store.Find(plan, part)
	ok(t, err)
	if matched == 0 || matched > 200 || must[uint64](t)(found.Length(1)) != matched {
		t.Error(matched)
	}
	ok(t, found.Append(0, F32(fill(row, 1)), F32(fill(row, 1)))) // it is a cache like any other
	ok(t, found.Close())
	for _, unknown := range [][]uint32{{99}, {}, nil} {
		if found, matched, err = store.Find(plan, unknown); found != nil || matched != 0 || err != nil {
			t.Error(found, matched, err)
		}
	}
	other := must[*Plan](t)(NewPlan(shape, "gear-2"))
	defer other.Close()
	if found, matched, err = store.Find(other, seen); found != nil || matched != 0 || err != nil {
		t.Error("a cache of another plan is found")
	}
	stats := must[PrefixStats](t)(store.Stats())
	if stats.Entries != 1 || stats.Hits != 2 || stats.Misses != 4 || stats.Bytes == 0 {
		t.Errorf("%+v", stats)
	}
	if err := store.Insert(seen[1:], cache); !errors.Is(err, ErrInvalid) {
		t.Error(err)
	}
	ok(t, store.Clear())
	if stats := must[PrefixStats](t)(store.Stats()); stats.Entries != 0 || stats.Bytes != 0 {
		t.Errorf("%+v", stats)
	}

	small := must[*Prefix](t)(rt.NewPrefix(10))
	defer small.Close()
	if err := small.Insert(seen, cache); !errors.Is(err, ErrLimit) {
		t.Error(err)
	}
	ok(t, store.Close())
	ok(t, store.Close())
	for i, err := range []error{store.Insert(seen, cache), func() error { _, _, err := store.Find(plan, seen); return err }(), store.Clear(),
		second(store.Stats())} {
		if !errors.Is(err, ErrState) || !strings.Contains(err.Error(), "closed") {
			t.Errorf("call %d: %v", i, err)
		}
	}
	var none *Prefix
	ok(t, none.Close())
}

// Many goroutines share a store, which is closed in between; nothing is left of it.
func TestPrefixesOnManyGoroutines(t *testing.T) {
	rt, plan, cache := open(t, Options{}, "int8,window=64")
	const tokens = 256
	for layer := uint32(0); layer < shape.Layers; layer++ {
		ok(t, cache.Append(layer, F32(fill(tokens*row, 1)), F32(fill(tokens*row, 2))))
	}
	before := must[uint64](t)(rt.Memory())
	store := must[*Prefix](t)(rt.NewPrefix(1 << 20))
	var wg sync.WaitGroup
	for g := 0; g < 8; g++ {
		wg.Add(1)
		go func(g int) {
			defer wg.Done()
			own := ids(tokens)
			own[tokens-1] = uint32(g)
			for {
				err := store.Insert(own, cache)
				if err == nil {
					var found *Cache
					var matched uint64
					if found, matched, err = store.Find(plan, own); err == nil && (found == nil || matched < 64) {
						t.Errorf("%d tokens are found", matched)
					}
					found.Close()
				}
				if err != nil {
					if !errors.Is(err, ErrState) {
						t.Error(err)
					}
					return
				}
			}
		}(g)
	}
	time.Sleep(50 * time.Millisecond)
	ok(t, store.Close())
	wg.Wait()
	if after := must[uint64](t)(rt.Memory()); after != before {
		t.Errorf("%d bytes are left, not %d", after, before)
	}
}
