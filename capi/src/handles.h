// What the handles are, how they are made and ended, and how an export gets at them.
//
// Called by the exports of capi/src. A handle holds shared ownership of what it needs, so handles
// may be destroyed in any order.
#ifndef KVGEAR_CAPI_SRC_HANDLES_H_
#define KVGEAR_CAPI_SRC_HANDLES_H_

#include <memory>

#include "absl/status/status.h"
#include "capi/src/registry.h"
#include "core/base/memory.h"
#include "core/cache/cache.h"
#include "core/cache/prefix_store.h"
#include "core/model/plan.h"
#include "core/runtime/runtime.h"
#include "kvgear/kvgear.h"

struct kvg_runtime {
  std::shared_ptr<kvg::Runtime> runtime;
  kvg::Buffer home;  // the memory that this struct lies in, from the runtime's allocator
};

struct kvg_plan {
  std::shared_ptr<const kvg::Plan> plan;
};

struct kvg_cache {
  std::shared_ptr<kvg::Runtime> runtime;
  std::unique_ptr<kvg::Cache> cache;
  kvg::Buffer home;  // the memory that this struct lies in, counted as the cache's
};

struct kvg_prefix {
  std::unique_ptr<kvg::PrefixStore> store;
};

namespace kvg::capi {

// Each makes a live handle; throws std::bad_alloc or BudgetExceeded, and then nothing is left over.
kvg_runtime* NewHandle(std::shared_ptr<Runtime> runtime);
kvg_plan* NewHandle(std::shared_ptr<const Plan> plan);
kvg_cache* NewHandle(std::shared_ptr<Runtime> runtime, std::unique_ptr<Cache> cache);
kvg_prefix* NewHandle(std::unique_ptr<PrefixStore> store);

// Each does nothing when the handle is NULL, not alive, or of another kind.
void EndHandle(kvg_runtime* handle) noexcept;
void EndHandle(kvg_plan* handle) noexcept;
void EndHandle(kvg_cache* handle) noexcept;
void EndHandle(kvg_prefix* handle) noexcept;

// KVG_E_INVALID for NULL, KVG_E_STATE for what is not a live handle of its type.
absl::Status CheckHandle(const kvg_runtime* handle);
absl::Status CheckHandle(const kvg_plan* handle);
absl::Status CheckHandle(const kvg_cache* handle);
absl::Status CheckHandle(const kvg_prefix* handle);

}  // namespace kvg::capi

#endif  // KVGEAR_CAPI_SRC_HANDLES_H_
