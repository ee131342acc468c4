package kvgear

import (
	"fmt"
	"runtime"
	"sync"
	"unsafe"

	"kvgear.org/kvgear/internal/raw"
)

// Cache is the compressed cache of one sequence: one compressed object per layer.
type Cache struct {
	guard guard
	lock  sync.RWMutex // the C handle takes many readers or one writer
	ptr   *raw.KvgCache
	shape Shape
	rt    *Runtime // not garbage, with its log sink, as long as the cache is not
}

// NewCache creates an empty cache.
//
// From kvgear.h, kvg_cache_create:
//
//	Creates an empty cache.
//	out: the cache. Destroy with kvg_cache_destroy.
func (r *Runtime) NewCache(plan *Plan) (*Cache, error) {
	return r.open("kvg_cache_create", plan, func(out **raw.KvgCache) error { return raw.KvgCacheCreate(r.ptr, plan.ptr, out) })
}

// open makes a cache of this runtime and a plan.
func (r *Runtime) open(op string, plan *Plan, call func(out **raw.KvgCache) error) (*Cache, error) {
	if !r.guard.enter() {
		return nil, closedError(op, "runtime")
	}
	defer r.guard.leave()
	if !plan.guard.enter() {
		return nil, closedError(op, "plan")
	}
	defer plan.guard.leave()
	var ptr *raw.KvgCache
	if err := call(&ptr); err != nil {
		return nil, wrap(op, err)
	}
	return newCache(ptr, plan.shape, r), nil
}

func newCache(ptr *raw.KvgCache, shape Shape, rt *Runtime) *Cache {
	c := &Cache{ptr: ptr, shape: shape, rt: rt}
	c.guard.end = func() { raw.KvgCacheDestroy(ptr) }
	runtime.SetFinalizer(c, (*Cache).Close)
	return c
}

// Close ends the cache and frees what no fork shares, once the calls that are under way are over. It may be called more
// than once and returns nil.
//
// From kvgear.h, kvg_cache_destroy:
//
//	Ends the cache and frees what no fork shares.
func (c *Cache) Close() error {
	if c == nil {
		return nil
	}
	runtime.SetFinalizer(c, nil)
	c.guard.close()
	return nil
}

// read runs a call that does not change the cache, write one that does.
func (c *Cache) read(op string, call func() error) error {
	if !c.guard.enter() {
		return closedError(op, "cache")
	}
	defer c.guard.leave()
	c.lock.RLock()
	defer c.lock.RUnlock()
	return wrap(op, call())
}

func (c *Cache) write(op string, call func() error) error {
	if !c.guard.enter() {
		return closedError(op, "cache")
	}
	defer c.guard.leave()
	c.lock.Lock()
	defer c.lock.Unlock()
	return wrap(op, call())
}

// Strides of a tensor in elements, as in DLPack; they may be negative. All 0: contiguous.
type Strides struct{ Token, Head, Dim int64 }

// AppendOptions says how many tokens to append and how the tensors lie in memory.
type AppendOptions struct {
	Tokens uint64 // how many; 0 appends nothing
	K, V   Strides
	Stream uintptr // device runtimes: the stream to work on, a cudaStream_t; 0 on the CPU
}

// Append appends the tokens of k and v to a layer: [tokens, kv_heads, head_dim], contiguous.
//
// From kvgear.h, kvg_cache_append:
//
//	Appends tokens to one layer. Keys are given after rotary embedding (before it where they are kept as
//	latents, see kvg_plan_load). Full blocks of the oldest
//	uncompressed tokens are sealed (compressed, once and for good) in the same call.
//	Every element must be finite after rounding to fp16, that is, below 65520 in magnitude, else
//	KVG_E_NONFINITE.
//	Cost: O(tokens), amortised.
//	k: keys, [tokens, kv_heads, head_dim] of desc->dtype, strided as desc says
//	k_bytes: bytes from k to the end of the buffer, checked against shape and strides; with negative strides k points at element [0,0,0] and only bytes behind it count
//	v: values, likewise
func (c *Cache) Append(layer uint32, k, v Tensor) error {
	row := int(c.shape.KVHeads) * int(c.shape.HeadDim)
	if k.Len()%row != 0 || k.Len() != v.Len() {
		return invalid("kvg_cache_append", fmt.Sprintf("k has %d elements and v %d; both must have the same number, "+
			"a multiple of kv_heads * head_dim = %d", k.Len(), v.Len(), row))
	}
	return c.AppendStrided(layer, k, v, AppendOptions{Tokens: uint64(k.Len() / row)})
}

// AppendStrided appends tokens that lie in any order in memory. With negative strides the slice begins at element
// [0, 0, 0], and only what is behind it counts.
//
// From kvgear.h, kvg_append_desc:
//
//	How the tensors given to kvg_cache_append lie in memory. Shapes are [tokens, kv_heads, head_dim];
//	strides are in elements, as in DLPack, and may be negative. When the three strides of a tensor
//	are all 0 it is contiguous in that order.
func (c *Cache) AppendStrided(layer uint32, k, v Tensor, o AppendOptions) error {
	const op = "kvg_cache_append"
	if k.dtype != v.dtype {
		return invalid(op, "k and v differ in their element type")
	}
	if !c.guard.enter() {
		return closedError(op, "cache")
	}
	desc := appendDescs.Get().(*raw.KvgAppendDesc)
	*desc = rawAppendDesc(k.dtype, &o)
	c.lock.Lock()
	err := raw.KvgCacheAppend(c.ptr, layer, k.bytes, v.bytes, desc)
	c.lock.Unlock()
	appendDescs.Put(desc)
	c.guard.leave()
	return wrap(op, err)
}

// What a call describes itself with must be on the heap; these spare making one for every call.
var (
	appendDescs = sync.Pool{New: func() any { return new(raw.KvgAppendDesc) }}
	attendDescs = sync.Pool{New: func() any { return new(raw.KvgAttendDesc) }}
)

func rawAppendDesc(dtype DType, o *AppendOptions) raw.KvgAppendDesc {
	return raw.KvgAppendDesc{
		StructSize: uint32(unsafe.Sizeof(raw.KvgAppendDesc{})), Dtype: uint32(dtype), Tokens: o.Tokens,
		KTokenStride: o.K.Token, KHeadStride: o.K.Head, KDimStride: o.K.Dim,
		VTokenStride: o.V.Token, VHeadStride: o.V.Head, VDimStride: o.V.Dim, Stream: o.Stream,
	}
}

// AttendOptions says what Attend is to compute. The zero value is causal attention with the usual scale.
type AttendOptions struct {
	Queries        uint32  // query i belongs to the token at length - Queries + i; 0 = as many as q holds, contiguous
	NonCausal      bool    // a query sees all tokens, not only its own and older ones
	Scale          float32 // factor on q . k; 0 = 1 / sqrt(head_dim)
	LogitSoftcap   float32 // c > 0: logits become c * tanh(logit / c); 0 = none
	SlidingWindow  uint64  // w > 0: a query sees the newest w tokens of those it may see; 0 = all
	QTokenStride   int64   // strides in elements; both 0 = contiguous
	QHeadStride    int64
	OutTokenStride int64
	OutHeadStride  int64
	LatentOut      bool    // where values are latent, results are [queries, q_heads, rank]: see LoadPlan
	Stream         uintptr // device runtimes: the stream to work on, a cudaStream_t; 0 on the CPU
}

// Attend computes the attention of the newest queries over one layer, on the compressed form. q and out are
// [queries, q_heads, head_dim]; they must not overlap.
//
// From kvgear.h, kvg_cache_attend:
//
//	Attention of the newest tokens' queries over one layer, on the compressed form. Append the keys
//	and values of these tokens first.
//	out[i, h] = sum over t of softmax_t(scale * q[i, h] . k[t, h / group]) v[t, h / group], with
//	group = q_heads / kv_heads. The sum is over the tokens that query i sees: at least its own, for
//	a layer with fewer tokens than queries is refused with KVG_E_INVALID.
//	Cost: O(tokens); no memory is kept.
//	q: queries after rotary embedding, [queries, q_heads, head_dim] of desc->q_dtype. They are not checked: NaN or infinity in a query spoils that query's results.
//	q_bytes: bytes from q to the end of the buffer, as k_bytes of kvg_cache_append
//	out: result, [queries, q_heads, head_dim] of desc->out_dtype. The memory from its first to its last element must not overlap that of q; no row may overlap another. Results beyond the range of out_dtype are rounded to infinity as IEEE says.
func (c *Cache) Attend(layer uint32, q, out Tensor, o AttendOptions) error {
	const op = "kvg_cache_attend"
	if err := o.count(op, c.shape, q, 1); err != nil {
		return err
	}
	if !c.guard.enter() {
		return closedError(op, "cache")
	}
	desc := attendDescs.Get().(*raw.KvgAttendDesc)
	*desc = rawAttendDesc(q.dtype, out.dtype, &o)
	c.lock.RLock()
	err := raw.KvgCacheAttend(c.ptr, layer, q.bytes, out.bytes, desc)
	c.lock.RUnlock()
	attendDescs.Put(desc)
	c.guard.leave()
	return wrap(op, err)
}

// count sets Queries where it is 0, from the number of elements of a contiguous q for so many caches.
func (o *AttendOptions) count(op string, s Shape, q Tensor, caches int) error {
	if o.Queries != 0 || o.QTokenStride != 0 || o.QHeadStride != 0 {
		return nil
	}
	row := int(s.QHeads) * int(s.HeadDim) * caches
	if q.Len() == 0 || q.Len()%row != 0 {
		what := "q_heads * head_dim"
		if caches > 1 {
			what = "caches * " + what
		}
		return invalid(op, fmt.Sprintf("q has %d elements, which is not a multiple of %s = %d", q.Len(), what, row))
	}
	o.Queries = uint32(q.Len() / row)
	return nil
}

func rawAttendDesc(q, out DType, o *AttendOptions) raw.KvgAttendDesc {
	desc := raw.KvgAttendDesc{
		StructSize: uint32(unsafe.Sizeof(raw.KvgAttendDesc{})), QDtype: uint32(q), OutDtype: uint32(out),
		Queries: o.Queries, Scale: o.Scale, LogitSoftcap: o.LogitSoftcap, SlidingWindow: o.SlidingWindow,
		QTokenStride: o.QTokenStride, QHeadStride: o.QHeadStride, OutTokenStride: o.OutTokenStride, OutHeadStride: o.OutHeadStride,
		Stream: o.Stream,
	}
	if o.NonCausal {
		desc.NonCausal = 1
	}
	if o.LatentOut {
		desc.LatentOut = 1
	}
	return desc
}

// Read reads tokens back, decompressed, into out: [tokens, kv_heads, head_dim], contiguous.
//
// From kvgear.h, kvg_cache_read:
//
//	Reads tokens first_token to first_token + tokens - 1 of K or V back, decompressed, as
//	[tokens, kv_heads, head_dim], contiguous, of `dtype`. Cost: O(tokens).
func (c *Cache) Read(layer uint32, side Side, firstToken, tokens uint64, out Tensor) error {
	return c.read("kvg_cache_read", func() error {
		return raw.KvgCacheRead(c.ptr, layer, uint32(side), firstToken, tokens, uint32(out.dtype), out.bytes)
	})
}

// Length returns the number of tokens of a layer.
//
// From kvgear.h, kvg_cache_length:
//
//	Number of tokens appended to a layer and not truncated, evicted ones included.
func (c *Cache) Length(layer uint32) (tokens uint64, err error) {
	err = c.read("kvg_cache_length", func() error { return raw.KvgCacheLength(c.ptr, layer, &tokens) })
	return tokens, err
}

// Truncate shortens a layer, or with AllLayers all of them.
//
// From kvgear.h, kvg_cache_truncate:
//
//	Shortens a layer, or all of them, to `tokens`. Exact where the length lies in the uncompressed
//	window or at the edge of a sealed segment of both K and V; elsewhere refused with KVG_E_INVALID
//	and the nearest lengths below and above in the message. With KVG_ALL_LAYERS layers that are
//	already shorter keep their length, and either every layer is shortened or none.
func (c *Cache) Truncate(layer uint32, tokens uint64) error {
	return c.write("kvg_cache_truncate", func() error { return raw.KvgCacheTruncate(c.ptr, layer, tokens) })
}

// Clear drops all tokens of all layers.
//
// From kvgear.h, kvg_cache_clear:
//
//	Drops all tokens of all layers.
func (c *Cache) Clear() error {
	return c.write("kvg_cache_clear", func() error { return raw.KvgCacheClear(c.ptr) })
}

// Fork makes a second cache with the same content, which shares the sealed segments.
//
// From kvgear.h, kvg_cache_fork:
//
//	Makes a second cache with the same content. All of it is shared; what one of the two changes later,
//	such as the window of its newest tokens, it copies first.
//	Cost: independent of the number of tokens, in time and in memory.
//	out: the fork. Destroy with kvg_cache_destroy.
func (c *Cache) Fork() (*Cache, error) {
	var ptr *raw.KvgCache
	if err := c.read("kvg_cache_fork", func() error { return raw.KvgCacheFork(c.ptr, &ptr) }); err != nil {
		return nil, err
	}
	return newCache(ptr, c.shape, c.rt), nil
}

// Stats returns memory and measured error of a layer or of AllLayers, for one side or for SideBoth.
//
// From kvgear.h, kvg_cache_stats:
//
//	Fills in the statistics of one layer or of KVG_ALL_LAYERS, for one side or both.
//	stats->struct_size must be set. Cost: O(segments).
func (c *Cache) Stats(layer uint32, side Side) (Stats, error) {
	var s raw.KvgStats
	s.StructSize = uint32(unsafe.Sizeof(s))
	var stats Stats
	if err := c.read("kvg_cache_stats", func() error { return raw.KvgCacheStats(c.ptr, layer, uint32(side), &s) }); err != nil {
		return stats, err
	}
	stats.fromRaw(&s)
	return stats, nil
}
