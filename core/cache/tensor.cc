// The arithmetic behind the checks of tensors, in 128 bits so that no size or stride overflows it.
#include "core/cache/tensor.h"

#include <algorithm>

namespace kvg {
namespace {

__extension__ using Wide = __int128;

uint64_t Magnitude(int64_t stride) {
  return stride < 0 ? uint64_t{0} - static_cast<uint64_t>(stride) : static_cast<uint64_t>(stride);
}

// How far the elements of a tensor reach behind the first one, and (<= 0) in front of it.
struct Reach {
  Wide front = 0, behind = 0;
};

Reach ReachOf(const Extent& extent) {
  Reach reach;
  for (int i = 0; i < 3; ++i) {
    const Wide axis = Wide{extent.size[i] - 1} * extent.stride[i];
    (axis > 0 ? reach.behind : reach.front) += axis;
  }
  return reach;
}

}  // namespace

Extent ExtentOf(uint64_t tokens, uint64_t heads, uint64_t dims, int64_t token_stride,
                int64_t head_stride, int64_t dim_stride) {
  if (token_stride == 0 && head_stride == 0 && dim_stride == 0) {
    token_stride = static_cast<int64_t>(heads * dims);
    head_stride = static_cast<int64_t>(dims);
    dim_stride = 1;
  }
  return {{tokens, heads, dims}, {token_stride, head_stride, dim_stride}};
}

absl::Status CheckTensor(std::string_view name, const void* data, size_t bytes, ops::DType dtype,
                         const Extent& extent) {
  if (data == nullptr) return InvalidError(name, " is NULL; it must point to a tensor");
  const size_t element = SizeOf(dtype);
  if (reinterpret_cast<uintptr_t>(data) % element != 0) {
    return InvalidError(name, " must be aligned to its elements of ", element, " bytes");
  }
  const Reach reach = ReachOf(extent);
  const Wide needed = (reach.behind + 1) * static_cast<Wide>(element);
  if (needed > static_cast<Wide>(bytes)) {
    if (needed > static_cast<Wide>(UINT64_MAX)) {
      return InvalidError("the shape and strides of ", name, " go beyond the address space");
    }
    return InvalidError(name, "_bytes is ", bytes, " but shape and strides need ",
                        static_cast<uint64_t>(needed), " bytes");
  }
  // Addresses in front of data must at least exist.
  if (-reach.front * static_cast<Wide>(element) > static_cast<Wide>(reinterpret_cast<uintptr_t>(data))) {
    return InvalidError("the shape and strides of ", name, " go beyond the address space");
  }
  return absl::OkStatus();
}

absl::Status CheckApart(std::string_view name_a, const void* a, ops::DType dtype_a,
                        const Extent& extent_a, std::string_view name_b, const void* b,
                        ops::DType dtype_b, const Extent& extent_b) {
  struct Span {
    Wide begin, end;  // addresses
  };
  const auto span_of = [](const void* data, ops::DType dtype, const Extent& extent) {
    const Reach reach = ReachOf(extent);
    const Wide at = reinterpret_cast<uintptr_t>(data);
    const Wide element = SizeOf(dtype);
    return Span{at + reach.front * element, at + (reach.behind + 1) * element};
  };
  const Span x = span_of(a, dtype_a, extent_a), y = span_of(b, dtype_b, extent_b);
  if (x.end <= y.begin || y.end <= x.begin) return absl::OkStatus();
  return InvalidError(name_a, " and ", name_b, " overlap in memory; pass tensors that lie apart");
}

absl::Status CheckDistinctRows(std::string_view name, const Extent& extent) {
  struct Axis {
    uint64_t size, stride;
  };
  Axis inner{extent.size[1], Magnitude(extent.stride[1])};
  Axis outer{extent.size[0], Magnitude(extent.stride[0])};
  if (inner.size > 1 && outer.size > 1 && inner.stride > outer.stride) std::swap(inner, outer);
  uint64_t row = extent.size[2];
  for (const Axis& axis : {inner, outer}) {
    if (axis.size == 1) continue;
    if (axis.stride < row) {
      return InvalidError("the strides of ", name, " make its rows overlap; a stride of at least ",
                          row, " elements is needed where ", axis.stride, " was given");
    }
    // Fits: CheckTensor has seen that the tensor lies in memory.
    row += (axis.size - 1) * axis.stride;
  }
  return absl::OkStatus();
}

}  // namespace kvg
