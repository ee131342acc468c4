package kvgear

import (
	"bufio"
	"errors"
	"fmt"
	"hash/fnv"
	"math"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
)

// The conformance vectors of the repository: tests/conformance/vectors/README.md.
func TestVectors(t *testing.T) {
	folder := "../../tests/conformance/vectors"
	files, _ := filepath.Glob(folder + "/*.vec")
	if len(files) == 0 {
		t.Skipf("only in the repository: %s", folder)
	}
	for _, file := range files {
		t.Run(filepath.Base(file), func(t *testing.T) { runVectors(t, file) })
	}
}

type vectors struct {
	t        *testing.T
	where    string
	keys     map[string]string
	name     string
	status   string // "" when the call must succeed
	says     string
	expected map[string]string
	runtimes map[string]*Runtime
	plans    map[string]*Plan
	caches   map[string]*Cache
	shapes   map[string]Shape // of plans and caches
}

func runVectors(t *testing.T, file string) {
	f, err := os.Open(file)
	ok(t, err)
	defer f.Close()
	scanner := bufio.NewScanner(f)
	scanner.Buffer(nil, 1<<20)
	var lines []string
	for scanner.Scan() {
		lines = append(lines, scanner.Text())
	}
	v := &vectors{t: t}
	v.reset()
	calls := 0
	for i, line := range lines {
		if line == "" || line[0] == '#' || line[0] == '>' {
			continue
		}
		v.where = fmt.Sprintf("%s:%d", filepath.Base(file), i+1)
		call, expectation, _ := strings.Cut(line, " ! ")
		v.status, v.says, _ = strings.Cut(expectation, " ")
		words := strings.Split(call, " ")
		v.keys, v.name = pairs(words[1:]), ""
		if len(words) > 1 && !strings.Contains(words[1], "=") {
			v.name = words[1]
		}
		v.expected = nil
		if i+1 < len(lines) && strings.HasPrefix(lines[i+1], ">") {
			v.expected = pairs(strings.Split(lines[i+1], " "))
		}
		v.run(words[0])
		calls++
	}
	v.reset()
	if calls < 10 {
		t.Errorf("only %d calls", calls)
	}
}

func pairs(words []string) map[string]string {
	m := map[string]string{}
	for _, w := range words {
		if key, value, found := strings.Cut(w, "="); found {
			m[key] = value
		}
	}
	return m
}

func (v *vectors) reset() {
	for _, c := range v.caches {
		c.Close()
	}
	for _, p := range v.plans {
		p.Close()
	}
	for _, r := range v.runtimes {
		r.Close()
	}
	v.runtimes, v.plans, v.caches, v.shapes = map[string]*Runtime{}, map[string]*Plan{}, map[string]*Cache{}, map[string]Shape{}
}

func (v *vectors) fail(format string, args ...any) {
	v.t.Helper()
	v.t.Errorf("%s: %s", v.where, fmt.Sprintf(format, args...))
}

func (v *vectors) number(key, otherwise string) uint64 {
	text := v.get(key, otherwise)
	if text == "all" {
		return uint64(AllLayers)
	}
	n, err := strconv.ParseUint(text, 10, 64)
	if err != nil {
		v.t.Fatalf("%s: %s: %v", v.where, key, err)
	}
	return n
}

func (v *vectors) small(key, otherwise string) uint32 { return uint32(v.number(key, otherwise)) }

func (v *vectors) float(key, otherwise string) float64 {
	x, err := strconv.ParseFloat(v.get(key, otherwise), 64)
	if err != nil {
		v.t.Fatalf("%s: %s: %v", v.where, key, err)
	}
	return x
}

func (v *vectors) get(key, otherwise string) string {
	if text, found := v.keys[key]; found {
		return text
	}
	return otherwise
}

func (v *vectors) cache() *Cache {
	c := v.caches[v.name]
	if c == nil {
		v.t.Fatalf("%s: unknown cache %q", v.where, v.name)
	}
	return c
}

// answers says whether a call succeeded, after comparing with what the line asks for.
func (v *vectors) answers(err error) bool {
	v.t.Helper()
	got := OK
	message := ""
	var e *Error
	if errors.As(err, &e) {
		got, message = e.Status, e.Message
	} else if err != nil {
		v.fail("%v is no *Error", err)
	}
	want := v.status
	if want == "" {
		want = "KVG_OK"
	}
	if got.String() != want {
		v.fail("%v %s, not %s", got, message, want)
	} else if !strings.Contains(message, v.says) {
		v.fail("the message %q does not hold %q", message, v.says)
	}
	return err == nil
}

func (v *vectors) equal(key, got string) {
	v.t.Helper()
	if want, found := v.expected[key]; !found || want != got {
		v.fail("%s is %s, not %s", key, got, want)
	}
}

func vectorValue(seed uint32, index uint64) float32 {
	x := uint32(index)*2654435761 + seed*2246822519 + 374761393
	x ^= x >> 15
	x *= 2246822519
	x ^= x >> 13
	x *= 3266489917
	x ^= x >> 16
	value := float32(int32(x&255)-128) / 64
	if x>>8&63 == 0 {
		value *= 8
	}
	return value
}

var vectorTypes = map[string]DType{"f32": DTypeF32, "f16": DTypeF16, "bf16": DTypeBF16}

// layout returns the strides that the line asks for.
func (v *vectors) layout(tokens, heads, dim int) Strides {
	if v.get("layout", "thd") == "htd" {
		return Strides{int64(dim), int64(tokens * dim), 1}
	}
	return Strides{int64(heads * dim), int64(dim), 1}
}

func (v *vectors) isStrided() bool { return v.get("layout", "thd") != "thd" }

// tensor makes the input of a seed, less its last `cut` elements.
func tensorOf(x []float32, dtype DType, cut int) Tensor {
	x = x[:len(x)-cut]
	if dtype == DTypeF32 {
		return F32(x)
	}
	h := make([]uint16, len(x))
	for i, value := range x {
		if dtype == DTypeBF16 {
			h[i] = uint16(math.Float32bits(value) >> 16)
		} else {
			h[i] = f16(value)
		}
	}
	return Tensor{bytesOf(h), dtype}
}

func vectorInput(seed uint32, first uint64, tokens, heads, dim int, s Strides) []float32 {
	x := make([]float32, tokens*heads*dim)
	for t := 0; t < tokens; t++ {
		for h := 0; h < heads; h++ {
			for d := 0; d < dim; d++ {
				at := int64(t)*s.Token + int64(h)*s.Head + int64(d)
				x[at] = vectorValue(seed, ((first+uint64(t))*uint64(heads)+uint64(h))*uint64(dim)+uint64(d))
			}
		}
	}
	return x
}

// empty makes room for a result, less `cut` elements.
func empty(elements int, dtype DType, cut int) Tensor {
	if dtype == DTypeF32 {
		return F32(make([]float32, elements-cut))
	}
	return Tensor{bytesOf(make([]uint16, elements-cut)), dtype}
}

func element(t Tensor, i int) float64 {
	if t.dtype == DTypeF32 {
		b := t.bytes[4*i:]
		return float64(math.Float32frombits(uint32(b[0]) | uint32(b[1])<<8 | uint32(b[2])<<16 | uint32(b[3])<<24))
	}
	return half(uint16(t.bytes[2*i])|uint16(t.bytes[2*i+1])<<8, t.dtype)
}

func half(bits uint16, dtype DType) float64 {
	if dtype == DTypeBF16 {
		return float64(math.Float32frombits(uint32(bits) << 16))
	}
	return float64(f32(bits))
}

// output compares a tensor in the order [tokens, heads, dims].
func (v *vectors) output(out Tensor, bound float64) {
	v.t.Helper()
	if bound == 0 {
		hash := fnv.New64a()
		hash.Write(out.bytes)
		v.equal("fnv", fmt.Sprintf("%016x", hash.Sum64()))
		return
	}
	every, err := strconv.Atoi(v.expected["every"])
	if err != nil {
		v.fail("there are no results")
		return
	}
	at := 0
	for _, hex := range strings.Split(v.expected["values"], ",") {
		bits, err := strconv.ParseUint(hex, 16, 32)
		if err != nil || at >= out.Len() {
			v.fail("values are no list of %d: %v", out.Len(), err)
			return
		}
		want := float64(math.Float32frombits(uint32(bits)))
		if out.dtype != DTypeF32 {
			want = half(uint16(bits), out.dtype)
		}
		if got := element(out, at); !(math.Abs(got-want) <= bound) {
			v.fail("element %d is %g, not %g within %g", at, got, want, bound)
			return
		}
		at += every
	}
	if at < out.Len() {
		v.fail("there are too few values")
	}
}

func (v *vectors) append() {
	s := v.shapes[v.name]
	tokens, heads, dim := int(v.number("tokens", "")), int(s.KVHeads), int(s.HeadDim)
	dtype, order := vectorTypes[v.get("dtype", "f32")], v.layout(tokens, heads, dim)
	o := AppendOptions{Tokens: uint64(tokens)}
	if v.isStrided() {
		o.K, o.V = order, order
	}
	input := func(key string) []float32 {
		return vectorInput(v.small(key, ""), v.number("first", "0"), tokens, heads, dim, order)
	}
	values := input("v")
	if poison, found := v.keys["poison"]; found {
		values[len(values)-1] = map[string]float32{"nan": float32(math.NaN()), "inf": float32(math.Inf(1)), "big": 70000}[poison]
	}
	v.answers(v.cache().AppendStrided(v.small("layer", ""), tensorOf(input("k"), dtype, 0),
		tensorOf(values, dtype, int(v.number("cut", "0"))), o))
}

func (v *vectors) attend() {
	s := v.shapes[v.name]
	queries, heads, dim := int(v.number("queries", "1")), int(s.QHeads), int(s.HeadDim)
	order := v.layout(queries, heads, dim)
	o := AttendOptions{Queries: uint32(queries), NonCausal: v.get("non_causal", "0") == "1", Scale: float32(v.float("scale", "0")),
		LogitSoftcap: float32(v.float("softcap", "0")), SlidingWindow: v.number("window", "0")}
	if v.isStrided() {
		o.QTokenStride, o.QHeadStride, o.OutTokenStride, o.OutHeadStride = order.Token, order.Head, order.Token, order.Head
	}
	q := tensorOf(vectorInput(v.small("q", ""), 0, queries, heads, dim, order), vectorTypes[v.get("q_dtype", "f32")], 0)
	out := empty(queries*heads*dim, vectorTypes[v.get("out_dtype", "f32")], int(v.number("cut", "0")))
	if !v.answers(v.cache().Attend(v.small("layer", ""), q, out, o)) {
		return
	}
	ordered, size := empty(out.Len(), out.dtype, 0), len(out.bytes)/out.Len()
	for i := 0; i < queries; i++ {
		for h := 0; h < heads; h++ {
			from := (i*int(order.Token) + h*int(order.Head)) * size
			copy(ordered.bytes[(i*heads+h)*dim*size:][:dim*size], out.bytes[from:])
		}
	}
	v.output(ordered, v.float("bound", ""))
}

var vectorSides = map[string]Side{"k": SideK, "v": SideV, "both": SideBoth}

func (v *vectors) read() {
	s := v.shapes[v.name]
	tokens := v.number("tokens", "")
	out := empty(int(tokens)*int(s.KVHeads)*int(s.HeadDim), vectorTypes[v.get("dtype", "f32")], int(v.number("cut", "0")))
	if v.answers(v.cache().Read(v.small("layer", ""), vectorSides[v.get("side", "")], v.number("first", ""), tokens, out)) {
		v.output(out, v.float("bound", "0"))
	}
}

func (v *vectors) stats() {
	s, err := v.cache().Stats(v.small("layer", ""), vectorSides[v.get("side", "")])
	if !v.answers(err) {
		return
	}
	for key, got := range map[string]uint64{"tokens": s.Tokens, "elements": s.Elements, "sealed_elements": s.SealedElements,
		"segments": s.Segments, "bytes_codes": s.BytesCodes, "bytes_scales": s.BytesScales, "bytes_low_rank": s.BytesLowRank,
		"bytes_fp16": s.BytesFP16} {
		v.equal(key, fmt.Sprint(got))
	}
	for key, got := range map[string]float64{"rel_error_k_mean": s.RelErrorKMean, "rel_error_v_mean": s.RelErrorVMean} {
		want, err := strconv.ParseFloat(v.expected[key], 64)
		if err != nil || !(math.Abs(want-got) <= 0.02*math.Abs(got)+1e-6) {
			v.fail("%s is %g, not %g", key, got, want)
		}
	}
	if s.BytesTotal != s.BytesCodes+s.BytesScales+s.BytesLowRank+s.BytesSparse+s.BytesPositions+s.BytesState+
		s.BytesWindowAllocated+s.BytesBookkeeping {
		v.fail("bytes_total is not the sum: %+v", s)
	}
	if s.Elements != 0 && s.BitsPerElement != 8*float64(s.BytesTotal)/float64(s.Elements) {
		v.fail("bits_per_element: %+v", s)
	}
}

func (v *vectors) close() {
	if c := v.caches[v.name]; c != nil {
		ok(v.t, c.Close())
	} else if p := v.plans[v.name]; p != nil {
		ok(v.t, p.Close())
	} else if r := v.runtimes[v.name]; r != nil {
		ok(v.t, r.Close())
	} else {
		v.t.Fatalf("%s: unknown object", v.where)
	}
}

func (v *vectors) run(call string) {
	v.t.Helper()
	switch call {
	case "case":
		v.reset()
	case "abi":
		if oldest, newest := ABI(); oldest > v.small("version", "") || newest < v.small("version", "") {
			v.fail("the library does not serve this version")
		}
	case "status":
		v.equal("name", Status(v.number("code", "")).String())
	case "recipes":
		var names []string
		for _, r := range Recipes() {
			names = append(names, r.Name)
		}
		v.equal("names", strings.Join(names, ","))
	case "canonical":
		if text, err := CanonicalRecipe(v.get("text", "")); v.answers(err) {
			v.equal("text", text)
		}
	case "runtime":
		r, err := NewRuntime(Options{Threads: v.small("threads", "0"), MemoryBudget: v.number("budget", "0")})
		if v.answers(err) {
			v.runtimes[v.name] = r
		}
	case "plan":
		s := Shape{v.small("layers", ""), v.small("q_heads", ""), v.small("kv_heads", ""), v.small("head_dim", "")}
		p, err := NewPlan(s, v.get("recipes", ""))
		if v.answers(err) {
			v.plans[v.name], v.shapes[v.name] = p, s
		}
	case "plan_shape":
		if s, err := v.plans[v.name].Shape(); v.answers(err) {
			v.equal("layers", fmt.Sprint(s.Layers))
			v.equal("q_heads", fmt.Sprint(s.QHeads))
			v.equal("kv_heads", fmt.Sprint(s.KVHeads))
			v.equal("head_dim", fmt.Sprint(s.HeadDim))
		}
	case "plan_recipe":
		if text, err := v.plans[v.name].Recipe(v.small("layer", "")); v.answers(err) {
			v.equal("text", text)
		}
	case "cache":
		c, err := v.runtimes[v.get("runtime", "")].NewCache(v.plans[v.get("plan", "")])
		if v.answers(err) {
			v.caches[v.name], v.shapes[v.name] = c, v.shapes[v.get("plan", "")]
		}
	case "append":
		v.append()
	case "length":
		if n, err := v.cache().Length(v.small("layer", "")); v.answers(err) {
			v.equal("tokens", fmt.Sprint(n))
		}
	case "attend":
		v.attend()
	case "read":
		v.read()
	case "truncate":
		v.answers(v.cache().Truncate(v.small("layer", ""), v.number("tokens", "")))
	case "clear":
		v.answers(v.cache().Clear())
	case "fork":
		c, err := v.caches[v.get("of", "")].Fork()
		if v.answers(err) {
			v.caches[v.name], v.shapes[v.name] = c, v.shapes[v.get("of", "")]
		}
	case "stats":
		v.stats()
	case "memory":
		if n, err := v.runtimes[v.name].Memory(); v.answers(err) && n != v.number("bytes", "") {
			v.fail("the runtime holds %d bytes", n)
		}
	case "close":
		v.close()
	default:
		v.t.Fatalf("%s: unknown call %s", v.where, call)
	}
}
