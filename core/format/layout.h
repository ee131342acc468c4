// The fixed parts of a saved cache, field by field, as FORMAT.md describes them.
//
// Called by core/format only.
#ifndef KVGEAR_CORE_FORMAT_LAYOUT_H_
#define KVGEAR_CORE_FORMAT_LAYOUT_H_

#include <array>
#include <bit>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <type_traits>

#include "core/base/crc32c.h"

namespace kvg::format {

static_assert(std::endian::native == std::endian::little,
              "stored numbers are little-endian, and buffers are stored as they are");

inline constexpr uint8_t kMagic[8] = {0x8B, 'K', 'V', 'G', '\r', '\n', 0x1A, '\n'};
inline constexpr uint32_t kByteOrder = 0x01020304;  // as the writer's own processor writes it
inline constexpr uint32_t kVersion = 1;
inline constexpr uint64_t kAlign = 64;  // of sections and of what lies behind their headers
inline constexpr uint64_t kHeaderBytes = 128;
inline constexpr uint64_t kSectionBytes = 64;
inline constexpr uint64_t kSideBytes = 64;
inline constexpr uint64_t kSegmentBytes = 128;
inline constexpr uint64_t kModelBytes = 32;  // the fingerprint follows
inline constexpr uint64_t kSelectionBytes = 128;  // positions and scores follow
inline constexpr uint64_t kMostFingerprint = 256;
inline constexpr uint64_t kMostRecipeText = 4096;
// Features.
inline constexpr uint64_t kBases = 1;       // BASE, SEEN, the map kBasisMap
inline constexpr uint64_t kSelections = 2;  // SLCT
inline constexpr uint64_t kLatents = 4;     // of a plan file, in place of keys or values
inline constexpr uint64_t kKnownFeatures = kBases | kSelections | kLatents;
inline constexpr uint32_t kNone = 0xFFFFFFFF;  // as a layer or a side

constexpr uint32_t Kind(char a, char b, char c, char d) {
  return static_cast<uint32_t>(a) | static_cast<uint32_t>(b) << 8 | static_cast<uint32_t>(c) << 16 |
         static_cast<uint32_t>(d) << 24;
}
inline constexpr uint32_t kModel = Kind('M', 'O', 'D', 'L');
inline constexpr uint32_t kPlan = Kind('P', 'L', 'A', 'N');
inline constexpr uint32_t kSide = Kind('S', 'I', 'D', 'E');
inline constexpr uint32_t kData = Kind('D', 'A', 'T', 'A');
inline constexpr uint32_t kWindow = Kind('W', 'N', 'D', 'W');
inline constexpr uint32_t kBasis = Kind('B', 'A', 'S', 'E');
inline constexpr uint32_t kSeen = Kind('S', 'E', 'E', 'N');
inline constexpr uint32_t kSelection = Kind('S', 'L', 'C', 'T');

// Flags of a SIDE: which sections follow it, and whether it has a shape of its own.
inline constexpr uint32_t kHasBasis = 1, kHasSeen = 2, kHasLatents = 4;
// And of an SLCT: which numbers it has.
inline constexpr uint32_t kHasScores = 1, kHasCounts = 2;

// Of the rows of a segment before they were quantised.
inline constexpr uint32_t kNoMap = 0;
inline constexpr uint32_t kHadamard = 1;  // blocks of the largest power of two that divides head_dim
inline constexpr uint32_t kBasisMap = 2;  // that of the BASE of the side, and its widths

inline constexpr uint32_t kOptional = 1;  // flag: readers that do not know the kind pass it over

constexpr uint64_t Padded(uint64_t bytes) { return (bytes + kAlign - 1) / kAlign * kAlign; }

// A record of fixed size: numbers at fixed places, the rest zero.
template <size_t kBytes>
class Record {
 public:
  template <typename T>
  void Put(size_t at, T value) {
    static_assert(std::is_arithmetic_v<T>);
    std::memcpy(&bytes_[at], &value, sizeof(value));
  }
  template <typename T>
  T Get(size_t at) const {
    static_assert(std::is_arithmetic_v<T>);
    T value;
    std::memcpy(&value, &bytes_[at], sizeof(value));
    return value;
  }
  // Whether everything from `at` on, but for the last `tail` bytes, is zero.
  bool ZeroFrom(size_t at, size_t tail = 0) const {
    for (size_t i = at; i < kBytes - tail; ++i) {
      if (bytes_[i] != std::byte{0}) return false;
    }
    return true;
  }
  // The last four bytes hold the CRC of those before.
  void Seal() { Put(kBytes - 4, Crc32c(bytes_.data(), kBytes - 4)); }
  bool Sealed() const { return Get<uint32_t>(kBytes - 4) == Crc32c(bytes_.data(), kBytes - 4); }

  std::byte* data() { return bytes_.data(); }
  const std::byte* data() const { return bytes_.data(); }
  static constexpr size_t size() { return kBytes; }

 private:
  std::array<std::byte, kBytes> bytes_{};
};

}  // namespace kvg::format

#endif  // KVGEAR_CORE_FORMAT_LAYOUT_H_
