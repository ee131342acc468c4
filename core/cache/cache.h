// The cache of one sequence: one LayerCache per layer behind the calls that capi offers.
//
// Called by capi and tests. const members may run at the same time on any number of threads; the
// others need exclusive access. Every member gives the strong guarantee: on an error status or an
// exception (std::bad_alloc) the cache is as it was.
#ifndef KVGEAR_CORE_CACHE_CACHE_H_
#define KVGEAR_CORE_CACHE_CACHE_H_

#include <cstddef>
#include <cstdint>
#include <memory>
#include <memory_resource>
#include <span>
#include <vector>

#include "core/base/status.h"
#include "core/cache/layer_cache.h"
#include "core/model/plan.h"
#include "core/runtime/runtime.h"
#include "kernels/ops.h"

namespace kvg {

inline constexpr uint32_t kAllLayers = 0xFFFFFFFF;

// A caller's tensor [tokens, kv_heads, head_dim]; strides in elements, all 0 = contiguous.
struct TensorView {
  const void* data = nullptr;
  size_t bytes = 0;
  int64_t token_stride = 0, head_stride = 0, dim_stride = 0;
};

struct AttendOptions {
  ops::DType q_dtype = ops::kF16, out_dtype = ops::kF16;
  uint32_t queries = 1;
  bool causal = true;
  float scale = 0;    // 0 = 1 / sqrt(head_dim)
  float softcap = 0;  // 0 = none
  bool latent_out = false;  // where values are latent: results are too, of their rank
  uint64_t sliding_window = 0;
  int64_t q_token_stride = 0, q_head_stride = 0;  // both 0 = contiguous
  int64_t out_token_stride = 0, out_head_stride = 0;
  void* stream = nullptr;  // of a device
};

// Field for field kvg_stats without its first two.
struct Stats {
  uint64_t tokens = 0, elements = 0, sealed_elements = 0, segments = 0;
  uint64_t bytes_codes = 0, bytes_scales = 0, bytes_low_rank = 0, bytes_sparse = 0;
  uint64_t bytes_positions = 0, bytes_state = 0;
  uint64_t bytes_window_used = 0, bytes_window_allocated = 0, bytes_bookkeeping = 0;
  uint64_t bytes_shared = 0, bytes_mapped = 0, bytes_plan = 0;
  uint64_t appended = 0;  // tokens that came, kept or not, summed over layers
  double rel_error_k_mean = 0, rel_error_k_worst = 0, rel_error_v_mean = 0, rel_error_v_worst = 0;

  uint64_t bytes_total() const {
    return bytes_codes + bytes_scales + bytes_low_rank + bytes_sparse + bytes_positions +
           bytes_state + bytes_window_allocated + bytes_bookkeeping;
  }
  bool operator==(const Stats&) const = default;
};

class Cache {
 public:
  static absl::StatusOr<std::unique_ptr<Cache>> Create(std::shared_ptr<Runtime> runtime,
                                                       std::shared_ptr<const Plan> plan);

  absl::Status Append(uint32_t layer, const TensorView& k, const TensorView& v, ops::DType dtype,
                      uint64_t tokens, const uint64_t* positions = nullptr,
                      void* stream = nullptr);
  // The same number of tokens to one layer of several caches of one runtime and one shape, all of them
  // or none. Token i of cache c is row c * tokens + i of k and of v.
  static absl::Status AppendBatch(std::span<Cache* const> caches, uint32_t layer,
                                  const TensorView& k, const TensorView& v, ops::DType dtype,
                                  uint64_t tokens, void* stream = nullptr);
  absl::Status Attend(uint32_t layer, const void* q, size_t q_bytes, void* out, size_t out_bytes,
                      const AttendOptions& options) const {
    const Cache* const self = this;
    return AttendBatch({&self, 1}, layer, q, q_bytes, out, out_bytes, options);
  }
  // Of one layer of several caches of one runtime and one shape. Query i of cache c is row
  // c * options.queries + i of q, and so is its result in out.
  static absl::Status AttendBatch(std::span<const Cache* const> caches, uint32_t layer,
                                  const void* q, size_t q_bytes, void* out, size_t out_bytes,
                                  const AttendOptions& options);
  absl::Status Read(uint32_t layer, ops::Side side, uint64_t first_token, uint64_t tokens,
                    ops::DType dtype, void* out, size_t out_bytes) const;
  absl::StatusOr<uint64_t> Length(uint32_t layer) const;
  absl::Status Truncate(uint32_t layer, uint64_t tokens);  // layer or kAllLayers
  absl::Status Clear();
  absl::StatusOr<std::unique_ptr<Cache>> Fork() const;
  // Both sides unless one is asked for.
  absl::StatusOr<Stats> GetStats(uint32_t layer, bool want_k, bool want_v) const;

  // Calls visit(identity, bytes) for each allocation that the cache keeps alive, shared or not.
  template <typename Visit>
  void ForEachHeld(Visit visit) const {
    visit(static_cast<const void*>(layers_.data()), layers_.size() * sizeof(LayerCache));
    for (const LayerCache& layer : layers_) {
      layer.side(ops::kSideK).ForEachHeld(visit);
      layer.side(ops::kSideV).ForEachHeld(visit);
    }
  }
  // Of the same runtime and plan: each gets the content of the other.
  void Swap(Cache& other) noexcept;
  // For core/format.
  LayerCache& layer(uint32_t i) { return layers_[i]; }
  const LayerCache& layer(uint32_t i) const { return layers_[i]; }
  // Selection of tokens; see kvgear.h for what each does on layers that keep all.
  absl::StatusOr<uint64_t> Held(uint32_t layer) const;
  absl::Status CheckKvHead(uint32_t kv_head) const;
  // For what cannot do with selected tokens yet; `what` is that.
  absl::Status CheckKeepsAll(const char* what) const;
  // Whether a device has found tokens of the layer that were not finite.
  absl::Status CheckMark(Turn& turn, uint32_t layer) const;
  absl::Status Select(uint32_t layer);  // layer or kAllLayers
  absl::Status Positions(uint32_t layer, uint32_t kv_head, uint64_t* positions) const;  // [Held]
  absl::Status Bits(uint32_t layer, ops::Side side, uint8_t* bits) const;               // [Held]
  absl::Status Observe(uint32_t layer, const float* scores, size_t count, uint64_t rows);
  // Query i of q is of the token at positions[i]. Of the options what concerns q and logits.
  absl::Status Probe(uint32_t layer, const void* q, size_t q_bytes, const uint64_t* positions,
                     const AttendOptions& options);
  absl::Status AttendObserve(uint32_t layer, const void* q, size_t q_bytes, void* out,
                             size_t out_bytes, const AttendOptions& options);
  absl::StatusOr<uint64_t> ProbeRoom(uint32_t layer) const;
  // At most ProbeRoom; their number is the result.
  absl::StatusOr<uint64_t> ProbePositions(uint32_t layer, uint64_t* positions) const;
  // With `slots` nullptr only their number.
  absl::StatusOr<uint64_t> NextTokens(uint32_t layer, uint64_t* slots) const;

  const Plan& plan() const { return *plan_; }
  const std::shared_ptr<const Plan>& shared_plan() const { return plan_; }
  const std::shared_ptr<Runtime>& shared_runtime() const { return runtime_; }
  Runtime& runtime() const { return *runtime_; }

 private:
  Cache(std::shared_ptr<Runtime> runtime, std::shared_ptr<const Plan> plan);
  absl::Status CheckLayer(uint32_t layer) const;
  // Whether the masks asked for mean something among the tokens that the layer holds.
  absl::Status CheckHoles(uint32_t layer, const AttendOptions& options) const;
  absl::Status Score(uint32_t layer, const void* q, size_t q_bytes, const uint64_t* positions,
                     const AttendOptions& options, SelectedLayer::Observation& out) const;
  absl::Status CheckReach(Turn& turn, const char* name, const void* pointer) const;
  uint64_t* MarkOf(uint32_t layer) const { return marks_.data<uint64_t>() + layer; }

  const std::shared_ptr<Runtime> runtime_;
  const std::shared_ptr<const Plan> plan_;
  std::pmr::vector<LayerCache> layers_;
  // On a device: for each layer, where its kernels say that appended tokens were not finite: 1 + the
  // length of the layer before, else 0. Pinned host memory.
  Buffer marks_;
};

}  // namespace kvg

#endif  // KVGEAR_CORE_CACHE_CACHE_H_
