// Attention over sealed caches on a CUDA device: what a launch takes, and the two calls that make it.
//
// Called by the plugin (kernels/cuda) and by tests/gpu. Pieces are those of kernels/ops.h with
// device pointers inside: the same bytes as on the CPU.
#ifndef KVGEAR_KERNELS_CUDA_ATTEND_H_
#define KVGEAR_KERNELS_CUDA_ATTEND_H_

#include <cuda_runtime_api.h>

#include <cstdint>

#include "kernels/ops.h"

namespace kvg::cuda {

// One sequence. All pointers are of the device. A window with tokens == 0 is none; else it is of
// kind kRows and follows the pieces.
struct DeviceItem {
  const ops::Piece* k;  // [k_pieces] sealed pieces in order of their tokens
  const ops::Piece* v;  // [v_pieces]
  uint32_t k_pieces, v_pieces;
  ops::Piece k_window, v_window;
  uint64_t length;  // tokens, the same on both sides
  const void* q;    // [queries][q_heads][head_dim]
  void* out;        // [queries][q_heads][head_dim]
};

// What most pieces of one side look like. It sizes the buffers of shared memory; pieces that do not
// fit are read another way, slower and with the same result up to rounding.
struct DeviceForm {
  uint32_t width;  // of the codes; 16 for fp16 rows
  uint32_t scale_rows;  // groups of the head_dim (token axis), 1 (channel axis), 0 (fp16 rows)
  bool sparse;
};

// Shapes, types and strides as in ops::AttendArgs.
struct DeviceAttend {
  const DeviceItem* items;       // of the device, [count]
  const DeviceItem* host_items;  // the same, readable by the host: only length is read
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
  void* scratch;     // of the device, AttendScratchBytes(args) bytes, kAlign aligned; any content
  uint32_t* tickets; // of the device, [AttendTickets(args)]: zero before a launch and after it;
                     // two launches that may overlap need each their own, as they do scratch
};

// Both follow from the shape and from host_items[].length; never 0.
uint64_t AttendScratchBytes(const DeviceAttend& args);
uint64_t AttendTickets(const DeviceAttend& args);

// Enqueues the kernels. Allocates nothing, waits for nothing, may be captured into a graph. The
// bits of an item's output follow from that item alone, not from the rest of the batch.
cudaError_t LaunchAttend(const DeviceAttend& args, cudaStream_t stream);

// Once per device, before the first launch: raises the limits of shared memory. Thread safe.
cudaError_t PrepareAttend();

}  // namespace kvg::cuda

#endif  // KVGEAR_KERNELS_CUDA_ATTEND_H_
