// Saving: a cache, or a range of its layers and tokens, as a stream of sections. See FORMAT.md.
//
// Called by capi and tests. Nothing of the cache is copied on the way.
#ifndef KVGEAR_CORE_FORMAT_SAVE_H_
#define KVGEAR_CORE_FORMAT_SAVE_H_

#include <cstdint>
#include <string_view>

#include "core/base/status.h"
#include "core/cache/cache.h"
#include "core/format/stream.h"

namespace kvg {

struct SaveOptions {
  uint32_t first_layer = 0;
  uint32_t layers = 0;  // 0 = all from the first on
  uint64_t first_token = 0;
  uint64_t tokens = 0;  // 0 = all from the first on
  std::string_view fingerprint = {};
};

absl::Status SaveCache(const Cache& cache, const SaveOptions& options, Sink& sink);

}  // namespace kvg

#endif  // KVGEAR_CORE_FORMAT_SAVE_H_
