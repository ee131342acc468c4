// Ingest: the caller's tensor to fp16 rows, refusing what fp16 cannot hold.
#include <cstdint>

#include "kernels/half.h"
#include "kernels/reference/convert.h"
#include "kernels/reference/reference.h"

namespace kvg::reference {

bool Ingest(const ops::IngestArgs* args) {
  for (uint64_t token = 0; token < args->tokens; ++token) {
    for (uint32_t head = 0; head < args->kv_heads; ++head) {
      uint16_t* const row = args->rows + head * args->rows_head_stride + token * args->head_dim;
      const int64_t first = static_cast<int64_t>(token) * args->token_stride +
                            static_cast<int64_t>(head) * args->head_stride;
      for (uint32_t d = 0; d < args->head_dim; ++d) {
        const int64_t i = first + static_cast<int64_t>(d) * args->dim_stride;
        row[d] = F32ToF16(LoadElement(args->x, args->dtype, i));
        if (!F16IsFinite(row[d])) return false;
      }
    }
  }
  return true;
}

}  // namespace kvg::reference
