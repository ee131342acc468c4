// Attention over sealed caches on a CUDA device: what a launch takes, and the calls that make it.
//
// Called by the plugin (kernels/cuda) and by tests/gpu. Pieces are those of kernels/ops.h with
// device pointers inside: the same bytes as on the CPU.
#ifndef KVGEAR_KERNELS_CUDA_ATTEND_H_
#define KVGEAR_KERNELS_CUDA_ATTEND_H_

#include <cuda_runtime_api.h>

#include <cstdint>

#include "kernels/ops.h"

namespace kvg::cuda {

// One sequence. All pointers are of the device. Behind the array of pieces follow, each unless its
// tokens are 0, the open page (a sealed piece that still grows, one for each cache, so it is given
// here by value) and the window, of kind kRows.
struct DeviceItem {
  const ops::Piece* k;  // [k_pieces] sealed pieces in order of their tokens
  const ops::Piece* v;  // [v_pieces]
  uint32_t k_pieces, v_pieces;
  ops::Piece k_page, v_page;
  ops::Piece k_window, v_window;
  uint64_t length;  // tokens, the same on both sides
  const void* q;    // [queries][q_heads][head_dim]
  void* out;        // [queries][q_heads][head_dim]
  uint64_t first_unit;  // written by PlanAttend
};

// What most pieces of one side look like: which of the kernels is made for them. Pieces that look
// otherwise are read another way, slower and with the same result up to rounding.
struct DeviceForm {
  uint32_t width = 16;  // of the codes; 16 for fp16 rows
  bool sparse = false;
  bool by_channel = false;  // axis of the scales
};

// Shapes, types and strides as in ops::AttendArgs.
struct DeviceAttend {
  const DeviceItem* items;  // of the device, [count], as PlanAttend left them
  uint64_t count;
  uint32_t q_heads, kv_heads, head_dim;
  uint32_t queries;
  ops::DType q_dtype, out_dtype;
  int64_t q_token_stride, q_head_stride;
  int64_t out_token_stride, out_head_stride;
  float scale;
  float softcap;
  uint64_t sliding_window;
  bool causal;
  DeviceForm k_form, v_form;
  uint64_t chunk_tokens;  // that are summed together; 0 = follows from the length of each sequence
  void* scratch;      // of the device, plan.scratch_bytes, kAlign aligned; any content
  uint32_t* tickets;  // of the device, [plan.tickets]: zero before a launch, and zero after it. Two
                      // launches that may overlap need each their own, as they need each a scratch.
};

struct AttendPlan {
  uint64_t units;           // chunks of all columns
  uint64_t length_of_each;  // of the sequences; 0 if they differ
  uint64_t scratch_bytes;   // 0 if there is nothing to merge
  uint64_t tickets;
};

// Cuts the work of a batch into chunks and numbers them in items[].first_unit, before the items are
// copied to the device. Reads the shape in args and items[].length. The size of a chunk follows from
// its own sequence, and how many of them a thread block takes in a row changes no bit.
AttendPlan PlanAttend(const DeviceAttend& args, DeviceItem* host_items);

// Enqueues the kernel. Allocates nothing, waits for nothing, may be captured into a graph.
cudaError_t LaunchAttend(const DeviceAttend& args, const AttendPlan& plan, cudaStream_t stream);

// Once per device, before the first launch: raises the limits of shared memory. Thread safe.
cudaError_t PrepareAttend();

}  // namespace kvg::cuda

#endif  // KVGEAR_KERNELS_CUDA_ATTEND_H_
