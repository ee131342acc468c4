// Exports of the noun kvg_prefix.
#include <cstdint>
#include <memory>
#include <utility>

#include "absl/types/span.h"
#include "capi/src/arguments.h"
#include "capi/src/guard.h"
#include "capi/src/handles.h"
#include "capi/src/structs.h"
#include "core/cache/prefix_store.h"
#include "kvgear/kvgear.h"

using kvg::capi::CheckHandle;
using kvg::capi::CheckPointer;
using kvg::capi::EndHandle;
using kvg::capi::Guard;
using kvg::capi::InitStruct;
using kvg::capi::NewHandle;
using kvg::capi::Outcome;

kvg_status kvg_prefix_create(kvg_runtime* runtime, uint64_t budget, kvg_prefix** out,
                             kvg_error* err) {
  return Guard(err, [&]() -> Outcome {
    KVG_RETURN_IF_ERROR(CheckPointer(out, "out"));
    KVG_RETURN_IF_ERROR(CheckHandle(runtime));
    *out = NewHandle(std::make_unique<kvg::PrefixStore>(runtime->runtime, budget));
    return absl::OkStatus();
  });
}

void kvg_prefix_destroy(kvg_prefix* prefix) { EndHandle(prefix); }

kvg_status kvg_prefix_insert(kvg_prefix* prefix, const uint32_t* tokens, size_t tokens_count,
                             const kvg_cache* cache, kvg_error* err) {
  return Guard(err, [&]() -> Outcome {
    KVG_RETURN_IF_ERROR(CheckHandle(prefix));
    KVG_RETURN_IF_ERROR(CheckHandle(cache));
    if (tokens_count > 0) KVG_RETURN_IF_ERROR(CheckPointer(tokens, "tokens"));
    return prefix->store->Insert(absl::MakeConstSpan(tokens, tokens_count), *cache->cache);
  });
}

kvg_status kvg_prefix_find(kvg_prefix* prefix, const kvg_plan* plan, const uint32_t* tokens,
                           size_t tokens_count, uint64_t* matched, kvg_cache** out,
                           kvg_error* err) {
  return Guard(err, [&]() -> Outcome {
    KVG_RETURN_IF_ERROR(CheckPointer(matched, "matched"));
    KVG_RETURN_IF_ERROR(CheckPointer(out, "out"));
    KVG_RETURN_IF_ERROR(CheckHandle(prefix));
    KVG_RETURN_IF_ERROR(CheckHandle(plan));
    if (tokens_count > 0) KVG_RETURN_IF_ERROR(CheckPointer(tokens, "tokens"));
    kvg_cache* found = nullptr;
    const absl::StatusOr<kvg::PrefixStore::Match> match =
        prefix->store->Find(absl::MakeConstSpan(tokens, tokens_count), plan->plan,
                            [&found](std::unique_ptr<kvg::Cache>& fork) {
                              std::shared_ptr<kvg::Runtime> runtime = fork->shared_runtime();
                              found = NewHandle(std::move(runtime), std::move(fork));
                            });
    KVG_RETURN_IF_ERROR(match.status());
    *matched = match->tokens;
    *out = found;
    return absl::OkStatus();
  });
}

kvg_status kvg_prefix_clear(kvg_prefix* prefix, kvg_error* err) {
  return Guard(err, [&]() -> Outcome {
    KVG_RETURN_IF_ERROR(CheckHandle(prefix));
    prefix->store->Clear();
    return absl::OkStatus();
  });
}

void kvg_prefix_stats_init(kvg_prefix_stats* stats) { InitStruct(stats); }

kvg_status kvg_prefix_read_stats(const kvg_prefix* prefix, kvg_prefix_stats* stats,
                                 kvg_error* err) {
  return Guard(err, [&]() -> Outcome {
    KVG_RETURN_IF_ERROR(CheckHandle(prefix));
    uint32_t size = 0;
    KVG_RETURN_IF_ERROR(kvg::capi::CheckStruct(stats, &size));
    const kvg::PrefixStats found = prefix->store->GetStats();
    kvg_prefix_stats ours;
    InitStruct(&ours);
    ours.entries = found.entries;
    ours.bytes = found.bytes;
    ours.hits = found.hits;
    ours.misses = found.misses;
    ours.evictions = found.evictions;
    kvg::capi::WriteStruct(ours, size, stats);
    return absl::OkStatus();
  });
}
