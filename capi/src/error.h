// From the core's errors to kvg_status and kvg_error.
//
// Called by guard.h, and by the exports of capi/src through it.
#ifndef KVGEAR_CAPI_SRC_ERROR_H_
#define KVGEAR_CAPI_SRC_ERROR_H_

#include <string_view>

#include "absl/status/status.h"
#include "kvgear/kvgear.h"

namespace kvg::capi {

// The one place that knows which absl code stands for which status; see core/base/status.h.
kvg_status StatusCode(const absl::Status& status) noexcept;

// Fills in *err (which may be NULL) and returns code. The message is cut at a character boundary;
// bytes that are not UTF-8, which a caller's text may have brought in, become '?'.
kvg_status Fail(kvg_status code, std::string_view message, kvg_error* err) noexcept;

// What the body of an export answers: a status of the core, or one of the few codes of the C
// interface that the core has no word for.
class Outcome {
 public:
  Outcome(absl::Status status)  // NOLINT: implicit, so that bodies can return core errors
      : code_(StatusCode(status)), status_(std::move(status)) {}

  static Outcome BufferTooSmall(size_t have, size_t needed);  // of a text
  static Outcome BufferTooSmall(std::string_view message);

  kvg_status code() const { return code_; }
  std::string_view message() const { return {status_.message().data(), status_.message().size()}; }

 private:
  Outcome(kvg_status code, absl::Status status) : code_(code), status_(std::move(status)) {}

  kvg_status code_;
  absl::Status status_;
};

}  // namespace kvg::capi

#endif  // KVGEAR_CAPI_SRC_ERROR_H_
