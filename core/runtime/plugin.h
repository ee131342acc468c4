// Finding and checking the library that holds the CUDA backend.
//
// Called by core/runtime.
#ifndef KVGEAR_CORE_RUNTIME_PLUGIN_H_
#define KVGEAR_CORE_RUNTIME_PLUGIN_H_

#include <string>

#include "core/base/status.h"
#include "kernels/plugin.h"

namespace kvg {

// The table of libkvgear_cuda.so, from the folder of the library that this code is in or, when the
// environment variable KVGEAR_PLUGIN_PATH is set, from the folders it lists (separated by colons).
// The first file found counts. Magic, range of versions and size of its table are read from the file, and
// a plugin that does not fit is refused before any of its code, constructors included, has run. Once a plugin was loaded it stays, and every later call gives the same one; a failure is
// looked into anew each time. Thread-safe.
absl::StatusOr<const ops::Plugin*> LoadCudaPlugin();

// What is looked at in the file of a plugin before it is loaded. Loads nothing.
absl::Status CheckCudaPlugin(const std::string& file);

}  // namespace kvg

#endif  // KVGEAR_CORE_RUNTIME_PLUGIN_H_
