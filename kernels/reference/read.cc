// Read: a range of tokens of one side, decompressed.
#include <algorithm>
#include <cstdint>

#include "kernels/half.h"
#include "kernels/reference/convert.h"
#include "kernels/reference/decode.h"
#include "kernels/reference/reference.h"

namespace kvg::reference {

void Read(const ops::ReadArgs* args) {
  float row[ops::kMaxHeadDim];
  SequenceReader side(args->side);
  int64_t element = 0;
  for (uint64_t token = 0; token < args->tokens; ++token) {
    for (uint32_t head = 0; head < args->kv_heads; ++head) {
      side.Row(head, args->first_token + token, row);
      for (uint32_t d = 0; d < args->head_dim; ++d) {
        // What went in was finite in fp16; rounding in the codes must not bring out infinity.
        const bool saturate = args->dtype == ops::kF16;
        const float value = saturate ? std::clamp(row[d], -kF16Max, kF16Max) : row[d];
        StoreElement(args->out, args->dtype, element++, value);
      }
    }
  }
}

}  // namespace kvg::reference
