// The struct_size rule, convention (6) of kvgear.h: how a caller's struct, from an older or newer
// header than this library, becomes one of ours, and how ours is written back.
//
// Called by the exports of capi/src. A new field goes to the end of its struct and of its list.
#ifndef KVGEAR_CAPI_SRC_STRUCTS_H_
#define KVGEAR_CAPI_SRC_STRUCTS_H_

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <span>
#include <type_traits>

#include "core/base/status.h"
#include "kvgear/kvgear.h"

namespace kvg::capi {

// Larger sizes are taken for a struct that was never initialised, and not followed.
inline constexpr uint32_t kMaxStructSize = 4096;

// Where the fields of a struct end. A caller's struct may end at any of them, never between.
template <typename T>
struct Layout;

#define KVG_END(type, field) (offsetof(type, field) + sizeof(type::field))
#define KVG_LAYOUT(type, ...)                                    \
  template <>                                                    \
  struct Layout<type> {                                          \
    using S = type;                                              \
    static constexpr const char* kName = #type;                  \
    static constexpr const char* kInit = #type "_init";          \
    static constexpr size_t kEnds[] = {__VA_ARGS__};             \
    static_assert(std::is_trivially_copyable_v<S>);              \
    static_assert(offsetof(S, struct_size) == 0);                \
    static_assert(kEnds[std::size(kEnds) - 1] == sizeof(S));     \
  }

KVG_LAYOUT(kvg_allocator, KVG_END(S, struct_size), KVG_END(S, reserved), KVG_END(S, user),
           KVG_END(S, alloc), KVG_END(S, release));
KVG_LAYOUT(kvg_runtime_options, KVG_END(S, struct_size), KVG_END(S, device),
           KVG_END(S, device_id), KVG_END(S, threads), KVG_END(S, memory_budget),
           KVG_END(S, allocator), KVG_END(S, device_allocator), KVG_END(S, pinned_allocator));
KVG_LAYOUT(kvg_shape, KVG_END(S, struct_size), KVG_END(S, layers), KVG_END(S, q_heads),
           KVG_END(S, kv_heads), KVG_END(S, head_dim));
KVG_LAYOUT(kvg_append_desc, KVG_END(S, struct_size), KVG_END(S, dtype), KVG_END(S, tokens),
           KVG_END(S, k_token_stride), KVG_END(S, k_head_stride), KVG_END(S, k_dim_stride),
           KVG_END(S, v_token_stride), KVG_END(S, v_head_stride), KVG_END(S, v_dim_stride),
           KVG_END(S, stream));
KVG_LAYOUT(kvg_attend_desc, KVG_END(S, struct_size), KVG_END(S, q_dtype), KVG_END(S, out_dtype),
           KVG_END(S, queries), KVG_END(S, non_causal), KVG_END(S, scale),
           KVG_END(S, logit_softcap), KVG_END(S, latent_out), KVG_END(S, sliding_window),
           KVG_END(S, q_token_stride), KVG_END(S, q_head_stride), KVG_END(S, out_token_stride),
           KVG_END(S, out_head_stride), KVG_END(S, stream));
KVG_LAYOUT(kvg_stats, KVG_END(S, struct_size), KVG_END(S, reserved), KVG_END(S, tokens),
           KVG_END(S, elements), KVG_END(S, sealed_elements), KVG_END(S, segments),
           KVG_END(S, bytes_total), KVG_END(S, bytes_codes), KVG_END(S, bytes_scales),
           KVG_END(S, bytes_low_rank), KVG_END(S, bytes_sparse), KVG_END(S, bytes_positions),
           KVG_END(S, bytes_state), KVG_END(S, bytes_window_used),
           KVG_END(S, bytes_window_allocated), KVG_END(S, bytes_bookkeeping),
           KVG_END(S, bytes_shared), KVG_END(S, bytes_fp16), KVG_END(S, bits_per_element),
           KVG_END(S, rel_error_k_mean), KVG_END(S, rel_error_k_worst),
           KVG_END(S, rel_error_v_mean), KVG_END(S, rel_error_v_worst),
           KVG_END(S, bytes_mapped), KVG_END(S, tokens_appended),
           KVG_END(S, tokens_evicted), KVG_END(S, tokens_absorbed), KVG_END(S, bytes_plan));
KVG_LAYOUT(kvg_save_desc, KVG_END(S, struct_size), KVG_END(S, first_layer), KVG_END(S, layers),
           KVG_END(S, no_sync), KVG_END(S, first_token), KVG_END(S, tokens),
           KVG_END(S, fingerprint), KVG_END(S, fingerprint_bytes));
KVG_LAYOUT(kvg_load_desc, KVG_END(S, struct_size), KVG_END(S, map), KVG_END(S, trust),
           KVG_END(S, reserved), KVG_END(S, fingerprint), KVG_END(S, fingerprint_bytes));
KVG_LAYOUT(kvg_prefix_stats, KVG_END(S, struct_size), KVG_END(S, reserved), KVG_END(S, entries),
           KVG_END(S, bytes), KVG_END(S, hits), KVG_END(S, misses), KVG_END(S, evictions));

#undef KVG_LAYOUT
#undef KVG_END

// Can the size and the unknown tail of a caller's struct be accepted? Stores the size.
template <typename T>
absl::Status CheckStruct(const T* theirs, uint32_t* size) {
  using L = Layout<T>;
  if (theirs == nullptr) {
    return InvalidError("the ", L::kName, " is NULL; pass one set up by ", L::kInit);
  }
  std::memcpy(size, theirs, sizeof(*size));
  if (*size == 0 || *size > kMaxStructSize) {
    return InvalidError("struct_size of the ", L::kName, " is ", *size, "; set the struct up by ",
                        L::kInit);
  }
  if (*size < sizeof(T)) {
    const bool at_end = std::find(std::begin(L::kEnds), std::end(L::kEnds), *size) !=
                        std::end(L::kEnds);
    if (at_end) return absl::OkStatus();
    return InvalidError("struct_size of the ", L::kName, " is ", *size,
                        ", which is inside a field; set the struct up by ", L::kInit);
  }
  const std::span<const std::byte> all(reinterpret_cast<const std::byte*>(theirs), *size);
  const std::span<const std::byte> tail = all.subspan(sizeof(T));
  if (std::any_of(tail.begin(), tail.end(), [](std::byte b) { return b != std::byte{0}; })) {
    return UnsupportedError("the ", L::kName, " is of a newer header (struct_size ", *size,
                            ", known ", sizeof(T),
                            ") and uses a field that this library does not know; leave such "
                            "fields zero or use a newer library");
  }
  return absl::OkStatus();
}

// Copies the fields that the caller's struct has over *ours, which holds the defaults.
template <typename T>
absl::Status ReadStruct(const T* theirs, T* ours) {
  uint32_t size = 0;
  KVG_RETURN_IF_ERROR(CheckStruct(theirs, &size));
  std::memcpy(static_cast<void*>(ours), theirs, std::min<size_t>(size, sizeof(T)));
  ours->struct_size = sizeof(T);
  return absl::OkStatus();
}

// Fills in the fields that the caller's struct has room for. `size` is from CheckStruct.
template <typename T>
void WriteStruct(const T& ours, uint32_t size, T* theirs) {
  std::memcpy(static_cast<void*>(theirs), &ours, std::min<size_t>(size, sizeof(T)));
  std::memcpy(static_cast<void*>(theirs), &size, sizeof(size));
}

// The body of the _init functions: size set, everything else zero.
template <typename T>
void InitStruct(T* out) noexcept {
  if (out == nullptr) return;
  *out = T{};
  out->struct_size = sizeof(T);
}

}  // namespace kvg::capi

#endif  // KVGEAR_CAPI_SRC_STRUCTS_H_
