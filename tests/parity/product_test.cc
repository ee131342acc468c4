// The products that rebuild latents, in the vectors of this processor, against plain loops.
//
// Bound: each result is a sum of `inner` products below 36 in fp32, 2^-24 of which is lost in a step.
#include "kernels/product.h"

#include <gtest/gtest.h>

#include <cmath>
#include <vector>

#include "tests/support/cache_fixture.h"

namespace kvg {
namespace {

std::vector<float> Noise(uint64_t seed, size_t count) {
  test::Random random(seed);
  std::vector<float> out(count);
  for (float& x : out) x = static_cast<float>(random.Normal());
  return out;
}

TEST(Products, AreThoseOfTheReference) {
  for (const size_t rows : {1u, 3u, 4u, 9u}) {
    for (const size_t inner : {8u, 40u, 264u}) {
      for (const size_t cols : {8u, 24u, 72u}) {
        for (const bool add : {false, true}) {
          const std::vector<float> x = Noise(rows, rows * (inner + 3));
          const std::vector<float> w = Noise(inner, inner * (cols + 5));
          std::vector<float> y = Noise(cols, rows * (cols + 1)), wanted = y;
          ops::Product(x.data(), inner + 3, rows, inner, w.data(), cols + 5, cols, y.data(), cols + 1, add);
          ops::ReferenceProduct(x.data(), inner + 3, rows, inner, w.data(), cols + 5, cols, wanted.data(), cols + 1, add);
          for (size_t i = 0; i < y.size(); ++i) ASSERT_NEAR(y[i], wanted[i], 36e-7 * static_cast<double>(inner));
          const std::vector<float> rows_of_w = Noise(cols, cols * (inner + 2));
          std::vector<float> dots = Noise(7, rows * (cols + 1)), wanted_dots = dots;
          ops::Dots(x.data(), inner + 3, rows, rows_of_w.data(), inner + 2, cols, inner, dots.data(), cols + 1, add);
          ops::ReferenceDots(x.data(), inner + 3, rows, rows_of_w.data(), inner + 2, cols, inner, wanted_dots.data(), cols + 1, add);
          for (size_t i = 0; i < dots.size(); ++i) ASSERT_NEAR(dots[i], wanted_dots[i], 36e-7 * static_cast<double>(inner));
        }
      }
    }
  }
}

}  // namespace
}  // namespace kvg
