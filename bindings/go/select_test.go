package kvgear

import (
	"errors"
	"math"
	"slices"
	"strings"
	"testing"
)

func one(t *testing.T, c *Cache, layer uint32, seed uint32) {
	t.Helper()
	x := F32(fill(row, seed))
	ok(t, c.Append(layer, x, x))
}

func observed(t *testing.T, c *Cache, layer uint32, seed uint32) {
	t.Helper()
	ok(t, c.AttendObserve(layer, F32(fill(qRow, seed)), F32(make([]float32, qRow)), AttendOptions{}))
}

func TestPolicies(t *testing.T) {
	policies := Policies()
	if len(policies) < 8 || !slices.ContainsFunc(policies, func(p Recipe) bool { return p.Name == "streaming-llm" && len(p.Summary) > 10 }) {
		t.Error(policies)
	}
	for _, p := range policies {
		if got := must[string](t)(CanonicalRecipe(p.Name)); got != p.Name {
			t.Error(got)
		}
	}
}

// Sinks and a window: all of it is known beforehand.
func TestStreamingSelection(t *testing.T) {
	_, _, cache := open(t, Options{}, "streaming-llm,budget=20")
	x := F32(fill(50*row, 1))
	ok(t, cache.Append(1, x, x))
	if held := must[uint64](t)(cache.Held(1)); held != 50 {
		t.Error(held)
	}
	for token := uint32(50); token < 60; token++ {
		one(t, cache, 1, token)
		observed(t, cache, 1, 3)
	}
	var want []uint64
	for i := uint64(0); i < 21; i++ {
		if i < 4 {
			want = append(want, i)
		} else {
			want = append(want, 39+i)
		}
	}
	for head := uint32(0); head < shape.KVHeads; head++ {
		if got := must[[]uint64](t)(cache.Positions(1, head)); !slices.Equal(got, want) {
			t.Error(got)
		}
	}
	bits := must[[]uint8](t)(cache.Bits(1, SideV))
	if !slices.Equal(bits, []uint8(strings.Repeat("\x10", 21))) {
		t.Error(bits)
	}
	if stats := must[Stats](t)(cache.Stats(1, SideBoth)); stats.Tokens != 21 || stats.TokensEvicted != 39 {
		t.Errorf("%+v", stats)
	}
	ok(t, cache.Select(AllLayers))
	if must[uint64](t)(cache.Held(1)) != 20 || must[uint64](t)(cache.Length(1)) != 60 {
		t.Error("Select does not let the policy act")
	}
	if got := must[[]uint64](t)(cache.Positions(0, 0)); len(got) != 0 {
		t.Error(got)
	}
	for i, err := range []error{second(cache.Positions(1, 2)), second(cache.Bits(1, SideBoth)), cache.Select(2), second(cache.Held(2)),
		second(cache.ProbePositions(2))} {
		if !errors.Is(err, ErrInvalid) {
			t.Errorf("call %d: %v", i, err)
		}
	}
}

// Scores come from the caller, from probes, or with attention.
func TestScores(t *testing.T) {
	_, _, cache := open(t, Options{}, "h2o,budget=10")
	const tokens = 40
	x := F32(fill(tokens*row, 1))
	ok(t, cache.Append(0, x, x))
	token := F32(fill(row, 2))
	if err := cache.Append(0, token, token); !errors.Is(err, ErrState) || !strings.Contains(err.Error(), "needs scores") {
		t.Error(err)
	}
	scores := make([]float32, shape.KVHeads*tokens)
	for i := range scores {
		scores[i] = 1
		if i%7 == 3 {
			scores[i] = 2
		}
	}
	if err := cache.Observe(0, scores[1:], tokens); !errors.Is(err, ErrInvalid) || !strings.Contains(err.Error(), "scores_len is 79") {
		t.Error(err)
	}
	if err := cache.Observe(0, nil, 1); !errors.Is(err, ErrInvalid) {
		t.Error(err)
	}
	ok(t, cache.Observe(0, scores, tokens))
	ok(t, cache.Append(0, token, token))
	want := []uint64{3, 10, 17, 24, 31, 35, 36, 37, 38, 39, 40} // those of score 2, and the newest
	if got := must[[]uint64](t)(cache.Positions(0, 0)); !slices.Equal(got, want) {
		t.Error(got)
	}
	observed(t, cache, 0, 5)
	ok(t, cache.Append(0, token, token))

	// The scores of a probe are those of attention on everything: the same tokens stay.
	ok(t, cache.Append(1, x, x))
	all := must[[]uint64](t)(cache.ProbePositions(1))
	if len(all) != tokens || all[0] != 0 || all[tokens-1] != tokens-1 {
		t.Fatal(all)
	}
	q := fill(tokens*qRow, 9)
	fork := must[*Cache](t)(cache.Fork())
	defer fork.Close()
	for i, err := range []error{cache.Probe(1, F32(q), all[1:], AttendOptions{Queries: tokens}), cache.Probe(1, F32(q[1:]), all, AttendOptions{}),
		cache.Probe(1, F32(q), slices.Clone(all[1:]), AttendOptions{Queries: 40}), cache.Probe(1, F32(q[:2*qRow]), []uint64{7, 6}, AttendOptions{})} {
		if !errors.Is(err, ErrInvalid) {
			t.Errorf("call %d: %v", i, err)
		}
	}
	ok(t, cache.Probe(1, F32(q), all, AttendOptions{}))
	ok(t, fork.AttendObserve(1, F32(q), F32(make([]float32, len(q))), AttendOptions{}))
	for _, c := range []*Cache{cache, fork} {
		one(t, c, 1, 4)
	}
	for head := uint32(0); head < shape.KVHeads; head++ {
		probed, attended := must[[]uint64](t)(cache.Positions(1, head)), must[[]uint64](t)(fork.Positions(1, head))
		if len(probed) != 11 || !slices.Equal(probed, attended) {
			t.Errorf("head %d keeps %v by a probe, %v by attention", head, probed, attended)
		}
	}
	if _, err := cache.NextTokens(1); !errors.Is(err, ErrState) {
		t.Error(err)
	}
}

// A prompt that is pruned on its way through the layers: the caller says which tokens come.
func TestPrunedPrompt(t *testing.T) {
	_, _, cache := open(t, Options{}, "pyramidinfer,decay=0.5,least=0,recent=10")
	const tokens = 120
	x := F32(fill(tokens*row, 1))
	positions, scores := make([]uint64, tokens), make([]float32, shape.KVHeads*tokens)
	for i := range positions {
		positions[i] = uint64(i)
	}
	for i := range scores {
		scores[i] = float32(i%tokens) / tokens
	}
	if err := cache.AppendAt(0, x, x, positions[1:], AppendOptions{Tokens: tokens}); !errors.Is(err, ErrInvalid) {
		t.Error(err)
	}
	if err := cache.AppendAt(0, x, F16(make([]uint16, tokens*row)), positions, AppendOptions{}); !errors.Is(err, ErrInvalid) {
		t.Error(err)
	}
	ok(t, cache.AppendAt(0, x, x, positions, AppendOptions{}))
	if next := must[[]uint64](t)(cache.NextTokens(0)); !slices.Equal(next, positions) {
		t.Error(next) // behind the first layer all go on
	}
	ok(t, cache.AppendAt(1, x, x, positions, AppendOptions{}))
	if _, err := cache.NextTokens(1); !errors.Is(err, ErrState) {
		t.Error(err)
	}
	ok(t, cache.Observe(1, scores, 11))
	next := must[[]uint64](t)(cache.NextTokens(1))
	if len(next) != 92 || !slices.Equal(next[:4], positions[:4]) || !slices.Equal(next[4:], positions[32:]) {
		t.Error(next) // the sinks, the highest scores, the newest
	}
	// Gaps count as evicted, and rows may lie anywhere.
	ok(t, cache.Clear())
	ok(t, cache.AppendAt(0, x, x, []uint64{5, 9}, AppendOptions{K: Strides{2 * row, 32, 1}, V: Strides{row, 32, 1}}))
	if n := must[uint64](t)(cache.Length(0)); n != 10 {
		t.Error(n)
	}
	if got := must[[]uint64](t)(cache.Positions(0, 1)); !slices.Equal(got, []uint64{5, 9}) {
		t.Error(got)
	}
}

// Layers that keep all tokens answer too.
func TestSelectionOfNothing(t *testing.T) {
	_, _, cache := open(t, Options{}, "int8")
	x := F32(fill(300*row, 1))
	ok(t, cache.Append(0, x, x))
	ok(t, cache.Select(AllLayers))
	positions, next := must[[]uint64](t)(cache.Positions(0, 0)), must[[]uint64](t)(cache.NextTokens(0))
	if len(positions) != 300 || positions[299] != 299 || !slices.Equal(next, positions) {
		t.Error(positions, next)
	}
	bits := must[[]uint8](t)(cache.Bits(0, SideK))
	if len(bits) != 300 || bits[0] != 8 || bits[299] != 16 {
		t.Error(bits)
	}
	if probes := must[[]uint64](t)(cache.ProbePositions(0)); len(probes) != 0 {
		t.Error(probes)
	}
	observed(t, cache, 0, 3)
	for i, err := range []error{cache.Observe(0, make([]float32, 600), 1), cache.AppendAt(0, x, x, positions, AppendOptions{})} {
		if !errors.Is(err, ErrState) || !strings.Contains(err.Error(), "keeps all tokens") {
			t.Errorf("call %d: %v", i, err)
		}
	}
}

// A batch gives each cache the bits of a call of its own, whatever their lengths and recipes, and a cache may come twice.
func TestBatch(t *testing.T) {
	rt, plan, first := open(t, Options{Threads: 1}, "gear-2")
	other := must[*Plan](t)(NewPlan(shape, "fp16"))
	defer other.Close()
	second := must[*Cache](t)(rt.NewCache(other))
	defer second.Close()
	third := must[*Cache](t)(rt.NewCache(plan))
	defer third.Close()
	for i, tokens := range []int{300, 1, 77} {
		c := []*Cache{first, second, third}[i]
		ok(t, c.Append(0, F32(fill(tokens*row, uint32(i))), F32(fill(tokens*row, uint32(10+i)))))
	}
	caches := []*Cache{first, second, third, first}
	q := fill(len(caches)*qRow, 3)
	got := make([]float32, len(q))
	ok(t, AttendBatch(caches, 0, F32(q), F32(got), AttendOptions{}))
	for i, c := range caches {
		want := make([]float32, qRow)
		ok(t, c.Attend(0, F32(q[i*qRow:][:qRow]), F32(want), AttendOptions{}))
		if !slices.Equal(got[i*qRow:][:qRow], want) {
			t.Errorf("cache %d of a batch answers otherwise than alone", i)
		}
	}
	ok(t, AttendBatch(nil, 0, F32(nil), F32(nil), AttendOptions{}))
	same := slices.Clone(got)
	for i, err := range []error{
		AttendBatch(caches, 0, F32(q[1:]), F32(got), AttendOptions{}), AttendBatch(caches, 2, F32(q), F32(got), AttendOptions{}),
		AttendBatch([]*Cache{nil}, 0, F32(q[:qRow]), F32(got), AttendOptions{}), AttendBatch(caches, 1, F32(q), F32(got), AttendOptions{}),
		AttendBatch(caches, 0, F32(q), F32(got), AttendOptions{Queries: 2}), AttendBatch(caches, 0, F32(q), F32(got[:qRow]), AttendOptions{}),
	} {
		if !errors.Is(err, ErrInvalid) {
			t.Errorf("call %d: %v", i, err)
		}
	}
	if !slices.Equal(got, same) || math.IsNaN(float64(got[0])) {
		t.Error("a refused call has written")
	}
	ok(t, third.Close())
	if err := AttendBatch(caches, 0, F32(q), F32(got), AttendOptions{}); !errors.Is(err, ErrState) || !strings.Contains(err.Error(), "closed") {
		t.Error(err)
	}
	ok(t, first.Append(0, F32(fill(row, 1)), F32(fill(row, 1)))) // no lock is left
}

// A batch of appends leaves each cache as a call of its own would, and all of them as they were where it is refused.
func TestAppendBatch(t *testing.T) {
	rt, plan, first := open(t, Options{}, "gear-2")
	other := must[*Plan](t)(NewPlan(shape, "int4"))
	defer other.Close()
	caches, alone := []*Cache{first}, []*Cache{}
	for i, p := range []*Plan{other, plan, plan, other, plan} {
		c := must[*Cache](t)(rt.NewCache(p))
		defer c.Close()
		if i < 2 {
			caches = append(caches, c)
		} else {
			alone = append(alone, c)
		}
	}
	for _, c := range []*Cache{caches[2], alone[2]} {
		ok(t, c.Append(1, F32(fill(77*row, 9)), F32(fill(77*row, 8))))
	}
	for _, count := range []int{200, 1} {
		k, v := fill(3*count*row, 1), fill(3*count*row, 2)
		ok(t, AppendBatch(caches, 1, F32(k), F32(v)))
		for i, c := range alone {
			ok(t, c.Append(1, F32(k[i*count*row:][:count*row]), F32(v[i*count*row:][:count*row])))
		}
	}
	same := func() {
		t.Helper()
		for i := range caches {
			n := must[uint64](t)(alone[i].Length(1))
			got, want := make([]float32, int(n)*row), make([]float32, int(n)*row)
			ok(t, alone[i].Read(1, SideK, 0, n, F32(want)))
			ok(t, caches[i].Read(1, SideK, 0, n, F32(got)))
			if m := must[uint64](t)(caches[i].Length(1)); m != n || !slices.Equal(got, want) {
				t.Errorf("cache %d of a batch holds otherwise than alone: %d and %d tokens", i, m, n)
			}
		}
	}
	same()
	ok(t, AppendBatch(nil, 0, F32(nil), F32(nil)))
	x := fill(3*row, 5)
	bad := slices.Clone(x)
	bad[len(bad)-1] = float32(math.NaN()) // of the last cache: the others get nothing either
	for i, err := range []error{
		AppendBatch(caches, 1, F32(x[:row]), F32(x[:row])), AppendBatch(caches, 1, F32(x), F32(x[:row])), AppendBatch(caches, 2, F32(x), F32(x)),
		AppendBatch([]*Cache{first, nil}, 1, F32(x[:2*row]), F32(x[:2*row])), AppendBatch([]*Cache{first, first}, 1, F32(x[:2*row]), F32(x[:2*row])),
		AppendBatchStrided(caches, 1, F32(x), F32(x), AppendOptions{Tokens: 2}),
	} {
		if !errors.Is(err, ErrInvalid) {
			t.Errorf("call %d: %v", i, err)
		}
	}
	if err := AppendBatch(caches, 1, F32(bad), F32(x)); !errors.Is(err, ErrNonfinite) {
		t.Error(err)
	}
	same()
	ok(t, caches[1].Close())
	if err := AppendBatch(caches, 1, F32(x), F32(x)); !errors.Is(err, ErrState) || !strings.Contains(err.Error(), "closed") {
		t.Error(err)
	}
	ok(t, first.Append(0, F32(fill(row, 1)), F32(fill(row, 1)))) // no lock is left
}
