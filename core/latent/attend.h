// Attention over a layer that keeps latents in place of its keys, its values or both, and the maps from
// rows to latents and back.
//
// Called by core/cache. Keys are latent before their rotary embedding: a tile of tokens is decoded,
// rebuilt, rotated at the tokens' own positions and met with the queries; no more than a tile per
// worker is ever dense. Values are summed up as latents, and expanded once for a query (or not, for a
// caller whose output projection has taken the expansion in). (After Palu, arXiv 2407.21118.)
#ifndef KVGEAR_CORE_LATENT_ATTEND_H_
#define KVGEAR_CORE_LATENT_ATTEND_H_

#include <cstdint>

#include "core/base/memory.h"
#include "core/model/factors.h"
#include "core/model/plan.h"
#include "kernels/ops.h"

namespace kvg {

// The factors of a layer; nullptr where a side keeps its rows as they are. rotary is for latent keys.
struct LatentLayer {
  const LatentSide* k = nullptr;
  const LatentSide* v = nullptr;
  const Rotary* rotary = nullptr;

  const LatentSide* side(ops::Side one) const { return one == ops::kSideK ? k : v; }
};

// Numbers of a result: head_dim or, with latent_out, the rank of the values.
inline uint32_t OutputDim(const LatentLayer& layer, uint32_t head_dim, bool latent_out) {
  return latent_out && layer.v != nullptr ? layer.v->rank : head_dim;
}

// As Table::attend for one item, args.items[0], with the pieces of the latent sides. The output of a
// head has OutputDim numbers. Throws std::bad_alloc.
void AttendLatent(const ops::Table& table, const ops::Parallel& parallel, Memory& memory,
                  const LatentLayer& layer, const ops::AttendArgs& args, bool latent_out);

// Latents of the caller's rows: float [tokens][width], scratch memory. Elements that are not finite
// give latents that are not. Throws std::bad_alloc.
Buffer Project(const ops::Parallel& parallel, Memory& memory, const Shape& shape,
               const LatentSide& side, const ops::IngestArgs& x);

// As Table::read for a latent side: rows as they were appended, keys without their rotary embedding.
// Throws std::bad_alloc.
void ReadLatent(const ops::Table& table, Memory& memory, const LatentSide& side,
                const ops::ReadArgs& args);

}  // namespace kvg

#endif  // KVGEAR_CORE_LATENT_ATTEND_H_
