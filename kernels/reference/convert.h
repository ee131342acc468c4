// Elements of the three data types, one at a time.
//
// Called by the files of kernels/reference alone.
#ifndef KVGEAR_KERNELS_REFERENCE_CONVERT_H_
#define KVGEAR_KERNELS_REFERENCE_CONVERT_H_

#include <cstdint>

#include "kernels/half.h"
#include "kernels/ops.h"

namespace kvg::reference {

inline float LoadElement(const void* base, ops::DType dtype, int64_t i) {
  switch (dtype) {
    case ops::kF16:
      return F16ToF32(static_cast<const uint16_t*>(base)[i]);
    case ops::kBF16:
      return BF16ToF32(static_cast<const uint16_t*>(base)[i]);
    case ops::kF32:
      break;
  }
  return static_cast<const float*>(base)[i];
}

// f16 rounds to infinity what lies beyond its range.
inline void StoreElement(void* base, ops::DType dtype, int64_t i, float value) {
  switch (dtype) {
    case ops::kF16:
      static_cast<uint16_t*>(base)[i] = F32ToF16(value);
      return;
    case ops::kBF16:
      static_cast<uint16_t*>(base)[i] = F32ToBF16(value);
      return;
    case ops::kF32:
      break;
  }
  static_cast<float*>(base)[i] = value;
}

}  // namespace kvg::reference

#endif  // KVGEAR_KERNELS_REFERENCE_CONVERT_H_
