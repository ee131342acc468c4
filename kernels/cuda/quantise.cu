// Scales, minima and codes of the backbone, and what the codes leave where a low-rank part follows.
//
// A thread block takes one head and one unit of tokens: a block of 32 or, along the channels, a
// whole group. It reads the unit once into shared memory, finds the scales there unless they span
// more than the unit (then a kernel of their own finds them first), and packs whole words of codes.
#include "kernels/cuda/seal.cuh"

namespace kvg::cuda {
namespace {

constexpr uint32_t kMostThreads = 256;
constexpr uint32_t kMostShared = 160 * 1024;

// ------------------------------------------------------------------- scales that span more

// Channel axis, a thread block for each group: threads take pairs of directions and parts of the
// tokens.
template <uint32_t kJobs>
__global__ void __launch_bounds__(kMostThreads)
    ChannelRangeKernel(const __grid_constant__ Batch<kJobs> batch,
                       const __grid_constant__ SealShape shape) {
  __shared__ uint32_t low_of[kMostThreads][2], high_of[kMostThreads][2];
  const ops::SealArgs& args = batch.job[blockIdx.z].args;
  const ops::SealOut& out = batch.job[blockIdx.z].out;
  const uint32_t head = blockIdx.y;
  const uint64_t first = uint64_t{blockIdx.x} * shape.spec.group;
  const uint64_t end = min(first + shape.spec.group, shape.tokens);
  const uint32_t pairs = shape.dirs / 2;
  const uint32_t parts = kMostThreads / pairs;
  const uint32_t pair = threadIdx.x % pairs, part = threadIdx.x / pairs;
  const uint16_t* const bits = shape.Bits(blockIdx.z);
  uint32_t low[2] = {kNoLow, kNoLow}, high[2] = {kNoHigh, kNoHigh};
  if (part < parts && pair * 2 < shape.head_dim) {
    const uint16_t* const x = args.x + head * args.x_head_stride + pair * 2;
    const uint16_t* const skip =
        bits == nullptr ? nullptr
                        : bits + (head * shape.tiles + pair * 2 / kTileDirs) * shape.padded_tokens;
#pragma unroll 4
    for (uint64_t token = first + part; token < end; token += parts) {
      const uint32_t two = *reinterpret_cast<const uint32_t*>(x + token * shape.head_dim);
      const uint32_t out_bits = skip == nullptr ? 0 : skip[token] >> (pair * 2 % kTileDirs);
#pragma unroll
      for (uint32_t j = 0; j < 2; ++j) {
        if (out_bits >> j & 1) continue;
        const uint32_t key = KeyOf(static_cast<uint16_t>(two >> 16 * j));
        low[j] = min(low[j], key);
        high[j] = max(high[j], key);
      }
    }
  }
  for (uint32_t j = 0; j < 2; ++j) {
    low_of[threadIdx.x][j] = low[j];
    high_of[threadIdx.x][j] = high[j];
  }
  __syncthreads();
  if (threadIdx.x >= pairs) return;
  for (uint32_t j = 0; j < 2; ++j) {
    for (uint32_t other = 1; other < parts; ++other) {
      low[j] = min(low[j], low_of[other * pairs + pair][j]);
      high[j] = max(high[j], high_of[other * pairs + pair][j]);
    }
    const uint32_t d = pair * 2 + j;
    const uint64_t at = head * out.scale_head_stride + blockIdx.x * out.scale_group_stride + d;
    StoreScale(low[j], high[j], out.widths[head * shape.tiles + d / kTileDirs], out.scale + at,
               out.minimum + at);
  }
}

// Token axis, one scale for all heads: a warp for each token.
template <uint32_t kJobs>
__global__ void __launch_bounds__(kMostThreads)
    TokenRangeKernel(const __grid_constant__ Batch<kJobs> batch,
                     const __grid_constant__ SealShape shape) {
  const ops::SealArgs& args = batch.job[blockIdx.z].args;
  const ops::SealOut& out = batch.job[blockIdx.z].out;
  const uint32_t lane = threadIdx.x % 32;
  const uint64_t slot = shape.first_block * kBlockTokens +
                        blockIdx.x * uint64_t{kMostThreads / 32} + threadIdx.x / 32;
  if (slot < shape.at || slot >= out.padded_tokens) return;
  const uint64_t token = slot - shape.at;
  if (token >= shape.tokens) {
    if (shape.at > 0) return;
    for (uint32_t d = 0, group = 0; d < shape.head_dim && lane == 0; d += shape.spec.group, ++group) {
      out.scale[group * out.scale_group_stride + slot] = 0;
      out.minimum[group * out.scale_group_stride + slot] = 0;
    }
    return;
  }
  const uint16_t* const bits = shape.Bits(blockIdx.z);
  for (uint32_t first = 0, group = 0; first < shape.head_dim; first += shape.spec.group, ++group) {
    const uint32_t end = min(first + shape.spec.group, shape.head_dim);
    uint32_t low = kNoLow, high = kNoHigh;
    for (uint32_t head = 0; head < shape.kv_heads; ++head) {
      const uint16_t* const x = args.x + head * args.x_head_stride + token * shape.head_dim;
      for (uint32_t d = first + lane; d < end; d += 32) {
        if (bits != nullptr &&
            (bits[(head * shape.tiles + d / kTileDirs) * shape.padded_tokens + token] >> d % kTileDirs & 1)) {
          continue;
        }
        const uint32_t key = KeyOf(x[d]);
        low = min(low, key);
        high = max(high, key);
      }
    }
    low = __reduce_min_sync(~0u, low);
    high = __reduce_max_sync(~0u, high);
    const uint64_t at = group * out.scale_group_stride + slot;
    if (lane == 0) {
      StoreScale(low, high, out.widths[first / kTileDirs], out.scale + at, out.minimum + at);
    }
  }
}

// ------------------------------------------------------------------------------------ codes

// Shared memory of a unit. Rows are two halves longer than they must be, so that the tokens of a
// column lie in different banks.
struct Unit {
  uint32_t tokens, stride;
  uint16_t* x;       // [tokens][stride]
  uint16_t* bits;    // [tiles][tokens], or nullptr
  uint16_t *low, *high;  // keys, [kMostThreads] or [tokens][tiles]
  float *scale, *minimum, *inverse;  // [dirs] or [groups][tokens]
};

__host__ __device__ inline uint32_t GroupsOf(const SealShape& shape) {
  return (shape.head_dim + shape.spec.group - 1) / shape.spec.group;
}

__host__ __device__ inline uint64_t LayOut(const SealShape& shape, uint8_t* base, Unit* unit) {
  const bool channel = shape.spec.axis == ops::kAxisChannel;
  unit->tokens = shape.unit_tokens;
  unit->stride = shape.dirs + 2;
  uint64_t end = 0;
  const auto place = [&](uint64_t bytes) {
    uint8_t* const at = base + end;
    end += (bytes + 15) / 16 * 16;
    return at;
  };
  const uint64_t scales = channel ? shape.dirs : GroupsOf(shape) * unit->tokens;
  unit->scale = reinterpret_cast<float*>(place(scales * 4));
  unit->minimum = reinterpret_cast<float*>(place(scales * 4));
  unit->inverse = reinterpret_cast<float*>(place(scales * 4));
  unit->x = reinterpret_cast<uint16_t*>(place(uint64_t{unit->tokens} * unit->stride * 2));
  const uint64_t bits = shape.spec.outliers > 0 ? uint64_t{shape.tiles} * unit->tokens * 2 : 0;
  unit->bits = bits == 0 ? nullptr : reinterpret_cast<uint16_t*>(place(bits));
  const uint64_t ends =
      channel ? kMostThreads * 2 : uint64_t{unit->tokens} * shape.tiles;
  unit->low = reinterpret_cast<uint16_t*>(place(ends * 2));
  unit->high = reinterpret_cast<uint16_t*>(place(ends * 2));
  return end;
}

// The tokens of a unit that are to be sealed are slots [begin, end) of it.
struct Span {
  uint32_t begin, end;
};

__device__ void LoadUnit(const ops::SealArgs& args, const SealShape& shape, uint32_t job,
                         uint32_t head, uint64_t first_slot, const Span& span, const Unit& unit) {
  const uint32_t eights = shape.dirs / 8;
  const uint16_t* const x = args.x + head * args.x_head_stride;
  for (uint32_t i = threadIdx.x; i < unit.tokens * eights; i += blockDim.x) {
    const uint32_t slot = i / eights, d = i % eights * 8;
    uint4 eight = {0, 0, 0, 0};
    if (slot >= span.begin && slot < span.end && d < shape.head_dim) {
      eight = *reinterpret_cast<const uint4*>(x + (first_slot + slot - shape.at) * shape.head_dim + d);
    }
    auto* const to = reinterpret_cast<uint32_t*>(unit.x + slot * unit.stride + d);
    to[0] = eight.x;
    to[1] = eight.y;
    to[2] = eight.z;
    to[3] = eight.w;
  }
  if (unit.bits == nullptr) return;
  const uint16_t* const bits = shape.Bits(job) + uint64_t{head} * shape.tiles * shape.padded_tokens;
  for (uint32_t i = threadIdx.x; i < unit.tokens * shape.tiles; i += blockDim.x) {
    const uint32_t slot = i % unit.tokens, tile = i / unit.tokens;
    const uint64_t token = first_slot + slot;
    unit.bits[tile * unit.tokens + slot] =
        token < shape.padded_tokens ? bits[tile * shape.padded_tokens + token] : 0;
  }
}

__device__ void ChannelScales(const ops::SealOut& out, const SealShape& shape, uint32_t head,
                              uint64_t first_slot, const Span& span, const Unit& unit) {
  const uint64_t group = first_slot / shape.spec.group;
  const uint64_t at = head * out.scale_head_stride + group * out.scale_group_stride;
  if (!shape.ranged) {
    const uint32_t pairs = shape.dirs / 2, parts = blockDim.x / pairs;
    const uint32_t pair = threadIdx.x % pairs, part = threadIdx.x / pairs;
    uint32_t low[2] = {kNoLow, kNoLow}, high[2] = {kNoHigh, kNoHigh};
    const uint16_t* const skip =
        unit.bits == nullptr ? nullptr : unit.bits + pair * 2 / kTileDirs * unit.tokens;
    if (part < parts && pair * 2 < shape.head_dim) {
      for (uint32_t slot = span.begin + part; slot < span.end; slot += parts) {
        const uint32_t two = *reinterpret_cast<const uint32_t*>(unit.x + slot * unit.stride + pair * 2);
        const uint32_t out_bits = skip == nullptr ? 0 : skip[slot] >> (pair * 2 % kTileDirs);
#pragma unroll
        for (uint32_t j = 0; j < 2; ++j) {
          const uint32_t key = KeyOf(static_cast<uint16_t>(two >> 16 * j));
          low[j] = out_bits >> j & 1 ? low[j] : min(low[j], key);
          high[j] = out_bits >> j & 1 ? high[j] : max(high[j], key);
        }
      }
    }
    for (uint32_t j = 0; j < 2; ++j) {
      unit.low[threadIdx.x * 2 + j] = static_cast<uint16_t>(low[j]);
      unit.high[threadIdx.x * 2 + j] = static_cast<uint16_t>(high[j]);
    }
    __syncthreads();
    for (uint32_t d = threadIdx.x; d < shape.dirs; d += blockDim.x) {
      uint32_t least = kNoLow, most = kNoHigh;
      for (uint32_t other = 0; other < parts; ++other) {
        least = min(least, uint32_t{unit.low[other * shape.dirs + d]});
        most = max(most, uint32_t{unit.high[other * shape.dirs + d]});
      }
      StoreScale(least, most, out.widths[head * shape.tiles + d / kTileDirs], out.scale + at + d,
                 out.minimum + at + d);
      const Scale s = ScaleOf(out.scale[at + d], out.minimum[at + d]);
      unit.scale[d] = s.scale;
      unit.minimum[d] = s.minimum;
      unit.inverse[d] = s.inverse;
    }
    return;
  }
  for (uint32_t d = threadIdx.x; d < shape.dirs; d += blockDim.x) {
    const Scale s = ScaleOf(out.scale[at + d], out.minimum[at + d]);
    unit.scale[d] = s.scale;
    unit.minimum[d] = s.minimum;
    unit.inverse[d] = s.inverse;
  }
}

__device__ void TokenScales(const ops::SealOut& out, const SealShape& shape, uint32_t head,
                            uint64_t first_slot, const Span& span, const Unit& unit) {
  const uint32_t groups = GroupsOf(shape);
  const uint64_t head_at = shape.spec.heads_share_scale ? 0 : head * out.scale_head_stride;
  if (!shape.ranged) {
    for (uint32_t i = threadIdx.x; i < unit.tokens * shape.tiles; i += blockDim.x) {
      const uint32_t slot = i % unit.tokens, tile = i / unit.tokens;
      uint32_t low = kNoLow, high = kNoHigh;
      const uint32_t valid = min(kTileDirs, shape.head_dim - tile * kTileDirs);
      const uint32_t skip = unit.bits == nullptr ? 0 : unit.bits[tile * unit.tokens + slot];
      if (slot >= span.begin && slot < span.end) {
        const auto* const words =
            reinterpret_cast<const uint32_t*>(unit.x + slot * unit.stride + tile * kTileDirs);
#pragma unroll
        for (uint32_t d = 0; d < kTileDirs; ++d) {
          const uint32_t key = KeyOf(static_cast<uint16_t>(words[d / 2] >> (d % 2 * 16)));
          const bool in = d < valid && (skip >> d & 1) == 0;
          low = in ? min(low, key) : low;
          high = in ? max(high, key) : high;
        }
      }
      unit.low[i] = static_cast<uint16_t>(low);
      unit.high[i] = static_cast<uint16_t>(high);
    }
    __syncthreads();
  }
  for (uint32_t i = threadIdx.x; i < unit.tokens * groups; i += blockDim.x) {
    const uint32_t slot = i % unit.tokens, group = i / unit.tokens;
    const uint64_t at = head_at + group * out.scale_group_stride + first_slot + slot;
    const bool in = slot >= span.begin && slot < span.end;
    Scale s = {0, 0, 0};
    if (first_slot + slot < out.padded_tokens && (in || shape.at == 0)) {
      if (!shape.ranged) {
        const uint32_t first = group * shape.spec.group / kTileDirs;
        const uint32_t end = min(first + (shape.spec.group + kTileDirs - 1) / kTileDirs, shape.tiles);
        uint32_t low = kNoLow, high = kNoHigh;
        for (uint32_t tile = first; tile < end; ++tile) {
          low = min(low, uint32_t{unit.low[tile * unit.tokens + slot]});
          high = max(high, uint32_t{unit.high[tile * unit.tokens + slot]});
        }
        StoreScale(low, high, out.widths[head * shape.tiles + first], out.scale + at, out.minimum + at);
      }
      s = ScaleOf(out.scale[at], out.minimum[at]);
    }
    unit.scale[i] = s.scale;
    unit.minimum[i] = s.minimum;
    unit.inverse[i] = s.inverse;
  }
}

// Quantises the entries of one word of a plane of kBits bits whose lowest code bit is number `done`.
// Measures too where `measure`: once for each entry.
template <uint32_t kBits, bool kSideK, bool kChannel>
__device__ void PackWord(const SealShape& shape, const Unit& unit, const Span& span, uint32_t block,
                         uint32_t tile, uint32_t i, uint32_t width, uint32_t done, bool measure,
                         uint32_t* to, float* residual, double* error_sq, double* norm_sq) {
  constexpr uint32_t kPairs = 16 / kBits;
  constexpr uint32_t kCodes = 2 * kPairs;
  const uint32_t lane = i % 16, row = i / 16;
  const float levels = static_cast<float>((1u << width) - 1);
  const uint32_t valid = min(kTileDirs, shape.head_dim - tile * kTileDirs);
  uint32_t word = 0, written = 0;
  float error_sum = 0, norm_sum = 0;
#pragma unroll
  for (uint32_t c = 0; c < kCodes; ++c) {
    const uint32_t pair = row * kPairs + c / 2, hi = c % 2;
    const uint32_t in_block = kSideK ? pair / 8 * 16 + lane : 2 * pair + hi;
    const uint32_t d = kSideK ? pair % 8 * 2 + hi : lane;
    const uint32_t slot = block * kBlockTokens + in_block;
    const uint32_t direction = tile * kTileDirs + d;
    if (slot >= span.begin && slot < span.end && d < valid) {
      const uint32_t s = kChannel ? direction : direction / shape.spec.group * unit.tokens + slot;
      const float x = HalfToFloat(unit.x[slot * unit.stride + direction]);
      const Scale scale = {unit.scale[s], unit.minimum[s], unit.inverse[s]};
      const float steps = StepsOf(scale, x, levels);
      const uint32_t shift = kBits * (pair % kPairs) + 16 * hi;
      word |= (static_cast<uint32_t>(steps) >> done & ((1u << kBits) - 1)) << shift;
      written |= ((1u << kBits) - 1) << shift;
      if (measure) {
        float left = x - (scale.scale * steps + scale.minimum);
        if (unit.bits != nullptr && (unit.bits[tile * unit.tokens + slot] >> d & 1)) left = 0;
        if (residual != nullptr) residual[uint64_t{slot} * shape.dirs + direction] = left;
        error_sum += left * left;
        norm_sum += x * x;
      }
    } else if (measure && residual != nullptr && slot < span.end) {
      residual[uint64_t{slot} * shape.dirs + direction] = 0;
    }
    if (measure && (c % 8 == 7 || c == kCodes - 1)) {
      *error_sq += static_cast<double>(error_sum);
      *norm_sq += static_cast<double>(norm_sum);
      error_sum = norm_sum = 0;
    }
  }
  if (shape.at == 0) {
    *to = word;
  } else if (written != 0) {
    *to = (*to & ~written) | word;  // the other tokens of an open page keep their codes
  }
}

template <bool kSideK, bool kChannel>
__device__ void PackUnit(const ops::SealOut& out, const SealShape& shape, uint32_t job,
                         uint32_t head, uint64_t first_slot, const Span& span, const Unit& unit,
                         double* error_sq, double* norm_sq) {
  const uint32_t lane = threadIdx.x % 32;
  const uint8_t* const widths = out.widths + head * shape.tiles;
  float* const residual = shape.spec.rank == 0
                              ? nullptr
                              : shape.Residual(job, head) + first_slot * shape.dirs;
  const uint32_t items = unit.tokens / kBlockTokens * shape.tiles;
  for (uint32_t item = threadIdx.x / 32; item < items; item += blockDim.x / 32) {
    const uint32_t block = item / shape.tiles, tile = item % shape.tiles;
    const uint64_t in_segment = first_slot / kBlockTokens + block;
    if (in_segment * kBlockTokens >= out.padded_tokens) break;
    uint32_t offset = 0;
    for (uint32_t i = 0; i < tile; ++i) offset += 64u * widths[i];
    auto* words = reinterpret_cast<uint32_t*>(out.codes + out.codes_head[head] +
                                              in_segment * out.codes_block[head] + offset);
    const uint32_t width = widths[tile];
    const Planes planes = PlanesOf(width);
    for (uint32_t plane = 0; plane < 2; ++plane) {
      const uint32_t bits = plane == 0 ? planes.first : planes.second;
      const uint32_t done = plane == 0 ? 0 : planes.first;
      const auto pack = [&](auto kernel) {
        for (uint32_t i = lane; i < 16 * bits; i += 32) kernel(i);
      };
#define KVG_PACK(kBits)                                                                       \
  pack([&](uint32_t i) {                                                                      \
    PackWord<kBits, kSideK, kChannel>(shape, unit, span, block, tile, i, width, done,         \
                                      plane == 0, words + i, residual, error_sq, norm_sq);    \
  })
      switch (bits) {
        case 1: KVG_PACK(1); break;
        case 2: KVG_PACK(2); break;
        case 4: KVG_PACK(4); break;
        case 8: KVG_PACK(8); break;
        default: break;
      }
#undef KVG_PACK
      words += 16 * bits;
    }
  }
}

template <uint32_t kJobs, bool kSideK, bool kChannel>
__global__ void __launch_bounds__(kMostThreads)
    QuantiseKernel(const __grid_constant__ Batch<kJobs> batch,
                   const __grid_constant__ SealShape shape) {
  extern __shared__ __align__(16) uint8_t memory[];
  __shared__ double partial[kMostThreads / 32];
  const ops::DeviceSealJob& job = batch.job[blockIdx.z];
  const uint32_t head = blockIdx.y;
  Unit unit;
  LayOut(shape, memory, &unit);
  const uint64_t first_slot = shape.first_block * kBlockTokens + uint64_t{blockIdx.x} * unit.tokens;
  const uint64_t last = shape.at + shape.tokens;
  const Span span = {
      static_cast<uint32_t>(shape.at > first_slot ? min(shape.at - first_slot, uint64_t{unit.tokens}) : 0),
      static_cast<uint32_t>(last > first_slot ? min(last - first_slot, uint64_t{unit.tokens}) : 0)};
  LoadUnit(job.args, shape, blockIdx.z, head, first_slot, span, unit);
  __syncthreads();
  if (kChannel) {
    ChannelScales(job.out, shape, head, first_slot, span, unit);
  } else {
    TokenScales(job.out, shape, head, first_slot, span, unit);
  }
  __syncthreads();
  double error_sq = 0, norm_sq = 0;
  PackUnit<kSideK, kChannel>(job.out, shape, blockIdx.z, head, first_slot, span, unit, &error_sq,
                             &norm_sq);
  error_sq = BlockSum(error_sq, partial);
  norm_sq = BlockSum(norm_sq, partial);
  if (threadIdx.x == 0) {
    double* const sums = shape.Sums(blockIdx.z, head, blockIdx.x);
    // With a low-rank part the error is finish.cu's.
    sums[0] = shape.spec.rank == 0 ? error_sq : 0;
    sums[1] = norm_sq;
  }
}

template <uint32_t kJobs, bool kSideK, bool kChannel>
cudaError_t Launch(const Batch<kJobs>& batch, uint32_t jobs, const SealShape& shape,
                   cudaStream_t stream) {
  Unit unit;
  const uint64_t shared = LayOut(shape, nullptr, &unit);
  const uint32_t warps = shape.unit_tokens / kBlockTokens * shape.tiles;
  const uint32_t threads = warps > 4 ? 256 : 128;
  const dim3 grid(shape.units, shape.kv_heads, jobs);
  QuantiseKernel<kJobs, kSideK, kChannel><<<grid, threads, shared, stream>>>(batch, shape);
  return cudaGetLastError();
}

template <uint32_t kJobs>
cudaError_t AllowShared() {
  const auto allow = [](auto kernel) {
    return cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, kMostShared);
  };
  cudaError_t error = allow(QuantiseKernel<kJobs, false, false>);
  if (error == cudaSuccess) error = allow(QuantiseKernel<kJobs, false, true>);
  if (error == cudaSuccess) error = allow(QuantiseKernel<kJobs, true, false>);
  if (error == cudaSuccess) error = allow(QuantiseKernel<kJobs, true, true>);
  return error;
}

}  // namespace

template <uint32_t kJobs>
cudaError_t Quantise(const Batch<kJobs>& batch, uint32_t jobs, const SealShape& shape,
                     cudaStream_t stream) {
  const bool channel = shape.spec.axis == ops::kAxisChannel;
  if (shape.ranged && channel) {
    const uint64_t padded = shape.blocks * kBlockTokens;
    const dim3 grid(static_cast<uint32_t>((padded + shape.spec.group - 1) / shape.spec.group),
                    shape.kv_heads, jobs);
    ChannelRangeKernel<kJobs><<<grid, kMostThreads, 0, stream>>>(batch, shape);
  } else if (shape.ranged) {
    const dim3 grid(static_cast<uint32_t>(shape.blocks * kBlockTokens / (kMostThreads / 32)), 1, jobs);
    TokenRangeKernel<kJobs><<<grid, kMostThreads, 0, stream>>>(batch, shape);
  }
  const bool k = shape.spec.side == ops::kSideK;
  if (k && channel) return Launch<kJobs, true, true>(batch, jobs, shape, stream);
  if (k) return Launch<kJobs, true, false>(batch, jobs, shape, stream);
  if (channel) return Launch<kJobs, false, true>(batch, jobs, shape, stream);
  return Launch<kJobs, false, false>(batch, jobs, shape, stream);
}
KVG_SEAL_INSTANTIATE(Quantise)

cudaError_t PrepareQuantise() {
  const cudaError_t error = AllowShared<1>();
  return error == cudaSuccess ? AllowShared<kMostJobs>() : error;
}

}  // namespace kvg::cuda
