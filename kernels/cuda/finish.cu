// The last step of sealing: what codes and low rank leave of the outliers is stored as their values,
// and of all entries is measured.
#include "kernels/cuda/seal.cuh"

namespace kvg::cuda {
namespace {

constexpr uint32_t kThreads = 256;

// A thread block for each block of 32 tokens of a head, a warp for each fourth token.
template <uint32_t kJobs>
__global__ void __launch_bounds__(kThreads)
    FinishKernel(const __grid_constant__ Batch<kJobs> batch,
                 const __grid_constant__ SealShape shape) {
  __shared__ float b[ops::kMaxRank * ops::kMaxHeadDim];
  __shared__ double partial[kThreads / 32];
  const ops::SealArgs& args = batch.job[blockIdx.z].args;
  const ops::SealOut& out = batch.job[blockIdx.z].out;
  const uint32_t head = blockIdx.y, lane = threadIdx.x % 32;
  const uint32_t rank = shape.spec.rank, dim = shape.head_dim;
  const uint64_t block = shape.first_block + blockIdx.x;
  const bool channel = shape.spec.axis == ops::kAxisChannel;
  const uint16_t* const bits = shape.Bits(blockIdx.z);
  if (rank > 0) {
    for (uint32_t i = threadIdx.x; i < rank * shape.dirs; i += kThreads) {
      b[i] = HalfToFloat(out.b[uint64_t{head} * rank * shape.dirs + i]);
    }
    __syncthreads();
  }
  double error_sq = 0;
  const uint32_t entries_before =
      bits == nullptr ? 0 : out.sparse_start[head * (out.padded_tokens / kBlockTokens + 1) + block];
  const uint8_t* const counts =
      bits == nullptr ? nullptr : out.sparse_count + head * out.padded_tokens + block * kBlockTokens;
  for (uint32_t in_block = threadIdx.x / 32; in_block < kBlockTokens; in_block += kThreads / 32) {
    const uint64_t token = block * kBlockTokens + in_block;
    if (token >= shape.tokens) break;
    const uint16_t* const x = args.x + head * args.x_head_stride + token * dim;
    uint32_t entry = entries_before;
    if (bits != nullptr) {
      const uint32_t before = lane < in_block ? counts[lane] : 0;
      entry += __reduce_add_sync(~0u, before);
    }
    float a[ops::kMaxRank];
#pragma unroll
    for (uint32_t r = 0; r < ops::kMaxRank; ++r) {
      a[r] = r < rank ? HalfToFloat(out.a[(uint64_t{head} * rank + r) * out.padded_tokens + token]) : 0;
    }
    float error_sum = 0;
    for (uint32_t first = 0; first < shape.dirs; first += 32) {
      const uint32_t d = first + lane;
      const bool in = d < dim;
      const bool outlier =
          in && bits != nullptr &&
          (bits[(head * shape.tiles + d / kTileDirs) * shape.padded_tokens + token] >> d % kTileDirs & 1);
      const uint32_t outliers = __ballot_sync(~0u, outlier);
      if (in && (outlier || rank > 0)) {
        const uint64_t group = channel ? token / shape.spec.group : d / shape.spec.group;
        const uint64_t at = (shape.spec.heads_share_scale ? 0 : head * out.scale_head_stride) +
                            group * out.scale_group_stride + (channel ? d : token);
        const Scale scale = ScaleOf(out.scale[at], out.minimum[at]);
        const uint32_t width = out.widths[head * shape.tiles + d / kTileDirs];
        const float value = HalfToFloat(x[d]);
        const float steps = StepsOf(scale, value, static_cast<float>((1u << width) - 1));
        float decoded = scale.scale * steps + scale.minimum;
        if (rank > 0) {
          float sum = 0;
#pragma unroll
          for (uint32_t r = 0; r < ops::kMaxRank; ++r) {
            if (r < rank) sum += a[r] * b[r * shape.dirs + d];
          }
          decoded += sum;
        }
        if (outlier) {
          const uint32_t mine = entry + __popc(outliers & ((1u << lane) - 1));
          const uint16_t stored = FloatToHalfSaturate(value - decoded);
          out.sparse_dir[mine] = static_cast<uint8_t>(d);
          out.sparse_value[mine] = stored;
          decoded += HalfToFloat(stored);
        }
        const float left = value - decoded;
        error_sum += left * left;
      }
      entry += __popc(outliers);
    }
    error_sq += static_cast<double>(error_sum);
  }
  error_sq = BlockSum(error_sq, partial);
  if (threadIdx.x == 0) {
    double* const sums = shape.Sums(blockIdx.z, head, shape.units + blockIdx.x);
    sums[0] = error_sq;
    sums[1] = 0;
  }
}

}  // namespace

template <uint32_t kJobs>
cudaError_t Finish(const Batch<kJobs>& batch, uint32_t jobs, const SealShape& shape,
                   cudaStream_t stream) {
  const dim3 grid(shape.finish_units, shape.kv_heads, jobs);
  FinishKernel<kJobs><<<grid, kThreads, 0, stream>>>(batch, shape);
  return cudaGetLastError();
}
KVG_SEAL_INSTANTIATE(Finish)

}  // namespace kvg::cuda
