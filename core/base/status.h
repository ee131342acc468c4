// The errors of the core: absl::Status with one absl code for each kvg_status_code.
//
// Called by everything in core/ and by capi/, which maps the codes back. A failed host allocation
// is the one error that travels as an exception (std::bad_alloc), from wherever it happens to the
// guard in capi/; core code must therefore be exception-safe, and change no cache before the last
// operation that may fail.
#ifndef KVGEAR_CORE_BASE_STATUS_H_
#define KVGEAR_CORE_BASE_STATUS_H_

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/str_cat.h"

namespace kvg {

// KVG_E_INVALID: an argument is wrong.
template <typename... Args>
absl::Status InvalidError(const Args&... args) {
  return absl::InvalidArgumentError(absl::StrCat(args...));
}
// KVG_E_UNSUPPORTED: a value or combination that this library does not know.
template <typename... Args>
absl::Status UnsupportedError(const Args&... args) {
  return absl::UnimplementedError(absl::StrCat(args...));
}
// KVG_E_NONFINITE: input holds NaN, infinity, or a magnitude beyond fp16.
template <typename... Args>
absl::Status NonFiniteError(const Args&... args) {
  return absl::OutOfRangeError(absl::StrCat(args...));
}
// KVG_E_STATE: a handle or object is not in a fit state.
template <typename... Args>
absl::Status StateError(const Args&... args) {
  return absl::FailedPreconditionError(absl::StrCat(args...));
}
// KVG_E_LIMIT: the memory budget of the runtime would be exceeded.
template <typename... Args>
absl::Status LimitError(const Args&... args) {
  return absl::ResourceExhaustedError(absl::StrCat(args...));
}
// KVG_E_BACKEND: a backend or its device is missing or failed.
template <typename... Args>
absl::Status BackendError(const Args&... args) {
  return absl::UnavailableError(absl::StrCat(args...));
}

// KVG_E_CORRUPT: stored data is damaged.
template <typename... Args>
absl::Status CorruptError(const Args&... args) {
  return absl::DataLossError(absl::StrCat(args...));
}
// KVG_E_IO: reading or writing failed.
template <typename... Args>
absl::Status IoError(const Args&... args) {
  return absl::AbortedError(absl::StrCat(args...));
}

}  // namespace kvg

// Returns from the enclosing function when `expr` is an error.
#define KVG_RETURN_IF_ERROR(expr)                  \
  do {                                             \
    absl::Status kvg_status_ = (expr);             \
    if (!kvg_status_.ok()) return kvg_status_;     \
  } while (0)

#endif  // KVGEAR_CORE_BASE_STATUS_H_
