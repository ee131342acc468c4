// The table of the CUDA backend, and what it needs of the CUDA runtime: devices, memory, events,
// copies. The kernels are in the other files.
//
// The CUDA runtime is linked statically and looks for the driver's library when the first device is
// opened; without a driver that is an error of that call. Nothing of CUDA runs before, nor when the
// process ends.
#include <cuda_runtime.h>

#include <algorithm>
#include <atomic>
#include <cstdio>
#include <cstring>
#include <mutex>
#include <new>

#include "kernels/cuda/attend.h"
#include "kernels/cuda/operations.h"
#include "kernels/plugin.h"

namespace kvg::ops {

struct DeviceContext {
  int ordinal = 0;
  cudaStream_t own = nullptr;
  std::atomic<bool> failed{false};
  char error[256] = {};
  char text[320] = {};
};

}  // namespace kvg::ops

namespace kvg::cuda {
namespace {

using Context = ops::DeviceContext;

// Makes the context's device the thread's for one call, and leaves the thread as it was found.
class OnDevice {
 public:
  explicit OnDevice(const Context* context) : OnDevice(context->ordinal) {}
  explicit OnDevice(int ordinal) {
    if (cudaGetDevice(&before_) != cudaSuccess) before_ = -1;
    if (before_ == ordinal) {
      before_ = -1;
    } else {
      cudaSetDevice(ordinal);
    }
  }
  OnDevice(const OnDevice&) = delete;
  OnDevice& operator=(const OnDevice&) = delete;
  ~OnDevice() {
    if (before_ >= 0) cudaSetDevice(before_);
  }

 private:
  int before_ = -1;
};

// A capture of the caller's forbids some calls to its thread that do it no harm.
class BesideCapture {
 public:
  BesideCapture() { cudaThreadExchangeStreamCaptureMode(&mode_); }
  BesideCapture(const BesideCapture&) = delete;
  BesideCapture& operator=(const BesideCapture&) = delete;
  ~BesideCapture() { cudaThreadExchangeStreamCaptureMode(&mode_); }

 private:
  cudaStreamCaptureMode mode_ = cudaStreamCaptureModeRelaxed;
};

cudaStream_t StreamOf(void* stream) { return static_cast<cudaStream_t>(stream); }

ops::Failure Report(Context* context, cudaError_t error, const char* where) {
  if (error == cudaSuccess) return nullptr;
  if (!context->failed.exchange(true)) {
    std::snprintf(context->error, sizeof(context->error), "%s: %s (%s)", where,
                  cudaGetErrorName(error), cudaGetErrorString(error));
  }
  return context->error;
}

// ------------------------------------------------------------------------------------ devices

ops::OpenResult Fail(ops::OpenResult result, cudaError_t error, char* why, size_t why_len) {
  std::snprintf(why, why_len, "%s: %s", cudaGetErrorName(error), cudaGetErrorString(error));
  cudaGetLastError();  // not sticky: the next runtime shall not find it
  return result;
}

ops::OpenResult Open(uint32_t ordinal, Context** out, char* why, size_t why_len) {
  int driver = 0, count = 0;
  cudaError_t error = cudaDriverGetVersion(&driver);
  if (error != cudaSuccess) return Fail(ops::kNoDriver, error, why, why_len);
  if (driver == 0) {
    std::snprintf(why, why_len, "libcuda.so.1 was not found");
    return ops::kNoDriver;
  }
  error = cudaGetDeviceCount(&count);
  if (error == cudaErrorInsufficientDriver || error == cudaErrorSystemDriverMismatch ||
      error == cudaErrorStubLibrary || error == cudaErrorCallRequiresNewerDriver) {
    return Fail(ops::kNoDriver, error, why, why_len);
  }
  if (error == cudaErrorNoDevice) return Fail(ops::kNoDevice, error, why, why_len);
  if (error != cudaSuccess) return Fail(ops::kOpenFailed, error, why, why_len);
  if (ordinal >= static_cast<uint32_t>(count)) {
    std::snprintf(why, why_len, "device_id is %u, and there are %d devices, from 0 on", ordinal,
                  count);
    return ops::kNoDevice;
  }
  cudaDeviceProp properties;
  error = cudaGetDeviceProperties(&properties, static_cast<int>(ordinal));
  if (error != cudaSuccess) return Fail(ops::kOpenFailed, error, why, why_len);
  if (properties.major < 8) {
    std::snprintf(why, why_len, "%s has compute capability %d.%d; 8.0 is the least", properties.name,
                  properties.major, properties.minor);
    return ops::kNoDevice;
  }
  auto* const context = new (std::nothrow) Context;
  if (context == nullptr) {
    std::snprintf(why, why_len, "no host memory");
    return ops::kOpenFailed;
  }
  context->ordinal = static_cast<int>(ordinal);
  std::snprintf(context->text, sizeof(context->text), "device %u %s, CUDA driver %d.%d", ordinal,
                properties.name, driver / 1000, driver % 1000 / 10);
  const OnDevice device(context);
  error = cudaStreamCreateWithFlags(&context->own, cudaStreamNonBlocking);
  if (error == cudaSuccess) error = PrepareAttend();
  if (error == cudaSuccess) error = PrepareSeal();
  if (error != cudaSuccess) {
    if (context->own != nullptr) cudaStreamDestroy(context->own);
    delete context;
    return Fail(ops::kOpenFailed, error, why, why_len);
  }
  *out = context;
  return ops::kOpened;
}

void Close(Context* context) {
  {
    const OnDevice device(context);
    cudaStreamSynchronize(context->own);
    cudaStreamDestroy(context->own);
  }
  delete context;
}

const char* Describe(const Context* context) { return context->text; }

// ------------------------------------------------------------------------------------- memory

void* Allocate(Context* context, uint64_t bytes) {
  const OnDevice device(context);
  const BesideCapture beside;
  void* slab = nullptr;
  if (cudaMalloc(&slab, bytes) == cudaSuccess) return slab;
  cudaGetLastError();
  return nullptr;
}

void Release(Context* context, void* slab) {
  const OnDevice device(context);
  cudaFree(slab);
}

void* AllocateHost(Context* context, uint64_t bytes) {
  const OnDevice device(context);
  const BesideCapture beside;
  void* slab = nullptr;
  if (cudaHostAlloc(&slab, bytes, cudaHostAllocMapped | cudaHostAllocPortable) == cudaSuccess) {
    return slab;
  }
  cudaGetLastError();
  return nullptr;
}

void ReleaseHost(Context* context, void* slab) {
  const OnDevice device(context);
  cudaFreeHost(slab);
}

bool Reaches(Context* context, const void* pointer) {
  const OnDevice device(context);
  cudaPointerAttributes attributes;
  if (cudaPointerGetAttributes(&attributes, pointer) != cudaSuccess) {
    cudaGetLastError();
    return false;
  }
  return attributes.type != cudaMemoryTypeUnregistered;
}

// -------------------------------------------------------------------------- streams and events

void* OwnStream(Context* context) { return context->own; }

ops::Failure IsCapturing(Context* context, void* stream, bool* capturing) {
  const OnDevice device(context);
  cudaStreamCaptureStatus status = cudaStreamCaptureStatusNone;
  const cudaError_t error = cudaStreamIsCapturing(StreamOf(stream), &status);
  *capturing = status == cudaStreamCaptureStatusActive;
  return Report(context, error, "cudaStreamIsCapturing");
}

ops::Failure EventCreate(Context* context, void** event) {
  const OnDevice device(context);
  cudaEvent_t created = nullptr;
  const cudaError_t error = cudaEventCreateWithFlags(&created, cudaEventDisableTiming);
  *event = created;
  return Report(context, error, "cudaEventCreate");
}

void EventDestroy(Context* context, void* event) {
  const OnDevice device(context);
  if (event != nullptr) cudaEventDestroy(static_cast<cudaEvent_t>(event));
}

ops::Failure EventRecord(Context* context, void* event, void* stream) {
  const OnDevice device(context);
  return Report(context, cudaEventRecord(static_cast<cudaEvent_t>(event), StreamOf(stream)),
                "cudaEventRecord");
}

ops::Failure StreamWait(Context* context, void* stream, void* event) {
  const OnDevice device(context);
  return Report(context, cudaStreamWaitEvent(StreamOf(stream), static_cast<cudaEvent_t>(event), 0),
                "cudaStreamWaitEvent");
}

ops::Failure EventWait(Context* context, void* event) {
  const OnDevice device(context);
  const BesideCapture beside;
  return Report(context, cudaEventSynchronize(static_cast<cudaEvent_t>(event)), "work on the device");
}

// ------------------------------------------------------------------------------------- copies

// Bytes from the host travel as a kernel parameter: nothing waits, and a graph keeps them.
template <uint32_t kBytes>
struct Parcel {
  uint4 content[kBytes / 16];
};

// Copies the parcel's first `bytes` bytes, a multiple of 4, and clears `zeros` words elsewhere.
template <uint32_t kBytes>
__global__ void WriteKernel(const __grid_constant__ Parcel<kBytes> parcel, uint32_t* to,
                            uint32_t bytes, uint32_t* zero, uint32_t zeros) {
  const auto* const from = reinterpret_cast<const uint32_t*>(&parcel);
  const uint32_t first = blockIdx.x * blockDim.x + threadIdx.x;
  for (uint32_t i = first; i < bytes / 4; i += gridDim.x * blockDim.x) to[i] = from[i];
  for (uint32_t i = first; i < zeros; i += gridDim.x * blockDim.x) zero[i] = 0;
}

template <uint32_t kBytes>
cudaError_t WriteParcel(void* to, const void* from, uint32_t bytes, uint32_t* zero, uint32_t zeros,
                        cudaStream_t stream) {
  Parcel<kBytes> parcel;
  std::memcpy(&parcel, from, bytes);
  const uint32_t rounded = (bytes + 3) / 4 * 4;
  std::memset(reinterpret_cast<char*>(&parcel) + bytes, 0, rounded - bytes);
  const uint32_t work = std::max(rounded / 4, zeros);
  const uint32_t blocks = std::min((work + 255) / 256, 64u);
  WriteKernel<kBytes><<<blocks, 256, 0, stream>>>(parcel, static_cast<uint32_t*>(to), rounded, zero, zeros);
  return cudaGetLastError();
}

constexpr uint32_t kMostParcel = 24 * 1024;

// `to` is aligned to 4 bytes and has room for whole words.
cudaError_t WriteBytes(void* to, const void* from, uint64_t bytes, uint32_t* zero, uint32_t zeros,
                       cudaStream_t stream) {
  auto* target = static_cast<uint8_t*>(to);
  auto* source = static_cast<const uint8_t*>(from);
  do {
    const auto some = static_cast<uint32_t>(std::min<uint64_t>(bytes, kMostParcel));
    const cudaError_t error =
        some <= 1024   ? WriteParcel<1024>(target, source, some, zero, zeros, stream)
        : some <= 4096 ? WriteParcel<4096>(target, source, some, zero, zeros, stream)
                       : WriteParcel<kMostParcel>(target, source, some, zero, zeros, stream);
    if (error != cudaSuccess) return error;
    target += some;
    source += some;
    bytes -= some;
    zeros = 0;
  } while (bytes > 0);
  return cudaSuccess;
}

ops::Failure Write(Context* context, void* stream, void* to, const void* from, uint64_t bytes) {
  if (bytes == 0) return nullptr;
  const OnDevice device(context);
  return Report(context, WriteBytes(to, from, bytes, nullptr, 0, StreamOf(stream)), "write");
}

// Rows of 16-byte pieces where everything is aligned to them: a copy engine takes longer to start.
__global__ void CopyKernel(const __grid_constant__ ops::DeviceCopy copy) {
  const uint64_t pieces = copy.bytes / 16, total = pieces * copy.rows;
  for (uint64_t i = blockIdx.x * uint64_t{blockDim.x} + threadIdx.x; i < total;
       i += uint64_t{gridDim.x} * blockDim.x) {
    const uint64_t row = i / pieces, piece = i % pieces;
    reinterpret_cast<uint4*>(static_cast<uint8_t*>(copy.to) + row * copy.to_pitch)[piece] =
        reinterpret_cast<const uint4*>(static_cast<const uint8_t*>(copy.from) + row * copy.from_pitch)[piece];
  }
}

ops::Failure Copy(Context* context, void* stream, const ops::DeviceCopy* args) {
  const OnDevice device(context);
  const uint64_t together = reinterpret_cast<uintptr_t>(args->to) | reinterpret_cast<uintptr_t>(args->from) |
                            args->to_pitch | args->from_pitch | args->bytes;
  if (together % 16 == 0) {
    const uint64_t blocks = (args->bytes / 16 * args->rows + 255) / 256;
    CopyKernel<<<static_cast<uint32_t>(std::min<uint64_t>(blocks, 2048)), 256, 0, StreamOf(stream)>>>(*args);
    return Report(context, cudaGetLastError(), "copy");
  }
  const cudaError_t error =
      args->rows == 1
          ? cudaMemcpyAsync(args->to, args->from, args->bytes, cudaMemcpyDefault, StreamOf(stream))
          : cudaMemcpy2DAsync(args->to, args->to_pitch, args->from, args->from_pitch, args->bytes,
                              args->rows, cudaMemcpyDefault, StreamOf(stream));
  return Report(context, error, "copy");
}

ops::Failure Fetch(Context* context, void* stream, void* to, const void* from, uint64_t bytes) {
  const OnDevice device(context);
  cudaError_t error = cudaMemcpyAsync(to, from, bytes, cudaMemcpyDefault, StreamOf(stream));
  if (error == cudaSuccess) error = cudaStreamSynchronize(StreamOf(stream));
  return Report(context, error, "fetch");
}

__global__ void UnmarkKernel(volatile uint64_t* mark, uint64_t least) {
  if (*mark > least) *mark = 0;
}

ops::Failure Unmark(Context* context, void* stream, uint64_t* mark, uint64_t least) {
  const OnDevice device(context);
  UnmarkKernel<<<1, 1, 0, StreamOf(stream)>>>(mark, least);
  return Report(context, cudaGetLastError(), "unmark");
}

// --------------------------------------------------------------------------------- operations

ops::Failure IngestRows(Context* context, void* stream, const ops::DeviceIngestJob* jobs,
                        uint32_t count) {
  const OnDevice device(context);
  return Report(context, Ingest(jobs, count, StreamOf(stream)), "ingest");
}

uint64_t SealScratch(Context*, const ops::DeviceSealJob* jobs, uint32_t count) {
  return SealScratchBytes(jobs, count);
}

ops::Failure SealJobs(Context* context, void* stream, const ops::DeviceSealJob* jobs,
                      uint32_t count, void* scratch) {
  const OnDevice device(context);
  return Report(context, Seal(jobs, count, scratch, StreamOf(stream)), "seal");
}

ops::Failure ReadRows(Context* context, void* stream, const ops::DeviceReadArgs* args) {
  const OnDevice device(context);
  return Report(context, Read(*args, StreamOf(stream)), "read");
}

// Where the kernels of attention look at the axis of the scales, they are told.
template <typename Form>
Form FormOf(const ops::DeviceForm& from) {
  Form form{};
  form.width = from.width;
  form.sparse = from.sparse;
  if constexpr (requires { form.by_channel; }) form.by_channel = from.by_channel;
  return form;
}

DeviceAttend AttendOf(const ops::DeviceAttendArgs& args) {
  DeviceAttend attend{};
  attend.count = args.count;
  attend.q_heads = args.q_heads;
  attend.kv_heads = args.kv_heads;
  attend.head_dim = args.head_dim;
  attend.queries = args.queries;
  attend.q_dtype = args.q_dtype;
  attend.out_dtype = args.out_dtype;
  attend.q_token_stride = args.q_token_stride;
  attend.q_head_stride = args.q_head_stride;
  attend.out_token_stride = args.out_token_stride;
  attend.out_head_stride = args.out_head_stride;
  attend.scale = args.scale;
  attend.softcap = args.softcap;
  attend.sliding_window = args.sliding_window;
  attend.causal = args.causal;
  attend.k_form = FormOf<decltype(attend.k_form)>(args.k_form);
  attend.v_form = FormOf<decltype(attend.v_form)>(args.v_form);
  return attend;
}

DeviceItem ItemOf(const ops::DeviceItem& from) {
  DeviceItem item{};
  item.k = from.k.sealed;
  item.v = from.v.sealed;
  item.k_pieces = from.k.count;
  item.v_pieces = from.v.count;
  item.k_page = from.k.page;
  item.v_page = from.v.page;
  item.k_window = from.k.window;
  item.v_window = from.v.window;
  item.length = from.length;
  item.q = from.q;
  item.out = from.out;
  return item;
}

// Scratch memory of attention: the items, the tickets, then what the kernel asks for.
struct AttendLayout {
  uint64_t tickets, scratch, bytes;
  AttendLayout(uint64_t count, const AttendPlan& plan) {
    const auto aligned = [](uint64_t n) { return (n + 255) / 256 * 256; };
    tickets = aligned(count * sizeof(DeviceItem));
    scratch = tickets + aligned(plan.tickets * sizeof(uint32_t));
    bytes = scratch + plan.scratch_bytes;
  }
};

// Few enough to stand on the stack; more come from the heap.
class HostItems {
 public:
  explicit HostItems(uint64_t count)
      : items_(count <= kFew ? few_ : new (std::nothrow) DeviceItem[count]) {}
  HostItems(const HostItems&) = delete;
  HostItems& operator=(const HostItems&) = delete;
  ~HostItems() {
    if (items_ != few_) delete[] items_;
  }
  DeviceItem* get() { return items_; }

 private:
  static constexpr uint64_t kFew = 8;
  DeviceItem few_[kFew];
  DeviceItem* const items_;
};

uint64_t AttendScratch(Context*, const ops::DeviceAttendArgs* args) {
  HostItems items(args->count);
  if (items.get() == nullptr) return 0;
  for (uint64_t i = 0; i < args->count; ++i) items.get()[i] = ItemOf(args->items[i]);
  return AttendLayout(args->count, PlanAttend(AttendOf(*args), items.get())).bytes;
}

ops::Failure Attend(Context* context, void* stream, const ops::DeviceAttendArgs* args) {
  const OnDevice device(context);
  HostItems items(args->count);
  if (items.get() == nullptr) return Report(context, cudaErrorMemoryAllocation, "attend");
  for (uint64_t i = 0; i < args->count; ++i) items.get()[i] = ItemOf(args->items[i]);
  DeviceAttend attend = AttendOf(*args);
  const AttendPlan plan = PlanAttend(attend, items.get());
  const AttendLayout layout(args->count, plan);
  auto* const scratch = static_cast<uint8_t*>(args->scratch);
  attend.items = reinterpret_cast<const DeviceItem*>(scratch);
  attend.tickets = reinterpret_cast<uint32_t*>(scratch + layout.tickets);
  attend.scratch = scratch + layout.scratch;
  cudaError_t error =
      WriteBytes(scratch, items.get(), args->count * sizeof(DeviceItem), attend.tickets,
                 static_cast<uint32_t>(plan.tickets), StreamOf(stream));
  if (error == cudaSuccess) error = LaunchAttend(attend, plan, StreamOf(stream));
  return Report(context, error, "attend");
}

}  // namespace
}  // namespace kvg::cuda

#define KVG_TEXT_OF(x) #x
#define KVG_TEXT(x) KVG_TEXT_OF(x)

extern "C" __attribute__((visibility("default"))) const kvg::ops::Plugin kvgear_plugin_cuda;
const kvg::ops::Plugin kvgear_plugin_cuda = {
    .magic = kvg::ops::kPluginMagic,
    .version = kvg::ops::kPluginVersion,
    .struct_size = sizeof(kvg::ops::Plugin),
    .oldest = kvg::ops::kPluginVersion,
    .name = "CUDA " KVG_TEXT(__CUDACC_VER_MAJOR__) "." KVG_TEXT(__CUDACC_VER_MINOR__),
    .open = kvg::cuda::Open,
    .close = kvg::cuda::Close,
    .describe = kvg::cuda::Describe,
    .allocate = kvg::cuda::Allocate,
    .release = kvg::cuda::Release,
    .allocate_host = kvg::cuda::AllocateHost,
    .release_host = kvg::cuda::ReleaseHost,
    .own_stream = kvg::cuda::OwnStream,
    .is_capturing = kvg::cuda::IsCapturing,
    .event_create = kvg::cuda::EventCreate,
    .event_destroy = kvg::cuda::EventDestroy,
    .event_record = kvg::cuda::EventRecord,
    .stream_wait = kvg::cuda::StreamWait,
    .event_wait = kvg::cuda::EventWait,
    .reaches = kvg::cuda::Reaches,
    .write = kvg::cuda::Write,
    .copy = kvg::cuda::Copy,
    .fetch = kvg::cuda::Fetch,
    .unmark = kvg::cuda::Unmark,
    .ingest = kvg::cuda::IngestRows,
    .seal_scratch = kvg::cuda::SealScratch,
    .seal = kvg::cuda::SealJobs,
    .read = kvg::cuda::ReadRows,
    .attend_scratch = kvg::cuda::AttendScratch,
    .attend = kvg::cuda::Attend,
};
