// Statuses, their names and their messages. See error.h; also the export kvg_status_string.
#include "capi/src/error.h"

#include <algorithm>
#include <cstddef>
#include <cstdint>

#include "absl/strings/str_cat.h"

namespace kvg::capi {
namespace {

// Length of the UTF-8 character that text begins with, or 0 when it begins with none. Refuses
// overlong forms, surrogates and what lies beyond U+10FFFF, as strict decoders do.
size_t CharacterLength(std::string_view text) {
  const auto byte = [&](size_t i) { return static_cast<uint8_t>(text[i]); };
  const uint8_t first = byte(0);
  if (first < 0x80) return 1;
  const size_t length = first >= 0xF0 ? 4 : first >= 0xE0 ? 3 : 2;
  if (first < 0xC2 || first > 0xF4 || text.size() < length) return 0;
  for (size_t i = 1; i < length; ++i) {
    if ((byte(i) & 0xC0) != 0x80) return 0;
  }
  const uint8_t second = byte(1);
  const bool overlong = (first == 0xE0 && second < 0xA0) || (first == 0xF0 && second < 0x90);
  const bool surrogate = first == 0xED && second >= 0xA0;
  const bool beyond = first == 0xF4 && second >= 0x90;
  return overlong || surrogate || beyond ? 0 : length;
}

}  // namespace

kvg_status StatusCode(const absl::Status& status) noexcept {
  switch (status.code()) {
    case absl::StatusCode::kOk:
      return KVG_OK;
    case absl::StatusCode::kInvalidArgument:
      return KVG_E_INVALID;
    case absl::StatusCode::kUnimplemented:
      return KVG_E_UNSUPPORTED;
    case absl::StatusCode::kOutOfRange:
      return KVG_E_NONFINITE;
    case absl::StatusCode::kFailedPrecondition:
      return KVG_E_STATE;
    case absl::StatusCode::kResourceExhausted:
      return KVG_E_LIMIT;
    case absl::StatusCode::kUnavailable:
      return KVG_E_BACKEND;
    case absl::StatusCode::kDataLoss:
      return KVG_E_CORRUPT;
    case absl::StatusCode::kAborted:
      return KVG_E_IO;
    default:
      return KVG_E_INTERNAL;
  }
}

kvg_status Fail(kvg_status code, std::string_view message, kvg_error* err) noexcept {
  if (err == nullptr) return code;
  err->code = code;
  err->reserved = 0;
  size_t at = 0;
  while (!message.empty()) {
    const size_t length = CharacterLength(message);
    const size_t taken = std::max<size_t>(length, 1);
    if (at + taken >= KVG_ERROR_MESSAGE_SIZE) break;
    if (length == 0 || message[0] == '\0') {
      err->message[at++] = '?';
    } else {
      std::copy_n(message.data(), length, err->message + at);
      at += length;
    }
    message.remove_prefix(taken);
  }
  err->message[at] = '\0';
  return code;
}

Outcome Outcome::BufferTooSmall(size_t have, size_t needed) {
  return BufferTooSmall(absl::StrCat("the text needs ", needed,
                                     " bytes with its terminator but text_len is ", have,
                                     "; pass a longer buffer"));
}

Outcome Outcome::BufferTooSmall(std::string_view message) {
  return Outcome(KVG_E_BUFFER_TOO_SMALL, absl::InternalError(message));
}

}  // namespace kvg::capi

const char* kvg_status_string(kvg_status status) {
  switch (status) {
    case KVG_OK:
      return "KVG_OK";
    case KVG_E_INVALID:
      return "KVG_E_INVALID";
    case KVG_E_NOMEM:
      return "KVG_E_NOMEM";
    case KVG_E_BUFFER_TOO_SMALL:
      return "KVG_E_BUFFER_TOO_SMALL";
    case KVG_E_UNSUPPORTED:
      return "KVG_E_UNSUPPORTED";
    case KVG_E_NONFINITE:
      return "KVG_E_NONFINITE";
    case KVG_E_STATE:
      return "KVG_E_STATE";
    case KVG_E_LIMIT:
      return "KVG_E_LIMIT";
    case KVG_E_BACKEND:
      return "KVG_E_BACKEND";
    case KVG_E_CORRUPT:
      return "KVG_E_CORRUPT";
    case KVG_E_IO:
      return "KVG_E_IO";
    case KVG_E_INTERNAL:
      return "KVG_E_INTERNAL";
    default:
      return "unknown kvg_status";
  }
}
