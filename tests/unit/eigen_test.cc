// Eigenvectors and Cholesky factors against their definitions.
#include "core/codec/eigen.h"

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <functional>
#include <vector>

#include "gtest/gtest.h"
#include "tests/support/cache_fixture.h"

namespace kvg {
namespace {

using Matrix = std::vector<double>;

Matrix Symmetric(size_t n, const std::function<double(size_t, size_t)>& entry) {
  Matrix a(n * n);
  for (size_t i = 0; i < n; ++i) {
    for (size_t j = 0; j <= i; ++j) a[i * n + j] = a[j * n + i] = entry(i, j);
  }
  return a;
}

// A u = lambda u, u orthonormal, lambda falling.
void ExpectEigen(const Matrix& a, size_t n) {
  Matrix copy = a, vectors(n * n);
  std::vector<double> values(n), work(2 * n);
  SymmetricEigen(copy.data(), n, values.data(), vectors.data(), work.data());
  double size = 0;
  for (const double x : a) size = std::max(size, std::abs(x));
  for (size_t k = 0; k < n; ++k) {
    if (k > 0) {
      EXPECT_LE(values[k], values[k - 1]);
    }
    for (size_t i = 0; i < n; ++i) {
      double sum = 0;
      for (size_t j = 0; j < n; ++j) sum += a[i * n + j] * vectors[k * n + j];
      ASSERT_NEAR(sum, values[k] * vectors[k * n + i], 1e-12 * size * static_cast<double>(n)) << n;
    }
    for (size_t other = 0; other <= k; ++other) {
      double dot = 0;
      for (size_t j = 0; j < n; ++j) dot += vectors[k * n + j] * vectors[other * n + j];
      ASSERT_NEAR(dot, k == other ? 1 : 0, 1e-12) << n;
    }
  }
}

TEST(Eigen, OfEveryKindOfMatrix) {
  test::Random random(1);
  for (const size_t n : {1u, 2u, 3u, 8u, 31u, 72u, 128u}) {
    ExpectEigen(Symmetric(n, [&](size_t, size_t) { return random.Normal(); }), n);
    ExpectEigen(Symmetric(n, [](size_t, size_t) { return 0.0; }), n);
    ExpectEigen(Symmetric(n, [](size_t, size_t) { return 1.0; }), n);  // rank 1
    ExpectEigen(Symmetric(n, [](size_t i, size_t j) { return i == j ? 2.0 : 0.0; }), n);
    ExpectEigen(Symmetric(n, [](size_t i, size_t j) { return i == j + 1 ? 1.0 : 0.0; }), n);
    // Eigenvalues from 1 down to 1e-12.
    ExpectEigen(Symmetric(n, [](size_t i, size_t j) {
                  return std::pow(10.0, -6.0 * static_cast<double>(i + j) / 128);
                }), n);
  }
}

TEST(Eigen, CholeskyTimesItsTransposeIsTheMatrix) {
  test::Random random(2);
  for (const size_t n : {1u, 2u, 17u, 96u}) {
    Matrix x(n * 2 * n);
    for (double& v : x) v = random.Normal();
    const Matrix a = Symmetric(n, [&](size_t i, size_t j) {
      double sum = 0;
      for (size_t k = 0; k < 2 * n; ++k) sum += x[i * 2 * n + k] * x[j * 2 * n + k];
      return sum;
    });
    Matrix factor = a;
    Cholesky(factor.data(), n, 1e-9);
    for (size_t i = 0; i < n; ++i) {
      for (size_t j = 0; j < n; ++j) {
        double sum = 0;
        for (size_t k = 0; k < n; ++k) sum += factor[i * n + k] * factor[j * n + k];
        ASSERT_NEAR(sum, a[i * n + j], 1e-10 * static_cast<double>(n));
        if (j > i) {
          ASSERT_EQ(factor[i * n + j], 0);
        }
      }
    }
  }
  // Not positive definite: what is missing is `least`.
  Matrix zero(9);
  Cholesky(zero.data(), 3, 0.25);
  EXPECT_EQ(zero, (Matrix{0.5, 0, 0, 0, 0.5, 0, 0, 0, 0.5}));
}

}  // namespace
}  // namespace kvg
