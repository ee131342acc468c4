// Outliers of a vector: where its k lowest and k highest entries begin, and which ones they are.
//
// Included once per Highway target by seal.cc. Entries are ordered by (value, index); see
// kernels/reference/outliers.cc. Values are compared as the int16 keys of pack_half.h. Both ends of
// up to 16 vectors are found at once, by bisection on the key: each step counts the keys beyond the
// middle.
#if defined(KVG_KERNELS_CPU_SELECT_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef KVG_KERNELS_CPU_SELECT_H_
#undef KVG_KERNELS_CPU_SELECT_H_
#else
#define KVG_KERNELS_CPU_SELECT_H_
#endif

#include <algorithm>
#include <cstddef>
#include <cstdint>

#include "kernels/cpu/pack_half.h"
#include "kernels/cpu/pack_tile.h"
#include "kernels/ops.h"

#if KVG_CPU_TARGET
HWY_BEFORE_NAMESPACE();
namespace kvg::cpu::HWY_NAMESPACE::codec {

// Keys lie in rows of 16. Either every lane is a vector of its own (the directions of a tile, one
// row per token), or all lanes together are one vector, row after row.
inline constexpr size_t kKeyLanes = kTileLanes;
inline constexpr size_t kKeyVectors = kKeyLanes / kI16Lanes;

// The outliers of one vector: all keys beyond `low` and `high`, the first `low_take` keys equal to
// `low`, and the keys equal to `high` but for the first `high_skip`.
struct Ends {
  int16_t low[kKeyLanes], high[kKeyLanes];
  int32_t low_take[kKeyLanes], high_skip[kKeyLanes];
};

// Rows that a search over `rows` rows needs for its chunks, two arrays of them: the lowest and the
// highest keys of each chunk bound the search from inside.
HWY_INLINE size_t SearchChunks(size_t rows, size_t k, bool across) {
  const size_t chunks = across ? (4 * k + kKeyLanes - 1) / kKeyLanes : 4 * k;
  return 4 * chunks <= rows ? chunks : 1;
}

// Per lane, how many keys of `low_keys` exceed low[lane], and of `high_keys` high[lane].
struct alignas(ops::kAlign) LaneCounts {
  int16_t low[kKeyLanes], high[kKeyLanes];
};
HWY_INLINE void CountGreater(const int16_t* low_keys, const int16_t* high_keys, size_t rows,
                             const LaneCounts& limit, LaneCounts* counts) {
  const I16Tag di;
  for (size_t lane = 0; lane < kKeyLanes; lane += kI16Lanes) {
    const I16 low_limit = hn::Load(di, limit.low + lane);
    const I16 high_limit = hn::Load(di, limit.high + lane);
    I16 low0 = hn::Zero(di), low1 = low0, high0 = low0, high1 = low0;
    size_t row = 0;
    for (; row + 2 <= rows; row += 2) {
      const size_t i = row * kKeyLanes + lane;
      const size_t j = i + kKeyLanes;
      low0 = hn::Sub(low0, hn::VecFromMask(di, hn::Gt(hn::Load(di, low_keys + i), low_limit)));
      low1 = hn::Sub(low1, hn::VecFromMask(di, hn::Gt(hn::Load(di, low_keys + j), low_limit)));
      high0 = hn::Sub(high0, hn::VecFromMask(di, hn::Gt(hn::Load(di, high_keys + i), high_limit)));
      high1 = hn::Sub(high1, hn::VecFromMask(di, hn::Gt(hn::Load(di, high_keys + j), high_limit)));
    }
    if (row < rows) {
      const size_t i = row * kKeyLanes + lane;
      low0 = hn::Sub(low0, hn::VecFromMask(di, hn::Gt(hn::Load(di, low_keys + i), low_limit)));
      high0 = hn::Sub(high0, hn::VecFromMask(di, hn::Gt(hn::Load(di, high_keys + i), high_limit)));
    }
    hn::Store(hn::Add(low0, low1), di, counts->low + lane);
    hn::Store(hn::Add(high0, high1), di, counts->high + lane);
  }
}

// One end of one vector, as a low end: the high end is the low one of the negated keys. The k-th
// lowest key lies in [from, to]; `below` keys are lower than `from`, `upto` not higher than `to`.
struct EndSearch {
  int32_t from, to, below, upto;

  HWY_INLINE int32_t Middle() const { return from + (to - from) / 2; }

  // `count` keys are not higher than `key`.
  HWY_INLINE void Tell(int32_t key, int32_t count, int32_t k) {
    const bool exact = count == k;  // then keys equal to the next one are left out
    const bool enough = count >= k;
    from = exact || !enough ? key + 1 : from;
    to = exact ? key + 1 : enough ? key : to;
    below = enough && !exact ? below : count;
    upto = exact ? kAll : enough ? count : upto;
  }

  static constexpr int32_t kAll = 1 << 29;
};

// Finds both ends of 16 vectors, or of one across all lanes.
template <bool kAcross>
class Search {
 public:
  // `keys` has rows * 16 keys. The last `pads` of them are none of the vector's (0 unless kAcross)
  // and are overwritten. `chunk_keys` has room for 2 * 16 * SearchChunks(rows, k, kAcross).
  HWY_INLINE Ends Run(int16_t* keys, size_t rows, size_t pads, size_t k, int16_t* chunk_keys) {
    k_ = static_cast<int32_t>(k);
    const size_t chunks = SearchChunks(rows, k, kAcross);
    int16_t* const lowest = chunk_keys;
    int16_t* const highest = chunk_keys + chunks * kKeyLanes;
    int16_t* const rest = keys + (rows * kKeyLanes - pads);
    std::fill_n(rest, pads, rest[-1]);  // changes no extreme
    Fold(keys, rows, chunks, lowest, highest);
    Begin(lowest, highest, chunks);
    if (chunks > 1) {
      // At least k keys are not higher than the k-th of the chunks' lowest keys.
      EndSearch first[2][kVectors];
      std::copy_n(low_, kVectors, first[0]);
      std::copy_n(high_, kVectors, first[1]);
      std::fill_n(highest - pads, pads, int16_t{0x7FFF});  // no key may count twice
      std::fill_n(highest + chunks * kKeyLanes - pads, pads, int16_t{-0x7FFF});
      Bisect(lowest, highest, chunks, 0);
      for (size_t v = 0; v < kVectors; ++v) {
        low_[v] = {first[0][v].from, low_[v].from, 0, 0};
        high_[v] = {first[1][v].from, high_[v].from, 0, 0};
      }
    }
    std::fill_n(rest, pads, int16_t{0x7FFF});  // higher than all
    Bisect(keys, keys, rows, static_cast<int32_t>(pads));
    Ends ends;
    for (size_t v = 0; v < kVectors; ++v) {
      ends.low[v] = static_cast<int16_t>(low_[v].from);
      ends.low_take[v] = k_ - low_[v].below;
      ends.high[v] = static_cast<int16_t>(-high_[v].from);
      ends.high_skip[v] = high_[v].upto - k_;
    }
    return ends;
  }

 private:
  static constexpr size_t kVectors = kAcross ? 1 : kKeyLanes;

  // Lowest and highest keys of each of `chunks` runs of rows.
  static HWY_INLINE void Fold(const int16_t* keys, size_t rows, size_t chunks, int16_t* lowest,
                              int16_t* highest) {
    const I16Tag di;
    for (size_t lane = 0; lane < kKeyLanes; lane += kI16Lanes) {
      for (size_t chunk = 0; chunk < chunks; ++chunk) {
        const size_t end = (chunk + 1) * rows / chunks;
        size_t row = chunk * rows / chunks;
        I16 low = hn::Load(di, keys + row * kKeyLanes + lane);
        I16 high = low;
        for (++row; row < end; ++row) {
          const I16 key = hn::Load(di, keys + row * kKeyLanes + lane);
          low = hn::Min(low, key);
          high = hn::Max(high, key);
        }
        hn::Store(low, di, lowest + chunk * kKeyLanes + lane);
        hn::Store(high, di, highest + chunk * kKeyLanes + lane);
      }
    }
  }

  // Bounds of the chunks' extremes, or of the keys when they are one chunk.
  HWY_INLINE void Begin(const int16_t* lowest, const int16_t* highest, size_t chunks) {
    alignas(ops::kAlign) int16_t least[2][kKeyLanes];
    alignas(ops::kAlign) int16_t most[2][kKeyLanes];
    Fold(lowest, chunks, 1, least[0], most[0]);
    Fold(highest, chunks, 1, least[1], most[1]);
    if (chunks == 1) {
      std::copy_n(most[1], kKeyLanes, most[0]);
      std::copy_n(least[0], kKeyLanes, least[1]);
    }
    constexpr size_t kRun = kKeyLanes / kVectors;
    for (size_t v = 0; v < kVectors; ++v) {
      const size_t lane = v * kRun;
      low_[v] = {*std::min_element(least[0] + lane, least[0] + lane + kRun),
                 *std::max_element(most[0] + lane, most[0] + lane + kRun), 0, 0};
      high_[v] = {-*std::max_element(most[1] + lane, most[1] + lane + kRun),
                  -*std::min_element(least[1] + lane, least[1] + lane + kRun), 0, 0};
    }
  }

  // Until `from` and `to` of every end are the same. Begins at `to`, which is close where chunks
  // gave it, and whose count must be known in any case.
  HWY_INLINE void Bisect(const int16_t* low_keys, const int16_t* high_keys, size_t rows,
                         int32_t pads) {
    const auto total = static_cast<int32_t>(rows * kKeyLanes / kVectors);
    int32_t low_key[kVectors], high_key[kVectors];
    for (size_t v = 0; v < kVectors; ++v) {
      low_key[v] = low_[v].to;
      high_key[v] = high_[v].to;
    }
    for (bool open = true; open;) {
      LaneCounts limit, greater;
      for (size_t lane = 0; lane < kKeyLanes; ++lane) {
        const size_t v = lane % kVectors;
        limit.low[lane] = static_cast<int16_t>(low_key[v]);
        limit.high[lane] = static_cast<int16_t>(-high_key[v] - 1);  // -key <= m is key > -m - 1
      }
      CountGreater(low_keys, high_keys, rows, limit, &greater);
      int32_t low_count[kVectors] = {}, high_count[kVectors] = {};
      for (size_t lane = 0; lane < kKeyLanes; ++lane) {
        low_count[lane % kVectors] += greater.low[lane];
        high_count[lane % kVectors] += greater.high[lane];
      }
      open = false;
      for (size_t v = 0; v < kVectors; ++v) {
        low_[v].Tell(low_key[v], total - low_count[v], k_);
        high_[v].Tell(high_key[v], high_count[v] - pads, k_);
        low_key[v] = low_[v].Middle();
        high_key[v] = high_[v].Middle();
        open = open || low_[v].from != low_[v].to || high_[v].from != high_[v].to;
      }
    }
  }

  int32_t k_ = 0;
  EndSearch low_[kVectors], high_[kVectors];
};

// One bit per lane of 16, lane 0 lowest, from kKeyVectors masks.
template <typename Mask>
HWY_INLINE uint32_t BitsOfMask(Mask mask) {
  uint8_t bytes[8] = {};
  hn::StoreMaskBits(I16Tag(), mask, bytes);
  return bytes[0] | (kI16Lanes > 8 ? uint32_t{bytes[1]} << 8 : 0u);
}

// Every lane a vector: bits[row] says which of the 16 keys of a row are outliers.
HWY_INLINE void MarkLanes(const int16_t* keys, size_t rows, const Ends& ends, uint16_t* bits) {
  const I16Tag di;
  const I16 zero = hn::Zero(di);
  for (size_t lane = 0; lane < kKeyLanes; lane += kI16Lanes) {
    alignas(ops::kAlign) int16_t count[2][kKeyLanes];
    for (size_t i = lane; i < lane + kI16Lanes; ++i) {
      count[0][i] = static_cast<int16_t>(std::min<int32_t>(ends.low_take[i], 0x7FFF));
      count[1][i] = static_cast<int16_t>(std::min<int32_t>(ends.high_skip[i], 0x7FFF));
    }
    const I16 low = hn::LoadU(di, ends.low + lane);
    const I16 high = hn::LoadU(di, ends.high + lane);
    I16 take = hn::Load(di, count[0] + lane);
    I16 skip = hn::Load(di, count[1] + lane);
    for (size_t row = 0; row < rows; ++row) {
      const I16 key = hn::Load(di, keys + row * kKeyLanes + lane);
      const I16 beyond = hn::Or(hn::VecFromMask(di, hn::Lt(key, low)),
                                hn::VecFromMask(di, hn::Gt(key, high)));
      const I16 at_low = hn::VecFromMask(di, hn::Eq(key, low));
      const I16 at_high = hn::VecFromMask(di, hn::Eq(key, high));
      const I16 taken = hn::And(at_low, hn::VecFromMask(di, hn::Gt(take, zero)));
      const I16 kept = hn::AndNot(hn::VecFromMask(di, hn::Gt(skip, zero)), at_high);
      take = hn::Add(take, taken);
      skip = hn::Add(skip, at_high);
      const I16 outlier = hn::Or(beyond, hn::Or(taken, kept));
      const uint32_t found = BitsOfMask(hn::MaskFromVec(outlier)) << lane;
      bits[row] = static_cast<uint16_t>(lane == 0 ? found : bits[row] | found);
    }
  }
}

// All lanes one vector, whose keys are marked 16 at a time in their order.
class AcrossMarker {
 public:
  explicit HWY_INLINE AcrossMarker(const Ends& ends)
      : low_(ends.low[0]), high_(ends.high[0]), take_(ends.low_take[0]), skip_(ends.high_skip[0]) {}

  // `valid`: which of the keys belong to the vector.
  HWY_INLINE uint32_t Mark(const int16_t* keys, uint32_t valid) {
    const I16Tag di;
    const I16 low = hn::Set(di, low_);
    const I16 high = hn::Set(di, high_);
    uint32_t beyond = 0, at_low = 0, at_high = 0;
    for (size_t lane = 0; lane < kKeyLanes; lane += kI16Lanes) {
      const I16 key = hn::LoadU(di, keys + lane);
      beyond |= BitsOfMask(hn::Or(hn::Lt(key, low), hn::Gt(key, high))) << lane;
      at_low |= BitsOfMask(hn::Eq(key, low)) << lane;
      at_high |= BitsOfMask(hn::Eq(key, high)) << lane;
    }
    for (at_low &= valid; at_low != 0 && take_ > 0; --take_, at_low &= at_low - 1) {
      beyond |= at_low & (0u - at_low);
    }
    for (at_high &= valid; at_high != 0; --skip_, at_high &= at_high - 1) {
      if (skip_ <= 0) beyond |= at_high & (0u - at_high);
    }
    return beyond & valid;
  }

 private:
  int16_t low_, high_;
  int32_t take_, skip_;
};

}  // namespace kvg::cpu::HWY_NAMESPACE::codec
HWY_AFTER_NAMESPACE();
#endif  // KVG_CPU_TARGET

#endif  // KVG_KERNELS_CPU_SELECT_H_
