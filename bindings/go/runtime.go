package kvgear

import (
	"runtime"
	"runtime/cgo"
	"sync"
	"unsafe"

	"kvgear.org/kvgear/internal/raw"
)

// Options says what a runtime is to have. The zero value is the CPU, the caller's thread alone and no budget.
type Options struct {
	Device       Device // never changed in silence
	DeviceID     uint32 // ordinal of the device, 0 for the CPU
	Threads      uint32 // worker threads beside the caller's
	MemoryBudget uint64 // most bytes that all caches together may hold; 0 = no limit
}

// Runtime is threads, memory and backends, shared by any number of caches.
type Runtime struct {
	guard guard
	ptr   *raw.KvgRuntime
	log   *logSlot
}

// logSlot holds the handle of the log sink that the library has now.
type logSlot struct {
	mu   sync.Mutex
	sink cgo.Handle
}

// NewRuntime creates a runtime.
//
// From kvgear.h, kvg_runtime_create:
//
//	Creates a runtime. options may be NULL (all defaults).
//	KVG_E_BACKEND if the device is not to be had (the sentence says what is missing).
//	out: the runtime. Destroy with kvg_runtime_destroy.
func NewRuntime(options Options) (*Runtime, error) {
	if err := checkABI(); err != nil {
		return nil, err
	}
	o := rawOptions(options)
	var ptr *raw.KvgRuntime
	if err := raw.KvgRuntimeCreate(&o, &ptr); err != nil {
		return nil, wrap("kvg_runtime_create", err)
	}
	log := &logSlot{}
	r := &Runtime{ptr: ptr, log: log}
	r.guard.end = func() {
		_ = setLog(ptr, log, nil) // a cache that lives on must not call a sink that is gone
		raw.KvgRuntimeDestroy(ptr)
	}
	runtime.SetFinalizer(r, (*Runtime).Close)
	return r, nil
}

func rawOptions(o Options) raw.KvgRuntimeOptions {
	r := raw.KvgRuntimeOptions{Device: uint32(o.Device), DeviceID: o.DeviceID, Threads: o.Threads, MemoryBudget: o.MemoryBudget}
	r.StructSize = uint32(unsafe.Sizeof(r))
	return r
}

// Close ends the runtime's handle and removes the log sink. Caches of the runtime go on working. It may be called more
// than once, but not by the log sink. It returns nil.
//
// From kvgear.h, kvg_runtime_destroy:
//
//	Ends the caller's handle. The runtime itself lives until its last cache is destroyed.
func (r *Runtime) Close() error {
	if r == nil {
		return nil
	}
	runtime.SetFinalizer(r, nil)
	r.guard.close()
	return nil
}

// SetLog sets the receiver of log lines, or with nil removes it. It is called on any thread, also on several at once, and
// must not call SetLog or Close of the runtime, nor any method of the cache whose call the line came from. A panic in it ends that call of it and nothing
// else.
//
// From kvgear.h, kvg_runtime_set_log:
//
//	Sets (or with NULL removes) the log sink. May be called at any time from any thread. When the
//	call returns, the former sink is not running and is never called again; so a sink must not call
//	kvg_runtime_set_log.
//
// From kvgear.h, kvg_log_fn:
//
//	Receives log lines, one at a time; may be called from any thread that calls the library or that
//	it owns. The message is terminated, has no line break at its end and is valid during the call.
func (r *Runtime) SetLog(sink func(level LogLevel, message string)) error {
	const op = "kvg_runtime_set_log"
	if !r.guard.enter() {
		return closedError(op, "runtime")
	}
	defer r.guard.leave()
	return wrap(op, setLog(r.ptr, r.log, sink))
}

func setLog(ptr *raw.KvgRuntime, slot *logSlot, sink func(LogLevel, string)) error {
	slot.mu.Lock()
	defer slot.mu.Unlock()
	var handle cgo.Handle
	if sink != nil {
		handle = cgo.NewHandle(raw.Sink(func(level uint32, message string) { sink(LogLevel(level), message) }))
	}
	old := slot.sink
	if err := raw.KvgRuntimeSetLog(ptr, handle); err != nil {
		old = handle // the new one was not taken
		handle = slot.sink
		if old != 0 {
			old.Delete()
		}
		return err
	}
	slot.sink = handle
	if old != 0 {
		old.Delete() // the library has said that it is not running and never will
	}
	return nil
}

// Describe returns a line such as "cpu AVX3_ZEN4, 1 worker thread, no budget".
//
// From kvgear.h, kvg_runtime_describe:
//
//	Writes a line such as "cpu AVX3_ZEN4, 1 worker thread, no budget": for logs and bug reports, not
//	to be parsed.
//	needed: length with the terminator; may be NULL
func (r *Runtime) Describe() (string, error) {
	const op = "kvg_runtime_describe"
	if !r.guard.enter() {
		return "", closedError(op, "runtime")
	}
	defer r.guard.leave()
	return text(op, func(buffer []byte, needed *uint64) error { return raw.KvgRuntimeDescribe(r.ptr, buffer, needed) })
}

// Memory returns the bytes that the caches of the runtime hold.
//
// From kvgear.h, kvg_runtime_memory:
//
//	Bytes that the caches of this runtime hold now, as counted against the budget. Scratch memory of
//	a running call comes from the same allocator but is not counted; it is released before the call
//	returns.
func (r *Runtime) Memory() (uint64, error) {
	const op = "kvg_runtime_memory"
	if !r.guard.enter() {
		return 0, closedError(op, "runtime")
	}
	defer r.guard.leave()
	var bytes uint64
	err := raw.KvgRuntimeMemory(r.ptr, &bytes)
	return bytes, wrap(op, err)
}

// text asks for a text, with a longer buffer when the first is too short.
func text(op string, ask func(buffer []byte, needed *uint64) error) (string, error) {
	buffer := make([]byte, 128)
	for {
		var needed uint64
		err := wrap(op, ask(buffer, &needed))
		if err == nil {
			return string(buffer[:needed-1]), nil // less the terminator
		}
		if needed <= uint64(len(buffer)) {
			return "", err
		}
		buffer = make([]byte, needed)
	}
}
