// Exports of the noun kvg_cache that save, load and extend.
#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <utility>

#include "absl/strings/str_cat.h"
#include "capi/src/arguments.h"
#include "capi/src/guard.h"
#include "capi/src/handles.h"
#include "capi/src/structs.h"
#include "core/format/load.h"
#include "core/format/save.h"
#include "core/format/stream.h"
#include "kvgear/kvgear.h"

using kvg::capi::CheckHandle;
using kvg::capi::CheckPointer;
using kvg::capi::CheckReserved;
using kvg::capi::Guard;
using kvg::capi::InitStruct;
using kvg::capi::NewHandle;
using kvg::capi::Outcome;

namespace {

absl::Status CheckFlag(uint32_t value, const char* name) {
  if (value <= 1) return absl::OkStatus();
  return kvg::UnsupportedError(name, " is ", value, "; it may be 0 or 1");
}

absl::StatusOr<std::string_view> FingerprintOf(const void* data, size_t bytes) {
  if (bytes == 0) return std::string_view();
  KVG_RETURN_IF_ERROR(CheckPointer(data, "fingerprint"));
  if (bytes > 256) {
    return kvg::InvalidError("fingerprint_bytes is ", bytes, "; the most is 256, pass a hash");
  }
  return std::string_view(static_cast<const char*>(data), bytes);
}

struct Save {
  kvg::SaveOptions options;
  bool sync = true;
};

absl::StatusOr<Save> ReadDesc(const kvg_save_desc* desc) {
  kvg_save_desc d;
  InitStruct(&d);
  if (desc != nullptr) KVG_RETURN_IF_ERROR(kvg::capi::ReadStruct(desc, &d));
  KVG_RETURN_IF_ERROR(CheckFlag(d.no_sync, "no_sync"));
  const auto fingerprint = FingerprintOf(d.fingerprint, d.fingerprint_bytes);
  KVG_RETURN_IF_ERROR(fingerprint.status());
  Save save;
  save.options.first_layer = d.first_layer;
  save.options.layers = d.layers;
  save.options.first_token = d.first_token;
  save.options.tokens = d.tokens;
  save.options.fingerprint = *fingerprint;
  save.sync = d.no_sync == 0;
  return save;
}

struct Load {
  kvg::LoadOptions options;
  bool map = false;
};

absl::StatusOr<Load> ReadDesc(const kvg_load_desc* desc, bool file) {
  kvg_load_desc d;
  InitStruct(&d);
  if (desc != nullptr) KVG_RETURN_IF_ERROR(kvg::capi::ReadStruct(desc, &d));
  KVG_RETURN_IF_ERROR(CheckFlag(d.map, "map"));
  KVG_RETURN_IF_ERROR(CheckFlag(d.trust, "trust"));
  KVG_RETURN_IF_ERROR(CheckReserved(d.reserved, "reserved of the kvg_load_desc"));
  if (d.map == 1 && !file) return kvg::InvalidError("map is 1, which needs a file");
  if (d.trust == 1 && d.map == 0) return kvg::InvalidError("trust is 1, which needs map");
  const auto fingerprint = FingerprintOf(d.fingerprint, d.fingerprint_bytes);
  KVG_RETURN_IF_ERROR(fingerprint.status());
  Load load;
  load.options.fingerprint = *fingerprint;
  load.options.exact = file;
  load.options.tables_only = d.trust == 1;
  load.map = d.map == 1;
  return load;
}

absl::StatusOr<std::unique_ptr<kvg::Source>> OpenFile(const char* path, bool map) {
  KVG_RETURN_IF_ERROR(CheckPointer(path, "path"));
  if (map) return kvg::FileSource::Map(path);
  return kvg::FileSource::Open(path);
}

// What the three forms of loading share: `open` gives the source once the description is known.
template <typename Open>
kvg_status LoadFrom(kvg_runtime* runtime, const kvg_plan* plan, const kvg_load_desc* desc, bool file,
                    kvg_cache** out, kvg_error* err, Open open) {
  return Guard(err, [&]() -> Outcome {
    KVG_RETURN_IF_ERROR(CheckPointer(out, "out"));
    KVG_RETURN_IF_ERROR(CheckHandle(runtime));
    KVG_RETURN_IF_ERROR(CheckHandle(plan));
    const absl::StatusOr<Load> load = ReadDesc(desc, file);
    KVG_RETURN_IF_ERROR(load.status());
    const absl::StatusOr<std::unique_ptr<kvg::Source>> source = open(load->map);
    KVG_RETURN_IF_ERROR(source.status());
    absl::StatusOr<std::unique_ptr<kvg::Cache>> cache =
        kvg::LoadCache(runtime->runtime, plan->plan, load->options, **source);
    KVG_RETURN_IF_ERROR(cache.status());
    *out = NewHandle(runtime->runtime, *std::move(cache));
    return absl::OkStatus();
  });
}

template <typename Open>
kvg_status ExtendFrom(kvg_cache* cache, const kvg_load_desc* desc, bool file, kvg_error* err,
                      Open open) {
  return Guard(err, [&]() -> Outcome {
    KVG_RETURN_IF_ERROR(CheckHandle(cache));
    const absl::StatusOr<Load> load = ReadDesc(desc, file);
    KVG_RETURN_IF_ERROR(load.status());
    const absl::StatusOr<std::unique_ptr<kvg::Source>> source = open(load->map);
    KVG_RETURN_IF_ERROR(source.status());
    return kvg::ExtendCache(*cache->cache, load->options, **source);
  });
}

using OpenResult = absl::StatusOr<std::unique_ptr<kvg::Source>>;

auto FromFile(const char* path) {
  return [path](bool map) -> OpenResult { return OpenFile(path, map); };
}

auto FromBuffer(const void* data, size_t bytes) {
  return [data, bytes](bool) -> OpenResult {
    if (bytes > 0) KVG_RETURN_IF_ERROR(CheckPointer(data, "data"));
    return std::make_unique<kvg::BufferSource>(data, bytes);
  };
}

auto FromFunction(kvg_read_fn read, void* user) {
  return [read, user](bool) -> OpenResult {
    if (read == nullptr) return kvg::InvalidError("read is NULL; pass a function");
    return std::make_unique<kvg::FunctionSource>(read, user);
  };
}

}  // namespace

void kvg_save_desc_init(kvg_save_desc* desc) { InitStruct(desc); }
void kvg_load_desc_init(kvg_load_desc* desc) { InitStruct(desc); }

kvg_status kvg_cache_save(const kvg_cache* cache, const char* path, const kvg_save_desc* desc,
                          kvg_error* err) {
  return Guard(err, [&]() -> Outcome {
    KVG_RETURN_IF_ERROR(CheckHandle(cache));
    KVG_RETURN_IF_ERROR(CheckPointer(path, "path"));
    const absl::StatusOr<Save> save = ReadDesc(desc);
    KVG_RETURN_IF_ERROR(save.status());
    const absl::StatusOr<std::unique_ptr<kvg::FileSink>> sink = kvg::FileSink::Create(path);
    KVG_RETURN_IF_ERROR(sink.status());
    KVG_RETURN_IF_ERROR(kvg::SaveCache(*cache->cache, save->options, **sink));
    return (*sink)->Commit(save->sync);
  });
}

kvg_status kvg_cache_save_buffer(const kvg_cache* cache, void* data, size_t data_bytes,
                                 size_t* needed, const kvg_save_desc* desc, kvg_error* err) {
  return Guard(err, [&]() -> Outcome {
    KVG_RETURN_IF_ERROR(CheckHandle(cache));
    if (data_bytes > 0) KVG_RETURN_IF_ERROR(CheckPointer(data, "data"));
    const absl::StatusOr<Save> save = ReadDesc(desc);
    KVG_RETURN_IF_ERROR(save.status());
    kvg::BufferSink sink(data, data_bytes);
    KVG_RETURN_IF_ERROR(kvg::SaveCache(*cache->cache, save->options, sink));
    if (needed != nullptr) *needed = sink.written();
    if (data_bytes == 0 || sink.written() <= data_bytes) return absl::OkStatus();
    return Outcome::BufferTooSmall(absl::StrCat("the saved cache needs ", sink.written(),
                                                " bytes but data_bytes is ", data_bytes,
                                                "; pass a longer buffer"));
  });
}

kvg_status kvg_cache_save_stream(const kvg_cache* cache, kvg_write_fn write, void* user,
                                 const kvg_save_desc* desc, kvg_error* err) {
  return Guard(err, [&]() -> Outcome {
    KVG_RETURN_IF_ERROR(CheckHandle(cache));
    if (write == nullptr) return kvg::InvalidError("write is NULL; pass a function");
    const absl::StatusOr<Save> save = ReadDesc(desc);
    KVG_RETURN_IF_ERROR(save.status());
    kvg::FunctionSink sink(write, user);
    return kvg::SaveCache(*cache->cache, save->options, sink);
  });
}

kvg_status kvg_cache_load(kvg_runtime* runtime, const kvg_plan* plan, const char* path,
                          const kvg_load_desc* desc, kvg_cache** out, kvg_error* err) {
  return LoadFrom(runtime, plan, desc, true, out, err, FromFile(path));
}

kvg_status kvg_cache_load_buffer(kvg_runtime* runtime, const kvg_plan* plan, const void* data,
                                 size_t data_bytes, const kvg_load_desc* desc, kvg_cache** out,
                                 kvg_error* err) {
  return LoadFrom(runtime, plan, desc, false, out, err, FromBuffer(data, data_bytes));
}

kvg_status kvg_cache_load_stream(kvg_runtime* runtime, const kvg_plan* plan, kvg_read_fn read,
                                 void* user, const kvg_load_desc* desc, kvg_cache** out,
                                 kvg_error* err) {
  return LoadFrom(runtime, plan, desc, false, out, err, FromFunction(read, user));
}

kvg_status kvg_cache_extend(kvg_cache* cache, const char* path, const kvg_load_desc* desc,
                            kvg_error* err) {
  return ExtendFrom(cache, desc, true, err, FromFile(path));
}

kvg_status kvg_cache_extend_buffer(kvg_cache* cache, const void* data, size_t data_bytes,
                                   const kvg_load_desc* desc, kvg_error* err) {
  return ExtendFrom(cache, desc, false, err, FromBuffer(data, data_bytes));
}

kvg_status kvg_cache_extend_stream(kvg_cache* cache, kvg_read_fn read, void* user,
                                   const kvg_load_desc* desc, kvg_error* err) {
  return ExtendFrom(cache, desc, false, err, FromFunction(read, user));
}
