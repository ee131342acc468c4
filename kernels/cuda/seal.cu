// Seal: the shape of a batch of jobs, and its steps one after the other.
#include "kernels/cuda/seal.cuh"

#include <algorithm>

#include "kernels/cuda/operations.h"

namespace kvg::cuda {
namespace {

// Channel groups of so many tokens at most are quantised by the thread block that finds their scale.
constexpr uint64_t kFusedGroup = 128;

uint64_t Aligned(uint64_t bytes) { return (bytes + 255) / 256 * 256; }

SealShape ShapeOf(const ops::DeviceSealJob& job) {
  const ops::SealArgs& args = job.args;
  const ops::SealOut& out = job.out;
  SealShape shape{};
  shape.spec = args.spec;
  shape.kv_heads = out.kv_heads;
  shape.head_dim = out.head_dim;
  shape.dirs = out.dirs;
  shape.tiles = out.dirs / kTileDirs;
  shape.tokens = args.tokens;
  shape.at = args.at;
  shape.padded_tokens = ops::PadTokens(args.tokens);
  shape.first_block = args.at / kBlockTokens;
  shape.blocks = (args.at == 0 ? out.padded_tokens : ops::PadTokens(args.at + args.tokens)) /
                     kBlockTokens -
                 shape.first_block;
  shape.unit_tokens = kBlockTokens;
  if (args.spec.axis == ops::kAxisChannel) {
    const uint64_t group = ops::PadTokens(std::min<uint64_t>(args.spec.group, out.padded_tokens));
    shape.ranged = group > kFusedGroup;
    if (!shape.ranged) shape.unit_tokens = static_cast<uint32_t>(group);
  } else {
    shape.ranged = args.spec.heads_share_scale;
  }
  const uint64_t unit_blocks = shape.unit_tokens / kBlockTokens;
  shape.units = static_cast<uint32_t>((shape.blocks + unit_blocks - 1) / unit_blocks);
  const bool parts = args.spec.rank > 0 || args.spec.outliers > 0;
  shape.finish_units = parts ? static_cast<uint32_t>(shape.blocks) : 0;
  uint64_t end = 0;
  const auto place = [&end](uint64_t bytes) {
    const uint64_t at = end;
    end = Aligned(end + bytes);
    return at;
  };
  const uint64_t heads = out.kv_heads;
  shape.sums = place(heads * (shape.units + shape.finish_units) * 2 * sizeof(double));
  if (args.spec.outliers > 0) {
    shape.bits = place(heads * shape.tiles * shape.padded_tokens * sizeof(uint16_t));
  }
  if (args.spec.rank > 0) {
    shape.residual = place(heads * shape.padded_tokens * shape.dirs * sizeof(float));
    shape.a = place(heads * args.spec.rank * shape.padded_tokens * sizeof(float));
  }
  if (args.spec.map != nullptr) {
    shape.map_block = args.spec.map->block;
    shape.mapped = place(heads * shape.tokens * shape.head_dim * sizeof(uint16_t));
  }
  shape.job_bytes = end;
  return shape;
}

// Adds up what the thread blocks of quantise.cu and finish.cu measured, in a fixed order.
template <uint32_t kJobs>
__global__ void SumKernel(const __grid_constant__ Batch<kJobs> batch,
                          const __grid_constant__ SealShape shape) {
  __shared__ double shared[32];
  const uint32_t count = shape.kv_heads * (shape.units + shape.finish_units);
  const double* const sums = shape.Sums(blockIdx.x, 0, 0);
  double error = 0, norm = 0;
  for (uint32_t i = threadIdx.x; i < count; i += blockDim.x) {
    error += sums[2 * i];
    norm += sums[2 * i + 1];
  }
  error = BlockSum(error, shared);
  norm = BlockSum(norm, shared);
  if (threadIdx.x != 0) return;
  double* const out = batch.job[blockIdx.x].sums;
  const bool add = shape.at > 0;
  out[0] = (add ? out[0] : 0) + error;
  out[1] = (add ? out[1] : 0) + norm;
}

template <uint32_t kJobs>
cudaError_t SealBatch(const ops::DeviceSealJob* jobs, uint32_t count, SealShape shape,
                      cudaStream_t stream) {
  Batch<kJobs> batch;
  std::copy_n(jobs, count, batch.job);
  std::fill(batch.job + count, batch.job + kJobs, ops::DeviceSealJob{});
  const Batch<kJobs> original = batch;
  cudaError_t error = cudaSuccess;
  if (shape.map_block > 0) error = MapRows(batch, count, shape, stream);
  if (error == cudaSuccess && shape.spec.outliers > 0) error = MarkOutliers(batch, count, shape, stream);
  if (error == cudaSuccess) error = Quantise(batch, count, shape, stream);
  if (error == cudaSuccess && shape.spec.rank > 0) error = FitLowRank(batch, count, shape, stream);
  if (error == cudaSuccess && shape.finish_units > 0) error = Finish(batch, count, shape, stream);
  if (error != cudaSuccess) return error;
  if (shape.map_block > 0) return MeasureMapped(original, count, shape, stream);
  SumKernel<kJobs><<<count, 256, 0, stream>>>(batch, shape);
  return cudaGetLastError();
}

}  // namespace

uint64_t SealScratchBytes(const ops::DeviceSealJob* jobs, uint32_t count) {
  return count == 0 ? 0 : ShapeOf(jobs[0]).job_bytes * std::min(count, kMostJobs);
}

cudaError_t Seal(const ops::DeviceSealJob* jobs, uint32_t count, void* scratch,
                 cudaStream_t stream) {
  if (count == 0 || jobs[0].args.tokens == 0) return cudaSuccess;
  SealShape shape = ShapeOf(jobs[0]);
  shape.scratch = static_cast<uint8_t*>(scratch);
  for (uint32_t first = 0; first < count; first += kMostJobs) {
    const uint32_t some = std::min(kMostJobs, count - first);
    const cudaError_t error = some == 1 ? SealBatch<1>(jobs + first, 1, shape, stream)
                                        : SealBatch<kMostJobs>(jobs + first, some, shape, stream);
    if (error != cudaSuccess) return error;
  }
  return cudaSuccess;
}

cudaError_t PrepareSeal() {
  cudaError_t error = PrepareMarkOutliers();
  if (error == cudaSuccess) error = PrepareQuantise();
  if (error == cudaSuccess) error = PrepareFitLowRank();
  return error;
}

}  // namespace kvg::cuda
