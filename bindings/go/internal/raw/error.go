package raw

/*
#include "kvgear.h"
#include <stdlib.h>

static const kvg_error *kvg_go_error(uint64_t address) { return (const kvg_error *)(uintptr_t)address; }
*/
import "C"

import "unsafe"

// Error is a status other than KVG_OK with the sentence of the call that failed.
type Error struct {
	Code    int32
	Message string
}

func (e *Error) Error() string { return e.Message }

// takeError turns what a C wrapper returned into an error: 0 is success, a small number a bare status (there was no
// memory for more), anything else the address of a kvg_error on the C heap, which is freed here.
func takeError(failure uint64) error {
	if failure == 0 {
		return nil
	}
	if failure < 4096 {
		return &Error{int32(failure), goString((*byte)(unsafe.Pointer(C.kvg_status_string(C.kvg_status(failure)))))}
	}
	detail := C.kvg_go_error(C.uint64_t(failure))
	defer C.free(unsafe.Pointer(detail))
	return &Error{int32(detail.code), C.GoString(&detail.message[0])}
}

func goString(text *byte) string { return C.GoString((*C.char)(unsafe.Pointer(text))) }
