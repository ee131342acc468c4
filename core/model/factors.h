// What a plan file brings for latent caches: the subspace of each layer's keys and values, and the
// rotary embedding that is applied to keys once they are rebuilt.
//
// Called by core/model/plan, which owns them, and by core/latent. Immutable.
//
// A layer's KV heads form groups of head_group heads, all of one size. For the side S of layer N the
// file has, of F16, BF16, F32 or F64:
//   layers.N.S.latent   [groups, head_group, rank, head_dim], S being k or v. For each group the
//                       rank x (head_group * head_dim) matrix U^T, its rows orthonormal: the latent of
//                       a token is z = U^T (x - bias), and x is rebuilt as U z + bias
//   layers.N.S.bias     [kv_heads, head_dim], may be absent: the bias of the projection
//   rope.frequencies    [n], where keys are latent; n <= head_dim / 2: the angle of pair i at position
//                       p is p * frequencies[i]; a text rope says which elements are a pair: "half"
//                       (i, i + n), "interleaved" (2 i, 2 i + 1), or "none", without frequencies
#ifndef KVGEAR_CORE_MODEL_FACTORS_H_
#define KVGEAR_CORE_MODEL_FACTORS_H_

#include <cstddef>
#include <cstdint>
#include <vector>

#include "core/base/status.h"
#include "core/model/plan_file.h"
#include "core/model/recipe.h"

namespace kvg {

struct Shape;

// One side of one layer.
struct LatentSide {
  uint32_t groups = 0, head_group = 0, rank = 0;
  uint32_t split = 1;       // parts of a group's latent that are quantised by themselves, so that each
                            // has at most kMaxHeadDim directions
  std::vector<float> up;    // [kv_heads][rank][head_dim]
  std::vector<float> bias;  // [kv_heads][head_dim], or empty

  // Of the side that holds the latents in place of keys or values.
  uint32_t heads() const { return groups * split; }
  uint32_t head_dim() const { return rank / split; }
  uint64_t width() const { return uint64_t{groups} * rank; }
  size_t bytes() const { return (up.capacity() + bias.capacity()) * sizeof(float) + sizeof(*this); }
  // Of all its numbers: what saved caches tell one plan file from another by.
  uint32_t Checksum() const;
};

// Angles for runs of up to kRun tokens, from those of the first token and those of the steps.
struct Rotary {
  static constexpr uint32_t kRun = 32;

  bool interleaved = false;
  std::vector<double> frequencies;     // empty = none
  std::vector<double> cosine, sine;    // [kRun][frequencies]

  size_t bytes() const {
    return (frequencies.capacity() + cosine.capacity() + sine.capacity()) * sizeof(double) +
           sizeof(*this);
  }
};

// The fewest equal parts of a latent that have at most kMaxHeadDim numbers, in eights.
uint32_t LatentSplit(uint32_t rank);

struct Factors {
  std::vector<LatentSide> k, v;  // [layers]; rank 0 where the recipe keeps no latents
  Rotary rotary;
};

// Reads what the recipes need. `recipe_of(layer)` is a plan's.
class Plan;
absl::StatusOr<Factors> ReadFactors(const PlanFile& file, const Plan& plan);

}  // namespace kvg

#endif  // KVGEAR_CORE_MODEL_FACTORS_H_
