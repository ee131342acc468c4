// A plugin whose device is host memory and whose kernels are the scalar reference: what core does
// with a device, tested on machines without one.
//
// Work is done when it is queued. KVGEAR_STAND_IN_FAIL=N lets the N-th operation that can fail and
// all later ones fail, as a real device does after its first error. What it says of itself is the build's:
// most of what is built of this file lies.
#include <atomic>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <vector>

#include "kernels/plugin.h"

namespace kvg::ops {

struct DeviceContext {
  std::atomic<uint64_t> operations{0};
  uint64_t fail_from = UINT64_MAX;
};

}  // namespace kvg::ops

namespace {

using namespace kvg::ops;

const Parallel kAlone = {nullptr, 1, [](void*, uint64_t n, void (*task)(void*, uint64_t, uint32_t), void* ctx) {
                           for (uint64_t i = 0; i < n; ++i) task(ctx, i, 0);
                         }};

Failure Count(DeviceContext* context) {
  return ++context->operations >= context->fail_from ? "the stand-in was told to fail" : nullptr;
}

// The pieces of a side as a sequence of the host.
class Pieces {
 public:
  explicit Pieces(const DevicePieces& side) : page_(side.page), window_(side.window) {
    for (uint32_t i = 0; i < side.count; ++i) list_.push_back(&side.sealed[i]);
    if (page_.tokens > 0) list_.push_back(&page_);
    if (window_.tokens > 0) list_.push_back(&window_);
  }
  Pieces(const Pieces&) = delete;
  Pieces& operator=(const Pieces&) = delete;
  Sequence sequence() const { return {list_.data(), list_.size()}; }

 private:
  Piece page_, window_;
  std::vector<const Piece*> list_;
};

OpenResult Open(uint32_t ordinal, DeviceContext** context, char* why, size_t why_len) {
  if (ordinal > 0) {
    std::snprintf(why, why_len, "there is only number 0");
    return kNoDevice;
  }
  if (const char* result = std::getenv("KVGEAR_STAND_IN_OPEN"); result != nullptr && *result != '\0') {
    std::snprintf(why, why_len, "as the test wants it");
    return static_cast<OpenResult>(std::atoi(result));
  }
  *context = new DeviceContext;
  if (const char* n = std::getenv("KVGEAR_STAND_IN_FAIL"); n != nullptr && *n != '\0') {
    (*context)->fail_from = std::strtoull(n, nullptr, 10);
  }
  return kOpened;
}

void* Slab(DeviceContext*, uint64_t bytes) {
  void* slab = std::aligned_alloc(4096, (bytes + 4095) / 4096 * 4096);
  if (slab != nullptr) std::memset(slab, 0xA5, bytes);  // device memory comes with junk
  return slab;
}
void FreeSlab(DeviceContext*, void* slab) { std::free(slab); }

Failure Capturing(DeviceContext*, void*, bool* capturing) {
  *capturing = false;
  return nullptr;
}
Failure EventCreate(DeviceContext*, void** event) {
  *event = new int(0);
  return nullptr;
}
void EventDestroy(DeviceContext*, void* event) { delete static_cast<int*>(event); }
Failure Write(DeviceContext* context, void*, void* to, const void* from, uint64_t bytes) {
  std::memcpy(to, from, bytes);
  return Count(context);
}
Failure Copy(DeviceContext* context, void*, const DeviceCopy* copy) {
  for (uint64_t row = 0; row < copy->rows; ++row) {
    std::memcpy(static_cast<char*>(copy->to) + row * copy->to_pitch,
                static_cast<const char*>(copy->from) + row * copy->from_pitch, copy->bytes);
  }
  return Count(context);
}
Failure Unmark(DeviceContext* context, void*, uint64_t* mark, uint64_t least) {
  if (*mark > least) *mark = 0;
  return Count(context);
}
Failure Ingest(DeviceContext* context, void*, const DeviceIngestJob* jobs, uint32_t count) {
  for (uint32_t i = 0; i < count; ++i) {
    if (!ReferenceTable().ingest(&jobs[i].args) && *jobs[i].marked == 0) *jobs[i].marked = jobs[i].mark;
  }
  return Count(context);
}
Failure Seal(DeviceContext* context, void*, const DeviceSealJob* jobs, uint32_t count, void*) {
  for (uint32_t i = 0; i < count; ++i) {
    DeviceSealJob job = jobs[i];
    std::vector<uint64_t> scratch(ReferenceTable().seal_scratch(&job.args, &job.out, 1) / 8 + 16);
    job.args.scratch = scratch.data();
    ReferenceTable().seal(&job.args, &job.out, &kAlone);
    const double before[2] = {job.args.at > 0 ? job.sums[0] : 0, job.args.at > 0 ? job.sums[1] : 0};
    job.sums[0] = before[0] + job.out.error_sq;
    job.sums[1] = before[1] + job.out.norm_sq;
  }
  return Count(context);
}
Failure Read(DeviceContext* context, void*, const DeviceReadArgs* args) {
  const Pieces side(args->side);
  ReadArgs read{};
  read.side = side.sequence();
  read.kv_heads = args->kv_heads;
  read.head_dim = args->head_dim;
  read.first_token = args->first_token;
  read.tokens = args->tokens;
  read.dtype = args->dtype;
  read.out = args->out;
  ReferenceTable().read(&read);
  return Count(context);
}
[[maybe_unused]] Failure Attend(DeviceContext* context, void*, const DeviceAttendArgs* args) {
  for (uint64_t i = 0; i < args->count; ++i) {
    const Pieces k(args->items[i].k), v(args->items[i].v);
    AttendItem item{};
    item.k = k.sequence();
    item.v = v.sequence();
    item.length = args->items[i].length;
    item.q = args->items[i].q;
    item.out = args->items[i].out;
    AttendArgs attend{};
    attend.items = &item;
    attend.count = 1;
    attend.q_heads = args->q_heads;
    attend.kv_heads = args->kv_heads;
    attend.head_dim = args->head_dim;
    attend.queries = args->queries;
    attend.q_dtype = args->q_dtype;
    attend.out_dtype = args->out_dtype;
    attend.q_token_stride = args->q_token_stride;
    attend.q_head_stride = args->q_head_stride;
    attend.out_token_stride = args->out_token_stride;
    attend.out_head_stride = args->out_head_stride;
    attend.scale = args->scale;
    attend.softcap = args->softcap;
    attend.sliding_window = args->sliding_window;
    attend.causal = args->causal;
    std::vector<uint64_t> scratch(ReferenceTable().attend_scratch(&attend, 1) / 8 + 16);
    attend.scratch = scratch.data();
    ReferenceTable().attend(&attend, &kAlone);
  }
  return Count(context);
}

}  // namespace

// As a later version would have it, with a function that this one does not know.
struct LongPlugin {
  Plugin plugin;
#ifdef KVG_TEST_LONGER
  void (*more)();
#endif
};

extern "C" __attribute__((visibility("default"))) const LongPlugin kvgear_plugin_cuda;
constinit const LongPlugin kvgear_plugin_cuda = {{
    .magic = KVG_TEST_MAGIC,
    .version = KVG_TEST_VERSION,
    .struct_size = KVG_TEST_SIZE,
    .oldest = KVG_TEST_OLDEST,
    .name = "stand-in",
    .open = Open,
    .close = [](DeviceContext* context) { delete context; },
    .describe = [](const DeviceContext*) { return "stand-in"; },
    .allocate = Slab,
    .release = FreeSlab,
    .allocate_host = Slab,
    .release_host = FreeSlab,
    .own_stream = [](DeviceContext*) -> void* { return nullptr; },
    .is_capturing = Capturing,
    .event_create = EventCreate,
    .event_destroy = EventDestroy,
    .event_record = [](DeviceContext*, void*, void*) -> Failure { return nullptr; },
    .stream_wait = [](DeviceContext*, void*, void*) -> Failure { return nullptr; },
    .event_wait = [](DeviceContext*, void*) -> Failure { return nullptr; },
    .reaches = [](DeviceContext*, const void*) { return true; },
    .write = Write,
    .copy = Copy,
    .fetch = [](DeviceContext* context, void*, void* to, const void* from, uint64_t bytes) -> Failure {
      std::memcpy(to, from, bytes);
      return Count(context);
    },
    .unmark = Unmark,
    .ingest = Ingest,
    .seal_scratch = [](DeviceContext*, const DeviceSealJob*, uint32_t) -> uint64_t { return 64; },
    .seal = Seal,
    .read = Read,
    .attend_scratch = [](DeviceContext*, const DeviceAttendArgs*) -> uint64_t { return 64; },
#ifdef KVG_TEST_NO_ATTEND
    .attend = nullptr,
#else
    .attend = Attend,
#endif
}
#ifdef KVG_TEST_LONGER
, [] {}
#endif
};

// Tells the tests which plugins they let run.
__attribute__((constructor)) void Ran() { setenv("KVGEAR_STAND_IN_RAN", "1", 1); }
