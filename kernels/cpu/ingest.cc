// Ingest: the caller's tensor to fp16 rows, refusing what fp16 cannot hold.
//
// Called through the operation tables alone.
#include <bit>
#include <cstddef>
#include <cstdint>
#include <cstring>

#include "kernels/cpu/internal.h"
#include "kernels/half.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/cpu/ingest.cc"
#include "hwy/foreach_target.h"
#include "hwy/highway.h"

#include "kernels/cpu/pack_half.h"

#if KVG_CPU_TARGET
HWY_BEFORE_NAMESPACE();
namespace kvg::cpu::HWY_NAMESPACE {
namespace ingest {

using namespace codec;

// fp32 vectors of n consecutive elements, whatever their type.
HWY_INLINE F32 LoadElements(const float* p) { return hn::LoadU(F32Tag(), p); }

struct BF16 {
  uint16_t bits;
};
HWY_INLINE F32 LoadElements(const BF16* p) {
  const auto* bits = reinterpret_cast<const uint16_t*>(p);
  const U32 wide = hn::PromoteTo(U32Tag(), hn::LoadU(U16OfF32Tag(), bits));
  return hn::BitCast(F32Tag(), hn::ShiftLeft<16>(wide));
}

// Greatest magnitude met so far, as bits: these order infinity and NaN above all numbers.
struct Greatest {
  I32 f32;
  I16 f16;

  HWY_INLINE Greatest() : f32(hn::Zero(I32Tag())), f16(hn::Zero(I16Tag())) {}
  HWY_INLINE bool IsFinite() const {
    const auto overflow = hn::Set(I32Tag(), std::bit_cast<int32_t>(kF16Overflow));
    const auto infinity = hn::Set(I16Tag(), int16_t{0x7C00});
    return hn::AllTrue(I32Tag(), hn::Lt(f32, overflow)) &&
           hn::AllTrue(I16Tag(), hn::Lt(f16, infinity));
  }
};

template <typename T>
HWY_INLINE void ConvertVector(const T* x, uint16_t* row, Greatest* greatest) {
  const F32 v = LoadElements(x);
  const I32 magnitude = hn::BitCast(I32Tag(), hn::Abs(v));
  greatest->f32 = hn::Max(greatest->f32, magnitude);
  StoreHalf(v, row);
}

HWY_INLINE void ConvertVector(const uint16_t* x, uint16_t* row, Greatest* greatest) {
  const auto bits = hn::LoadU(U16Tag(), x);
  const I16 magnitude = hn::And(hn::BitCast(I16Tag(), bits), hn::Set(I16Tag(), int16_t{0x7FFF}));
  greatest->f16 = hn::Max(greatest->f16, magnitude);
  hn::StoreU(bits, U16Tag(), row);
}

template <typename T>
constexpr size_t LanesOf() {
  return kF32Lanes;
}
template <>
constexpr size_t LanesOf<uint16_t>() {
  return kI16Lanes;
}

float ToFloat(float x) { return x; }
float ToFloat(BF16 x) { return BF16ToF32(x.bits); }
float ToFloat(uint16_t x) { return F16ToF32(x); }

// Elements `stride` apart, one at a time.
template <typename T>
bool ConvertStrided(const T* x, int64_t stride, size_t n, uint16_t* row) {
  bool finite = true;
  for (size_t d = 0; d < n; ++d) {
    T element;
    std::memcpy(&element, x + static_cast<int64_t>(d) * stride, sizeof(T));
    row[d] = F32ToF16(ToFloat(element));
    finite = finite && F16IsFinite(row[d]);
  }
  return finite;
}

template <typename T>
bool IngestAs(const ops::IngestArgs& args) {
  constexpr size_t kLanes = LanesOf<T>();
  const size_t dim = args.head_dim;
  const bool vectors = args.dim_stride == 1 && dim >= kLanes;
  Greatest greatest;
  for (uint64_t token = 0; token < args.tokens; ++token) {
    for (uint32_t head = 0; head < args.kv_heads; ++head) {
      uint16_t* const row = args.rows + head * args.rows_head_stride + token * dim;
      const T* const x = static_cast<const T*>(args.x) +
                         static_cast<int64_t>(token) * args.token_stride +
                         static_cast<int64_t>(head) * args.head_stride;
      if (!vectors) {
        if (!ConvertStrided(x, args.dim_stride, dim, row)) return false;
        continue;
      }
      size_t d = 0;
      for (; d + kLanes <= dim; d += kLanes) ConvertVector(x + d, row + d, &greatest);
      // The last vector overlaps the one before where the lanes do not divide the row.
      if (d < dim) ConvertVector(x + dim - kLanes, row + dim - kLanes, &greatest);
    }
  }
  return greatest.IsFinite();
}

}  // namespace ingest

bool Ingest(const ops::IngestArgs* args) {
  switch (args->dtype) {
    case ops::kF16:
      return ingest::IngestAs<uint16_t>(*args);
    case ops::kBF16:
      return ingest::IngestAs<ingest::BF16>(*args);
    case ops::kF32:
      break;
  }
  return ingest::IngestAs<float>(*args);
}

}  // namespace kvg::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();
#endif  // KVG_CPU_TARGET
