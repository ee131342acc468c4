package kvgear

import (
	"runtime"
	"unsafe"

	"kvgear.org/kvgear/internal/raw"
)

// Prefix is a store of caches of prompts that were seen, by their token ids, so that the next prompt with the same
// beginning need not be computed again. Its methods may be called from any number of goroutines at the same time.
type Prefix struct {
	guard guard
	ptr   *raw.KvgPrefix
	rt    *Runtime // of the caches that it gives
}

// NewPrefix creates an empty store.
//
// From kvgear.h, kvg_prefix_create:
//
//	Creates an empty store.
//	budget: most bytes that it may hold, those that its caches share counted once; 0 = no limit
//	out: the store. Destroy with kvg_prefix_destroy.
func (r *Runtime) NewPrefix(budget uint64) (*Prefix, error) {
	const op = "kvg_prefix_create"
	if !r.guard.enter() {
		return nil, closedError(op, "runtime")
	}
	defer r.guard.leave()
	var ptr *raw.KvgPrefix
	if err := raw.KvgPrefixCreate(r.ptr, budget, &ptr); err != nil {
		return nil, wrap(op, err)
	}
	p := &Prefix{ptr: ptr, rt: r}
	p.guard.end = func() { raw.KvgPrefixDestroy(ptr) }
	runtime.SetFinalizer(p, (*Prefix).Close)
	return p, nil
}

// Close ends the store, once the calls that are under way are over. It may be called more than once and returns nil.
//
// From kvgear.h, kvg_prefix_destroy:
//
//	Ends the store and the caches in it, not those that it gave away.
func (p *Prefix) Close() error {
	if p == nil {
		return nil
	}
	runtime.SetFinalizer(p, nil)
	p.guard.close()
	return nil
}

// Insert stores a fork of the cache under the ids of all tokens that it holds.
//
// From kvgear.h, kvg_prefix_insert:
//
//	Stores a fork of `cache` under the tokens that it holds, in place of one of the same plan and tokens.
//	If the budget does not suffice, those that were not used for longest make room; KVG_E_LIMIT if the cache
//	does not fit by itself.
//	Cost: O(segments + tokens).
//	tokens: ids of all tokens in every layer of the cache
func (p *Prefix) Insert(tokens []uint32, c *Cache) error {
	const op = "kvg_prefix_insert"
	if !p.guard.enter() {
		return closedError(op, "prefix store")
	}
	defer p.guard.leave()
	return c.read(op, func() error { return raw.KvgPrefixInsert(p.ptr, tokens, c.ptr) })
}

// Find returns a fork of the stored cache that has the longest beginning in common with these tokens, cut to that
// beginning, and how many tokens it holds; nil and 0 where there is none.
//
// From kvgear.h, kvg_prefix_find:
//
//	Finds the stored cache with the longest common beginning with these tokens, and gives a fork of it
//	that holds just that beginning, cut to the nearest length below where an exact cut is possible.
//	Cost: O(tokens), however many caches are stored.
//	plan: only caches of this plan are considered
//	matched: tokens that the fork holds; 0 if nothing was found
//	out: the fork, or NULL. Destroy with kvg_cache_destroy.
func (p *Prefix) Find(plan *Plan, tokens []uint32) (cache *Cache, matched uint64, err error) {
	const op = "kvg_prefix_find"
	if !p.guard.enter() {
		return nil, 0, closedError(op, "prefix store")
	}
	defer p.guard.leave()
	if !plan.guard.enter() {
		return nil, 0, closedError(op, "plan")
	}
	defer plan.guard.leave()
	var ptr *raw.KvgCache
	if err := raw.KvgPrefixFind(p.ptr, plan.ptr, tokens, &matched, &ptr); err != nil {
		return nil, 0, wrap(op, err)
	}
	if ptr == nil {
		return nil, 0, nil
	}
	return newCache(ptr, plan.shape, p.rt), matched, nil
}

// Clear drops all stored caches.
//
// From kvgear.h, kvg_prefix_clear:
//
//	Drops all stored caches.
func (p *Prefix) Clear() error {
	const op = "kvg_prefix_clear"
	if !p.guard.enter() {
		return closedError(op, "prefix store")
	}
	defer p.guard.leave()
	return wrap(op, raw.KvgPrefixClear(p.ptr))
}

// Stats returns what the store holds and did.
//
// From kvgear.h, kvg_prefix_read_stats:
//
//	Fills in the statistics. stats->struct_size must be set.
func (p *Prefix) Stats() (PrefixStats, error) {
	const op = "kvg_prefix_read_stats"
	var stats PrefixStats
	if !p.guard.enter() {
		return stats, closedError(op, "prefix store")
	}
	defer p.guard.leave()
	var s raw.KvgPrefixStats
	s.StructSize = uint32(unsafe.Sizeof(s))
	if err := raw.KvgPrefixReadStats(p.ptr, &s); err != nil {
		return stats, wrap(op, err)
	}
	stats.fromRaw(&s)
	return stats, nil
}
