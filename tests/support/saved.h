// Saved caches in memory, for tests.
#ifndef KVGEAR_TESTS_SUPPORT_SAVED_H_
#define KVGEAR_TESTS_SUPPORT_SAVED_H_

#include <cstddef>
#include <memory>
#include <string>
#include <vector>

#include "core/format/load.h"
#include "core/format/save.h"
#include "tests/support/cache_fixture.h"

namespace kvg::test {

using Bytes = std::vector<std::byte>;

class BytesSink : public Sink {
 public:
  absl::Status Write(const void* data, size_t bytes) override {
    const auto* at = static_cast<const std::byte*>(data);
    out.insert(out.end(), at, at + bytes);
    return absl::OkStatus();
  }
  Bytes out;
};

inline Bytes Saved(const Cache& cache, const SaveOptions& options = {}) {
  BytesSink sink;
  Must(SaveCache(cache, options, sink));
  return std::move(sink.out);
}

inline absl::StatusOr<std::unique_ptr<Cache>> TryLoad(const Bytes& bytes, const Cache& like,
                                                      const LoadOptions& options = {}) {
  BufferSource source(bytes.data(), bytes.size());
  return LoadCache(like.shared_runtime(), like.shared_plan(), options, source);
}

inline std::unique_ptr<Cache> Loaded(const Bytes& bytes, const Cache& like) {
  return Value(TryLoad(bytes, like));
}

}  // namespace kvg::test

#endif  // KVGEAR_TESTS_SUPPORT_SAVED_H_
