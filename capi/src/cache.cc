// Exports of the noun kvg_cache.
#include <cstdint>
#include <memory>
#include <utility>

#include "capi/src/arguments.h"
#include "capi/src/descs.h"
#include "capi/src/guard.h"
#include "capi/src/handles.h"
#include "capi/src/structs.h"
#include "core/cache/cache.h"
#include "kvgear/kvgear.h"

using kvg::capi::CheckDType;
using kvg::capi::CheckHandle;
using kvg::capi::CheckPointer;
using kvg::capi::EndHandle;
using kvg::capi::Guard;
using kvg::capi::InitStruct;
using kvg::capi::NewHandle;
using kvg::capi::Outcome;

static_assert(kvg::kAllLayers == KVG_ALL_LAYERS);

namespace {

// `Handle`: kvg_cache or const kvg_cache.
template <typename Handle>
absl::Status CheckBatch(Handle* const* caches, size_t caches_len) {
  KVG_RETURN_IF_ERROR(CheckPointer(caches, "caches"));
  for (size_t i = 0; i < caches_len; ++i) {
    if (absl::Status status = CheckHandle(caches[i]); !status.ok()) {
      return absl::Status(status.code(),
                          absl::StrCat("cache ", i, " of the batch: ", status.message()));
    }
  }
  return absl::OkStatus();
}

}  // namespace

kvg_status kvg_cache_create(kvg_runtime* runtime, const kvg_plan* plan, kvg_cache** out,
                            kvg_error* err) {
  return Guard(err, [&]() -> Outcome {
    KVG_RETURN_IF_ERROR(CheckPointer(out, "out"));
    KVG_RETURN_IF_ERROR(CheckHandle(runtime));
    KVG_RETURN_IF_ERROR(CheckHandle(plan));
    absl::StatusOr<std::unique_ptr<kvg::Cache>> cache =
        kvg::Cache::Create(runtime->runtime, plan->plan);
    KVG_RETURN_IF_ERROR(cache.status());
    *out = NewHandle(runtime->runtime, *std::move(cache));
    return absl::OkStatus();
  });
}

void kvg_cache_destroy(kvg_cache* cache) { EndHandle(cache); }

void kvg_append_desc_init(kvg_append_desc* desc) {
  InitStruct(desc);
  if (desc != nullptr) desc->dtype = KVG_F16;
}

kvg_status kvg_cache_append(kvg_cache* cache, uint32_t layer, const void* k, size_t k_bytes,
                            const void* v, size_t v_bytes, const kvg_append_desc* desc,
                            kvg_error* err) {
  return Guard(err, [&]() -> Outcome {
    KVG_RETURN_IF_ERROR(CheckHandle(cache));
    kvg::capi::AppendInput input;
    KVG_RETURN_IF_ERROR(kvg::capi::ReadAppendDesc(*cache->runtime, desc, k, k_bytes, v, v_bytes, &input));
    return cache->cache->Append(layer, input.k, input.v, input.dtype, input.tokens, nullptr, input.stream);
  });
}

kvg_status kvg_cache_append_batch(kvg_cache* const* caches, size_t caches_len, uint32_t layer,
                                  const void* k, size_t k_bytes, const void* v, size_t v_bytes,
                                  const kvg_append_desc* desc, kvg_error* err) {
  return Guard(err, [&]() -> Outcome {
    if (caches_len == 0) return absl::OkStatus();
    KVG_RETURN_IF_ERROR(CheckBatch(caches, caches_len));
    kvg::Runtime& runtime = *caches[0]->runtime;
    kvg::capi::AppendInput input;
    KVG_RETURN_IF_ERROR(kvg::capi::ReadAppendDesc(runtime, desc, k, k_bytes, v, v_bytes, &input));
    const kvg::Buffer list(runtime.memory(), caches_len * sizeof(kvg::Cache*),
                           kvg::Buffer::kScratch);
    auto* const core = list.data<kvg::Cache*>();
    for (size_t i = 0; i < caches_len; ++i) core[i] = caches[i]->cache.get();
    return kvg::Cache::AppendBatch({core, caches_len}, layer, input.k, input.v, input.dtype,
                                   input.tokens, input.stream);
  });
}

void kvg_attend_desc_init(kvg_attend_desc* desc) {
  InitStruct(desc);
  if (desc == nullptr) return;
  desc->q_dtype = KVG_F16;
  desc->out_dtype = KVG_F16;
  desc->queries = 1;
}

kvg_status kvg_cache_attend(const kvg_cache* cache, uint32_t layer, const void* q, size_t q_bytes,
                            void* out, size_t out_bytes, const kvg_attend_desc* desc,
                            kvg_error* err) {
  return Guard(err, [&]() -> Outcome {
    KVG_RETURN_IF_ERROR(CheckHandle(cache));
    kvg::AttendOptions options;
    KVG_RETURN_IF_ERROR(kvg::capi::ReadAttendDesc(*cache->runtime, desc, &options));
    return cache->cache->Attend(layer, q, q_bytes, out, out_bytes, options);
  });
}

kvg_status kvg_cache_attend_batch(const kvg_cache* const* caches, size_t caches_len,
                                  uint32_t layer, const void* q, size_t q_bytes, void* out,
                                  size_t out_bytes, const kvg_attend_desc* desc, kvg_error* err) {
  return Guard(err, [&]() -> Outcome {
    if (caches_len == 0) return absl::OkStatus();
    KVG_RETURN_IF_ERROR(CheckBatch(caches, caches_len));
    kvg::Runtime& runtime = *caches[0]->runtime;
    kvg::AttendOptions options;
    KVG_RETURN_IF_ERROR(kvg::capi::ReadAttendDesc(runtime, desc, &options));
    // A batch of a few is usual; its list of pointers comes from the runtime's allocator.
    const kvg::Buffer list(runtime.memory(), caches_len * sizeof(kvg::Cache*),
                           kvg::Buffer::kScratch);
    auto* const core = list.data<const kvg::Cache*>();
    for (size_t i = 0; i < caches_len; ++i) core[i] = caches[i]->cache.get();
    return kvg::Cache::AttendBatch({core, caches_len}, layer, q, q_bytes, out, out_bytes, options);
  });
}

kvg_status kvg_cache_read(const kvg_cache* cache, uint32_t layer, kvg_side side,
                          uint64_t first_token, uint64_t tokens, kvg_dtype dtype, void* out,
                          size_t out_bytes, kvg_error* err) {
  return Guard(err, [&]() -> Outcome {
    KVG_RETURN_IF_ERROR(CheckHandle(cache));
    KVG_RETURN_IF_ERROR(kvg::capi::CheckSide(side));
    if (side == KVG_SIDE_BOTH) {
      return kvg::InvalidError(
          "side is KVG_SIDE_BOTH, which only kvg_cache_stats takes; read K and V one by one");
    }
    kvg::ops::DType core_dtype = kvg::ops::kF16;
    KVG_RETURN_IF_ERROR(CheckDType(dtype, "dtype", &core_dtype));
    return cache->cache->Read(layer, static_cast<kvg::ops::Side>(side), first_token, tokens,
                              core_dtype, out, out_bytes);
  });
}

kvg_status kvg_cache_length(const kvg_cache* cache, uint32_t layer, uint64_t* tokens,
                            kvg_error* err) {
  return Guard(err, [&]() -> Outcome {
    KVG_RETURN_IF_ERROR(CheckHandle(cache));
    KVG_RETURN_IF_ERROR(CheckPointer(tokens, "tokens"));
    const absl::StatusOr<uint64_t> length = cache->cache->Length(layer);
    KVG_RETURN_IF_ERROR(length.status());
    *tokens = *length;
    return absl::OkStatus();
  });
}

kvg_status kvg_cache_truncate(kvg_cache* cache, uint32_t layer, uint64_t tokens, kvg_error* err) {
  return Guard(err, [&]() -> Outcome {
    KVG_RETURN_IF_ERROR(CheckHandle(cache));
    return cache->cache->Truncate(layer, tokens);
  });
}

kvg_status kvg_cache_clear(kvg_cache* cache, kvg_error* err) {
  return Guard(err, [&]() -> Outcome {
    KVG_RETURN_IF_ERROR(CheckHandle(cache));
    return cache->cache->Clear();
  });
}

kvg_status kvg_cache_fork(const kvg_cache* cache, kvg_cache** out, kvg_error* err) {
  return Guard(err, [&]() -> Outcome {
    KVG_RETURN_IF_ERROR(CheckPointer(out, "out"));
    KVG_RETURN_IF_ERROR(CheckHandle(cache));
    absl::StatusOr<std::unique_ptr<kvg::Cache>> fork = cache->cache->Fork();
    KVG_RETURN_IF_ERROR(fork.status());
    *out = NewHandle(cache->runtime, *std::move(fork));
    return absl::OkStatus();
  });
}

void kvg_stats_init(kvg_stats* stats) { InitStruct(stats); }

kvg_status kvg_cache_stats(const kvg_cache* cache, uint32_t layer, kvg_side side, kvg_stats* stats,
                           kvg_error* err) {
  return Guard(err, [&]() -> Outcome {
    KVG_RETURN_IF_ERROR(CheckHandle(cache));
    uint32_t size = 0;
    KVG_RETURN_IF_ERROR(kvg::capi::CheckStruct(stats, &size));
    KVG_RETURN_IF_ERROR(kvg::capi::CheckSide(side));
    absl::StatusOr<kvg::Stats> found =
        cache->cache->GetStats(layer, side != KVG_SIDE_V, side != KVG_SIDE_K);
    KVG_RETURN_IF_ERROR(found.status());
    // The handle belongs to no layer and to no side, so it is in the sum of all of them only.
    if (layer == KVG_ALL_LAYERS && side == KVG_SIDE_BOTH) {
      found->bytes_bookkeeping += cache->home.size();
    }
    const uint64_t total = found->bytes_total();
    kvg_stats ours;
    InitStruct(&ours);
    ours.tokens = found->tokens;
    ours.elements = found->elements;
    ours.sealed_elements = found->sealed_elements;
    ours.segments = found->segments;
    ours.bytes_total = total;
    ours.bytes_codes = found->bytes_codes;
    ours.bytes_scales = found->bytes_scales;
    ours.bytes_low_rank = found->bytes_low_rank;
    ours.bytes_sparse = found->bytes_sparse;
    ours.bytes_positions = found->bytes_positions;
    ours.bytes_state = found->bytes_state;
    ours.bytes_window_used = found->bytes_window_used;
    ours.bytes_window_allocated = found->bytes_window_allocated;
    ours.bytes_bookkeeping = found->bytes_bookkeeping;
    ours.bytes_shared = found->bytes_shared;
    ours.bytes_fp16 = found->elements * sizeof(uint16_t);
    ours.bits_per_element =
        found->elements == 0
            ? 0.0
            : 8.0 * static_cast<double>(total) / static_cast<double>(found->elements);
    ours.rel_error_k_mean = found->rel_error_k_mean;
    ours.rel_error_k_worst = found->rel_error_k_worst;
    ours.rel_error_v_mean = found->rel_error_v_mean;
    ours.rel_error_v_worst = found->rel_error_v_worst;
    ours.bytes_mapped = found->bytes_mapped;
    ours.tokens_appended = found->appended;
    ours.tokens_evicted = found->appended - found->tokens;
    ours.bytes_plan = found->bytes_plan;
    kvg::capi::WriteStruct(ours, size, stats);
    return absl::OkStatus();
  });
}
