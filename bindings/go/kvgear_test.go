package kvgear

import (
	"errors"
	"io"
	"math"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"
	"unsafe"

	"kvgear.org/kvgear/internal/raw"
)

func TestTour(t *testing.T) {
	rt, plan, cache := open(t, Options{Threads: 1, MemoryBudget: 1 << 24}, "fp16;1:gear-2")
	if line := must[string](t)(rt.Describe()); !strings.HasPrefix(line, "cpu ") || !strings.Contains(line, "1 worker thread") {
		t.Error(line)
	}
	if got := must[Shape](t)(plan.Shape()); got != shape {
		t.Error(got)
	}
	if got := must[string](t)(plan.Recipe(1)); got != "gear-2" {
		t.Error(got)
	}

	const tokens = 300
	k, v := fill(tokens*row, 1), fill(tokens*row, 2)
	for layer := uint32(0); layer < shape.Layers; layer++ {
		ok(t, cache.Append(layer, F16(halves(k[:100*row])), F16(halves(v[:100*row]))))
		ok(t, cache.Append(layer, F32(k[100*row:]), F32(v[100*row:])))
		if n := must[uint64](t)(cache.Length(layer)); n != tokens {
			t.Error(n)
		}
	}

	q, out := fill(3*qRow, 3), make([]float32, 3*qRow)
	ok(t, cache.Attend(0, F32(q), F32(out), AttendOptions{}))
	for i, want := range attention(k, v, q, shape, 3) {
		if math.Abs(float64(out[i])-want) > 2e-5 {
			t.Fatalf("out[%d] is %g, not %g", i, out[i], want)
		}
	}
	compressed := make([]float32, 3*qRow)
	ok(t, cache.Attend(1, F32(q), F32(compressed), AttendOptions{}))
	if slices.Equal(compressed, out) || slices.Equal(compressed, make([]float32, 3*qRow)) {
		t.Error("attention on a compressed layer should be near the exact one, but not the same")
	}
	half := make([]uint16, 3*qRow)
	ok(t, cache.Attend(0, F32(q), F16(half), AttendOptions{Queries: 3}))
	for i := range half {
		if math.Abs(float64(f32(half[i])-out[i])) > 2e-3 {
			t.Fatalf("half[%d] is %g, not %g", i, f32(half[i]), out[i])
		}
	}

	back := make([]float32, 2*row)
	ok(t, cache.Read(0, SideV, 150, 2, F32(back)))
	if !slices.Equal(back, v[150*row:152*row]) {
		t.Error("an fp16 layer gives back other values than it was given")
	}

	stats := must[Stats](t)(cache.Stats(1, SideBoth))
	if stats.Tokens != tokens || stats.Elements != 2*tokens*row || stats.SealedElements == 0 || stats.BytesTotal == 0 ||
		stats.BitsPerElement != 8*float64(stats.BytesTotal)/float64(stats.Elements) || stats.RelErrorKMean <= 0 {
		t.Errorf("%+v", stats)
	}
	if bytes := must[uint64](t)(rt.Memory()); bytes < stats.BytesTotal {
		t.Error(bytes)
	}

	fork := must[*Cache](t)(cache.Fork())
	defer fork.Close()
	ok(t, fork.Truncate(0, 299))
	if must[uint64](t)(fork.Length(0)) != 299 || must[uint64](t)(cache.Length(0)) != tokens {
		t.Error("truncating a fork changes the other or not itself")
	}
	ok(t, cache.Clear())
	if must[Stats](t)(cache.Stats(AllLayers, SideBoth)).Tokens != 0 || must[uint64](t)(fork.Length(1)) != tokens {
		t.Error("clearing a cache changes its fork or not itself")
	}
}

func TestStrides(t *testing.T) {
	_, _, cache := open(t, Options{}, "fp16")
	k, v := fill(3*row, 1), fill(3*row, 2)
	// K as [heads, tokens, dim], V with its tokens in reverse order.
	kOther, vOther := make([]float32, 3*row), make([]float32, 3*row)
	for token := 0; token < 3; token++ {
		for head := 0; head < 2; head++ {
			copy(kOther[(head*3+token)*32:], k[token*row+head*32:][:32])
		}
		copy(vOther[(2-token)*row:], v[token*row:][:row])
	}
	ok(t, cache.AppendStrided(0, F32(kOther), F32(vOther[2*row:]), AppendOptions{Tokens: 1, K: Strides{32, 3 * 32, 1}}))
	ok(t, cache.Truncate(0, 0))
	ok(t, cache.AppendStrided(0, F32(kOther), F32(v), AppendOptions{Tokens: 3, K: Strides{32, 3 * 32, 1}, V: Strides{row, 32, 1}}))
	back := make([]float32, 3*row)
	ok(t, cache.Read(0, SideK, 0, 3, F32(back)))
	if !slices.Equal(back, k) {
		t.Error("K")
	}
	ok(t, cache.Read(0, SideV, 0, 3, F32(back)))
	if !slices.Equal(back, v) {
		t.Error("V")
	}
}

// Memory that is not Go's is used where it lies, and a stream needs a device.
func TestForeignMemoryAndStreams(t *testing.T) {
	_, _, cache := open(t, Options{}, "fp16")
	k := fill(row, 1)
	there := Memory(DTypeF32, unsafe.Pointer(&k[0]), row)
	if there.Len() != row || Memory(DTypeBF16, unsafe.Pointer(&k[0]), 3).Len() != 3 {
		t.Error(there.Len())
	}
	ok(t, cache.Append(0, there, there))
	back := make([]float32, row)
	ok(t, cache.Read(0, SideK, 0, 1, Memory(DTypeF32, unsafe.Pointer(&back[0]), row)))
	if !slices.Equal(back, k) {
		t.Error("K")
	}
	q, out := F32(fill(qRow, 1)), F32(make([]float32, qRow))
	for i, err := range []error{
		cache.AppendStrided(0, there, there, AppendOptions{Tokens: 1, Stream: 8}), cache.Attend(0, q, out, AttendOptions{Stream: 8}),
		AttendBatch([]*Cache{cache}, 0, q, out, AttendOptions{Stream: 8}), cache.AttendObserve(0, q, out, AttendOptions{Stream: 8}),
	} {
		if !errors.Is(err, ErrInvalid) || !strings.Contains(err.Error(), "stream is set") {
			t.Errorf("call %d: %v", i, err)
		}
	}
	if err := cache.Attend(0, q, out, AttendOptions{LatentOut: true}); !errors.Is(err, ErrInvalid) || !strings.Contains(err.Error(), "latent_out is set") {
		t.Error(err)
	}
}

func TestErrors(t *testing.T) {
	rt, plan, cache := open(t, Options{MemoryBudget: 1 << 20}, "fp16")
	q := make([]float32, qRow)
	nan := fill(row, 1)
	nan[5] = float32(math.NaN())
	big := make([]uint16, 8192*row)
	cases := []struct {
		name   string
		status Status
		words  string
		err    error
	}{
		{"empty cache", ErrInvalid, "0 tokens", cache.Attend(0, F32(q), F32(make([]float32, qRow)), AttendOptions{})},
		{"layer", ErrInvalid, "layer", cache.Clear()},
		{"short q", ErrInvalid, "multiple of q_heads", cache.Attend(0, F32(q[1:]), F32(q), AttendOptions{})},
		{"no q", ErrInvalid, "multiple of q_heads", cache.Attend(0, F32(nil), F32(q), AttendOptions{})},
		{"unequal k and v", ErrInvalid, "same number", cache.Append(0, F32(q), F32(q[:row]))},
		{"half a token", ErrInvalid, "multiple of kv_heads", cache.Append(0, F32(q[:40]), F32(q[:40]))},
		{"mixed types", ErrInvalid, "element type", cache.Append(0, F32(q[:row]), F16(make([]uint16, row)))},
		{"not a number", ErrNonfinite, "", cache.Append(0, F32(nan), F32(nan))},
		{"budget", ErrLimit, "budget", cache.Append(0, F16(big), F16(big))},
		{"side", ErrInvalid, "KVG_SIDE_BOTH", cache.Read(0, SideBoth, 0, 0, F32(nil))},
		{"unknown dtype", ErrUnsupported, "dtype", cache.Append(0, Bytes(9, make([]byte, row*2)), Bytes(9, make([]byte, row*2)))},
		{"truncate beyond", ErrInvalid, "", cache.Truncate(0, 5)},
		{"stats of no layer", ErrInvalid, "layer", second(cache.Stats(2, SideK))},
		{"unknown device", ErrUnsupported, "device", second(NewRuntime(Options{Device: 77}))},
		{"no recipe", ErrInvalid, "gear-2", second(NewPlan(shape, "gear-99"))},
		{"no shape", ErrInvalid, "layers", second(NewPlan(Shape{}, "fp16"))},
		{"zero byte", ErrInvalid, "zero byte", second(NewPlan(shape, "fp16\x00"))},
		{"recipe", ErrInvalid, "", second(CanonicalRecipe(""))},
		{"plan layer", ErrInvalid, "layer", second(plan.Recipe(2))},
	}
	cases[1].err = cache.Append(2, F32(q[:row]), F32(q[:row]))
	for _, c := range cases {
		var e *Error
		var s Status
		if !errors.As(c.err, &e) || !errors.As(c.err, &s) {
			t.Errorf("%s: %v", c.name, c.err)
			continue
		}
		if e.Status != c.status || s != c.status || !errors.Is(c.err, c.status) || errors.Is(c.err, ErrInternal) {
			t.Errorf("%s: status %v, not %v: %v", c.name, e.Status, c.status, c.err)
		}
		if !strings.Contains(e.Message, c.words) || len(e.Message) < 10 {
			t.Errorf("%s: the message %q should hold %q", c.name, e.Message, c.words)
		}
	}
	if ErrNomem.Error() != "KVG_E_NOMEM" || OK.String() != "KVG_OK" {
		t.Error(ErrNomem, OK)
	}
	if n := must[uint64](t)(rt.Memory()); n > 1<<20 {
		t.Error(n)
	}
}

func second[T any](_ T, err error) error { return err }

func TestAfterClose(t *testing.T) {
	rt, plan, cache := open(t, Options{}, "int8")
	ok(t, rt.SetLog(func(LogLevel, string) {}))
	x := fill(qRow, 1)
	ok(t, cache.Append(0, F32(x[:row]), F32(x[:row])))
	ok(t, rt.Close())
	ok(t, rt.Close())
	ok(t, plan.Close())
	ok(t, cache.Append(0, F32(x[:row]), F32(x[:row]))) // goes on without the others' handles
	fork := must[*Cache](t)(cache.Fork())
	ok(t, cache.Close())
	ok(t, cache.Close())
	ok(t, fork.Attend(0, F32(x), F32(make([]float32, qRow)), AttendOptions{}))
	ok(t, fork.Close())
	for i, err := range []error{
		cache.Append(0, F32(x[:row]), F32(x[:row])), cache.Attend(0, F32(x), F32(make([]float32, qRow)), AttendOptions{}),
		cache.Read(0, SideK, 0, 1, F32(x[:row])), cache.Truncate(0, 0), cache.Clear(), second(cache.Length(0)),
		second(cache.Fork()), second(cache.Stats(0, SideK)), second(rt.NewCache(plan)), second(rt.Describe()),
		second(rt.Memory()), rt.SetLog(nil), second(plan.Shape()), second(plan.Recipe(0)),
		cache.AppendStrided(0, F32(x), F32(x), AppendOptions{}), AttendBatch([]*Cache{cache}, 0, F32(x), F32(make([]float32, qRow)), AttendOptions{}),
		second(cache.Held(0)), second(cache.Positions(0, 0)), second(cache.Bits(0, SideK)), cache.Select(0), cache.Observe(0, x, 1),
		cache.AppendAt(0, F32(x[:row]), F32(x[:row]), []uint64{0}, AppendOptions{}), cache.Probe(0, F32(x), []uint64{0}, AttendOptions{}),
		second(cache.ProbePositions(0)), cache.AttendObserve(0, F32(x), F32(x), AttendOptions{}), second(cache.NextTokens(0)),
		cache.Save("x", SaveOptions{}), second(cache.SaveBytes(SaveOptions{})), cache.SaveTo(io.Discard, SaveOptions{}),
		cache.Extend("x", LoadOptions{}), cache.ExtendBytes(nil, LoadOptions{}), cache.ExtendFrom(strings.NewReader(""), LoadOptions{}),
		second(rt.LoadCache(plan, "x", LoadOptions{})), second(rt.LoadCacheBytes(plan, nil, LoadOptions{})),
		second(rt.LoadCacheFrom(plan, strings.NewReader(""), LoadOptions{})), second(rt.NewPrefix(0)),
	} {
		if !errors.Is(err, ErrState) || !strings.Contains(err.Error(), "closed") {
			t.Errorf("call %d: %v", i, err)
		}
	}
	other := must[*Runtime](t)(NewRuntime(Options{}))
	defer other.Close()
	if _, err := other.NewCache(plan); !errors.Is(err, ErrState) {
		t.Error(err)
	}
	var none *Cache
	ok(t, none.Close())
}

func TestLog(t *testing.T) {
	rt, _, cache := open(t, Options{}, "int8,window=64")
	var lines []string
	ok(t, rt.SetLog(func(level LogLevel, message string) {
		if level > LogError || message == "" {
			t.Error(level, message)
		}
		lines = append(lines, message)
		runtime.GC()
	}))
	x := F32(fill(300*row, 1))
	ok(t, cache.Append(0, x, x))
	seen := len(lines)
	if seen == 0 || !strings.Contains(strings.Join(lines, "\n"), "seal") {
		t.Errorf("nothing is said of sealing: %q", lines)
	}
	ok(t, rt.SetLog(nil))
	ok(t, cache.Append(0, x, x))
	if len(lines) != seen {
		t.Error("a removed sink is called")
	}
}

func TestRecipes(t *testing.T) {
	recipes := Recipes()
	if !slices.ContainsFunc(recipes, func(r Recipe) bool { return r.Name == "gear-2" && len(r.Summary) > 10 }) {
		t.Error(recipes)
	}
	for _, r := range recipes {
		if got := must[string](t)(CanonicalRecipe(r.Name)); got != r.Name {
			t.Error(got)
		}
	}
	long := "gear-2,k.bits=3,v.bits=4,k.group=64,v.group=64,k.outliers=0.01,v.outliers=0.015,k.rank=3,v.rank=5,k.decode_rank=2," +
		"v.decode_rank=1,sweeps=3,window=64,k.block=64,v.block=64,k.segment=512,v.segment=256"
	canonical := must[string](t)(CanonicalRecipe(long))
	if len(canonical) < 128 || must[string](t)(CanonicalRecipe(canonical)) != canonical {
		t.Error(canonical)
	}
	if raw.KvgRecipeName(1<<20) != "" {
		t.Error("a recipe beyond the last")
	}
}

// What the package writes into structs is what the C functions would.
func TestDefaults(t *testing.T) {
	var o raw.KvgRuntimeOptions
	raw.KvgRuntimeOptionsInit(&o)
	if got := rawOptions(Options{}); got != o {
		t.Errorf("%+v, C %+v", got, o)
	}
	var a raw.KvgAppendDesc
	raw.KvgAppendDescInit(&a)
	if got := rawAppendDesc(DTypeF16, &AppendOptions{}); got != a {
		t.Errorf("%+v, C %+v", got, a)
	}
	var d raw.KvgAttendDesc
	raw.KvgAttendDescInit(&d)
	if got := rawAttendDesc(DTypeF16, DTypeF16, &AttendOptions{Queries: 1}); got != d {
		t.Errorf("%+v, C %+v", got, d)
	}
	var none runtime.Pinner
	var save raw.KvgSaveDesc
	raw.KvgSaveDescInit(&save)
	if got := (&SaveOptions{}).raw(&none); *got != save {
		t.Errorf("%+v, C %+v", got, save)
	}
	var load raw.KvgLoadDesc
	raw.KvgLoadDescInit(&load)
	if got := (&LoadOptions{}).raw(&none); *got != load {
		t.Errorf("%+v, C %+v", got, load)
	}
	var prefix raw.KvgPrefixStats
	raw.KvgPrefixStatsInit(&prefix)
	if prefix != (raw.KvgPrefixStats{StructSize: uint32(unsafe.Sizeof(prefix))}) {
		t.Error(prefix)
	}
	var st raw.KvgStats
	var sh raw.KvgShape
	var al raw.KvgAllocator
	raw.KvgStatsInit(&st)
	raw.KvgShapeInit(&sh)
	raw.KvgAllocatorInit(&al)
	if st != (raw.KvgStats{StructSize: uint32(unsafe.Sizeof(st))}) || sh != (raw.KvgShape{StructSize: uint32(unsafe.Sizeof(sh))}) ||
		al != (raw.KvgAllocator{StructSize: uint32(unsafe.Sizeof(al))}) {
		t.Error(st, sh, al)
	}
}

func TestVersions(t *testing.T) {
	oldest, newest := ABI()
	if oldest > raw.KVG_ABI_VERSION || newest < raw.KVG_ABI_VERSION || len(Version()) < 5 {
		t.Error(oldest, newest, Version())
	}
	if err := abiError(3, 2, 4, "1.0.0"); err != nil {
		t.Error(err)
	}
	for _, c := range []struct {
		own   uint32
		words string
	}{{1, "newer version of this package"}, {5, "newer libkvgear"}} {
		err := abiError(c.own, 2, 4, "9.8.7")
		if !errors.Is(err, ErrUnsupported) || !strings.Contains(err.Error(), c.words) ||
			!strings.Contains(err.Error(), "libkvgear 9.8.7 serves ABI versions 2 to 4") {
			t.Error(err)
		}
	}
}

// The big slices go to C as they are: a call allocates a few words at most whatever their size.
func TestNothingIsCopied(t *testing.T) {
	_, _, cache := open(t, Options{}, "fp16")
	k := halves(fill(64*row, 1))
	q, out := F32(fill(64*qRow, 2)), F32(make([]float32, 64*qRow))
	ok(t, cache.Append(0, F16(k), F16(k)))
	allocated := func(call func()) uint64 {
		var before, after runtime.MemStats
		call()
		runtime.ReadMemStats(&before)
		for i := 0; i < 100; i++ {
			call()
		}
		runtime.ReadMemStats(&after)
		return (after.TotalAlloc - before.TotalAlloc) / 100
	}
	if n := allocated(func() { ok(t, cache.Attend(0, q, out, AttendOptions{})) }); n >= 512 && !raceEnabled {
		t.Errorf("%d bytes allocated in Attend", n)
	}
	if n := allocated(func() {
		ok(t, cache.Truncate(0, 0))
		ok(t, cache.Append(0, F16(k), F16(k)))
	}); n >= 512 && !raceEnabled {
		t.Errorf("%d bytes allocated in Truncate and Append", n)
	}
}

func TestGarbageIsFreed(t *testing.T) {
	rt := must[*Runtime](t)(NewRuntime(Options{}))
	defer rt.Close()
	func() {
		plan := must[*Plan](t)(NewPlan(shape, "gear-2"))
		x := F32(fill(200*row, 1))
		for i := 0; i < 20; i++ {
			cache := must[*Cache](t)(rt.NewCache(plan))
			ok(t, cache.Append(0, x, x))
			must[*Cache](t)(cache.Fork())
		}
		if must[uint64](t)(rt.Memory()) == 0 {
			t.Error("the caches take no memory")
		}
	}()
	for end := time.Now().Add(20 * time.Second); must[uint64](t)(rt.Memory()) != 0; time.Sleep(time.Millisecond) {
		runtime.GC()
		if time.Now().After(end) {
			t.Fatal("caches that nothing refers to keep their memory")
		}
	}
}
