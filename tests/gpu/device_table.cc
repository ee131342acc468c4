// Host tables of operations whose attend runs on the device.
#include "tests/gpu/device_table.h"

#include <cuda_runtime_api.h>

#include <algorithm>
#include <cstdlib>
#include <vector>

#include "kernels/cuda/attend.h"
#include "tests/gpu/device_copy.h"

namespace kvg::gpu_test {
namespace {

uint64_t SizeOf(ops::DType dtype) { return dtype == ops::kF32 ? 4 : 2; }

// Bytes from the first element to behind the last.
uint64_t Extent(const ops::AttendArgs& args, int64_t token_stride, int64_t head_stride,
                ops::DType dtype) {
  return (static_cast<uint64_t>(args.queries - 1) * static_cast<uint64_t>(token_stride) +
          static_cast<uint64_t>(args.q_heads - 1) * static_cast<uint64_t>(head_stride) +
          args.head_dim) *
         SizeOf(dtype);
}

// The form that a runtime would give for these pieces.
cuda::DeviceForm FormOf(const ops::AttendArgs& args, bool values) {
  cuda::DeviceForm form{.width = 0};
  bool rows = true;
  for (uint64_t i = 0; i < args.count; ++i) {
    const ops::Sequence& side = values ? args.items[i].v : args.items[i].k;
    for (uint64_t n = 0; n < side.count; ++n) {
      const ops::Piece& piece = *side.pieces[n];
      if (piece.kind != ops::kCodes) continue;
      rows = false;
      form.by_channel = piece.axis == ops::kAxisChannel;
      form.sparse = form.sparse || piece.sparse_start != nullptr;
      for (uint32_t t = 0; t < piece.kv_heads * (piece.dirs / ops::kTileDirs); ++t) {
        form.width = std::max<uint32_t>(form.width, piece.widths[t]);
      }
    }
  }
  if (rows) form.width = 16;
  return form;
}

bool vary = true;

uint64_t AttendScratch(const ops::AttendArgs*, uint32_t) { return 64; }

void Attend(const ops::AttendArgs* args, const ops::Parallel*) {
  static Image image;
  static void* scratch = nullptr;
  static uint64_t scratch_bytes = 0;
  static uint32_t* tickets = nullptr;
  constexpr uint64_t kTickets = 1 << 20;
  if (tickets == nullptr) {
    Check(cuda::PrepareAttend(), "PrepareAttend");
    Check(cudaMalloc(reinterpret_cast<void**>(&tickets), kTickets * 4), "cudaMalloc");
    Check(cudaMemset(tickets, 0, kTickets * 4), "cudaMemset");
  }
  const uint64_t q_bytes = Extent(*args, args->q_token_stride, args->q_head_stride, args->q_dtype);
  const uint64_t out_bytes =
      Extent(*args, args->out_token_stride, args->out_head_stride, args->out_dtype);
  uint64_t room = args->count * (q_bytes + out_bytes + sizeof(cuda::DeviceItem) + 4096);
  uint64_t hash = args->head_dim / 8 + args->queries + args->q_heads;
  for (uint64_t i = 0; i < args->count; ++i) {
    hash += args->items[i].length;
    for (const ops::Sequence& side : {args->items[i].k, args->items[i].v}) {
      for (uint64_t n = 0; n < side.count; ++n) {
        room += SizeOfPiece(*side.pieces[n]) + sizeof(ops::Piece) + 512;
      }
    }
  }
  image.Reserve(std::max<uint64_t>(room, 1 << 20));

  cuda::DeviceAttend call{};
  call.count = args->count;
  call.q_heads = args->q_heads;
  call.kv_heads = args->kv_heads;
  call.head_dim = args->head_dim;
  call.queries = args->queries;
  call.q_dtype = args->q_dtype;
  call.out_dtype = args->out_dtype;
  call.q_token_stride = args->q_token_stride;
  call.q_head_stride = args->q_head_stride;
  call.out_token_stride = args->out_token_stride;
  call.out_head_stride = args->out_head_stride;
  call.scale = args->scale;
  call.softcap = args->softcap;
  call.sliding_window = args->sliding_window;
  call.causal = args->causal;
  call.k_form = FormOf(*args, false);
  call.v_form = FormOf(*args, true);
  if (vary) {
    call.chunk_tokens = hash % 2 == 0 ? 128 : 0;
    if (hash % 5 == 0) call.k_form = {.width = 1};
    if (hash % 7 == 0) call.v_form = {.width = 1};
  }

  std::vector<cuda::DeviceItem> items(args->count);
  std::vector<uint64_t> outs;
  for (uint64_t i = 0; i < args->count; ++i) {
    const ops::AttendItem& from = args->items[i];
    cuda::DeviceItem& to = items[i];
    to.length = from.length;
    // Of every other sequence the last rows are its window and the last codes its open page.
    const bool split = !vary || hash % 3 != 0;
    const auto add = [&](const ops::Sequence& side, const ops::Piece*& pieces, uint32_t& count,
                         ops::Piece& page, ops::Piece& window) {
      std::vector<ops::Piece> copies;
      for (uint64_t n = 0; n < side.count; ++n) copies.push_back(AddPiece(image, *side.pieces[n]));
      if (split && !copies.empty() && copies.back().kind == ops::kRows) {
        window = copies.back();
        copies.pop_back();
      }
      if (split && !copies.empty() && copies.back().kind == ops::kCodes) {
        page = copies.back();
        copies.pop_back();
      }
      pieces = static_cast<const ops::Piece*>(
          image.At(image.Add(copies.data(), copies.size() * sizeof(ops::Piece))));
      count = static_cast<uint32_t>(copies.size());
    };
    add(from.k, to.k, to.k_pieces, to.k_page, to.k_window);
    add(from.v, to.v, to.v_pieces, to.v_page, to.v_window);
    to.q = image.At(image.Add(from.q, q_bytes));
    outs.push_back(image.Add(from.out, out_bytes));
    to.out = image.At(outs.back());
  }
  const cuda::AttendPlan plan = cuda::PlanAttend(call, items.data());
  call.items = static_cast<const cuda::DeviceItem*>(
      image.At(image.Add(items.data(), items.size() * sizeof(cuda::DeviceItem))));
  image.Upload();
  if (plan.scratch_bytes > scratch_bytes) {
    Check(cudaFree(scratch), "cudaFree");
    scratch_bytes = plan.scratch_bytes;
    Check(cudaMalloc(&scratch, scratch_bytes), "cudaMalloc");
  }
  if (scratch_bytes > 0) Check(cudaMemset(scratch, 0xFF, scratch_bytes), "cudaMemset");
  if (plan.tickets > kTickets) std::exit(1);
  call.scratch = scratch;
  call.tickets = tickets;
  Check(cuda::LaunchAttend(call, plan, nullptr), "LaunchAttend");
  Check(cudaDeviceSynchronize(), "attend");
  for (uint64_t i = 0; i < args->count; ++i) {
    Check(cudaMemcpy(args->items[i].out, image.At(outs[i]), out_bytes, cudaMemcpyDeviceToHost),
          "copy from device");
  }
}

}  // namespace

bool HasDevice() {
  int count = 0;
  return cudaGetDeviceCount(&count) == cudaSuccess && count > 0;
}

void VaryForms(bool on) { vary = on; }

const ops::Table& DeviceTable() {
  static const ops::Table table = [] {
    ops::Table out = ops::ReferenceTable();
    out.name = "cuda";
    out.attend_scratch = AttendScratch;
    out.attend = Attend;
    return out;
  }();
  return table;
}

}  // namespace kvg::gpu_test
