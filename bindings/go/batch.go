package kvgear

import (
	"cmp"
	"fmt"
	"slices"
	"unsafe"

	"kvgear.org/kvgear/internal/raw"
)

// AttendBatch is Attend for one layer of several caches of one runtime and one shape, in one call. q and out are
// [len(caches) * queries, q_heads, head_dim]: the rows of a cache follow those of the one before it.
//
// From kvgear.h, kvg_cache_attend_batch:
//
//	kvg_cache_attend for one layer of several caches in one call, each with its own number of tokens.
//	The caches must be of one runtime and one shape; their recipes may differ, and a cache may come
//	more than once. Each result has the bits that a call for its cache alone would give.
//	Cost: O(tokens of all caches); no memory is kept.
//	caches: the caches; 0 of them do nothing
//	caches_len: how many
//	q: queries, [caches_len * queries, q_heads, head_dim]: query i of cache c is row c * queries + i. Strides as in kvg_cache_attend, from row to row.
//	out: results in the same order, likewise
func AttendBatch(caches []*Cache, layer uint32, q, out Tensor, o AttendOptions) error {
	const op = "kvg_cache_attend_batch"
	if len(caches) == 0 {
		o.Queries = max(o.Queries, 1)
	} else if caches[0] != nil {
		if err := o.count(op, caches[0].shape, q, len(caches)); err != nil {
			return err
		}
	}
	return withBatch(op, caches, false, func(handles []*raw.KvgCache) error {
		desc := rawAttendDesc(q.dtype, out.dtype, &o)
		return raw.KvgCacheAttendBatch(handles, layer, q.bytes, out.bytes, &desc)
	})
}

// AppendBatch is Append for one layer of several different caches of one runtime and one shape, in one call, the same
// number of tokens to each: to all of them or to none. k and v are [len(caches) * tokens, kv_heads, head_dim]: the
// rows of a cache follow those of the one before it.
//
// From kvgear.h, kvg_cache_append_batch:
//
//	kvg_cache_append for one layer of several caches in one call, the same number of tokens to each, all
//	of them or none. The caches must be different ones of one runtime and one shape; their recipes may
//	differ, but for those that select tokens: KVG_E_UNSUPPORTED. Each cache gets the bits that a call of
//	its own would give it.
//	Cost: O(tokens of all caches), amortised; on a device much less work for the host than a call each.
//	caches: the caches; 0 of them do nothing
//	caches_len: how many
//	k: keys, [caches_len * desc->tokens, kv_heads, head_dim]: token i of cache c is row c * desc->tokens + i. Strides as in kvg_cache_append, from row to row.
//	v: values, likewise
func AppendBatch(caches []*Cache, layer uint32, k, v Tensor) error {
	const op = "kvg_cache_append_batch"
	if len(caches) > 0 && caches[0] != nil {
		row := int(caches[0].shape.KVHeads) * int(caches[0].shape.HeadDim) * len(caches)
		if k.Len()%row != 0 || k.Len() != v.Len() {
			return invalid(op, fmt.Sprintf("k has %d elements and v %d; both must have the same number, "+
				"a multiple of caches * kv_heads * head_dim = %d", k.Len(), v.Len(), row))
		}
		return AppendBatchStrided(caches, layer, k, v, AppendOptions{Tokens: uint64(k.Len() / row)})
	}
	return AppendBatchStrided(caches, layer, k, v, AppendOptions{})
}

// AppendBatchStrided is AppendBatch of tokens that lie in any order in memory, o.Tokens to each cache; the strides
// lead from row to row over all caches.
func AppendBatchStrided(caches []*Cache, layer uint32, k, v Tensor, o AppendOptions) error {
	const op = "kvg_cache_append_batch"
	if k.dtype != v.dtype {
		return invalid(op, "k and v differ in their element type")
	}
	return withBatch(op, caches, true, func(handles []*raw.KvgCache) error {
		desc := rawAppendDesc(k.dtype, &o)
		return raw.KvgCacheAppendBatch(handles, layer, k.bytes, v.bytes, &desc)
	})
}

// withBatch runs call while all caches are open and locked: for writing where write is set.
func withBatch(op string, caches []*Cache, write bool, call func(handles []*raw.KvgCache) error) error {
	handles := make([]*raw.KvgCache, len(caches))
	for i, c := range caches {
		if c == nil {
			return invalid(op, fmt.Sprintf("caches[%d] is nil", i))
		}
		handles[i] = c.ptr
	}
	// Each cache once, and all calls in one order: two batches and two writers could otherwise wait for each other.
	order := slices.Clone(caches)
	slices.SortFunc(order, func(a, b *Cache) int {
		return cmp.Compare(uintptr(unsafe.Pointer(a.ptr)), uintptr(unsafe.Pointer(b.ptr)))
	})
	for _, c := range slices.Compact(order) {
		if !c.guard.enter() {
			return closedError(op, "cache")
		}
		defer c.guard.leave()
		if write {
			c.lock.Lock()
			defer c.lock.Unlock()
		} else {
			c.lock.RLock()
			defer c.lock.RUnlock()
		}
	}
	return wrap(op, call(handles))
}
