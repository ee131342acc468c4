// What the descriptors of append and attend mean to the core, for the exports that take one.
//
// Called by the exports of capi/src.
#ifndef KVGEAR_CAPI_SRC_DESCS_H_
#define KVGEAR_CAPI_SRC_DESCS_H_

#include <cstddef>
#include <cstdint>

#include "capi/src/arguments.h"
#include "capi/src/structs.h"
#include "core/base/status.h"
#include "core/cache/cache.h"
#include "kvgear/kvgear.h"

namespace kvg::capi {

struct AppendInput {
  TensorView k, v;
  ops::DType dtype = ops::kF16;
  uint64_t tokens = 0;
  void* stream = nullptr;
};

inline absl::Status ReadAppendDesc(Runtime& runtime, const kvg_append_desc* desc, const void* k, size_t k_bytes,
                                   const void* v, size_t v_bytes, AppendInput* out) {
  kvg_append_desc d;
  kvg_append_desc_init(&d);
  KVG_RETURN_IF_ERROR(ReadStruct(desc, &d));
  KVG_RETURN_IF_ERROR(CheckDType(d.dtype, "dtype", &out->dtype));
  KVG_RETURN_IF_ERROR(CheckStream(runtime, d.stream));
  out->k = {k, k_bytes, d.k_token_stride, d.k_head_stride, d.k_dim_stride};
  out->v = {v, v_bytes, d.v_token_stride, d.v_head_stride, d.v_dim_stride};
  out->tokens = d.tokens;
  out->stream = d.stream;
  return absl::OkStatus();
}

inline absl::Status ReadAttendDesc(Runtime& runtime, const kvg_attend_desc* desc,
                                   AttendOptions* out) {
  kvg_attend_desc d;
  kvg_attend_desc_init(&d);
  KVG_RETURN_IF_ERROR(ReadStruct(desc, &d));
  AttendOptions& options = *out;
  KVG_RETURN_IF_ERROR(CheckDType(d.q_dtype, "q_dtype", &options.q_dtype));
  KVG_RETURN_IF_ERROR(CheckDType(d.out_dtype, "out_dtype", &options.out_dtype));
  KVG_RETURN_IF_ERROR(CheckStream(runtime, d.stream));
  if (d.non_causal > 1) {
    return UnsupportedError("non_causal is ", d.non_causal, "; it may be 0 or 1");
  }
  if (d.latent_out > 1) {
    return UnsupportedError("latent_out is ", d.latent_out, "; it may be 0 or 1");
  }
  options.latent_out = d.latent_out == 1;
  options.queries = d.queries;
  options.causal = d.non_causal == 0;
  options.scale = d.scale;
  options.softcap = d.logit_softcap;
  options.sliding_window = d.sliding_window;
  options.q_token_stride = d.q_token_stride;
  options.q_head_stride = d.q_head_stride;
  options.out_token_stride = d.out_token_stride;
  options.out_head_stride = d.out_head_stride;
  options.stream = d.stream;
  return absl::OkStatus();
}

}  // namespace kvg::capi

#endif  // KVGEAR_CAPI_SRC_DESCS_H_
