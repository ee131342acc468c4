// Finding and checking the library that holds the CUDA backend.
//
// Called by core/runtime.
#ifndef KVGEAR_CORE_RUNTIME_PLUGIN_H_
#define KVGEAR_CORE_RUNTIME_PLUGIN_H_

#include "core/base/status.h"
#include "kernels/plugin.h"

namespace kvg {

// The table of libkvgear_cuda.so, from the folder of the library that this code is in or, when the
// environment variable KVGEAR_PLUGIN_PATH is set, from the folders it lists (separated by colons).
// The first file found counts. Magic, version and size are read before any function of the table is
// called. Once a plugin was loaded it stays, and every later call gives the same one; a failure is
// looked into anew each time. Thread-safe.
absl::StatusOr<const ops::Plugin*> LoadCudaPlugin();

}  // namespace kvg

#endif  // KVGEAR_CORE_RUNTIME_PLUGIN_H_
