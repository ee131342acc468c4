// See handles.h.
#include "capi/src/handles.h"

#include <cstdint>
#include <new>
#include <utility>

#include "core/base/status.h"

namespace kvg::capi {
namespace {

const char* KindName(HandleKind kind) {
  switch (kind) {
    case HandleKind::kRuntime:
      return "kvg_runtime";
    case HandleKind::kPlan:
      return "kvg_plan";
    case HandleKind::kCache:
      return "kvg_cache";
    case HandleKind::kPrefix:
      return "kvg_prefix";
    case HandleKind::kNone:
      break;
  }
  return "handle";
}

absl::Status Check(const void* handle, HandleKind wanted) {
  if (handle == nullptr) {
    return InvalidError("the ", KindName(wanted), " is NULL; pass one that was created");
  }
  const HandleKind found = Handles().Find(handle);
  if (found == wanted) return absl::OkStatus();
  if (found == HandleKind::kNone) {
    return StateError("the ", KindName(wanted),
                      " is destroyed or was never created; pass a live handle");
  }
  return StateError("a ", KindName(wanted), " is needed but a ", KindName(found), " was passed");
}

template <typename Handle>
void Publish(Handle* handle, HandleKind kind) {
  static_assert(alignof(Handle) >= HandleRegistry::kAlignment);
  if (!Handles().Add(handle, kind)) throw std::bad_alloc();
}

// Ends a handle struct that lies in memory of its own runtime. The runtime goes last: it owns the
// allocator that takes the memory back.
template <typename Handle>
void DestroyAtHome(Handle* handle) noexcept {
  const std::shared_ptr<Runtime> runtime = handle->runtime;
  const Buffer home = std::move(handle->home);
  handle->~Handle();
}

template <typename Handle>
struct HomeDeleter {
  void operator()(Handle* handle) const noexcept { DestroyAtHome(handle); }
};

}  // namespace

kvg_runtime* NewHandle(std::shared_ptr<Runtime> runtime) {
  // Uncounted: kvg_runtime_memory tells what caches hold.
  Buffer home(runtime->memory(), sizeof(kvg_runtime), Buffer::kScratch);
  void* const place = home.data();
  std::unique_ptr<kvg_runtime, HomeDeleter<kvg_runtime>> handle(
      new (place) kvg_runtime{std::move(runtime), std::move(home)});
  Publish(handle.get(), HandleKind::kRuntime);
  return handle.release();
}

kvg_plan* NewHandle(std::shared_ptr<const Plan> plan) {
  auto handle = std::make_unique<kvg_plan>(kvg_plan{std::move(plan)});
  Publish(handle.get(), HandleKind::kPlan);
  return handle.release();
}

kvg_cache* NewHandle(std::shared_ptr<Runtime> runtime, std::unique_ptr<Cache> cache) {
  Buffer home(runtime->memory(), sizeof(kvg_cache));
  void* const place = home.data();
  std::unique_ptr<kvg_cache, HomeDeleter<kvg_cache>> handle(
      new (place) kvg_cache{std::move(runtime), std::move(cache), std::move(home)});
  Publish(handle.get(), HandleKind::kCache);
  return handle.release();
}

kvg_prefix* NewHandle(std::unique_ptr<PrefixStore> store) {
  auto handle = std::make_unique<kvg_prefix>(kvg_prefix{std::move(store)});
  Publish(handle.get(), HandleKind::kPrefix);
  return handle.release();
}

void EndHandle(kvg_runtime* handle) noexcept {
  if (Handles().Remove(handle, HandleKind::kRuntime)) DestroyAtHome(handle);
}
void EndHandle(kvg_plan* handle) noexcept {
  if (Handles().Remove(handle, HandleKind::kPlan)) delete handle;
}
void EndHandle(kvg_cache* handle) noexcept {
  if (Handles().Remove(handle, HandleKind::kCache)) DestroyAtHome(handle);
}
void EndHandle(kvg_prefix* handle) noexcept {
  if (Handles().Remove(handle, HandleKind::kPrefix)) delete handle;
}

absl::Status CheckHandle(const kvg_runtime* handle) { return Check(handle, HandleKind::kRuntime); }
absl::Status CheckHandle(const kvg_plan* handle) { return Check(handle, HandleKind::kPlan); }
absl::Status CheckHandle(const kvg_cache* handle) { return Check(handle, HandleKind::kCache); }
absl::Status CheckHandle(const kvg_prefix* handle) { return Check(handle, HandleKind::kPrefix); }

}  // namespace kvg::capi
