// The products of kernels/product.h as they are defined.
#include "kernels/product.h"

namespace kvg::ops {

void ReferenceProduct(const float* x, size_t x_stride, size_t rows, size_t inner, const float* w,
                      size_t w_stride, size_t cols, float* y, size_t y_stride, bool add) {
  for (size_t r = 0; r < rows; ++r) {
    for (size_t c = 0; c < cols; ++c) {
      double sum = add ? static_cast<double>(y[r * y_stride + c]) : 0.0;
      for (size_t i = 0; i < inner; ++i) {
        sum += static_cast<double>(x[r * x_stride + i]) * static_cast<double>(w[i * w_stride + c]);
      }
      y[r * y_stride + c] = static_cast<float>(sum);
    }
  }
}

void ReferenceDots(const float* x, size_t x_stride, size_t rows, const float* w, size_t w_stride,
                   size_t count, size_t inner, float* y, size_t y_stride, bool add) {
  for (size_t r = 0; r < rows; ++r) {
    for (size_t n = 0; n < count; ++n) {
      double sum = add ? static_cast<double>(y[r * y_stride + n]) : 0.0;
      for (size_t i = 0; i < inner; ++i) {
        sum += static_cast<double>(x[r * x_stride + i]) * static_cast<double>(w[n * w_stride + i]);
      }
      y[r * y_stride + n] = static_cast<float>(sum);
    }
  }
}

}  // namespace kvg::ops
