// Which entries are outliers: the k lowest and the k highest of every vector, where a vector is one
// direction over the tokens (K) or one token over all heads (V). Of equal values the low end takes
// those that come first, the high end those that come last, as kernels/reference/outliers.cc has it.
//
// A warp for each vector: it searches the keys of both ends by halving, counting at each step, and
// then marks what lies beyond them. The keys are kept in shared memory where they fit.
#include "kernels/cuda/seal.cuh"

namespace kvg::cuda {
namespace {

constexpr uint32_t kThreads = 256;
constexpr uint32_t kTokenWarps = 4;  // V side: tokens of one thread block
constexpr uint32_t kMostShared = 160 * 1024;

__device__ inline uint32_t WarpSum(uint32_t x) { return __reduce_add_sync(~0u, x); }

// key(i) for i < n; calls mark(i, whether) for every i in warp-wide steps.
template <typename Key, typename Mark>
__device__ void MarkEnds(uint32_t n, uint32_t k, const Key& key, const Mark& mark) {
  const uint32_t lane = threadIdx.x % 32;
  // Least `low` with count(key <= low) >= k, largest `high` with count(key >= high) >= k.
  uint32_t low = 0, low_end = 0xFFFF, high = 0, high_end = 0xFFFF;
  while (low < low_end || high < high_end) {
    const uint32_t low_try = (low + low_end) / 2;
    const uint32_t high_try = (high + high_end + 1) / 2;
    uint32_t below = 0, above = 0;
    for (uint32_t i = lane; i < n; i += 32) {
      const uint32_t x = key(i);
      below += x <= low_try;
      above += x >= high_try;
    }
    below = WarpSum(below);
    above = WarpSum(above);
    if (low < low_end) {
      if (below >= k) {
        low_end = low_try;
      } else {
        low = low_try + 1;
      }
    }
    if (high < high_end) {
      if (above >= k) {
        high = high_try;
      } else {
        high_end = high_try - 1;
      }
    }
  }
  uint32_t below = 0, above = 0, at_high = 0;
  for (uint32_t i = lane; i < n; i += 32) {
    const uint32_t x = key(i);
    below += x < low;
    above += x > high;
    at_high += x == high;
  }
  const uint32_t take_low = k - WarpSum(below);  // of those equal to low, the first
  const uint32_t skip_high = WarpSum(at_high) - (k - WarpSum(above));  // to high: all but the last
  uint32_t seen_low = 0, seen_high = 0;
  const uint32_t before = (1u << lane) - 1;
  for (uint32_t first = 0; first < n; first += 32) {
    const uint32_t i = first + lane;
    const bool in = i < n;
    const uint32_t x = in ? key(i) : 0x10000;
    const uint32_t lows = __ballot_sync(~0u, in && x == low);
    const uint32_t highs = __ballot_sync(~0u, in && x == high);
    bool marked = in && (x < low || x > high);
    marked |= in && x == low && seen_low + __popc(lows & before) < take_low;
    marked |= in && x == high && seen_high + __popc(highs & before) >= skip_high;
    if (in) mark(i, marked);
    seen_low += __popc(lows);
    seen_high += __popc(highs);
  }
  __syncwarp();
}

// K side: a thread block for each tile of 16 directions. kStaged: its keys lie in shared memory.
template <uint32_t kJobs, bool kStaged>
__global__ void __launch_bounds__(kThreads)
    MarkDirectionsKernel(const __grid_constant__ Batch<kJobs> batch,
                         const __grid_constant__ SealShape shape) {
  extern __shared__ uint16_t keys[];  // [16][stride], or with !kStaged flags [16][tokens]
  const ops::SealArgs& args = batch.job[blockIdx.z].args;
  const uint32_t tile = blockIdx.x, head = blockIdx.y;
  const uint32_t tokens = static_cast<uint32_t>(shape.tokens);
  const uint32_t stride = tokens + 2 + tokens % 2;
  const uint16_t* const x = args.x + head * args.x_head_stride + tile * kTileDirs;
  const uint32_t valid = min(kTileDirs, shape.head_dim - tile * kTileDirs);  // 16, or 8
  uint16_t* const bits =
      shape.Bits(blockIdx.z) + (head * shape.tiles + tile) * shape.padded_tokens;
  if (kStaged) {
    for (uint32_t i = threadIdx.x; i < tokens * 2; i += kThreads) {
      const uint32_t token = i / 2, half = i % 2 * 8;
      if (half >= valid) continue;
      const uint4 eight = *reinterpret_cast<const uint4*>(x + uint64_t{token} * shape.head_dim + half);
      const uint32_t words[4] = {eight.x, eight.y, eight.z, eight.w};
#pragma unroll
      for (uint32_t j = 0; j < 8; ++j) {
        keys[(half + j) * stride + token] =
            static_cast<uint16_t>(KeyOf(static_cast<uint16_t>(words[j / 2] >> (j % 2 * 16))));
      }
    }
    __syncthreads();
    for (uint32_t d = threadIdx.x / 32; d < valid; d += kThreads / 32) {
      uint16_t* const mine = keys + d * stride;
      MarkEnds(tokens, static_cast<uint32_t>(shape.spec.outliers),
               [&](uint32_t i) -> uint32_t { return mine[i]; },
               [&](uint32_t i, bool marked) { mine[i] = marked; });
    }
    __syncthreads();
    for (uint32_t token = threadIdx.x; token < shape.padded_tokens; token += kThreads) {
      uint32_t set = 0;
      for (uint32_t d = 0; d < valid && token < tokens; ++d) set |= uint32_t{keys[d * stride + token]} << d;
      bits[token] = static_cast<uint16_t>(set);
    }
  } else {
    // Longer segments than shared memory holds; the bits of a token are set one by one.
    for (uint32_t token = threadIdx.x; token < shape.padded_tokens; token += kThreads) bits[token] = 0;
    __syncthreads();
    for (uint32_t d = threadIdx.x / 32; d < valid; d += kThreads / 32) {
      MarkEnds(tokens, static_cast<uint32_t>(shape.spec.outliers),
               [&](uint32_t i) { return KeyOf(x[uint64_t{i} * shape.head_dim + d]); },
               [&](uint32_t i, bool marked) {
                 if (!marked) return;
                 // Two tokens share a word.
                 auto* const word = reinterpret_cast<uint32_t*>(bits + i / 2 * 2);
                 atomicOr(word, 1u << (d + i % 2 * 16));
               });
    }
  }
}

// V side: a warp for each token.
template <uint32_t kJobs, bool kStaged>
__global__ void __launch_bounds__(kTokenWarps * 32)
    MarkTokensKernel(const __grid_constant__ Batch<kJobs> batch,
                     const __grid_constant__ SealShape shape) {
  extern __shared__ uint16_t keys[];
  const ops::SealArgs& args = batch.job[blockIdx.z].args;
  const uint32_t lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  const uint32_t dim = shape.head_dim, n = shape.kv_heads * dim;
  const uint64_t token = blockIdx.x * uint64_t{kTokenWarps} + warp;
  if (token >= shape.padded_tokens) return;
  uint16_t* const bits = shape.Bits(blockIdx.z) + token;
  const uint16_t* const x = args.x + token * dim;
  const auto bits_of = [&](uint32_t head, uint32_t tile) -> uint16_t& {
    return bits[(uint64_t{head} * shape.tiles + tile) * shape.padded_tokens];
  };
  if (token >= shape.tokens || !kStaged) {
    for (uint32_t i = lane; i < shape.kv_heads * shape.tiles; i += 32) {
      bits_of(i / shape.tiles, i % shape.tiles) = 0;
    }
  }
  if (token >= shape.tokens) return;
  const auto at = [&](uint32_t i) { return x + i / dim * args.x_head_stride + i % dim; };
  if (kStaged) {
    uint16_t* const mine = keys + warp * n;
    for (uint32_t i = lane * 8; i < n; i += 256) {
      const uint4 eight = *reinterpret_cast<const uint4*>(at(i));
      const uint32_t words[4] = {eight.x, eight.y, eight.z, eight.w};
#pragma unroll
      for (uint32_t j = 0; j < 4; ++j) {
        const uint32_t low = KeyOf(static_cast<uint16_t>(words[j]));
        const uint32_t high = KeyOf(static_cast<uint16_t>(words[j] >> 16));
        reinterpret_cast<uint32_t*>(mine + i)[j] = low | high << 16;
      }
    }
    __syncwarp();
    MarkEnds(n, static_cast<uint32_t>(shape.spec.outliers),
             [&](uint32_t i) -> uint32_t { return mine[i]; },
             [&](uint32_t i, bool marked) { mine[i] = marked; });
    for (uint32_t i = lane; i < shape.kv_heads * shape.tiles; i += 32) {
      const uint32_t head = i / shape.tiles, tile = i % shape.tiles;
      const uint32_t valid = min(kTileDirs, dim - tile * kTileDirs);
      uint32_t set = 0;
      for (uint32_t d = 0; d < valid; ++d) set |= uint32_t{mine[head * dim + tile * kTileDirs + d]} << d;
      bits_of(head, tile) = static_cast<uint16_t>(set);
    }
  } else {
    __syncwarp();
    MarkEnds(n, static_cast<uint32_t>(shape.spec.outliers), [&](uint32_t i) { return KeyOf(*at(i)); },
             [&](uint32_t i, bool marked) {
               if (!marked) return;
               const uint32_t d = i % dim;
               uint16_t* const to = &bits_of(i / dim, d / kTileDirs);
               const bool odd = reinterpret_cast<uintptr_t>(to) % 4 != 0;
               atomicOr(reinterpret_cast<uint32_t*>(to - (odd ? 1 : 0)),
                        1u << (d % kTileDirs + (odd ? 16 : 0)));
             });
  }
}

// Counts the outliers of each token, and numbers them. A thread block for each job.
template <uint32_t kJobs>
__global__ void __launch_bounds__(1024)
    CountKernel(const __grid_constant__ Batch<kJobs> batch,
                const __grid_constant__ SealShape shape) {
  const ops::SealOut& out = batch.job[blockIdx.x].out;
  const uint32_t lane = threadIdx.x % 32;
  const uint32_t blocks = static_cast<uint32_t>(out.padded_tokens / kBlockTokens);
  const uint32_t pairs = shape.kv_heads * blocks;
  for (uint32_t i = threadIdx.x / 32; i < pairs; i += blockDim.x / 32) {
    const uint32_t head = i / blocks, block = i % blocks;
    const uint64_t token = uint64_t{block} * kBlockTokens + lane;
    uint32_t count = 0;
    if (token < shape.tokens) {
      uint16_t* const bits = shape.Bits(blockIdx.x) + uint64_t{head} * shape.tiles * shape.padded_tokens + token;
      for (uint32_t tile = 0; tile < shape.tiles; ++tile) count += __popc(bits[tile * shape.padded_tokens]);
      // Only a full row of 256 directions is too long; its last entry gives way.
      if (count > ops::kMaxSparsePerToken) {
        bits[(shape.tiles - 1) * shape.padded_tokens] = 0x7FFF;
        --count;
      }
    }
    out.sparse_count[head * out.padded_tokens + token] = static_cast<uint8_t>(count);
    count = WarpSum(count);
    if (lane == 0) out.sparse_start[head * (blocks + 1) + block] = count;
  }
  __syncthreads();
  if (threadIdx.x >= 32) return;
  uint32_t total = 0;
  for (uint32_t head = 0; head < shape.kv_heads; ++head) {
    uint32_t* const start = out.sparse_start + head * (blocks + 1);
    for (uint32_t first = 0; first < blocks; first += 32) {
      const uint32_t count = first + lane < blocks ? start[first + lane] : 0;
      uint32_t sum = count;
      for (uint32_t step = 1; step < 32; step *= 2) {
        const uint32_t other = __shfl_up_sync(~0u, sum, step);
        if (lane >= step) sum += other;
      }
      if (first + lane < blocks) start[first + lane] = total + sum - count;
      total += __shfl_sync(~0u, sum, 31);
    }
    if (lane == 0) start[blocks] = total;
  }
}

template <typename Kernel>
cudaError_t AllowShared(Kernel kernel) {
  return cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, kMostShared);
}

}  // namespace

template <uint32_t kJobs>
cudaError_t MarkOutliers(const Batch<kJobs>& batch, uint32_t jobs, const SealShape& shape,
                         cudaStream_t stream) {
  if (shape.spec.side == ops::kSideK) {
    const dim3 grid(shape.tiles, shape.kv_heads, jobs);
    const uint64_t shared = 16 * (shape.tokens + 3) * sizeof(uint16_t);
    if (shared <= kMostShared) {
      MarkDirectionsKernel<kJobs, true><<<grid, kThreads, shared, stream>>>(batch, shape);
    } else {
      MarkDirectionsKernel<kJobs, false><<<grid, kThreads, 0, stream>>>(batch, shape);
    }
  } else {
    const dim3 grid(static_cast<uint32_t>((shape.padded_tokens + kTokenWarps - 1) / kTokenWarps), 1, jobs);
    const uint64_t shared = uint64_t{kTokenWarps} * shape.kv_heads * shape.head_dim * sizeof(uint16_t);
    if (shared <= kMostShared) {
      MarkTokensKernel<kJobs, true><<<grid, kTokenWarps * 32, shared, stream>>>(batch, shape);
    } else {
      MarkTokensKernel<kJobs, false><<<grid, kTokenWarps * 32, 0, stream>>>(batch, shape);
    }
  }
  CountKernel<kJobs><<<jobs, 1024, 0, stream>>>(batch, shape);
  return cudaGetLastError();
}
KVG_SEAL_INSTANTIATE(MarkOutliers)

cudaError_t PrepareMarkOutliers() {
  cudaError_t error = AllowShared(MarkDirectionsKernel<1, true>);
  if (error == cudaSuccess) error = AllowShared(MarkDirectionsKernel<kMostJobs, true>);
  if (error == cudaSuccess) error = AllowShared(MarkTokensKernel<1, true>);
  if (error == cudaSuccess) error = AllowShared(MarkTokensKernel<kMostJobs, true>);
  return error;
}

}  // namespace kvg::cuda
