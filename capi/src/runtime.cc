// Exports of the noun kvg_runtime, and kvg_allocator_init.
#include <cstdint>
#include <memory>
#include <string>
#include <utility>

#include "capi/src/arguments.h"
#include "capi/src/guard.h"
#include "capi/src/handles.h"
#include "capi/src/structs.h"
#include "core/runtime/runtime.h"
#include "kvgear/kvgear.h"

using kvg::capi::CheckHandle;
using kvg::capi::CheckPointer;
using kvg::capi::EndHandle;
using kvg::capi::Guard;
using kvg::capi::InitStruct;
using kvg::capi::NewHandle;
using kvg::capi::Outcome;

namespace {

absl::Status ReadAllocator(const kvg_allocator* theirs, kvg::AllocatorTable* out) {
  kvg_allocator ours;
  InitStruct(&ours);
  KVG_RETURN_IF_ERROR(kvg::capi::ReadStruct(theirs, &ours));
  KVG_RETURN_IF_ERROR(kvg::capi::CheckReserved(ours.reserved, "reserved of the kvg_allocator"));
  *out = {ours.user, ours.alloc, ours.release};
  return absl::OkStatus();
}

// Of a device's memory: one that is given must be whole.
absl::Status ReadSlabs(const kvg_allocator* theirs, const char* name, kvg::AllocatorTable* out) {
  if (theirs == nullptr) return absl::OkStatus();
  KVG_RETURN_IF_ERROR(ReadAllocator(theirs, out));
  if (out->alloc != nullptr && out->release != nullptr) return absl::OkStatus();
  return kvg::InvalidError(name, " has no ", out->alloc == nullptr ? "alloc" : "release",
                           " function; set both, or leave ", name, " NULL");
}

absl::Status ReadOptions(const kvg_runtime_options* theirs, kvg::RuntimeOptions* out) {
  kvg_runtime_options ours;
  InitStruct(&ours);
  if (theirs != nullptr) KVG_RETURN_IF_ERROR(kvg::capi::ReadStruct(theirs, &ours));
  static_assert(static_cast<uint32_t>(kvg::DeviceType::kCpu) == KVG_CPU &&
                static_cast<uint32_t>(kvg::DeviceType::kCuda) == KVG_CUDA);
  if (ours.device > KVG_CUDA) {
    return kvg::UnsupportedError("device is ", ours.device,
                                 "; known are 0 (KVG_CPU) and 1 (KVG_CUDA)");
  }
  out->device = static_cast<kvg::DeviceType>(ours.device);
  out->device_id = ours.device_id;
  out->threads = ours.threads;
  out->memory_budget = ours.memory_budget;
  if (ours.allocator != nullptr) {
    KVG_RETURN_IF_ERROR(ReadAllocator(ours.allocator, &out->allocator));
  }
  KVG_RETURN_IF_ERROR(ReadSlabs(ours.device_allocator, "device_allocator", &out->slabs.device));
  KVG_RETURN_IF_ERROR(ReadSlabs(ours.pinned_allocator, "pinned_allocator", &out->slabs.pinned));
  return absl::OkStatus();
}

}  // namespace

void kvg_allocator_init(kvg_allocator* allocator) { InitStruct(allocator); }

void kvg_runtime_options_init(kvg_runtime_options* options) { InitStruct(options); }

kvg_status kvg_runtime_create(const kvg_runtime_options* options, kvg_runtime** out,
                              kvg_error* err) {
  return Guard(err, [&]() -> Outcome {
    KVG_RETURN_IF_ERROR(CheckPointer(out, "out"));
    kvg::RuntimeOptions core_options;
    KVG_RETURN_IF_ERROR(ReadOptions(options, &core_options));
    absl::StatusOr<std::shared_ptr<kvg::Runtime>> runtime = kvg::Runtime::Create(core_options);
    KVG_RETURN_IF_ERROR(runtime.status());
    *out = NewHandle(*std::move(runtime));
    return absl::OkStatus();
  });
}

void kvg_runtime_destroy(kvg_runtime* runtime) { EndHandle(runtime); }

kvg_status kvg_runtime_set_log(kvg_runtime* runtime, kvg_log_fn fn, void* user, kvg_error* err) {
  return Guard(err, [&]() -> Outcome {
    KVG_RETURN_IF_ERROR(CheckHandle(runtime));
    runtime->runtime->SetLog(fn, user);
    return absl::OkStatus();
  });
}

kvg_status kvg_runtime_describe(const kvg_runtime* runtime, char* text, size_t text_len,
                                size_t* needed, kvg_error* err) {
  return Guard(err, [&]() -> Outcome {
    KVG_RETURN_IF_ERROR(CheckHandle(runtime));
    return kvg::capi::WriteText(runtime->runtime->Describe(), text, text_len, needed);
  });
}

kvg_status kvg_runtime_memory(const kvg_runtime* runtime, uint64_t* bytes, kvg_error* err) {
  return Guard(err, [&]() -> Outcome {
    KVG_RETURN_IF_ERROR(CheckHandle(runtime));
    KVG_RETURN_IF_ERROR(CheckPointer(bytes, "bytes"));
    *bytes = runtime->runtime->memory().held();
    return absl::OkStatus();
  });
}
