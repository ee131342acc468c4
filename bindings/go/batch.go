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
	handles := make([]*raw.KvgCache, len(caches))
	for i, c := range caches {
		if c == nil {
			return invalid(op, fmt.Sprintf("caches[%d] is nil", i))
		}
		handles[i] = c.ptr
	}
	if len(caches) == 0 {
		o.Queries = max(o.Queries, 1)
	} else if err := o.count(op, caches[0].shape, q, len(caches)); err != nil {
		return err
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
		c.lock.RLock()
		defer c.lock.RUnlock()
	}
	desc := rawAttendDesc(q.dtype, out.dtype, &o)
	return wrap(op, raw.KvgCacheAttendBatch(handles, layer, q.bytes, out.bytes, &desc))
}
