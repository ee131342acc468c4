// Linear maps of one row, forth and back, as kernels/ops.h defines them.
//
// Called by the files of kernels/reference alone.
#ifndef KVGEAR_KERNELS_REFERENCE_MAP_H_
#define KVGEAR_KERNELS_REFERENCE_MAP_H_

#include <algorithm>
#include <cstdint>

#include "kernels/half.h"
#include "kernels/ops.h"

namespace kvg::reference {

// row = H row in each run of `block` elements.
inline void Hadamard(uint32_t block, uint32_t dim, float* row) {
  for (uint32_t distance = 1; distance < block; distance *= 2) {
    for (uint32_t i = 0; i < dim; ++i) {
      if ((i & distance) != 0) continue;
      const float u = row[i];
      const float v = row[i + distance];
      row[i] = u + v;
      row[i + distance] = u - v;
    }
  }
}

// The rows of a matrix that belong to a head.
inline const uint16_t* MatrixOf(const uint16_t* matrices, uint32_t head, uint32_t dim) {
  return matrices + uint64_t{head} * dim * ops::PadDirs(dim);
}

// y = M x, both fp16.
inline void MapRow(const ops::Map& map, uint32_t head, uint32_t dim, const uint16_t* x,
                   uint16_t* y) {
  float row[ops::kMaxHeadDim] = {};
  if (map.kind == ops::kMapHadamard) {
    for (uint32_t d = 0; d < dim; ++d) row[d] = F16ToF32(x[d]);
    Hadamard(map.block, dim, row);
    const float share = 1.0f / static_cast<float>(map.block);
    for (uint32_t d = 0; d < dim; ++d) row[d] *= share;
  } else {
    const uint16_t* const forward = MatrixOf(map.forward, head, dim);
    for (uint32_t i = 0; i < dim; ++i) {
      for (uint32_t j = 0; j < dim; ++j) {
        row[j] += F16ToF32(x[i]) * F16ToF32(forward[i * ops::PadDirs(dim) + j]);
      }
    }
  }
  for (uint32_t d = 0; d < dim; ++d) y[d] = F32ToF16Saturate(row[d]);
}

// row = M^-1 row.
inline void UnmapRow(const ops::Map& map, uint32_t head, uint32_t dim, float* row) {
  if (map.kind == ops::kMapHadamard) return Hadamard(map.block, dim, row);
  const uint16_t* back = MatrixOf(map.back, head, dim);
  float x[ops::kMaxHeadDim];
  for (uint32_t i = 0; i < dim; ++i, back += ops::PadDirs(dim)) {
    float sum[16] = {};
    for (uint32_t j = 0; j < dim; ++j) sum[j % 16] += F16ToF32(back[j]) * row[j];
    for (uint32_t half = 8; half > 0; half /= 2) {
      for (uint32_t k = 0; k < half; ++k) sum[k] += sum[k + half];
    }
    x[i] = sum[0];
  }
  std::copy_n(x, dim, row);
}

}  // namespace kvg::reference

#endif  // KVGEAR_KERNELS_REFERENCE_MAP_H_
