// Checks of the callers' tensors against their shape, strides, length and alignment.
//
// Called by core/cache/cache.
#ifndef KVGEAR_CORE_CACHE_TENSOR_H_
#define KVGEAR_CORE_CACHE_TENSOR_H_

#include <cstddef>
#include <cstdint>
#include <string_view>

#include "core/base/status.h"
#include "kernels/ops.h"

namespace kvg {

inline constexpr size_t SizeOf(ops::DType dtype) { return dtype == ops::kF32 ? 4 : 2; }

// A tensor of three dimensions; strides in elements.
struct Extent {
  uint64_t size[3];
  int64_t stride[3];
};

// Sizes with strides; where all strides are 0, those of a contiguous tensor.
Extent ExtentOf(uint64_t tokens, uint64_t heads, uint64_t dims, int64_t token_stride,
                int64_t head_stride, int64_t dim_stride);

// Whether every element of the tensor at `data` lies within `bytes` (elements in front of `data`,
// behind negative strides, cannot be checked) and is aligned. `name` is what the caller calls it.
absl::Status CheckTensor(std::string_view name, const void* data, size_t bytes, ops::DType dtype,
                         const Extent& extent);

// Whether two tensors that passed CheckTensor lie apart, each taken as all the memory from its first
// to its last element.
absl::Status CheckApart(std::string_view name_a, const void* a, ops::DType dtype_a,
                        const Extent& extent_a, std::string_view name_b, const void* b,
                        ops::DType dtype_b, const Extent& extent_b);

// Whether no two rows [token, head] of a tensor that is written overlap.
absl::Status CheckDistinctRows(std::string_view name, const Extent& extent);

}  // namespace kvg

#endif  // KVGEAR_CORE_CACHE_TENSOR_H_
