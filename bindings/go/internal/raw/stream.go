package raw

/*
#include "kvgear.h"

extern int64_t kvgGoMove(uintptr_t mover, void *data, uint64_t bytes);

static int64_t kvg_go_write(void *user, const void *data, uint64_t bytes) {
  return kvgGoMove((uintptr_t)user, (void *)data, bytes);
}

static int64_t kvg_go_read(void *user, void *data, uint64_t bytes) { return kvgGoMove((uintptr_t)user, data, bytes); }

static kvg_status kvg_go_save(const kvg_cache *cache, uintptr_t mover, const kvg_save_desc *desc, kvg_error *err) {
  return kvg_cache_save_stream(cache, kvg_go_write, (void *)mover, desc, err);
}

static kvg_status kvg_go_load(kvg_runtime *runtime, const kvg_plan *plan, uintptr_t mover, const kvg_load_desc *desc,
                              kvg_cache **out, kvg_error *err) {
  return kvg_cache_load_stream(runtime, plan, kvg_go_read, (void *)mover, desc, out, err);
}

static kvg_status kvg_go_extend(kvg_cache *cache, uintptr_t mover, const kvg_load_desc *desc, kvg_error *err) {
  return kvg_cache_extend_stream(cache, kvg_go_read, (void *)mover, desc, err);
}
*/
import "C"

import (
	"runtime/cgo"
	"unsafe"
)

// Mover takes bytes of C's memory, or fills it, and returns how many; 0 at the end, below 0 for a failure. It must not
// panic or end its goroutine, and not keep the slice.
type Mover func(data []byte) int64

// KvgCacheSaveStream is kvg_cache_save_stream with a function of Go.
func KvgCacheSaveStream(cache *KvgCache, write Mover, desc *KvgSaveDesc) error {
	handle := cgo.NewHandle(write)
	defer handle.Delete()
	var detail C.kvg_error
	return failed(C.kvg_go_save((*C.kvg_cache)(unsafe.Pointer(cache)), C.uintptr_t(handle),
		(*C.kvg_save_desc)(unsafe.Pointer(desc)), &detail), &detail)
}

// KvgCacheLoadStream is kvg_cache_load_stream with a function of Go.
func KvgCacheLoadStream(runtime *KvgRuntime, plan *KvgPlan, read Mover, desc *KvgLoadDesc, out **KvgCache) error {
	handle := cgo.NewHandle(read)
	defer handle.Delete()
	var detail C.kvg_error
	return failed(C.kvg_go_load((*C.kvg_runtime)(unsafe.Pointer(runtime)), (*C.kvg_plan)(unsafe.Pointer(plan)),
		C.uintptr_t(handle), (*C.kvg_load_desc)(unsafe.Pointer(desc)), (**C.kvg_cache)(unsafe.Pointer(out)), &detail), &detail)
}

// KvgCacheExtendStream is kvg_cache_extend_stream with a function of Go.
func KvgCacheExtendStream(cache *KvgCache, read Mover, desc *KvgLoadDesc) error {
	handle := cgo.NewHandle(read)
	defer handle.Delete()
	var detail C.kvg_error
	return failed(C.kvg_go_extend((*C.kvg_cache)(unsafe.Pointer(cache)), C.uintptr_t(handle),
		(*C.kvg_load_desc)(unsafe.Pointer(desc)), &detail), &detail)
}

func failed(status C.kvg_status, detail *C.kvg_error) error {
	if status == C.KVG_OK {
		return nil
	}
	return &Error{int32(status), C.GoString(&detail.message[0])}
}

//export kvgGoMove
func kvgGoMove(mover C.uintptr_t, data unsafe.Pointer, bytes C.uint64_t) C.int64_t {
	most := min(uint64(bytes), 1<<30)
	return C.int64_t(cgo.Handle(mover).Value().(Mover)(unsafe.Slice((*byte)(data), int(most))))
}
