package kvgear

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"runtime"
	"runtime/debug"
	"strconv"
	"strings"
	"testing"
)

// Memory of the process after many objects were made and closed: KVGEAR_LEAK_CYCLES of them, test.sh asks for a million.
func TestSteadyMemory(t *testing.T) {
	cycles := 20_000
	if text := os.Getenv("KVGEAR_LEAK_CYCLES"); text != "" {
		cycles = must[int](t)(strconv.Atoi(text))
	}
	rt, plan, _ := open(t, Options{}, "gear-2")
	x := F32(fill(row, 1))
	data := func() []byte {
		cache := must[*Cache](t)(rt.NewCache(plan))
		defer cache.Close()
		ok(t, cache.Append(0, x, x))
		return must[[]byte](t)(cache.SaveBytes(SaveOptions{}))
	}()
	run := func(n int) {
		for i := 0; i < n; i++ {
			cache := must[*Cache](t)(rt.NewCache(plan))
			if i%50 == 0 { // the whole way of a cache now and then, failures included
				ok(t, cache.Append(0, x, x))
				ok(t, must[*Cache](t)(cache.Fork()).Close())
				if err := cache.Truncate(0, 5); !errors.Is(err, ErrInvalid) {
					t.Fatal(err)
				}
			}
			if i%500 == 0 {
				ok(t, must[*Cache](t)(rt.LoadCacheFrom(plan, bytes.NewReader(data), LoadOptions{})).Close())
				if err := cache.SaveTo(writerFunc(func([]byte) (int, error) { panic("no") }), SaveOptions{}); !errors.Is(err, ErrIO) {
					t.Fatal(err)
				}
				store := must[*Prefix](t)(rt.NewPrefix(0))
				ok(t, store.Close())
				other := must[*Runtime](t)(NewRuntime(Options{Threads: 1}))
				ok(t, other.SetLog(func(LogLevel, string) {}))
				ok(t, other.Close())
			}
			ok(t, cache.Close())
		}
	}
	held := must[uint64](t)(rt.Memory())
	run(cycles / 2)
	before := resident(t)
	run(cycles)
	after := resident(t)
	t.Logf("%d caches: %d KiB resident before, %d behind", cycles, before>>10, after>>10)
	if after > before+8<<20 {
		t.Errorf("the process has grown from %d to %d bytes", before, after)
	}
	if left := must[uint64](t)(rt.Memory()); left != held {
		t.Errorf("%d bytes are left in the runtime, not %d", left, held)
	}
}

// resident is the memory of the process once Go has given back what it can.
func resident(t *testing.T) uint64 {
	runtime.GC() // runs finalizers
	debug.FreeOSMemory()
	text, err := os.ReadFile("/proc/self/status")
	if err != nil {
		t.Skip("no /proc/self/status here")
	}
	var kib uint64
	_, line, _ := strings.Cut(string(text), "VmRSS:")
	if _, err := fmt.Sscan(line, &kib); err != nil {
		t.Fatal(err)
	}
	return kib << 10
}
