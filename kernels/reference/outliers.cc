// Which entries of a piece are outliers: the k lowest and the k highest of every vector, where a
// vector is one direction over the tokens (K) or one token over all heads (V).
#include <algorithm>
#include <cstdint>
#include <numeric>

#include "kernels/half.h"
#include "kernels/reference/reference.h"

namespace kvg::reference {
namespace {

// One vector: entry i is value[i / run * far + i % run * near]; flag likewise. Two strides, because
// a token's entries lie head by head.
struct Vector {
  const uint16_t* value;
  uint64_t value_far, value_near;
  uint8_t* flag;
  uint64_t flag_far, flag_near;
  uint64_t run;
  uint64_t length;

  float Value(uint64_t i) const {
    return F16ToF32(value[i / run * value_far + i % run * value_near]);
  }
  uint8_t& Flag(uint64_t i) const { return flag[i / run * flag_far + i % run * flag_near]; }
};

// Orders entries by value, equal ones (0 and -0 are) by index, and flags both ends. So of equal
// values the low end takes those that come first, the high end those that come last.
void MarkEnds(const Vector& vector, uint64_t k, uint32_t* order) {
  std::iota(order, order + vector.length, 0u);
  const auto before = [&vector](uint32_t i, uint32_t j) {
    const float x = vector.Value(i);
    const float y = vector.Value(j);
    return x != y ? x < y : i < j;
  };
  uint32_t* const low_end = order + k;
  uint32_t* const high_begin = order + (vector.length - k);
  uint32_t* const end = order + vector.length;
  if (low_end != end) std::nth_element(order, low_end, end, before);
  if (high_begin != end) std::nth_element(low_end, high_begin, end, before);
  for (uint32_t* i = order; i < low_end; ++i) vector.Flag(*i) = 1;
  for (uint32_t* i = high_begin; i < end; ++i) vector.Flag(*i) = 1;
}

// A row of one token and head counts its entries in 8 bits; the last directions give way.
void CutRow(uint8_t* row, uint32_t head_dim) {
  uint32_t kept = 0;
  for (uint32_t d = 0; d < head_dim; ++d) {
    if (row[d] != 0 && ++kept > ops::kMaxSparsePerToken) row[d] = 0;
  }
}

}  // namespace

uint64_t OutlierVector(const ops::SealArgs& args, const ops::SealOut& out) {
  return args.spec.side == ops::kSideK ? args.tokens : uint64_t{out.kv_heads} * out.head_dim;
}

void MarkOutliers(const ops::SealArgs& args, const ops::SealOut& out, uint8_t* outlier,
                  uint32_t* order) {
  const uint64_t dim = out.head_dim;
  const uint64_t flag_head_stride = args.tokens * dim;
  const uint64_t length = OutlierVector(args, out);
  const uint64_t k = args.spec.outliers;
  std::fill_n(outlier, out.kv_heads * flag_head_stride, uint8_t{0});
  if (args.spec.side == ops::kSideK) {
    for (uint32_t head = 0; head < out.kv_heads; ++head) {
      for (uint64_t d = 0; d < dim; ++d) {
        MarkEnds({.value = args.x + head * args.x_head_stride + d,
                  .value_far = 0,
                  .value_near = dim,
                  .flag = outlier + head * flag_head_stride + d,
                  .flag_far = 0,
                  .flag_near = dim,
                  .run = length,
                  .length = length},
                 k, order);
      }
    }
  } else {
    for (uint64_t token = 0; token < args.tokens; ++token) {
      MarkEnds({.value = args.x + token * dim,
                .value_far = args.x_head_stride,
                .value_near = 1,
                .flag = outlier + token * dim,
                .flag_far = flag_head_stride,
                .flag_near = 1,
                .run = dim,
                .length = length},
               k, order);
    }
  }
  for (uint64_t row = 0; row < out.kv_heads * args.tokens; ++row) {
    CutRow(outlier + row * dim, out.head_dim);
  }
}

}  // namespace kvg::reference
