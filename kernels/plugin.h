// What a device backend exports: one data symbol, a table of operations on device memory.
//
// Read by core/runtime, which opens the plugin's library, and by core/cache; implemented by
// kernels/cuda, and in tests by a stand-in whose device is host memory. As in ops.h nothing here
// allocates on the host, throws, or uses a C++ library type.
//
// MEMORY. Every tensor, piece array and buffer named below is device memory unless it says host.
// ORDER. Work is queued on the stream given and done later; a call returns at once. Arguments are
// read before it returns, so that they may lie on the caller's stack.
// FAILURE. A call returns nullptr, or a sentence, valid as long as the context, on the error that
// the device or its driver gave. After the first one the context is of no more use.
#ifndef KVGEAR_KERNELS_PLUGIN_H_
#define KVGEAR_KERNELS_PLUGIN_H_

#include <cstddef>
#include <cstdint>

#include "kernels/ops.h"

namespace kvg::ops {

inline constexpr uint32_t kPluginMagic = 0x4B564750u;  // "PGVK" little-endian
// Of this header and the structs of ops.h together: goes up when either changes shape. Core takes
// plugins from kPluginOldest on, as long as functions were only added at the end of Plugin and core
// does without those that an older plugin lacks (they are nullptr); any other change raises
// kPluginOldest to kPluginVersion.
inline constexpr uint32_t kPluginVersion = 2;
inline constexpr uint32_t kPluginOldest = 2;
inline constexpr char kPluginSymbol[] = "kvgear_plugin_cuda";

using Failure = const char*;
struct DeviceContext;  // one device, opened for one runtime

// One side of one layer of one sequence: sealed pieces in order of their tokens, then the open page,
// a sealed piece that still grows, then the rows of the window.
struct DevicePieces {
  const Piece* sealed;  // device array; what its elements point to is device memory
  uint32_t count;
  Piece page;    // by value; tokens == 0: none
  Piece window;  // likewise
};

struct DeviceItem {
  DevicePieces k, v;
  uint64_t length;  // tokens, >= 1 and the same on both sides
  const void* q;    // [queries][q_heads][head_dim]
  void* out;        // [queries][q_heads][head_dim]
};

// What most sealed pieces of one side look like: a hint.
struct DeviceForm {
  uint32_t width;  // of the codes; 16 for fp16 rows
  bool sparse;
  bool by_channel;  // axis of the scales
};

struct DeviceAttendArgs {
  const DeviceItem* items;  // host
  uint64_t count;
  uint32_t q_heads, kv_heads, head_dim;  // the fields of AttendArgs
  uint32_t queries;
  DType q_dtype, out_dtype;
  int64_t q_token_stride, q_head_stride;
  int64_t out_token_stride, out_head_stride;
  float scale;
  float softcap;
  uint64_t sliding_window;
  bool causal;
  DeviceForm k_form, v_form;
  void* scratch;  // attend_scratch(context, args) bytes; the stream's own, kept until the next call
};

struct DeviceReadArgs {
  DevicePieces side;
  uint32_t kv_heads, head_dim;
  uint64_t first_token, tokens;
  DType dtype;
  void* out;  // [tokens][kv_heads][head_dim]
};

// One segment to seal. out.error_sq and out.norm_sq are left alone: the sums go to `sums`, which
// they replace when args.at == 0 and are added to otherwise.
struct DeviceSealJob {
  SealArgs args;  // scratch is not used; args.spec.map is of the host, Hadamard or nothing
  SealOut out;
  double* sums;  // [2]: error_sq, norm_sq
};

// Rows to take in. Where an element is NaN, infinite or rounds beyond 65504, `mark` is stored in *marked
// (host memory of allocate_host) unless that is set already; the row is then of any content.
struct DeviceIngestJob {
  IngestArgs args;
  uint64_t* marked;
  uint64_t mark;
};

struct DeviceCopy {
  void* to;
  const void* from;
  uint64_t to_pitch, from_pitch;  // bytes from one row to the next
  uint64_t bytes, rows;           // of one row; how many
};

enum OpenResult : uint32_t { kOpened = 0, kNoDriver = 1, kNoDevice = 2, kOpenFailed = 3 };

struct Plugin {
  // These four come first in every version, as plain numbers: they are read from the file of the
  // plugin, before it is loaded. A plugin serves libraries of the versions `oldest` to `version`.
  uint32_t magic;
  uint32_t version;
  uint32_t struct_size;
  uint32_t oldest;
  const char* name;  // such as "CUDA 13.0"

  // On anything but kOpened *context is left alone and `why` tells more.
  OpenResult (*open)(uint32_t ordinal, DeviceContext** context, char* why, size_t why_len);
  void (*close)(DeviceContext* context);  // waits for the device
  const char* (*describe)(const DeviceContext* context);  // such as "NVIDIA H200, driver 13.0"

  // Slabs for the pools of core. nullptr: there is no more. allocate_host gives pinned host memory
  // that the device can write to at the same address.
  void* (*allocate)(DeviceContext* context, uint64_t bytes);
  void (*release)(DeviceContext* context, void* slab);
  void* (*allocate_host)(DeviceContext* context, uint64_t bytes);
  void (*release_host)(DeviceContext* context, void* slab);

  // Streams and events.
  void* (*own_stream)(DeviceContext* context);
  Failure (*is_capturing)(DeviceContext* context, void* stream, bool* capturing);
  Failure (*event_create)(DeviceContext* context, void** event);
  void (*event_destroy)(DeviceContext* context, void* event);
  Failure (*event_record)(DeviceContext* context, void* event, void* stream);
  Failure (*stream_wait)(DeviceContext* context, void* stream, void* event);
  Failure (*event_wait)(DeviceContext* context, void* event);  // the calling thread waits

  // Whether the device can reach the memory at `pointer`: false for plain host memory.
  bool (*reaches)(DeviceContext* context, const void* pointer);

  // write: from host memory, a few KiB at most. fetch: to host memory; it is there when this
  // returns.
  Failure (*write)(DeviceContext* context, void* stream, void* to, const void* from,
                   uint64_t bytes);
  Failure (*copy)(DeviceContext* context, void* stream, const DeviceCopy* args);
  Failure (*fetch)(DeviceContext* context, void* stream, void* to, const void* from,
                   uint64_t bytes);
  // Sets *mark (host memory of allocate_host) to 0 if it is above `least`.
  Failure (*unmark)(DeviceContext* context, void* stream, uint64_t* mark, uint64_t least);

  // Jobs of any shapes.
  Failure (*ingest)(DeviceContext* context, void* stream, const DeviceIngestJob* jobs,
                    uint32_t count);
  // Jobs of one shape, number of tokens, args.at and spec but for its seed.
  uint64_t (*seal_scratch)(DeviceContext* context, const DeviceSealJob* jobs, uint32_t count);
  Failure (*seal)(DeviceContext* context, void* stream, const DeviceSealJob* jobs, uint32_t count,
                  void* scratch);
  Failure (*read)(DeviceContext* context, void* stream, const DeviceReadArgs* args);
  uint64_t (*attend_scratch)(DeviceContext* context, const DeviceAttendArgs* args);
  Failure (*attend)(DeviceContext* context, void* stream, const DeviceAttendArgs* args);
  // End of version 1. New functions go below, and PluginBytes gets a line.
};

// Bytes of Plugin in a version, kPluginOldest to kPluginVersion.
constexpr uint32_t PluginBytes(uint32_t) { return sizeof(Plugin); }

}  // namespace kvg::ops

#endif  // KVGEAR_KERNELS_PLUGIN_H_
