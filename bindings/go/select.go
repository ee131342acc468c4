package kvgear

import (
	"fmt"

	"kvgear.org/kvgear/internal/raw"
)

// Methods for layers whose recipe selects tokens. On layers that keep all tokens they either answer accordingly or
// fail with ErrState, as the header says.

// Held returns the number of tokens that a layer holds: all but those evicted.
//
// From kvgear.h, kvg_cache_held:
//
//	Number of slots of a layer: tokens that it holds for each KV head.
func (c *Cache) Held(layer uint32) (slots uint64, err error) {
	err = c.read("kvg_cache_held", func() error { return raw.KvgCacheHeld(c.ptr, layer, &slots) })
	return slots, err
}

// Positions returns the original position of the token in each slot of one KV head, in the order of Read.
//
// From kvgear.h, kvg_cache_positions:
//
//	Writes the original position of the token in each slot of one KV head, in the order in which
//	kvg_cache_read returns them: ascending, but that sinks come behind what is compressed, and that a
//	run compressed in tiers lists one tier after the other.
//	positions_len: slots that there is room for; 0 asks for the number alone
//	needed: slots of the layer; may be NULL
func (c *Cache) Positions(layer, kvHead uint32) ([]uint64, error) {
	return list(c, "kvg_cache_positions", func(positions []uint64, needed *uint64) error {
		return raw.KvgCachePositions(c.ptr, layer, kvHead, positions, needed)
	})
}

// Bits returns the class of each slot of K or V: the bits of its codes, 16 where it is not compressed.
//
// From kvgear.h, kvg_cache_bits:
//
//	Writes the class of each slot of K or V: the bits of its codes, 16 where it is not compressed.
//	Buffer rules as in kvg_cache_positions.
func (c *Cache) Bits(layer uint32, side Side) ([]uint8, error) {
	return list(c, "kvg_cache_bits", func(bits []uint8, needed *uint64) error {
		return raw.KvgCacheBits(c.ptr, layer, uint32(side), bits, needed)
	})
}

// Select ends the prompt of a layer, or of AllLayers, and lets its policy act if it is due.
//
// From kvgear.h, kvg_cache_select:
//
//	Ends the prompt of a layer, or of KVG_ALL_LAYERS (all of them or none), and lets its policy act if
//	it is due. Does nothing on layers that keep all tokens.
func (c *Cache) Select(layer uint32) error {
	return c.write("kvg_cache_select", func() error { return raw.KvgCacheSelect(c.ptr, layer) })
}

// AppendAt appends tokens of given positions: of a prompt that was pruned on its way through the layers. Where o.Tokens
// is 0 there are as many as positions.
//
// From kvgear.h, kvg_cache_append_at:
//
//	As kvg_cache_append, for tokens at given positions: of a prompt that was pruned on its way through
//	the layers (see kvg_cache_next_tokens). Positions in between count as evicted. KVG_E_STATE on a
//	layer that keeps all tokens.
//	positions: ascending, beyond all that the layer has seen, below 2^32 - 1
//	positions_len: desc->tokens
func (c *Cache) AppendAt(layer uint32, k, v Tensor, positions []uint64, o AppendOptions) error {
	const op = "kvg_cache_append_at"
	if k.dtype != v.dtype {
		return invalid(op, "k and v differ in their element type")
	}
	if o.Tokens == 0 {
		o.Tokens = uint64(len(positions))
	}
	desc := rawAppendDesc(k.dtype, &o)
	return c.write(op, func() error {
		return raw.KvgCacheAppendAt(c.ptr, layer, k.bytes, v.bytes, positions, &desc)
	})
}

// Observe gives a layer scores, [kv_heads][slots]: the attention weights that each slot got, averaged over the query
// heads of its KV head and summed over rows query rows.
//
// From kvgear.h, kvg_cache_observe:
//
//	Gives a layer scores: for each KV head and slot the attention weights that the slot got, averaged
//	over the query heads of the KV head and summed over query rows.
//	scores: float32 [kv_heads][slots], not negative, finite
//	scores_len: kv_heads * slots
//	rows: how many query rows were summed; the newest. For a policy that reads only the newest row, 1
func (c *Cache) Observe(layer uint32, scores []float32, rows uint64) error {
	return c.write("kvg_cache_observe", func() error { return raw.KvgCacheObserve(c.ptr, layer, scores, rows) })
}

// Probe lets the library work scores out from queries of tokens appended before; positions are those of their tokens.
//
// From kvgear.h, kvg_cache_probe:
//
//	Lets the library work scores out from queries of tokens appended before. Cost: O(queries * slots)
//	time, no matrix of that size. Rows that the policy does not read are passed over; without any
//	use for scores nothing is done.
//	q: queries as in kvg_cache_attend; of `desc` the fields that concern q, scale and logit_softcap are read; desc->queries rows
//	positions: of the token of each query, not descending
//	positions_len: desc->queries
func (c *Cache) Probe(layer uint32, q Tensor, positions []uint64, o AttendOptions) error {
	const op = "kvg_cache_probe"
	if o.Queries == 0 {
		if uint64(len(positions)) > 1<<32-1 {
			return invalid(op, fmt.Sprintf("there are %d positions; probe at most 2^32 - 1 at once", len(positions)))
		}
		o.Queries = uint32(len(positions))
	}
	desc := rawAttendDesc(q.dtype, q.dtype, &o)
	return c.write(op, func() error { return raw.KvgCacheProbe(c.ptr, layer, q.bytes, positions, &desc) })
}

// ProbePositions returns the positions whose queries the layer's policy wants Probe to see before it acts.
//
// From kvgear.h, kvg_cache_probe_positions:
//
//	Writes the positions whose queries the layer's policy wants kvg_cache_probe to see before it acts:
//	for example the newest 64, or 5 % newest and 5 % drawn at random (from a fixed seed). None where it
//	has no use for scores. Buffer rules as in kvg_cache_positions.
func (c *Cache) ProbePositions(layer uint32) ([]uint64, error) {
	return list(c, "kvg_cache_probe_positions", func(positions []uint64, needed *uint64) error {
		return raw.KvgCacheProbePositions(c.ptr, layer, positions, needed)
	})
}

// AttendObserve is Attend, and gives the layer's policy the scores of these queries.
//
// From kvgear.h, kvg_cache_attend_observe:
//
//	As kvg_cache_attend, and gives the layer the scores of these queries, if it has use for scores.
func (c *Cache) AttendObserve(layer uint32, q, out Tensor, o AttendOptions) error {
	const op = "kvg_cache_attend_observe"
	if err := o.count(op, c.shape, q, 1); err != nil {
		return err
	}
	desc := rawAttendDesc(q.dtype, out.dtype, &o)
	return c.write(op, func() error { return raw.KvgCacheAttendObserve(c.ptr, layer, q.bytes, out.bytes, &desc) })
}

// NextTokens returns which slots of a layer's prompt go on to the next layer, ascending.
//
// From kvgear.h, kvg_cache_next_tokens:
//
//	Writes which slots of a layer's prompt go on to the next layer, ascending (PyramidInfer): the
//	caller gathers the hidden states of these tokens, and appends them to the next layer with
//	kvg_cache_append_at. All of them on a layer that keeps all tokens. Buffer rules as in
//	kvg_cache_positions.
func (c *Cache) NextTokens(layer uint32) ([]uint64, error) {
	return list(c, "kvg_cache_next_tokens", func(slots []uint64, needed *uint64) error {
		return raw.KvgCacheNextTokens(c.ptr, layer, slots, needed)
	})
}

// list asks for a list of numbers: for its length, and then, before anything can change it, for all of it.
func list[T uint64 | uint8](c *Cache, op string, ask func(buffer []T, needed *uint64) error) ([]T, error) {
	var all []T
	err := c.read(op, func() error {
		var needed uint64
		if err := ask(nil, &needed); err != nil {
			return err
		}
		all = make([]T, needed)
		if needed == 0 {
			return nil
		}
		return ask(all, &needed)
	})
	if err != nil {
		return nil, err
	}
	return all, nil
}
