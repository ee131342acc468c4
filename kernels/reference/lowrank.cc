// Low-rank factors of a residual by power iteration: E ~ A B^T, A with orthonormal columns.
//
// In fp32 and in one fixed order of operations, so that vector code can give the same bits: the
// factors end up in fp16, next to which the rounding of these sums is nothing.
#include <algorithm>
#include <cmath>
#include <cstdint>

#include "kernels/half.h"
#include "kernels/reference/reference.h"
#include "kernels/reference/start.h"

namespace kvg::reference {
namespace {

// 16 partial sums, of the products whose index is the same modulo 16, each in ascending order. Then
// the upper half of them is added to the lower half until one is left.
float Dot(const float* x, const float* y, uint64_t n) {
  float sum[16] = {};
  for (uint64_t i = 0; i < n; ++i) sum[i % 16] += x[i] * y[i];
  for (uint32_t half = 8; half > 0; half /= 2) {
    for (uint32_t i = 0; i < half; ++i) sum[i] += sum[i + half];
  }
  return sum[0];
}

// Modified Gram-Schmidt over columns of length n. Each column is taken out twice: once leaves
// columns that are nearly dependent far from orthogonal. Dependent columns become zero.
void Orthonormalise(float* columns, uint32_t rank, uint64_t n) {
  for (uint32_t c = 0; c < rank; ++c) {
    float* const column = columns + c * n;
    const float before = std::sqrt(Dot(column, column, n));
    for (int pass = 0; pass < 2; ++pass) {
      for (uint32_t p = 0; p < c; ++p) {
        const float* const other = columns + p * n;
        const float share = Dot(other, column, n);
        for (uint64_t i = 0; i < n; ++i) column[i] -= share * other[i];
      }
    }
    const float after = std::sqrt(Dot(column, column, n));
    const float factor = after > kDependent * before ? 1.0f / after : 0.0f;
    for (uint64_t i = 0; i < n; ++i) column[i] *= factor;
  }
}

float MaxAbs(const float* x, uint64_t n) {
  float most = 0;
  for (uint64_t i = 0; i < n; ++i) most = std::max(most, std::fabs(x[i]));
  return most;
}

void StoreColumn(const float* x, uint64_t n, float factor, uint16_t* out) {
  for (uint64_t i = 0; i < n; ++i) out[i] = F32ToF16Saturate(x[i] * factor);
}

}  // namespace

void FitLowRank(const LowRankTask& task) {
  const uint64_t tokens = task.tokens;
  const uint64_t dim = task.head_dim;
  const uint32_t rank = task.spec.rank;
  float* const a = task.work;                  // [rank][tokens]
  float* const b = task.work + rank * tokens;  // [rank][dim]
  for (uint32_t r = 0; r < rank; ++r) {
    for (uint32_t d = 0; d < dim; ++d) b[r * dim + d] = PowerStart(task.spec.seed, task.head, r, d);
  }
  for (uint32_t sweep = 0; sweep < task.spec.sweeps; ++sweep) {
    for (uint64_t t = 0; t < tokens; ++t) {  // A = E B
      const float* const e = task.residual + t * dim;
      for (uint32_t r = 0; r < rank; ++r) a[r * tokens + t] = Dot(e, b + r * dim, dim);
    }
    Orthonormalise(a, rank, tokens);
    std::fill_n(b, rank * dim, 0.0f);
    for (uint64_t t = 0; t < tokens; ++t) {  // B = E^T A, tokens in ascending order
      const float* const e = task.residual + t * dim;
      for (uint32_t r = 0; r < rank; ++r) {
        for (uint64_t d = 0; d < dim; ++d) b[r * dim + d] += a[r * tokens + t] * e[d];
      }
    }
  }
  for (uint32_t r = 0; r < rank; ++r) {
    const Balance balance = BalanceOf(MaxAbs(a + r * tokens, tokens), MaxAbs(b + r * dim, dim));
    StoreColumn(a + r * tokens, tokens, balance.a, task.a + r * task.a_stride);
    StoreColumn(b + r * dim, dim, balance.b, task.b + r * task.b_stride);
  }
}

}  // namespace kvg::reference
