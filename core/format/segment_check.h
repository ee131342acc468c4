// Whether a stored segment may be given to the kernels, which trust what they read.
//
// Called by core/format. Codes, scales and factors may be any bits, scales and rows any finite
// number; what the kernels use as a size or an index must be right.
#ifndef KVGEAR_CORE_FORMAT_SEGMENT_CHECK_H_
#define KVGEAR_CORE_FORMAT_SEGMENT_CHECK_H_

#include <cstddef>
#include <cstdint>

#include "core/base/status.h"
#include "core/codec/segment.h"
#include "core/model/plan.h"
#include "kernels/ops.h"

namespace kvg {

// Before any memory is taken: can the layout of such a segment be worked out, and do kernels know it?
absl::Status CheckForm(const SegmentForm& form, const Shape& shape, ops::Side side);

// The content of a basis, as long as Basis::ContentBytes says.
absl::Status CheckBasis(const std::byte* content, const Shape& shape, ops::Side side);

// Once the payload is there.
absl::Status CheckPayload(const Segment& segment);

// Whether fp16 numbers hold no NaN and no infinity.
bool AllFinite(const uint16_t* x, uint64_t count);

}  // namespace kvg

#endif  // KVGEAR_CORE_FORMAT_SEGMENT_CHECK_H_
