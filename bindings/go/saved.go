package kvgear

import (
	"io"
	"runtime"
	"unsafe"

	"kvgear.org/kvgear/internal/raw"
)

// SaveOptions says what is to be saved. The zero value is everything.
//
// From kvgear.h, kvg_save_desc:
//
//	What is to be saved.
type SaveOptions struct {
	FirstLayer  uint32
	Layers      uint32 // 0 = all from FirstLayer on
	FirstToken  uint64 // where an exact cut is possible, see Truncate
	Tokens      uint64 // 0 = all from FirstToken on; the end is an exact cut too
	NoSync      bool   // files: do not wait until the disk has it; a loss of power may cost it
	Fingerprint []byte // what tells this model from others of its shape; at most 256 bytes
}

// LoadOptions says how a saved cache is to be loaded.
//
// From kvgear.h, kvg_load_desc:
//
//	How a saved cache is to be loaded.
type LoadOptions struct {
	Map         bool   // files: sealed segments stay in the file, which must neither be changed nor cut while a cache uses it
	Trust       bool   // with Map: do not read all of it; a damaged or forged file can then end the process
	Fingerprint []byte // must be the one that was saved
}

// raw makes what goes to C. Its fingerprint stays where it is until pinner.Unpin.
func (o *SaveOptions) raw(pinner *runtime.Pinner) *raw.KvgSaveDesc {
	d := &raw.KvgSaveDesc{
		FirstLayer: o.FirstLayer, Layers: o.Layers, NoSync: flag(o.NoSync), FirstToken: o.FirstToken, Tokens: o.Tokens,
		Fingerprint: pinned(pinner, o.Fingerprint), FingerprintBytes: uint64(len(o.Fingerprint)),
	}
	d.StructSize = uint32(unsafe.Sizeof(*d))
	return d
}

func (o *LoadOptions) raw(pinner *runtime.Pinner) *raw.KvgLoadDesc {
	d := &raw.KvgLoadDesc{
		Map: flag(o.Map), Trust: flag(o.Trust),
		Fingerprint: pinned(pinner, o.Fingerprint), FingerprintBytes: uint64(len(o.Fingerprint)),
	}
	d.StructSize = uint32(unsafe.Sizeof(*d))
	return d
}

func flag(set bool) uint32 {
	if set {
		return 1
	}
	return 0
}

// pinned returns the address of a copy of x, which may be memory of C that cannot be pinned itself.
func pinned(pinner *runtime.Pinner, x []byte) uintptr {
	if len(x) == 0 {
		return 0
	}
	own := append([]byte(nil), x...)
	pinner.Pin(&own[0])
	return uintptr(unsafe.Pointer(&own[0]))
}

// Save saves the cache, or a range of its layers and tokens, to a file.
//
// From kvgear.h, kvg_cache_save:
//
//	Saves a cache, or a range of its layers and tokens, to a file. The file appears, or takes the place
//	of an older one, as a whole: at any moment `path` is the old one or the new one.
//	The same cache saved twice gives the same bytes. Cost: O(tokens); no second copy is made.
//	path: terminated, as the system's functions take it
//	desc: may be NULL: everything
func (c *Cache) Save(path string, o SaveOptions) error {
	const op = "kvg_cache_save"
	name, err := cText(op, "path", path)
	if err != nil {
		return err
	}
	var pinner runtime.Pinner
	defer pinner.Unpin()
	desc := o.raw(&pinner)
	return c.read(op, func() error { return raw.KvgCacheSave(c.ptr, name, desc) })
}

// SaveBytes saves the cache, or a range of it, to memory.
//
// From kvgear.h, kvg_cache_save_buffer:
//
//	The same into a buffer. KVG_E_BUFFER_TOO_SMALL if it is too short; what it holds then is undefined.
//	To ask only for the needed length pass data_bytes 0.
//	needed: bytes of the saved cache; may be NULL
func (c *Cache) SaveBytes(o SaveOptions) ([]byte, error) {
	var pinner runtime.Pinner
	defer pinner.Unpin()
	desc := o.raw(&pinner)
	var data []byte
	err := c.read("kvg_cache_save_buffer", func() error {
		var needed uint64
		if err := raw.KvgCacheSaveBuffer(c.ptr, nil, &needed, desc); err != nil {
			return err
		}
		data = make([]byte, needed)
		return raw.KvgCacheSaveBuffer(c.ptr, data, &needed, desc)
	})
	if err != nil {
		return nil, err
	}
	return data, nil
}

// SaveTo saves the cache, or a range of it, through a writer. An error or a panic of the writer ends the save: the error
// returned matches ErrIO, and has it as its Cause. The writer must not use the cache: a method that changes it
// would wait for the save to end, and so would one that reads it behind such a method.
//
// From kvgear.h, kvg_cache_save_stream:
//
//	The same through a function, which gets the bytes in order.
//
// From kvgear.h, kvg_write_fn:
//
//	Takes bytes of a saved cache.
//	Returns how many were taken, 1 to `bytes`; anything else ends the save with KVG_E_IO
func (c *Cache) SaveTo(w io.Writer, o SaveOptions) error {
	const op = "kvg_cache_save_stream"
	var pinner runtime.Pinner
	defer pinner.Unpin()
	desc := o.raw(&pinner)
	var cause error
	err := c.read(op, func() (err error) {
		err, cause = transfer(writes(w), func(write raw.Mover) error { return raw.KvgCacheSaveStream(c.ptr, write, desc) })
		return err
	})
	return because(err, cause)
}

// LoadCache makes a cache of the file that Save wrote, with the same plan.
//
// From kvgear.h, kvg_cache_load:
//
//	Makes a cache of a saved one. Layers that were not saved are empty. The cache answers with the same
//	bits as the saved one, and goes on like it.
//	Cost: O(tokens); with `map` and `trust` one small step per sealed segment.
//	plan: the plan that the cache was saved with, or one of the same shape and recipes
//	path: terminated, as the system's functions take it
//	desc: may be NULL
//	out: the cache. Destroy with kvg_cache_destroy.
func (r *Runtime) LoadCache(plan *Plan, path string, o LoadOptions) (*Cache, error) {
	const op = "kvg_cache_load"
	name, err := cText(op, "path", path)
	if err != nil {
		return nil, err
	}
	var pinner runtime.Pinner
	defer pinner.Unpin()
	desc := o.raw(&pinner)
	return r.open(op, plan, func(out **raw.KvgCache) error { return raw.KvgCacheLoad(r.ptr, plan.ptr, name, desc, out) })
}

// LoadCacheBytes makes a cache of the bytes that SaveBytes returned. They are not needed afterwards.
//
// From kvgear.h, kvg_cache_load_buffer:
//
//	The same from a buffer, which may be longer than the saved cache and is not needed afterwards.
func (r *Runtime) LoadCacheBytes(plan *Plan, data []byte, o LoadOptions) (*Cache, error) {
	var pinner runtime.Pinner
	defer pinner.Unpin()
	desc := o.raw(&pinner)
	return r.open("kvg_cache_load_buffer", plan, func(out **raw.KvgCache) error {
		return raw.KvgCacheLoadBuffer(r.ptr, plan.ptr, data, desc, out)
	})
}

// LoadCacheFrom makes a cache of what a reader gives, as SaveTo wrote it, and reads no byte behind its end. An error or
// a panic of the reader ends it: the error returned matches ErrIO, and has it as its Cause.
//
// From kvgear.h, kvg_cache_load_stream:
//
//	The same through a function; it is not asked for bytes behind the end of the saved cache.
//
// From kvgear.h, kvg_read_fn:
//
//	Gives the next bytes of a saved cache.
//	Returns how many were given, 1 to `bytes`; 0 at the end; below 0 for a failure
func (r *Runtime) LoadCacheFrom(plan *Plan, reader io.Reader, o LoadOptions) (*Cache, error) {
	var pinner runtime.Pinner
	defer pinner.Unpin()
	desc := o.raw(&pinner)
	var cause error
	cache, err := r.open("kvg_cache_load_stream", plan, func(out **raw.KvgCache) (err error) {
		err, cause = transfer(reads(reader), func(read raw.Mover) error {
			return raw.KvgCacheLoadStream(r.ptr, plan.ptr, read, desc, out)
		})
		return err
	})
	return cache, because(err, cause)
}

// Extend adds a saved range to the cache, from a file.
//
// From kvgear.h, kvg_cache_extend:
//
//	Adds a saved range to a cache: layers that it lacks, or the tokens that follow those that it holds.
//	Each saved layer must begin where the cache's ends; a range that begins in compressed tokens needs a
//	cache without uncompressed ones, so hand a sequence over in ranges that were saved one behind another.
func (c *Cache) Extend(path string, o LoadOptions) error {
	const op = "kvg_cache_extend"
	name, err := cText(op, "path", path)
	if err != nil {
		return err
	}
	var pinner runtime.Pinner
	defer pinner.Unpin()
	desc := o.raw(&pinner)
	return c.write(op, func() error { return raw.KvgCacheExtend(c.ptr, name, desc) })
}

// ExtendBytes adds a saved range to the cache, from memory.
//
// From kvgear.h, kvg_cache_extend_buffer:
//
//	The same from a buffer.
func (c *Cache) ExtendBytes(data []byte, o LoadOptions) error {
	var pinner runtime.Pinner
	defer pinner.Unpin()
	desc := o.raw(&pinner)
	return c.write("kvg_cache_extend_buffer", func() error { return raw.KvgCacheExtendBuffer(c.ptr, data, desc) })
}

// ExtendFrom adds a saved range to the cache, from a reader, with the rules of LoadCacheFrom. The reader must not use the
// cache, which would wait for the call to end.
//
// From kvgear.h, kvg_cache_extend_stream:
//
//	The same through a function.
func (c *Cache) ExtendFrom(reader io.Reader, o LoadOptions) error {
	var pinner runtime.Pinner
	defer pinner.Unpin()
	desc := o.raw(&pinner)
	var cause error
	err := c.write("kvg_cache_extend_stream", func() (err error) {
		err, cause = transfer(reads(reader), func(read raw.Mover) error { return raw.KvgCacheExtendStream(c.ptr, read, desc) })
		return err
	})
	return because(err, cause)
}
