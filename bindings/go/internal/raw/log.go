package raw

/*
#include "kvgear.h"
#include <stdlib.h>

extern void kvgGoLog(uintptr_t sink, uint32_t level, char *message);

static void kvg_go_log(void *user, kvg_log_level level, const char *message) {
  kvgGoLog((uintptr_t)user, level, (char *)message);
}

// One call: the detail of a failure must be of this call.
static kvg_status kvg_go_set_log(kvg_runtime *runtime, uintptr_t sink, kvg_error *err) {
  return kvg_runtime_set_log(runtime, sink ? kvg_go_log : NULL, (void *)sink, err);
}
*/
import "C"

import (
	"runtime/cgo"
	"unsafe"
)

// Sink receives log lines, on any thread.
type Sink func(level uint32, message string)

// KvgRuntimeSetLog sets the sink that the handle stands for (its value is a Sink), or with 0 removes it. The handle must
// live until another call has succeeded.
func KvgRuntimeSetLog(runtime *KvgRuntime, sink cgo.Handle) error {
	var detail C.kvg_error
	return failed(C.kvg_go_set_log((*C.kvg_runtime)(unsafe.Pointer(runtime)), C.uintptr_t(sink), &detail), &detail)
}

//export kvgGoLog
func kvgGoLog(sink C.uintptr_t, level C.uint32_t, message *C.char) {
	// A panic must not cross the library, which would keep its locks for ever.
	defer func() { _ = recover() }()
	cgo.Handle(sink).Value().(Sink)(uint32(level), C.GoString(message))
}
