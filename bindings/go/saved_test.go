package kvgear

import (
	"bytes"
	"errors"
	"io"
	"os"
	"runtime"
	"strings"
	"sync"
	"testing"
	"testing/iotest"
	"time"
)

const savedTokens = 300

// saved returns a cache with tokens in layer 0, and what it was saved to.
func saved(t *testing.T) (*Runtime, *Plan, *Cache, []byte) {
	t.Helper()
	rt, plan, cache := open(t, Options{}, "gear-2")
	x := F32(fill(savedTokens*row, 1))
	ok(t, cache.Append(0, x, x))
	return rt, plan, cache, must[[]byte](t)(cache.SaveBytes(SaveOptions{}))
}

// content is what a cache answers with.
func content(t *testing.T, c *Cache) []byte {
	t.Helper()
	keys := F32(make([]float32, savedTokens*row))
	ok(t, c.Read(0, SideK, 0, savedTokens, keys))
	q, out := F32(fill(qRow, 7)), F32(make([]float32, qRow))
	ok(t, c.Attend(0, q, out, AttendOptions{}))
	return append(keys.bytes, out.bytes...)
}

func TestSaveAndLoad(t *testing.T) {
	rt, plan, cache, data := saved(t)
	want := content(t, cache)
	path := t.TempDir() + "/cache.kvg"
	ok(t, cache.Save(path, SaveOptions{NoSync: true}))
	file := must[[]byte](t)(os.ReadFile(path))
	var stream bytes.Buffer
	ok(t, cache.SaveTo(&stream, SaveOptions{}))
	if !bytes.Equal(file, data) || !bytes.Equal(stream.Bytes(), data) {
		t.Fatal("a file, a buffer and a stream differ")
	}
	stream.WriteString("what follows")
	for name, back := range map[string]*Cache{
		"file":     must[*Cache](t)(rt.LoadCache(plan, path, LoadOptions{})),
		"mapped":   must[*Cache](t)(rt.LoadCache(plan, path, LoadOptions{Map: true})),
		"trusted":  must[*Cache](t)(rt.LoadCache(plan, path, LoadOptions{Map: true, Trust: true})),
		"bytes":    must[*Cache](t)(rt.LoadCacheBytes(plan, append(data, 1, 2, 3), LoadOptions{})),
		"stream":   must[*Cache](t)(rt.LoadCacheFrom(plan, &stream, LoadOptions{})),
		"in parts": must[*Cache](t)(rt.LoadCacheFrom(plan, iotest.DataErrReader(iotest.OneByteReader(bytes.NewReader(data))), LoadOptions{})),
	} {
		if !bytes.Equal(content(t, back), want) {
			t.Errorf("%s: a loaded cache holds something else", name)
		}
		if mapped := must[Stats](t)(back.Stats(AllLayers, SideBoth)).BytesMapped; (mapped > 0) != (name == "mapped" || name == "trusted") {
			t.Errorf("%s: %d bytes are mapped", name, mapped)
		}
		for _, extend := range []func() error{
			func() error { return back.Extend(path, LoadOptions{}) },
			func() error { return back.ExtendBytes(data, LoadOptions{}) },
			func() error { return back.ExtendFrom(bytes.NewReader(data), LoadOptions{}) },
		} {
			if err := extend(); !errors.Is(err, ErrInvalid) || !strings.Contains(err.Error(), "begin at") {
				t.Error(name, err)
			}
			ok(t, back.Clear())
			ok(t, extend())
			if !bytes.Equal(content(t, back), want) {
				t.Errorf("%s: a range was not added", name)
			}
		}
		ok(t, back.Close())
	}
	if stream.String() != "what follows" {
		t.Errorf("a stream was read beyond the cache: %q is left", stream.String())
	}
	if _, err := rt.LoadCache(plan, path+"x", LoadOptions{}); !errors.Is(err, ErrIO) {
		t.Error(err)
	}
	if err := cache.Save("a\x00b", SaveOptions{}); !errors.Is(err, ErrInvalid) {
		t.Error(err)
	}
}

func TestSavedRangesAndFingerprints(t *testing.T) {
	rt, plan, cache, _ := saved(t)
	ok(t, cache.Append(1, F32(fill(5*row, 3)), F32(fill(5*row, 3))))
	mine, other := []byte("this model"), []byte("another model")
	only := must[[]byte](t)(cache.SaveBytes(SaveOptions{FirstLayer: 1, Layers: 1, Fingerprint: mine}))
	runtime.GC()
	back := must[*Cache](t)(rt.LoadCacheBytes(plan, only, LoadOptions{Fingerprint: mine}))
	defer back.Close()
	if must[uint64](t)(back.Length(0)) != 0 || must[uint64](t)(back.Length(1)) != 5 {
		t.Error("another range was saved than asked for")
	}
	for _, fingerprint := range [][]byte{nil, other, make([]byte, 257)} {
		if _, err := rt.LoadCacheBytes(plan, only, LoadOptions{Fingerprint: fingerprint}); !errors.Is(err, ErrInvalid) {
			t.Errorf("%q: %v", fingerprint, err)
		}
	}
	// In ranges of tokens, each behind the one before.
	whole := must[*Cache](t)(rt.NewCache(plan))
	defer whole.Close()
	stats := must[Stats](t)(cache.Stats(0, SideK))
	cut := stats.SealedElements / row
	for _, o := range []SaveOptions{{Layers: 1, Tokens: cut}, {Layers: 1, FirstToken: cut}} {
		r, w := io.Pipe() // no file and no buffer: one cache to another
		go func() { w.CloseWithError(cache.SaveTo(w, o)) }()
		ok(t, whole.ExtendFrom(r, LoadOptions{}))
	}
	if !bytes.Equal(content(t, whole), content(t, cache)) {
		t.Error("two ranges are not the whole")
	}
}

// What is damaged or cut off is refused, and leaves nothing.
func TestDamagedCaches(t *testing.T) {
	rt, plan, _, data := saved(t)
	before := must[uint64](t)(rt.Memory())
	for _, n := range []int{0, 1, 63, len(data) / 2, len(data) - 1} {
		if _, err := rt.LoadCacheFrom(plan, bytes.NewReader(data[:n]), LoadOptions{}); !errors.Is(err, ErrCorrupt) {
			t.Errorf("%d bytes: %v", n, err)
		}
		if _, err := rt.LoadCacheBytes(plan, data[:n], LoadOptions{}); !errors.Is(err, ErrCorrupt) {
			t.Errorf("%d bytes: %v", n, err)
		}
	}
	damaged := bytes.Clone(data)
	damaged[len(data)/2] ^= 1
	if _, err := rt.LoadCacheFrom(plan, bytes.NewReader(damaged), LoadOptions{}); !errors.Is(err, ErrCorrupt) {
		t.Error(err)
	}
	if after := must[uint64](t)(rt.Memory()); after != before {
		t.Errorf("%d bytes are left, not %d", after, before)
	}
}

type writerFunc func(p []byte) (int, error)

func (f writerFunc) Write(p []byte) (int, error) { return f(p) }

type readerFunc func(p []byte) (int, error)

func (f readerFunc) Read(p []byte) (int, error) { return f(p) }

var errOwn = errors.New("the line is dead")

// Errors and panics of a reader or writer become errors of the call. The cache is as before, and can be used.
func TestBadReadersAndWriters(t *testing.T) {
	rt, plan, cache := open(t, Options{}, "fp16")
	x := F32(fill(5*savedTokens*row, 1))
	ok(t, cache.Append(0, x, x))
	data := must[[]byte](t)(cache.SaveBytes(SaveOptions{})) // several chunks
	want, before := content(t, cache), must[uint64](t)(rt.Memory())
	for _, c := range []struct {
		name  string
		words string
		own   bool // errors.Is(err, errOwn)
		bad   func(p []byte) (int, error)
	}{
		{"error", "dead", true, func([]byte) (int, error) { return 0, errOwn }},
		{"panic", "a panic: no", false, func([]byte) (int, error) { panic("no") }},
		{"panic with an error", "dead", true, func([]byte) (int, error) { panic(errOwn) }},
		{"fault", "nil pointer", false, func(p []byte) (int, error) { return *(*int)(nil), nil }},
		{"lie", "", false, func(p []byte) (int, error) { return len(p) + 1, nil }},
		{"negative", "", false, func(p []byte) (int, error) { return -1, nil }},
		{"nothing", "", false, func(p []byte) (int, error) { return 0, nil }},
	} {
		for good := 0; good < 3; good++ { // calls of the reader or writer that go well before
			calls := 0
			write := writerFunc(func(p []byte) (int, error) {
				if calls++; calls > good {
					return c.bad(p)
				}
				return len(p), nil
			})
			rest := bytes.NewReader(data)
			read := readerFunc(func(p []byte) (int, error) {
				if calls++; calls > good {
					return c.bad(p)
				}
				return rest.Read(p[:min(len(p), 100)])
			})
			own := must[*Cache](t)(rt.NewCache(plan))
			for which, call := range []func() error{
				func() error { return cache.SaveTo(write, SaveOptions{}) },
				func() error { return second(rt.LoadCacheFrom(plan, read, LoadOptions{})) },
				func() error { return own.ExtendFrom(read, LoadOptions{}) },
			} {
				calls = 0
				rest.Reset(data)
				err := call()
				var e *Error
				if !errors.Is(err, ErrIO) || !errors.As(err, &e) || e.Cause == nil || !strings.Contains(err.Error(), c.words) ||
					errors.Is(err, errOwn) != c.own {
					t.Errorf("%s, call %d, %d good ones: %v", c.name, which, good, err)
				}
			}
			if n := must[uint64](t)(own.Length(0)); n != 0 {
				t.Error("a failed Extend leaves tokens")
			}
			ok(t, own.Close())
		}
	}
	if after := must[uint64](t)(rt.Memory()); after != before {
		t.Errorf("%d bytes are left, not %d", after, before)
	}
	ok(t, cache.Append(1, F32(fill(row, 1)), F32(fill(row, 1)))) // nobody holds its lock
	if !bytes.Equal(content(t, cache), want) {
		t.Error("the cache is not as before")
	}
}

// A reader or writer that ends its goroutine does not leave C half way either.
func TestGoexitOfAWriter(t *testing.T) {
	rt, plan, cache, _ := saved(t)
	before := must[uint64](t)(rt.Memory())
	in := func(call func()) {
		var wg sync.WaitGroup
		wg.Add(1)
		go func() {
			defer wg.Done()
			call()
			t.Error("the goroutine goes on")
		}()
		wg.Wait()
	}
	in(func() {
		_ = cache.SaveTo(writerFunc(func([]byte) (int, error) { runtime.Goexit(); return 0, nil }), SaveOptions{})
	})
	bad := readerFunc(func([]byte) (int, error) { runtime.Goexit(); return 0, nil })
	in(func() { _, _ = rt.LoadCacheFrom(plan, bad, LoadOptions{}) })
	in(func() { _ = cache.ExtendFrom(bad, LoadOptions{}) })
	ok(t, cache.Append(1, F32(fill(row, 1)), F32(fill(row, 1)))) // nobody holds its lock
	ok(t, cache.Truncate(1, 0))
	if after := must[uint64](t)(rt.Memory()); after > before+1<<16 {
		t.Errorf("%d bytes, %d before", after, before)
	}
}

// Many saves and loads at once, through pipes, beside readers.
func TestStreamsOnManyGoroutines(t *testing.T) {
	rt, plan, cache, data := saved(t)
	want := content(t, cache)
	var wg sync.WaitGroup
	for g := 0; g < 8; g++ {
		wg.Add(1)
		go func() {
			defer wg.Done()
			for i := 0; i < 20; i++ {
				r, w := io.Pipe()
				go func() { w.CloseWithError(cache.SaveTo(w, SaveOptions{})) }()
				back, err := rt.LoadCacheFrom(plan, r, LoadOptions{})
				if err != nil {
					t.Error(err)
					return
				}
				out := F32(make([]float32, savedTokens*row))
				if err := back.Read(0, SideK, 0, savedTokens, out); err != nil || !bytes.Equal(out.bytes, want[:len(out.bytes)]) {
					t.Error("another cache", err)
				}
				back.Close()
			}
		}()
	}
	wg.Wait()
	// Close during a save: the save ends as if it had not been.
	fork := must[*Cache](t)(cache.Fork())
	slow, wrote := make(chan struct{}), 0
	var err error
	finished := make(chan struct{})
	go func() {
		defer close(finished)
		err = fork.SaveTo(writerFunc(func(p []byte) (int, error) {
			if wrote == 0 {
				close(slow)
				time.Sleep(10 * time.Millisecond)
			}
			wrote += len(p)
			return len(p), nil
		}), SaveOptions{})
	}()
	<-slow
	ok(t, fork.Close())
	<-finished
	if err != nil || wrote != len(data) {
		t.Error(err, wrote)
	}
}
