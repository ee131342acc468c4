// See eigen.h.
#include "core/codec/eigen.h"

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <limits>

namespace kvg {
namespace {

double Dot(const double* x, const double* y, size_t n) {
  double sum = 0;
  for (size_t i = 0; i < n; ++i) sum += x[i] * y[i];
  return sum;
}

// Q^T a Q = T with diagonal and off-diagonal (off[k] couples k and k + 1). Row k of `vectors` becomes
// column k of Q. Reflections work on the leading part that is left, from the last row up.
void Tridiagonalise(double* a, size_t n, double* diagonal, double* off, double* vectors) {
  for (size_t k = n; k-- > 2;) {
    // Reflects a[k][0 .. k) onto its last entry; the vector of the reflection stays in its place.
    double* const v = a + k * n;
    const double length = std::sqrt(Dot(v, v, k));
    diagonal[k] = a[k * n + k];
    if (length == 0) {
      off[k - 1] = 0;
      continue;
    }
    const double tip = v[k - 1] > 0 ? -length : length;
    off[k - 1] = tip;
    v[k - 1] -= tip;
    const double half_sq = Dot(v, v, k) / 2;  // H = 1 - v v^T / half_sq
    // w = A v / half_sq - v (v^T A v) / (2 half_sq^2); then A -= v w^T + w v^T.
    double* const w = vectors;  // free until the end
    for (size_t i = 0; i < k; ++i) {
      double sum = Dot(a + i * n, v, i + 1);
      for (size_t j = i + 1; j < k; ++j) sum += a[j * n + i] * v[j];
      w[i] = sum / half_sq;
    }
    const double share = Dot(v, w, k) / (2 * half_sq);
    for (size_t i = 0; i < k; ++i) w[i] -= share * v[i];
    for (size_t i = 0; i < k; ++i) {
      for (size_t j = 0; j <= i; ++j) a[i * n + j] -= v[i] * w[j] + w[i] * v[j];
    }
  }
  for (size_t k = 0; k < std::min<size_t>(n, 2); ++k) diagonal[k] = a[k * n + k];
  if (n > 1) off[0] = a[n];
  if (n > 0) off[n - 1] = 0;
  // Q = H_{n-1} .. H_2, columns as rows: each row is reflected by all, the last made first.
  for (size_t row = 0; row < n; ++row) {
    double* const q = vectors + row * n;
    std::fill_n(q, n, 0.0);
    q[row] = 1;
    for (size_t k = 2; k < n; ++k) {
      const double* const v = a + k * n;
      const double sq = Dot(v, v, k);
      if (sq == 0) continue;
      const double share = 2 * Dot(v, q, k) / sq;
      for (size_t i = 0; i < k; ++i) q[i] -= share * v[i];
    }
  }
}

// Rotates the tridiagonal matrix to a diagonal one, and the rows of `vectors` with it.
void DiagonaliseQl(size_t n, double* diagonal, double* off, double* vectors) {
  constexpr int kMostRounds = 60;
  constexpr double kTiny = std::numeric_limits<double>::epsilon();
  for (size_t low = 0; low < n; ++low) {
    for (int round = 0; round < kMostRounds; ++round) {
      size_t high = low;  // the block [low, high] that is still coupled
      while (high + 1 < n &&
             std::abs(off[high]) > kTiny * (std::abs(diagonal[high]) + std::abs(diagonal[high + 1]))) {
        ++high;
      }
      if (high == low) break;
      // The shift of Wilkinson: the eigenvalue of the upper 2 x 2 block that is nearer its corner.
      const double half = (diagonal[low + 1] - diagonal[low]) / (2 * off[low]);
      const double root = std::hypot(half, 1.0);
      double g = diagonal[high] - diagonal[low] + off[low] / (half + std::copysign(root, half));
      double sine = 1, cosine = 1, carried = 0;
      bool split = false;
      for (size_t i = high; i-- > low;) {
        const double f = sine * off[i];
        const double b = cosine * off[i];
        const double r = std::hypot(f, g);
        off[i + 1] = r;
        if (r == 0) {  // it fell apart in the middle
          diagonal[i + 1] -= carried;
          off[high] = 0;
          split = true;
          break;
        }
        sine = f / r;
        cosine = g / r;
        g = diagonal[i + 1] - carried;
        const double t = (diagonal[i] - g) * sine + 2 * cosine * b;
        carried = sine * t;
        diagonal[i + 1] = g + carried;
        g = cosine * t - b;
        double* const x = vectors + i * n;
        double* const y = x + n;
        for (size_t j = 0; j < n; ++j) {
          const double old = y[j];
          y[j] = sine * x[j] + cosine * old;
          x[j] = cosine * x[j] - sine * old;
        }
      }
      if (split) continue;
      diagonal[low] -= carried;
      off[low] = g;
      off[high] = 0;
    }
  }
}

}  // namespace

void Cholesky(double* a, size_t n, double least) {
  for (size_t i = 0; i < n; ++i) {
    for (size_t j = 0; j <= i; ++j) {
      const double rest = a[i * n + j] - Dot(a + i * n, a + j * n, j);
      if (i == j) {
        a[i * n + i] = std::sqrt(rest > least ? rest : least);
      } else {
        a[i * n + j] = rest / a[j * n + j];
      }
    }
    std::fill(a + i * n + i + 1, a + (i + 1) * n, 0.0);
  }
}

void SymmetricEigen(double* a, size_t n, double* values, double* vectors, double* work) {
  double* const off = work;
  Tridiagonalise(a, n, values, off, vectors);
  DiagonaliseQl(n, values, off, vectors);
  for (size_t k = 0; k < n; ++k) {  // few enough to be sorted by exchanging rows
    const size_t top = static_cast<size_t>(std::max_element(values + k, values + n) - values);
    if (top == k) continue;
    std::swap(values[k], values[top]);
    std::swap_ranges(vectors + k * n, vectors + (k + 1) * n, vectors + top * n);
  }
}

}  // namespace kvg
