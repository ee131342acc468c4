// Low-rank factors of a residual by power iteration: E ~ A B^T, A with orthonormal columns.
#include <algorithm>
#include <cmath>
#include <cstdint>
#include <numeric>

#include "kernels/half.h"
#include "kernels/reference/reference.h"
#include "kernels/reference/start.h"

namespace kvg::reference {
namespace {

// A column whose norm falls below this share when those before it are taken out depends on them.
constexpr double kDependent = 1e-6;

double Dot(const double* x, const double* y, uint64_t n) {
  return std::inner_product(x, x + n, y, 0.0);
}

// Modified Gram-Schmidt over columns of length n. Each column is taken out twice: once leaves
// columns that are nearly dependent far from orthogonal. Dependent columns become zero.
void Orthonormalise(double* columns, uint32_t rank, uint64_t n) {
  for (uint32_t c = 0; c < rank; ++c) {
    double* const column = columns + c * n;
    const double before = std::sqrt(Dot(column, column, n));
    for (int pass = 0; pass < 2; ++pass) {
      for (uint32_t p = 0; p < c; ++p) {
        const double* const other = columns + p * n;
        const double share = Dot(other, column, n);
        for (uint64_t i = 0; i < n; ++i) column[i] -= share * other[i];
      }
    }
    const double after = std::sqrt(Dot(column, column, n));
    const double factor = after > kDependent * before ? 1.0 / after : 0.0;
    for (uint64_t i = 0; i < n; ++i) column[i] *= factor;
  }
}

double MaxAbs(const double* x, uint64_t n) {
  double most = 0;
  for (uint64_t i = 0; i < n; ++i) most = std::max(most, std::fabs(x[i]));
  return most;
}

void StoreColumn(const double* x, uint64_t n, int exponent, uint16_t* out) {
  for (uint64_t i = 0; i < n; ++i) {
    out[i] = F32ToF16Saturate(static_cast<float>(std::ldexp(x[i], exponent)));
  }
}

}  // namespace

void FitLowRank(const LowRankTask& task) {
  const uint64_t tokens = task.tokens;
  const uint64_t dim = task.head_dim;
  const uint32_t rank = task.spec.rank;
  double* const a = task.work;                  // [rank][tokens]
  double* const b = task.work + rank * tokens;  // [rank][dim]
  for (uint32_t r = 0; r < rank; ++r) {
    for (uint32_t d = 0; d < dim; ++d) b[r * dim + d] = PowerStart(task.spec.seed, task.head, r, d);
  }
  for (uint32_t sweep = 0; sweep < task.spec.sweeps; ++sweep) {
    for (uint64_t t = 0; t < tokens; ++t) {  // A = E B
      const float* const e = task.residual + t * dim;
      for (uint32_t r = 0; r < rank; ++r) {
        a[r * tokens + t] = std::inner_product(e, e + dim, b + r * dim, 0.0);
      }
    }
    Orthonormalise(a, rank, tokens);
    std::fill_n(b, rank * dim, 0.0);
    for (uint64_t t = 0; t < tokens; ++t) {  // B = E^T A
      const float* const e = task.residual + t * dim;
      for (uint32_t r = 0; r < rank; ++r) {
        for (uint64_t d = 0; d < dim; ++d) b[r * dim + d] += a[r * tokens + t] * e[d];
      }
    }
  }
  // A column of A has norm 1, that of B is as long as the residual. A power of two moves both to
  // the same magnitude, where fp16 holds them best.
  for (uint32_t r = 0; r < rank; ++r) {
    const double max_a = MaxAbs(a + r * tokens, tokens);
    const double max_b = MaxAbs(b + r * dim, dim);
    const bool empty = max_a == 0 || max_b == 0;
    const int shift = empty ? 0 : (std::ilogb(max_b) - std::ilogb(max_a)) / 2;
    StoreColumn(a + r * tokens, tokens, shift, task.a + r * task.a_stride);
    StoreColumn(b + r * dim, dim, -shift, task.b + r * task.b_stride);
  }
}

}  // namespace kvg::reference
