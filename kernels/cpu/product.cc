// Product and Dots for every SIMD target, chosen when first called.
//
// Vectors have at most eight lanes on every target, so that the order of the sums, and the bits, are
// those of all processors with as many lanes and a fused multiply-add.
#include "kernels/product.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/cpu/product.cc"
#include "hwy/foreach_target.h"
#include "hwy/highway.h"

HWY_BEFORE_NAMESPACE();
namespace kvg::ops::HWY_NAMESPACE {
namespace {

namespace hn = hwy::HWY_NAMESPACE;
using Tag = hn::CappedTag<float, kProductStep>;
using Vector = hn::Vec<Tag>;

constexpr size_t kRows = 4;  // of y that are summed up together

// One block of `rows` <= kRows rows and kWide vectors of columns.
template <size_t rows, size_t wide>
HWY_INLINE void ProductBlock(const float* x, size_t x_stride, size_t inner, const float* w,
                             size_t w_stride, float* y, size_t y_stride, bool add) {
  const Tag tag;
  const size_t lanes = hn::Lanes(tag);
  Vector sum[rows][wide];
  for (size_t r = 0; r < rows; ++r) {
    for (size_t v = 0; v < wide; ++v) {
      sum[r][v] = add ? hn::LoadU(tag, y + r * y_stride + v * lanes) : hn::Zero(tag);
    }
  }
  for (size_t i = 0; i < inner; ++i) {
    Vector column[wide];
    for (size_t v = 0; v < wide; ++v) column[v] = hn::LoadU(tag, w + i * w_stride + v * lanes);
    for (size_t r = 0; r < rows; ++r) {
      const Vector factor = hn::Set(tag, x[r * x_stride + i]);
      for (size_t v = 0; v < wide; ++v) sum[r][v] = hn::MulAdd(factor, column[v], sum[r][v]);
    }
  }
  for (size_t r = 0; r < rows; ++r) {
    for (size_t v = 0; v < wide; ++v) hn::StoreU(sum[r][v], tag, y + r * y_stride + v * lanes);
  }
}

template <size_t rows>
HWY_INLINE void ProductRows(const float* x, size_t x_stride, size_t inner, const float* w,
                            size_t w_stride, size_t cols, float* y, size_t y_stride, bool add) {
  const size_t lanes = hn::Lanes(Tag());
  size_t c = 0;
  for (; c + 2 * lanes <= cols; c += 2 * lanes) {
    ProductBlock<rows, 2>(x, x_stride, inner, w + c, w_stride, y + c, y_stride, add);
  }
  for (; c < cols; c += lanes) {
    ProductBlock<rows, 1>(x, x_stride, inner, w + c, w_stride, y + c, y_stride, add);
  }
}

void Product(const float* x, size_t x_stride, size_t rows, size_t inner, const float* w,
             size_t w_stride, size_t cols, float* y, size_t y_stride, bool add) {
  size_t r = 0;
  for (; r + kRows <= rows; r += kRows) {
    ProductRows<kRows>(x + r * x_stride, x_stride, inner, w, w_stride, cols, y + r * y_stride,
                       y_stride, add);
  }
  for (; r < rows; ++r) {
    ProductRows<1>(x + r * x_stride, x_stride, inner, w, w_stride, cols, y + r * y_stride,
                   y_stride, add);
  }
}

// A dot product is summed up in eight lanes whatever the width of a vector, so that a result does not
// depend on where in a matrix it stands.
void Dots(const float* x, size_t x_stride, size_t rows, const float* w, size_t w_stride,
          size_t count, size_t inner, float* y, size_t y_stride, bool add) {
  const Tag tag;
  const size_t lanes = hn::Lanes(tag);
  for (size_t r = 0; r < rows; ++r) {
    const float* const row = x + r * x_stride;
    float* const out = y + r * y_stride;
    size_t n = 0;
    for (; n + 4 <= count; n += 4) {
      const float* const at = w + n * w_stride;
      Vector a = hn::Zero(tag), b = a, c = a, d = a;
      for (size_t i = 0; i < inner; i += lanes) {
        const Vector factor = hn::LoadU(tag, row + i);
        a = hn::MulAdd(factor, hn::LoadU(tag, at + i), a);
        b = hn::MulAdd(factor, hn::LoadU(tag, at + w_stride + i), b);
        c = hn::MulAdd(factor, hn::LoadU(tag, at + 2 * w_stride + i), c);
        d = hn::MulAdd(factor, hn::LoadU(tag, at + 3 * w_stride + i), d);
      }
      const float sums[4] = {
          hn::GetLane(hn::SumOfLanes(tag, a)), hn::GetLane(hn::SumOfLanes(tag, b)),
          hn::GetLane(hn::SumOfLanes(tag, c)), hn::GetLane(hn::SumOfLanes(tag, d))};
      for (size_t k = 0; k < 4; ++k) out[n + k] = add ? out[n + k] + sums[k] : sums[k];
    }
    for (; n < count; ++n) {
      Vector a = hn::Zero(tag);
      for (size_t i = 0; i < inner; i += lanes) {
        a = hn::MulAdd(hn::LoadU(tag, row + i), hn::LoadU(tag, w + n * w_stride + i), a);
      }
      const float sum = hn::GetLane(hn::SumOfLanes(tag, a));
      out[n] = add ? out[n] + sum : sum;
    }
  }
}

}  // namespace
}  // namespace kvg::ops::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace kvg::ops {

HWY_EXPORT(Product);
HWY_EXPORT(Dots);

void Product(const float* x, size_t x_stride, size_t rows, size_t inner, const float* w,
             size_t w_stride, size_t cols, float* y, size_t y_stride, bool add) {
  HWY_DYNAMIC_DISPATCH(Product)(x, x_stride, rows, inner, w, w_stride, cols, y, y_stride, add);
}

void Dots(const float* x, size_t x_stride, size_t rows, const float* w, size_t w_stride,
          size_t count, size_t inner, float* y, size_t y_stride, bool add) {
  HWY_DYNAMIC_DISPATCH(Dots)(x, x_stride, rows, w, w_stride, count, inner, y, y_stride, add);
}

}  // namespace kvg::ops
#endif
