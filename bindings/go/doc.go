// Package kvgear keeps the keys and values of language models compressed, and computes attention on the compressed form.
//
// A Plan says the shape of the model and how each layer is compressed (a recipe, such as "gear-2"), a Runtime holds the
// threads and the memory budget, and a Cache is the compressed cache of one sequence:
//
//	rt, err := kvgear.NewRuntime(kvgear.Options{})
//	plan, err := kvgear.NewPlan(kvgear.Shape{Layers: 32, QHeads: 32, KVHeads: 8, HeadDim: 128}, "gear-2")
//	cache, err := rt.NewCache(plan)
//	defer cache.Close()
//	err = cache.Append(layer, kvgear.F16(k), kvgear.F16(v))                             // tokens x 8 x 128
//	err = cache.Attend(layer, kvgear.F32(q), kvgear.F32(out), kvgear.AttendOptions{})   // queries x 32 x 128
//
// Slices go to the library as they are, without a copy. They must lie in memory that holds no Go pointers (a slice made
// by make does; one of an array inside a struct with pointers does not), as cgo's rules ask.
//
// # Errors
//
// Every error of the library is an *Error with the sentence that says what is wrong and what to change, and matches the
// Status values: errors.Is(err, kvgear.ErrLimit). A call that fails changes nothing.
//
// # Goroutines
//
// All methods may be called from any number of goroutines. Methods that change a cache (Append and its kin, Truncate, Clear,
// Select, Observe, Probe, AttendObserve, Extend and its kin) wait for those that read it (Attend, Read, Fork, Stats, Save and
// its kin, the others), and these for the former; different caches, also forks of one
// another, are independent. After Close every method fails with ErrState; calls that are under way when Close is called
// end as if it had not been. What is not closed ends when it is garbage.
//
// # What is left out
//
// The allocator tables of kvg_runtime_options are left out on purpose: they would call Go for every allocation, from threads that are
// not Go's, and Go has no memory to give that C may keep. Options.MemoryBudget bounds the memory instead.
package kvgear
