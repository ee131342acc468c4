// Exports that concern the selection of tokens.
#include <cstdint>

#include "capi/src/arguments.h"
#include "capi/src/descs.h"
#include "capi/src/guard.h"
#include "capi/src/handles.h"
#include "core/cache/cache.h"
#include "kvgear/kvgear.h"

using kvg::capi::CheckHandle;
using kvg::capi::CheckPointer;
using kvg::capi::Guard;
using kvg::capi::Outcome;

namespace {

// Answers a call for a list: stores its length, and lets `write` fill the caller's buffer unless only
// the length was asked for.
template <typename T, typename Write>
Outcome WriteList(uint64_t length, T* list, size_t list_len, size_t* needed, const char* name,
                  const Write& write) {
  if (list_len > 0) KVG_RETURN_IF_ERROR(CheckPointer(list, name));
  if (list_len > 0 && list_len < length) {
    if (needed != nullptr) *needed = length;
    return Outcome::BufferTooSmall(list_len, length);
  }
  if (list_len > 0 && length > 0) KVG_RETURN_IF_ERROR(write());
  if (needed != nullptr) *needed = length;
  return absl::OkStatus();
}

// `length` entries are needed where `given` were passed.
absl::Status CheckLength(const char* name, size_t given, uint64_t length, const char* what) {
  if (given == length) return absl::OkStatus();
  return kvg::InvalidError(name, "_len is ", given, " but ", what, " is ", length);
}

}  // namespace

kvg_status kvg_cache_held(const kvg_cache* cache, uint32_t layer, uint64_t* slots,
                          kvg_error* err) {
  return Guard(err, [&]() -> Outcome {
    KVG_RETURN_IF_ERROR(CheckHandle(cache));
    KVG_RETURN_IF_ERROR(CheckPointer(slots, "slots"));
    const absl::StatusOr<uint64_t> held = cache->cache->Held(layer);
    KVG_RETURN_IF_ERROR(held.status());
    *slots = *held;
    return absl::OkStatus();
  });
}

kvg_status kvg_cache_positions(const kvg_cache* cache, uint32_t layer, uint32_t kv_head,
                               uint64_t* positions, size_t positions_len, size_t* needed,
                               kvg_error* err) {
  return Guard(err, [&]() -> Outcome {
    KVG_RETURN_IF_ERROR(CheckHandle(cache));
    const absl::StatusOr<uint64_t> held = cache->cache->Held(layer);
    KVG_RETURN_IF_ERROR(held.status());
    KVG_RETURN_IF_ERROR(cache->cache->CheckKvHead(kv_head));
    return WriteList(*held, positions, positions_len, needed, "positions",
                     [&] { return cache->cache->Positions(layer, kv_head, positions); });
  });
}

kvg_status kvg_cache_bits(const kvg_cache* cache, uint32_t layer, kvg_side side, uint8_t* bits,
                          size_t bits_len, size_t* needed, kvg_error* err) {
  return Guard(err, [&]() -> Outcome {
    KVG_RETURN_IF_ERROR(CheckHandle(cache));
    KVG_RETURN_IF_ERROR(kvg::capi::CheckSide(side));
    if (side == KVG_SIDE_BOTH) {
      return kvg::InvalidError("side is KVG_SIDE_BOTH; ask for the bits of K and V one by one");
    }
    const absl::StatusOr<uint64_t> held = cache->cache->Held(layer);
    KVG_RETURN_IF_ERROR(held.status());
    return WriteList(*held, bits, bits_len, needed, "bits", [&] {
      return cache->cache->Bits(layer, static_cast<kvg::ops::Side>(side), bits);
    });
  });
}

kvg_status kvg_cache_select(kvg_cache* cache, uint32_t layer, kvg_error* err) {
  return Guard(err, [&]() -> Outcome {
    KVG_RETURN_IF_ERROR(CheckHandle(cache));
    return cache->cache->Select(layer);
  });
}

kvg_status kvg_cache_append_at(kvg_cache* cache, uint32_t layer, const void* k, size_t k_bytes,
                               const void* v, size_t v_bytes, const uint64_t* positions,
                               size_t positions_len, const kvg_append_desc* desc, kvg_error* err) {
  return Guard(err, [&]() -> Outcome {
    KVG_RETURN_IF_ERROR(CheckHandle(cache));
    kvg::capi::AppendInput input;
    KVG_RETURN_IF_ERROR(kvg::capi::ReadAppendDesc(*cache->runtime, desc, k, k_bytes, v, v_bytes, &input));
    KVG_RETURN_IF_ERROR(CheckLength("positions", positions_len, input.tokens, "tokens"));
    if (positions_len > 0) KVG_RETURN_IF_ERROR(CheckPointer(positions, "positions"));
    return cache->cache->Append(layer, input.k, input.v, input.dtype, input.tokens, positions);
  });
}

kvg_status kvg_cache_observe(kvg_cache* cache, uint32_t layer, const float* scores,
                             size_t scores_len, uint64_t rows, kvg_error* err) {
  return Guard(err, [&]() -> Outcome {
    KVG_RETURN_IF_ERROR(CheckHandle(cache));
    KVG_RETURN_IF_ERROR(CheckPointer(scores, "scores"));
    return cache->cache->Observe(layer, scores, scores_len, rows);
  });
}

kvg_status kvg_cache_probe(kvg_cache* cache, uint32_t layer, const void* q, size_t q_bytes,
                           const uint64_t* positions, size_t positions_len,
                           const kvg_attend_desc* desc, kvg_error* err) {
  return Guard(err, [&]() -> Outcome {
    KVG_RETURN_IF_ERROR(CheckHandle(cache));
    kvg::AttendOptions options;
    KVG_RETURN_IF_ERROR(kvg::capi::ReadAttendDesc(*cache->runtime, desc, &options));
    KVG_RETURN_IF_ERROR(CheckLength("positions", positions_len, options.queries, "queries"));
    if (positions_len > 0) KVG_RETURN_IF_ERROR(CheckPointer(positions, "positions"));
    return cache->cache->Probe(layer, q, q_bytes, positions, options);
  });
}

kvg_status kvg_cache_probe_positions(const kvg_cache* cache, uint32_t layer, uint64_t* positions,
                                     size_t positions_len, size_t* needed, kvg_error* err) {
  return Guard(err, [&]() -> Outcome {
    KVG_RETURN_IF_ERROR(CheckHandle(cache));
    const absl::StatusOr<uint64_t> room = cache->cache->ProbeRoom(layer);
    KVG_RETURN_IF_ERROR(room.status());
    return WriteList(*room, positions, positions_len, needed, "positions",
                     [&] { return cache->cache->ProbePositions(layer, positions).status(); });
  });
}

kvg_status kvg_cache_attend_observe(kvg_cache* cache, uint32_t layer, const void* q, size_t q_bytes,
                                    void* out, size_t out_bytes, const kvg_attend_desc* desc,
                                    kvg_error* err) {
  return Guard(err, [&]() -> Outcome {
    KVG_RETURN_IF_ERROR(CheckHandle(cache));
    kvg::AttendOptions options;
    KVG_RETURN_IF_ERROR(kvg::capi::ReadAttendDesc(*cache->runtime, desc, &options));
    return cache->cache->AttendObserve(layer, q, q_bytes, out, out_bytes, options);
  });
}

kvg_status kvg_cache_next_tokens(const kvg_cache* cache, uint32_t layer, uint64_t* slots,
                                 size_t slots_len, size_t* needed, kvg_error* err) {
  return Guard(err, [&]() -> Outcome {
    KVG_RETURN_IF_ERROR(CheckHandle(cache));
    const absl::StatusOr<uint64_t> count = cache->cache->NextTokens(layer, nullptr);
    KVG_RETURN_IF_ERROR(count.status());
    return WriteList(*count, slots, slots_len, needed, "slots",
                     [&] { return cache->cache->NextTokens(layer, slots).status(); });
  });
}
