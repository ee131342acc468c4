// Two products of small fp32 matrices, in the widest vectors of this processor.
//
// Called by core/latent, which rebuilds keys and expands values with them. Not part of ops.h: what a
// caller does with the results is its own, so a backend has nothing to replace.
#ifndef KVGEAR_KERNELS_PRODUCT_H_
#define KVGEAR_KERNELS_PRODUCT_H_

#include <cstddef>

namespace kvg::ops {

inline constexpr size_t kProductStep = 8;  // columns, or terms of a dot product, come in eights

// y[r][c] = (add ? y[r][c] : 0) + sum over i < inner of x[r][i] * w[i][c], i ascending, fused.
// c < cols, a multiple of kProductStep. Strides in elements; y overlaps neither x nor w.
void Product(const float* x, size_t x_stride, size_t rows, size_t inner, const float* w,
             size_t w_stride, size_t cols, float* y, size_t y_stride, bool add);

// y[r][n] = (add ? y[r][n] : 0) + sum over i < inner of x[r][i] * w[n][i]; inner is a multiple of
// kProductStep.
void Dots(const float* x, size_t x_stride, size_t rows, const float* w, size_t w_stride,
          size_t count, size_t inner, float* y, size_t y_stride, bool add);

// The same in plain loops and double precision, for tests.
void ReferenceProduct(const float* x, size_t x_stride, size_t rows, size_t inner, const float* w,
                      size_t w_stride, size_t cols, float* y, size_t y_stride, bool add);
void ReferenceDots(const float* x, size_t x_stride, size_t rows, const float* w, size_t w_stride,
                   size_t count, size_t inner, float* y, size_t y_stride, bool add);

}  // namespace kvg::ops

#endif  // KVGEAR_KERNELS_PRODUCT_H_
