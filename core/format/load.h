// Loading: a saved cache, checked before anything of it is used. See FORMAT.md.
//
// Called by capi, the inspector and tests. A load that fails changes nothing.
#ifndef KVGEAR_CORE_FORMAT_LOAD_H_
#define KVGEAR_CORE_FORMAT_LOAD_H_

#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "core/base/status.h"
#include "core/cache/cache.h"
#include "core/format/stream.h"

namespace kvg {

struct LoadOptions {
  std::string_view fingerprint = {};
  bool exact = false;         // the source must end where the saved cache does
  bool tables_only = false;   // of a mapped file: payloads are neither read nor checked
};

// A new cache. Layers that were not saved are empty.
absl::StatusOr<std::unique_ptr<Cache>> LoadCache(std::shared_ptr<Runtime> runtime,
                                                 std::shared_ptr<const Plan> plan,
                                                 const LoadOptions& options, Source& source);

// Adds what was saved behind what the cache holds: each saved layer must begin where its ends.
absl::Status ExtendCache(Cache& cache, const LoadOptions& options, Source& source);

// ------------------------------------------------------------------------------- looking inside

struct SavedSegment {
  bool rows = false;  // fp16 as it is
  uint32_t bits = 16;
  uint64_t first_token = 0, tokens = 0, room = 0, payload_bytes = 0;
  double error_sq = 0, norm_sq = 0;
};

struct SavedSide {
  uint32_t layer = 0;
  ops::Side side = ops::kSideK;
  uint64_t first_token = 0, first_row = 0, rows = 0;
  std::vector<SavedSegment> segments;
  SegmentBytes bytes;  // of all segments
  uint64_t bytes_window = 0, bytes_basis = 0, bytes_seen = 0;
  bool latents = false;
  uint64_t end() const { return first_row + rows; }
};

// Of a layer that selects tokens, of which the sides then hold slots.
struct SavedSelection {
  uint32_t layer = 0;
  uint64_t appended = 0, held = 0;
  uint64_t bytes_positions = 0, bytes_scores = 0;
};

struct SavedCache {
  uint32_t version = 0;
  uint64_t features = 0, bytes = 0, sections = 0;
  Shape shape;
  uint32_t first_layer = 0, layers = 0;
  std::string fingerprint;
  std::vector<std::string> recipes;  // of each saved layer
  std::vector<SavedSelection> selections;
  std::vector<SavedSide> sides;
};

// Reads the tables, and with `verify` every byte, of a saved cache of any model.
absl::StatusOr<SavedCache> InspectSaved(Source& source, bool exact, bool verify);

}  // namespace kvg

#endif  // KVGEAR_CORE_FORMAT_LOAD_H_
