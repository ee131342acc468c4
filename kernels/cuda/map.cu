// Sealing with a Hadamard map: rows to their images, and the error once the map is undone.
#include "kernels/cuda/decode.cuh"
#include "kernels/cuda/seal.cuh"

namespace kvg::cuda {
namespace {

constexpr uint32_t kWarps = 8;
constexpr uint32_t kMeasuring = 32;  // warps

__device__ inline const uint16_t* RowOf(const ops::SealArgs& args, const SealShape& shape, uint32_t head,
                                        uint64_t token) {
  return args.x + head * args.x_head_stride + token * shape.head_dim;
}

// A warp for each row.
template <uint32_t kJobs>
__global__ void __launch_bounds__(kWarps * 32)
    MapKernel(const __grid_constant__ Batch<kJobs> batch, const __grid_constant__ SealShape shape) {
  __shared__ float rows[kWarps][ops::kMaxHeadDim];
  float* const row = rows[threadIdx.x / 32];
  const uint32_t lane = threadIdx.x % 32, dim = shape.head_dim;
  const float share = __fdiv_rn(1.0f, static_cast<float>(shape.map_block));
  auto* const out = reinterpret_cast<uint16_t*>(shape.scratch + blockIdx.z * shape.job_bytes + shape.mapped);
  for (uint64_t token = blockIdx.x * uint64_t{kWarps} + threadIdx.x / 32; token < shape.tokens;
       token += uint64_t{gridDim.x} * kWarps) {
    const uint16_t* const x = RowOf(batch.job[blockIdx.z].args, shape, blockIdx.y, token);
    for (uint32_t d = lane; d < dim; d += 32) row[d] = HalfToFloat(x[d]);
    __syncwarp();
    HadamardRow(shape.map_block, dim, row);
    uint16_t* const y = out + (blockIdx.y * shape.tokens + token) * dim;
    for (uint32_t d = lane; d < dim; d += 32) y[d] = FloatToHalfSaturate(row[d] * share);
    __syncwarp();
  }
}

__device__ inline ops::Piece PieceOf(const ops::DeviceSealJob& job, const SealShape& shape) {
  const ops::SealOut& out = job.out;
  ops::Piece piece{};
  piece.kind = ops::kCodes;
  piece.side = shape.spec.side;
  piece.padded_tokens = out.padded_tokens;
  piece.kv_heads = shape.kv_heads;
  piece.head_dim = shape.head_dim;
  piece.dirs = shape.dirs;
  piece.rank = shape.spec.rank;
  piece.widths = out.widths;
  piece.codes = out.codes;
  piece.codes_head = out.codes_head;
  piece.codes_block = out.codes_block;
  piece.axis = shape.spec.axis;
  piece.group = shape.spec.group;
  piece.scale = out.scale;
  piece.minimum = out.minimum;
  piece.scale_head_stride = out.scale_head_stride;
  piece.scale_group_stride = out.scale_group_stride;
  piece.a = out.a;
  piece.b = out.b;
  piece.sparse_start = out.sparse_start;
  piece.sparse_count = out.sparse_count;
  piece.sparse_dir = out.sparse_dir;
  piece.sparse_value = out.sparse_value;
  return piece;
}

// A thread block for each job, which adds up in a fixed order.
template <uint32_t kJobs>
__global__ void __launch_bounds__(kMeasuring * 32)
    MeasureKernel(const __grid_constant__ Batch<kJobs> batch,
                  const __grid_constant__ SealShape shape) {
  __shared__ float rows[kMeasuring][ops::kMaxHeadDim];
  __shared__ double partial[kMeasuring];
  float* const row = rows[threadIdx.x / 32];
  const uint32_t lane = threadIdx.x % 32, dim = shape.head_dim;
  const ops::DeviceSealJob& job = batch.job[blockIdx.x];
  const ops::Piece piece = PieceOf(job, shape);
  double error = 0, norm = 0;
  for (uint64_t i = threadIdx.x / 32; i < shape.tokens * shape.kv_heads; i += kMeasuring) {
    const auto head = static_cast<uint32_t>(i / shape.tokens);
    const uint64_t token = i % shape.tokens;
    DecodeRow(piece, head, shape.at + token, row);
    HadamardRow(shape.map_block, dim, row);
    const uint16_t* const x = RowOf(job.args, shape, head, token);
    for (uint32_t d = lane; d < dim; d += 32) {
      const double value = static_cast<double>(HalfToFloat(x[d]));
      const double left = value - static_cast<double>(row[d]);
      error += left * left;
      norm += value * value;
    }
    __syncwarp();
  }
  error = BlockSum(error, partial);
  norm = BlockSum(norm, partial);
  if (threadIdx.x != 0) return;
  const bool add = shape.at > 0;
  job.sums[0] = (add ? job.sums[0] : 0) + error;
  job.sums[1] = (add ? job.sums[1] : 0) + norm;
}

}  // namespace

template <uint32_t kJobs>
cudaError_t MapRows(Batch<kJobs>& batch, uint32_t jobs, const SealShape& shape, cudaStream_t stream) {
  const uint64_t blocks = (shape.tokens + kWarps - 1) / kWarps;
  const dim3 grid(static_cast<uint32_t>(blocks < 4096 ? blocks : 4096), shape.kv_heads, jobs);
  MapKernel<kJobs><<<grid, kWarps * 32, 0, stream>>>(batch, shape);
  for (uint32_t i = 0; i < jobs; ++i) {
    batch.job[i].args.x = reinterpret_cast<const uint16_t*>(shape.scratch + i * shape.job_bytes + shape.mapped);
    batch.job[i].args.x_head_stride = shape.tokens * shape.head_dim;
  }
  return cudaGetLastError();
}

template <uint32_t kJobs>
cudaError_t MeasureMapped(const Batch<kJobs>& batch, uint32_t jobs, const SealShape& shape,
                          cudaStream_t stream) {
  MeasureKernel<kJobs><<<jobs, kMeasuring * 32, 0, stream>>>(batch, shape);
  return cudaGetLastError();
}

template cudaError_t MapRows<1>(Batch<1>&, uint32_t, const SealShape&, cudaStream_t);
template cudaError_t MapRows<kMostJobs>(Batch<kMostJobs>&, uint32_t, const SealShape&, cudaStream_t);
KVG_SEAL_INSTANTIATE(MeasureMapped)

}  // namespace kvg::cuda
