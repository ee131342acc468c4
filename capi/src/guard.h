// The one exception guard: every export runs its body through one of the two functions here.
//
// Called by the exports of capi/src. Nothing that a body throws leaves the library.
#ifndef KVGEAR_CAPI_SRC_GUARD_H_
#define KVGEAR_CAPI_SRC_GUARD_H_

#include <exception>
#include <new>
#include <utility>

#include "capi/src/error.h"
#include "core/base/memory.h"
#include "kvgear/kvgear.h"

namespace kvg::capi {

// For exports without a status: what the body returns, or `otherwise` if it throws.
template <typename Body, typename Result>
Result GuardValue(Result otherwise, Body&& body) noexcept {
  try {
    return std::forward<Body>(body)();
  } catch (...) {
    return otherwise;
  }
}

// For fallible exports. The body returns an Outcome or anything that becomes one.
template <typename Body>
kvg_status Guard(kvg_error* err, Body&& body) noexcept {
  try {
    const Outcome outcome = std::forward<Body>(body)();
    // A success leaves err alone.
    return outcome.code() == KVG_OK ? KVG_OK : Fail(outcome.code(), outcome.message(), err);
  } catch (const BudgetExceeded&) {
    return Fail(KVG_E_LIMIT,
                "the memory budget of the runtime would be exceeded; raise memory_budget, or "
                "destroy, clear or truncate caches",
                err);
  } catch (const std::bad_alloc&) {
    return Fail(KVG_E_NOMEM, "an allocation failed; free memory and try again", err);
  } catch (const std::exception& e) {
    return Fail(KVG_E_INTERNAL, e.what(), err);
  } catch (...) {
    return Fail(KVG_E_INTERNAL, "an unknown exception; this is a defect of kvgear", err);
  }
}

}  // namespace kvg::capi

#endif  // KVGEAR_CAPI_SRC_GUARD_H_
