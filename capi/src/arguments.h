// Checks and conversions of single arguments that several exports share.
//
// Called by the exports of capi/src.
#ifndef KVGEAR_CAPI_SRC_ARGUMENTS_H_
#define KVGEAR_CAPI_SRC_ARGUMENTS_H_

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <string_view>

#include "capi/src/error.h"
#include "core/base/status.h"
#include "core/runtime/runtime.h"
#include "kernels/ops.h"
#include "kvgear/kvgear.h"

namespace kvg::capi {

// `name` is the parameter's, as the header has it.
inline absl::Status CheckPointer(const void* pointer, const char* name) {
  if (pointer != nullptr) return absl::OkStatus();
  return InvalidError(name, " is NULL; pass a pointer");
}

inline absl::Status CheckDType(kvg_dtype value, const char* name, ops::DType* out) {
  static_assert(uint32_t{ops::kF32} == KVG_F32 && uint32_t{ops::kF16} == KVG_F16 &&
                uint32_t{ops::kBF16} == KVG_BF16);
  if (value > KVG_BF16) {
    return UnsupportedError(name, " is ", value,
                            "; known are 0 (KVG_F32), 1 (KVG_F16) and 2 (KVG_BF16)");
  }
  *out = static_cast<ops::DType>(value);
  return absl::OkStatus();
}

inline absl::Status CheckSide(kvg_side value) {
  static_assert(uint32_t{ops::kSideK} == KVG_SIDE_K && uint32_t{ops::kSideV} == KVG_SIDE_V);
  if (value <= KVG_SIDE_BOTH) return absl::OkStatus();
  return UnsupportedError("side is ", value,
                          "; known are 0 (KVG_SIDE_K), 1 (KVG_SIDE_V) and 2 (KVG_SIDE_BOTH)");
}

inline absl::Status CheckReserved(uint32_t value, const char* name) {
  if (value == 0) return absl::OkStatus();
  return UnsupportedError(name, " is ", value, "; it must be 0");
}

inline absl::Status CheckStream(Runtime& runtime, const void* stream) {
  if (stream == nullptr || runtime.device() != nullptr) return absl::OkStatus();
  return InvalidError("stream is set but the cache lies in host memory; pass NULL");
}

// Answers a call for a text: stores the needed length, and copies the text unless the caller asked
// for the length alone by passing length 0.
inline Outcome WriteText(std::string_view value, char* text, size_t text_len, size_t* needed) {
  if (text_len > 0) KVG_RETURN_IF_ERROR(CheckPointer(text, "text"));
  const size_t length = value.size() + 1;
  if (needed != nullptr) *needed = length;
  if (text_len == 0) return absl::OkStatus();
  if (text_len < length) return Outcome::BufferTooSmall(text_len, length);
  std::memcpy(text, value.data(), value.size());
  text[value.size()] = '\0';
  return absl::OkStatus();
}

}  // namespace kvg::capi

#endif  // KVGEAR_CAPI_SRC_ARGUMENTS_H_
