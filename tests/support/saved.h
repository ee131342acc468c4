// Saved caches in memory, for tests.
#ifndef KVGEAR_TESTS_SUPPORT_SAVED_H_
#define KVGEAR_TESTS_SUPPORT_SAVED_H_

#include <cstddef>
#include <cstring>
#include <memory>
#include <stdexcept>
#include <string>
#include <vector>

#include "core/base/crc32c.h"
#include "core/format/layout.h"
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

// Numbers of a saved cache set anew, with sums that fit.
class Forged {
 public:
  explicit Forged(Bytes bytes) : bytes_(std::move(bytes)) {}
  template <typename T>
  Forged& Header(size_t at, T value) {
    std::memcpy(&bytes_[at], &value, sizeof(value));
    Sum(0, format::kHeaderBytes);
    return *this;
  }
  // The nth section of a kind: at < 64 is its header, else its payload.
  template <typename T>
  Forged& Section(uint32_t kind, int nth, size_t at, T value) {
    size_t section = format::kHeaderBytes;
    while (section < bytes_.size()) {
      uint32_t found;
      uint64_t length;
      std::memcpy(&found, &bytes_[section], sizeof(found));
      std::memcpy(&length, &bytes_[section + 24], sizeof(length));
      if (found == kind && nth-- == 0) {
        std::memcpy(&bytes_[section + at], &value, sizeof(value));
        if (at >= format::kSectionBytes) {
          const uint32_t crc = Crc32c(&bytes_[section + format::kSectionBytes], length);
          std::memcpy(&bytes_[section + 20], &crc, sizeof(crc));
        }
        Sum(section, format::kSectionBytes);
        return *this;
      }
      section += format::kSectionBytes + format::Padded(length);
    }
    throw std::runtime_error("no such section");
  }
  const Bytes& bytes() const { return bytes_; }

 private:
  void Sum(size_t at, size_t size) {
    const uint32_t crc = Crc32c(&bytes_[at], size - 4);
    std::memcpy(&bytes_[at + size - 4], &crc, sizeof(crc));
  }
  Bytes bytes_;
};

}  // namespace kvg::test

#endif  // KVGEAR_TESTS_SUPPORT_SAVED_H_
