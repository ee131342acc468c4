// Decode attention on a CUDA device: time, own bytes over time as a share of the copy rate measured
// in the same run, and the ratio to the fp16 recipe. Graph replay, over sets of buffers beyond L2.
//
//   gpu_attend_bench [out.json] [--recipe NAME] [--only B,QH,KVH,T[,D]] [--chunk TOKENS]
//
// A segment of each recipe is sealed on the CPU and copied as often as the sequences are long.
#include <cuda_runtime_api.h>

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <map>
#include <string>
#include <vector>

#include "core/model/recipe.h"
#include "kernels/cuda/attend.h"
#include "tests/gpu/copy_kernel.h"
#include "tests/gpu/device_copy.h"
#include "tests/gpu/device_table.h"
#include "tests/support/kernel_fixture.h"

namespace kvg::gpu_test {
namespace {

using kernel_test::Data;

constexpr uint64_t kSegment = 1024;
constexpr uint64_t kBeyondCache = 512ull << 20;  // bytes to rotate through, at least

struct Shape {
  uint32_t batch, q_heads, kv_heads;
  uint64_t tokens;
  uint32_t head_dim = 128;
};

const std::vector<Shape> kShapes = {
    {1, 32, 8, 1024},  {1, 32, 8, 8192},  {1, 32, 8, 32768}, {1, 32, 8, 131072},
    {8, 32, 8, 4096},  {8, 32, 8, 32768}, {64, 32, 8, 1024}, {64, 32, 8, 4096},
    {64, 32, 8, 8192}, {1, 32, 32, 32768}, {16, 64, 8, 16384}};

// A segment in device memory, to be copied.
struct Master {
  Image image;
  ops::Piece piece{};
  double bytes_of_token = 0;
};

template <typename T>
void Move(const T*& pointer, const void* from, void* to) {
  if (pointer == nullptr) return;
  pointer = reinterpret_cast<const T*>(static_cast<uint8_t*>(to) +
                                       (reinterpret_cast<const uint8_t*>(pointer) -
                                        static_cast<const uint8_t*>(from)));
}

ops::Piece Moved(ops::Piece p, const void* from, void* to) {
  Move(p.rows, from, to), Move(p.widths, from, to), Move(p.codes, from, to);
  Move(p.codes_head, from, to), Move(p.codes_block, from, to), Move(p.scale, from, to);
  Move(p.minimum, from, to), Move(p.a, from, to), Move(p.b, from, to);
  Move(p.sparse_start, from, to), Move(p.sparse_count, from, to);
  Move(p.sparse_dir, from, to), Move(p.sparse_value, from, to);
  return p;
}

uint64_t WindowOf(const SideRecipe& side) { return side.window > 0 ? side.window : 64; }

void MakeMaster(Master& out, const SideRecipe& recipe, ops::Side side, const Shape& shape) {
  kernel_test::SequenceBuilder builder(side, shape.kv_heads, shape.head_dim);
  kernel_test::Rows rows =
      kernel_test::MakeRows(Data::kNoise, side + 1, shape.kv_heads, kSegment, shape.head_dim);
  if (recipe.bits == 16) {
    builder.AddRows(std::move(rows));
    out.bytes_of_token = 2.0 * shape.kv_heads * shape.head_dim;
  } else {
    const bool by_channel = recipe.axis == ops::kAxisChannel;
    const uint32_t longest = by_channel ? kSegment : shape.head_dim;
    kernel_test::Form form = kernel_test::UniformForm(
        side, recipe.axis, recipe.group == 0 || recipe.group > longest ? longest : recipe.group,
        static_cast<uint8_t>(recipe.bits), shape.kv_heads, shape.head_dim, kSegment);
    form.spec.heads_share_scale = recipe.group == SideRecipe::kAllHeads;
    const uint64_t vector = side == ops::kSideK ? kSegment : shape.kv_heads * shape.head_dim;
    form.spec.outliers =
        static_cast<uint64_t>(recipe.outliers * static_cast<double>(vector) / 2);
    form.spec.rank = recipe.rank;
    form.spec.sweeps = 1;
    kernel_test::CodePiece piece(form, 0);
    piece.Seal(*kernel_test::CpuTables().front(), rows, kernel_test::Threads());
    out.image.Reserve(SizeOfPiece(piece.piece()) + 4096);
    out.piece = AddPiece(out.image, piece.piece());
    out.image.Upload();
    double bytes = 0;
    for (const auto& part : {piece.codes(), piece.scales(), piece.minima(), piece.a(), piece.b()}) {
      bytes += static_cast<double>(part.size());
    }
    if (piece.piece().sparse_start != nullptr) {
      bytes += 3.0 * static_cast<double>(piece.entries()) + shape.kv_heads * (kSegment + 4 * 33.0);
    }
    out.bytes_of_token = bytes / kSegment;
    return;
  }
  const ops::Piece& piece = *builder.sequence().pieces[0];
  out.image.Reserve(SizeOfPiece(piece) + 4096);
  // Rows of heads as close as a runtime has them.
  out.piece = AddPiece(out.image, piece);
  out.image.Upload();
}

struct Result {
  double us, bytes;
};

cuda::DeviceForm FormOf(const SideRecipe& side) {
  return {.width = side.bits,
          .sparse = side.bits < 16 && side.outliers > 0,
          .by_channel = side.axis == ops::kAxisChannel};
}

void* Allocate(uint64_t bytes) {
  void* p = nullptr;
  Check(cudaMalloc(&p, bytes), "cudaMalloc");
  return p;
}

double Median(std::vector<double> x) {
  std::sort(x.begin(), x.end());
  return x[x.size() / 2];
}

// Microseconds of one of the `launches` in a graph that `capture` fills.
template <typename Capture>
double TimeGraph(cudaStream_t stream, uint64_t launches, int replays, const Capture& capture) {
  cudaGraph_t graph;
  cudaGraphExec_t executable;
  Check(cudaStreamBeginCapture(stream, cudaStreamCaptureModeThreadLocal), "capture");
  capture();
  Check(cudaStreamEndCapture(stream, &graph), "capture");
  Check(cudaGraphInstantiate(&executable, graph, 0), "instantiate");
  cudaEvent_t start, stop;
  Check(cudaEventCreate(&start), "event");
  Check(cudaEventCreate(&stop), "event");
  // An idle device takes a while to raise its clocks.
  const auto begin = std::chrono::steady_clock::now();
  while (std::chrono::steady_clock::now() - begin < std::chrono::milliseconds(200)) {
    for (int i = 0; i < 8; ++i) Check(cudaGraphLaunch(executable, stream), "launch");
    Check(cudaStreamSynchronize(stream), "replay");
  }
  std::vector<double> times;
  for (int i = 0; i < replays; ++i) {
    Check(cudaEventRecord(start, stream), "record");
    Check(cudaGraphLaunch(executable, stream), "launch");
    Check(cudaEventRecord(stop, stream), "record");
    Check(cudaEventSynchronize(stop), "replay");
    float ms = 0;
    Check(cudaEventElapsedTime(&ms, start, stop), "elapsed");
    times.push_back(ms * 1e3 / static_cast<double>(launches));
  }
  Check(cudaGraphExecDestroy(executable), "destroy");
  Check(cudaGraphDestroy(graph), "destroy");
  return Median(times);
}

// Of a kernel and of the copy engine's function, the better.
double CopyRate(cudaStream_t stream) {
  constexpr uint64_t bytes = 2ull << 30;
  void* a = Allocate(bytes);
  void* b = Allocate(bytes);
  Check(cudaMemset(a, 1, bytes), "memset");
  const double us = TimeGraph(stream, 1, 9, [&] {
    Check(cudaMemcpyAsync(b, a, bytes, cudaMemcpyDeviceToDevice, stream), "copy");
  });
  const double kernel_us =
      TimeGraph(stream, 1, 9, [&] { Check(LaunchCopy(b, a, bytes, stream), "copy"); });
  cudaFree(a);
  cudaFree(b);
  return 2.0 * bytes / std::min(us, kernel_us) * 1e-3;  // GB/s
}

Result Run(const Recipe& recipe, const Shape& shape, uint64_t chunk, cudaStream_t stream) {
  Master masters[2];
  const SideRecipe* const sides[2] = {&recipe.k, &recipe.v};
  for (int s = 0; s < 2; ++s) {
    MakeMaster(masters[s], *sides[s], s == 0 ? ops::kSideK : ops::kSideV, shape);
  }
  double bytes = 0;
  uint64_t set_bytes = 0, segments[2], sealed[2], window[2];
  for (int s = 0; s < 2; ++s) {
    window[s] = sides[s]->bits == 16 ? 0 : WindowOf(*sides[s]);
    sealed[s] = shape.tokens - window[s];
    segments[s] = (sealed[s] + kSegment - 1) / kSegment;
    const double rows = 2.0 * shape.kv_heads * shape.head_dim;
    bytes += shape.batch * (static_cast<double>(sealed[s]) * masters[s].bytes_of_token +
                            static_cast<double>(window[s]) * rows);
    set_bytes += shape.batch * (segments[s] * masters[s].image.used() +
                                window[s] * static_cast<uint64_t>(rows) + 1024);
  }
  const uint64_t sets = std::min<uint64_t>(64, (kBeyondCache + set_bytes - 1) / set_bytes + 1);
  std::vector<void*> memory;
  std::vector<cuda::DeviceAttend> calls;
  const uint64_t q_elements = uint64_t{shape.q_heads} * shape.head_dim;
  std::vector<uint16_t> q(shape.batch * q_elements);
  kernel_test::Random random(7);
  for (uint16_t& x : q) {
    const auto value = static_cast<_Float16>(random.Normal());
    std::memcpy(&x, &value, 2);
  }
  cuda::AttendPlan plan{};
  for (uint64_t set = 0; set < sets; ++set) {
    auto* at = static_cast<uint8_t*>(Allocate(set_bytes + (4 << 20)));
    memory.push_back(at);
    auto* q_at = static_cast<uint16_t*>(Allocate(q.size() * 2));
    auto* out_at = static_cast<uint16_t*>(Allocate(q.size() * 2));
    memory.push_back(q_at), memory.push_back(out_at);
    Check(cudaMemcpy(q_at, q.data(), q.size() * 2, cudaMemcpyHostToDevice), "copy q");
    std::vector<cuda::DeviceItem> items(shape.batch);
    std::vector<ops::Piece> pieces;
    std::vector<uint64_t> first_piece[2];
    for (uint32_t i = 0; i < shape.batch; ++i) {
      items[i].length = shape.tokens;
      items[i].q = q_at + i * q_elements;
      items[i].out = out_at + i * q_elements;
      for (int s = 0; s < 2; ++s) {
        first_piece[s].push_back(pieces.size());
        const Image& image = masters[s].image;
        for (uint64_t n = 0; n < segments[s]; ++n) {
          Check(cudaMemcpyAsync(at, image.At(0), image.used(), cudaMemcpyDeviceToDevice, stream),
                "copy a segment");
          ops::Piece piece = Moved(masters[s].piece, image.At(0), at);
          piece.first_token = n * kSegment;
          piece.tokens = std::min(kSegment, sealed[s] - n * kSegment);
          pieces.push_back(piece);
          at += image.used();
        }
        ops::Piece& rows = s == 0 ? items[i].k_window : items[i].v_window;
        rows = {};
        if (window[s] > 0) {
          rows.kind = ops::kRows;
          rows.side = s == 0 ? ops::kSideK : ops::kSideV;
          rows.first_token = sealed[s];
          rows.tokens = rows.padded_tokens = window[s];
          rows.kv_heads = shape.kv_heads;
          rows.head_dim = rows.dirs = shape.head_dim;
          rows.rows = reinterpret_cast<uint16_t*>(at);
          rows.rows_head_stride = window[s] * shape.head_dim;
          const uint64_t row_bytes = window[s] * shape.kv_heads * shape.head_dim * 2;
          Check(cudaMemsetAsync(at, 0x31, row_bytes, stream), "fill");
          at += row_bytes;
        }
      }
    }
    auto* piece_at =
        static_cast<ops::Piece*>(Allocate(pieces.size() * sizeof(ops::Piece)));
    memory.push_back(piece_at);
    Check(cudaMemcpy(piece_at, pieces.data(), pieces.size() * sizeof(ops::Piece),
                     cudaMemcpyHostToDevice),
          "copy pieces");
    for (uint32_t i = 0; i < shape.batch; ++i) {
      items[i].k = piece_at + first_piece[0][i];
      items[i].v = piece_at + first_piece[1][i];
      items[i].k_pieces = static_cast<uint32_t>(segments[0]);
      items[i].v_pieces = static_cast<uint32_t>(segments[1]);
    }
    cuda::DeviceAttend call{};
    call.count = shape.batch;
    call.q_heads = shape.q_heads;
    call.kv_heads = shape.kv_heads;
    call.head_dim = shape.head_dim;
    call.queries = 1;
    call.q_dtype = call.out_dtype = ops::kF16;
    call.q_token_stride = call.out_token_stride = static_cast<int64_t>(q_elements);
    call.q_head_stride = call.out_head_stride = shape.head_dim;
    call.scale = 0.08838f;
    call.causal = true;
    call.chunk_tokens = chunk;
    call.k_form = FormOf(recipe.k);
    call.v_form = FormOf(recipe.v);
    plan = cuda::PlanAttend(call, items.data());
    void* items_at = Allocate(items.size() * sizeof(items[0]));
    memory.push_back(items_at);
    Check(cudaMemcpy(items_at, items.data(), items.size() * sizeof(items[0]),
                     cudaMemcpyHostToDevice),
          "copy items");
    call.items = static_cast<const cuda::DeviceItem*>(items_at);
    if (set == 0) {
      call.scratch = Allocate(plan.scratch_bytes + 64);
      call.tickets = static_cast<uint32_t*>(Allocate(plan.tickets * 4 + 64));
      memory.push_back(call.scratch), memory.push_back(call.tickets);
      Check(cudaMemset(call.tickets, 0, plan.tickets * 4 + 64), "memset");
    } else {
      call.scratch = calls[0].scratch;
      call.tickets = calls[0].tickets;
    }
    calls.push_back(call);
  }
  Check(cudaDeviceSynchronize(), "copies");
  const double expected_us = bytes / 3e6;
  const auto launches = std::max<uint64_t>(
      sets, static_cast<uint64_t>(2000 / std::max(expected_us, 5.0)) / sets * sets);
  const double us = TimeGraph(stream, launches, 7, [&] {
    for (uint64_t i = 0; i < launches; ++i) {
      Check(cuda::LaunchAttend(calls[i % sets], plan, stream), "LaunchAttend");
    }
  });
  for (void* p : memory) cudaFree(p);
  return {us, bytes};
}

int Main(int argc, char** argv) {
  if (!HasDevice()) {
    std::puts("skipped: no CUDA device");
    return 0;
  }
  const char* json = nullptr;
  uint64_t chunk = 0;
  std::vector<std::string> names = {"fp16", "int8", "int4", "kivi-4", "kivi-2", "gear-4", "gear-2"};
  std::vector<Shape> shapes = kShapes;
  bool first_recipe = true, first_shape = true;
  for (int i = 1; i < argc; ++i) {
    const std::string arg = argv[i];
    if (arg == "--recipe" && i + 1 < argc) {
      if (first_recipe) names.clear();
      first_recipe = false;
      names.emplace_back(argv[++i]);
    } else if (arg == "--only" && i + 1 < argc) {
      if (first_shape) shapes.clear();
      first_shape = false;
      Shape shape{};
      unsigned long long tokens = 0;
      if (std::sscanf(argv[++i], "%u,%u,%u,%llu,%u", &shape.batch, &shape.q_heads, &shape.kv_heads,
                      &tokens, &shape.head_dim) < 4) {
        return 2;
      }
      if (shape.head_dim == 0) shape.head_dim = 128;
      shape.tokens = tokens;
      shapes.push_back(shape);
    } else if (arg == "--chunk" && i + 1 < argc) {
      chunk = std::strtoull(argv[++i], nullptr, 10);
    } else {
      json = argv[i];
    }
  }
  Check(cuda::PrepareAttend(), "PrepareAttend");
  cudaStream_t stream;
  Check(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking), "stream");
  cudaDeviceProp properties;
  int driver = 0;
  Check(cudaGetDeviceProperties(&properties, 0), "properties");
  Check(cudaDriverGetVersion(&driver), "driver");
  const double rate = CopyRate(stream);
  std::printf("%s, copy rate %.0f GB/s (read and written)\n", properties.name, rate);
  std::printf("%-24s %-8s %9s %6s %9s %8s\n", "batch,q,kv,tokens,dim", "recipe", "us", "share",
              "bits", "of fp16");
  FILE* out = json != nullptr ? std::fopen(json, "w") : nullptr;
  if (out != nullptr) {
    std::fprintf(out, "{\"device\": \"%s\", \"copy_gbps\": %.1f, \"rows\": [", properties.name, rate);
  }
  bool comma = false;
  for (const Shape& shape : shapes) {
    double fp16 = 0;
    for (const std::string& name : names) {
      const auto recipe = ParseRecipe(name);
      if (!recipe.ok()) return 2;
      const Result r = Run(*recipe, shape, chunk, stream);
      if (name == "fp16") fp16 = r.us;
      const double elements =
          2.0 * shape.batch * shape.kv_heads * static_cast<double>(shape.tokens) * shape.head_dim;
      char label[64];
      std::snprintf(label, sizeof(label), "%u,%u,%u,%llu,%u", shape.batch, shape.q_heads,
                    shape.kv_heads, static_cast<unsigned long long>(shape.tokens), shape.head_dim);
      std::printf("%-24s %-8s %9.1f %6.2f %9.2f %8.2f\n", label, name.c_str(), r.us,
                  r.bytes / r.us * 1e-3 / rate, r.bytes * 8 / elements, fp16 / r.us);
      std::fflush(stdout);
      if (out != nullptr) {
        std::fprintf(out,
                     "%s{\"shape\": \"%s\", \"recipe\": \"%s\", \"us\": %.2f, \"bytes\": %.0f}",
                     comma ? ", " : "", label, name.c_str(), r.us, r.bytes);
        comma = true;
      }
    }
  }
  if (out != nullptr) {
    std::fprintf(out, "]}\n");
    std::fclose(out);
  }
  return 0;
}

}  // namespace
}  // namespace kvg::gpu_test

int main(int argc, char** argv) { return kvg::gpu_test::Main(argc, argv); }
