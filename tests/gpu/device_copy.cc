// Copies of sealed pieces in device memory.
#include "tests/gpu/device_copy.h"

#include <algorithm>
#include <cstdio>
#include <cstdlib>

namespace kvg::gpu_test {

void Check(cudaError_t error, const char* what) {
  if (error == cudaSuccess) return;
  std::fprintf(stderr, "%s: %s\n", what, cudaGetErrorString(error));
  std::exit(1);
}

namespace {

constexpr uint64_t kGap = 256;

uint64_t Align(uint64_t n) { return (n + ops::kAlign - 1) / ops::kAlign * ops::kAlign; }

// The buffers of a piece and their bytes.
struct Part {
  const void* data;
  uint64_t bytes;
};
struct Parts {
  Part rows, widths, codes, codes_head, codes_block, scale, minimum, a, b;
  Part sparse_start, sparse_count, sparse_dir, sparse_value;
};

Parts PartsOf(const ops::Piece& p) {
  Parts out{};
  const uint64_t heads = p.kv_heads;
  if (p.kind == ops::kRows) {
    out.rows = {p.rows, ((heads - 1) * p.rows_head_stride + p.tokens * p.head_dim) * 2};
    return out;
  }
  const uint64_t blocks = p.padded_tokens / ops::kBlockTokens;
  out.widths = {p.widths, heads * (p.dirs / ops::kTileDirs)};
  uint64_t codes = 0;
  for (uint64_t h = 0; h < heads; ++h) {
    codes = std::max(codes, p.codes_head[h] + blocks * p.codes_block[h]);
  }
  out.codes = {p.codes, codes};
  out.codes_head = {p.codes_head, heads * 8};
  out.codes_block = {p.codes_block, heads * 4};
  const bool by_channel = p.axis == ops::kAxisChannel;
  const uint64_t vector = by_channel ? p.padded_tokens : p.head_dim;
  const uint64_t groups = (vector + p.group - 1) / p.group;
  const uint64_t scales = (p.scale_head_stride == 0 ? 0 : (heads - 1) * p.scale_head_stride) +
                          (groups - 1) * p.scale_group_stride +
                          (by_channel ? p.dirs : p.padded_tokens);
  out.scale = {p.scale, scales * 2};
  out.minimum = {p.minimum, scales * 2};
  out.a = {p.a, heads * p.rank * p.padded_tokens * 2};
  out.b = {p.b, heads * p.rank * p.dirs * 2};
  if (p.sparse_start != nullptr) {
    const uint64_t starts = heads * (blocks + 1);
    const uint64_t entries = p.sparse_start[starts - 1];
    out.sparse_start = {p.sparse_start, starts * 4};
    out.sparse_count = {p.sparse_count, heads * p.padded_tokens};
    out.sparse_dir = {p.sparse_dir, entries};
    out.sparse_value = {p.sparse_value, entries * 2};
  }
  return out;
}

uint64_t MatrixBytes(const ops::Piece& p) { return uint64_t{2} * p.kv_heads * p.head_dim * p.dirs; }

}  // namespace

uint64_t Image::Add(const void* data, uint64_t bytes) {
  const uint64_t at = host_.size();
  host_.resize(at + Align(bytes) + kGap, 0xFF);
  if (host_.size() > capacity_) {
    std::fprintf(stderr, "the image has room for %llu bytes\n",
                 static_cast<unsigned long long>(capacity_));
    std::exit(1);
  }
  if (bytes > 0) std::copy_n(static_cast<const uint8_t*>(data), bytes, host_.data() + at);
  return at;
}

Image::~Image() { cudaFree(device_); }

void Image::Reserve(uint64_t bytes) {
  if (bytes > capacity_) {
    Check(cudaFree(device_), "cudaFree");
    Check(cudaMalloc(reinterpret_cast<void**>(&device_), bytes), "cudaMalloc");
    capacity_ = bytes;
  }
  host_.clear();
  host_.reserve(bytes);
}

void Image::Upload() {
  Check(cudaMemcpy(device_, host_.data(), host_.size(), cudaMemcpyHostToDevice), "copy to device");
}

uint64_t SizeOfPiece(const ops::Piece& piece) {
  const Parts p = PartsOf(piece);
  uint64_t sum = 0;
  for (const Part& part :
       {p.rows, p.widths, p.codes, p.codes_head, p.codes_block, p.scale, p.minimum, p.a, p.b,
        p.sparse_start, p.sparse_count, p.sparse_dir, p.sparse_value}) {
    sum += Align(part.bytes) + kGap;
  }
  if (piece.map != nullptr) sum += 2 * Align(MatrixBytes(piece)) + sizeof(ops::Map) + 4 * kGap;
  return sum;
}

ops::Piece AddPiece(Image& image, const ops::Piece& piece) {
  const Parts parts = PartsOf(piece);
  ops::Piece out = piece;
  const auto add = [&image](const Part& part, auto& pointer) {
    using Pointer = std::remove_reference_t<decltype(pointer)>;
    if (part.data == nullptr) return;
    pointer = static_cast<Pointer>(image.At(image.Add(part.data, part.bytes)));
  };
  add(parts.rows, out.rows);
  add(parts.widths, out.widths);
  add(parts.codes, out.codes);
  add(parts.codes_head, out.codes_head);
  add(parts.codes_block, out.codes_block);
  add(parts.scale, out.scale);
  add(parts.minimum, out.minimum);
  add(parts.a, out.a);
  add(parts.b, out.b);
  add(parts.sparse_start, out.sparse_start);
  add(parts.sparse_count, out.sparse_count);
  add(parts.sparse_dir, out.sparse_dir);
  add(parts.sparse_value, out.sparse_value);
  if (piece.map != nullptr) {
    ops::Map map = *piece.map;
    map.forward = nullptr;
    if (map.kind == ops::kMapDense) add({map.back, MatrixBytes(piece)}, map.back);
    add({&map, sizeof(map)}, out.map);
  }
  return out;
}

}  // namespace kvg::gpu_test
