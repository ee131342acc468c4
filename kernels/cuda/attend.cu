// Attend on CUDA, the host's part: plans, and the choice of a kernel.
#include "kernels/cuda/attend.h"

#include <cstdint>

#include "kernels/cuda/attend_plan.h"
#include "kernels/cuda/attend_spec.h"

namespace kvg::cuda {

#define KVG_ATTEND_SPEC(name, ...) \
  cudaError_t Launch_##name(const AttendParams& p, cudaStream_t stream);
#include "kernels/cuda/attend_made.h"
#undef KVG_ATTEND_SPEC

namespace {

struct Made {
  Form k_form;
  uint32_t k_width;
  Form v_form;
  uint32_t v_width;
  bool sparse;
  cudaError_t (*launch)(const AttendParams& p, cudaStream_t stream);
};

constexpr Made kMade[] = {
#define KVG_ATTEND_SPEC(name, ...) {__VA_ARGS__, Launch_##name},
#include "kernels/cuda/attend_made.h"
#undef KVG_ATTEND_SPEC
};

Form FormOf(const DeviceForm& form) {
  return form.width == 16 ? kStagedRows : form.by_channel ? kByChannel : kByToken;
}

const Made& Choose(const DeviceAttend& args) {
  const bool sparse = args.k_form.sparse || args.v_form.sparse;
  for (const Made& made : kMade) {
    if (made.k_form == FormOf(args.k_form) && made.k_width == args.k_form.width &&
        made.v_form == FormOf(args.v_form) && made.v_width == args.v_form.width &&
        made.sparse == sparse) {
      return made;
    }
  }
  return *(kMade + sizeof(kMade) / sizeof(kMade[0]) - 1);
}

AttendShape ShapeOf(const DeviceAttend& args) {
  return {.kv_heads = args.kv_heads,
          .queries = args.queries,
          .columns = args.q_heads / args.kv_heads * args.queries,
          .causal = args.causal,
          .sliding_window = args.sliding_window,
          .chunk_tokens = args.chunk_tokens};
}

}  // namespace

AttendPlan PlanAttend(const DeviceAttend& args, DeviceItem* host_items) {
  const AttendShape shape = ShapeOf(args);
  const uint64_t others = uint64_t{args.kv_heads} * shape.column_tiles();
  AttendPlan plan{};
  bool merges = false, same = true;
  for (uint64_t i = 0; i < args.count; ++i) {
    const ItemPlan item = PlanItem(shape, host_items[i].length);
    host_items[i].first_unit = plan.units;
    plan.units += item.chunks * others;
    merges = merges || item.chunks > 1;
    same = same && host_items[i].length == host_items[0].length;
  }
  if (same && args.count > 0) plan.length_of_each = host_items[0].length;
  if (merges) {
    plan.scratch_bytes = plan.units * shape.RecordFloats(args.head_dim) * 4;
    plan.tickets = args.count * others;
  }
  return plan;
}

cudaError_t LaunchAttend(const DeviceAttend& args, const AttendPlan& plan, cudaStream_t stream) {
  if (plan.units == 0) return cudaSuccess;
  AttendParams p{};
  p.items = args.items;
  p.count = args.count;
  p.units = plan.units;
  p.shape = ShapeOf(args);
  if (plan.length_of_each > 0) {
    p.units_of_each = static_cast<uint32_t>(plan.units / args.count);
    p.plan = PlanItem(p.shape, plan.length_of_each);
  }
  p.q_heads = args.q_heads;
  p.kv_heads = args.kv_heads;
  p.head_dim = args.head_dim;
  p.q_dtype = args.q_dtype;
  p.out_dtype = args.out_dtype;
  p.q_token_stride = args.q_token_stride;
  p.q_head_stride = args.q_head_stride;
  p.out_token_stride = args.out_token_stride;
  p.out_head_stride = args.out_head_stride;
  p.scale = args.scale;
  p.softcap = args.softcap;
  p.scratch = static_cast<float*>(args.scratch);
  p.tickets = args.tickets;
  return Choose(args).launch(p, stream);
}

cudaError_t PrepareAttend() {
  for (const Made& made : kMade) {
    const cudaError_t error = made.launch(AttendParams{}, nullptr);
    if (error != cudaSuccess) return error;
  }
  return cudaSuccess;
}

}  // namespace kvg::cuda
